"""`percepta ask`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import asking, common
from percepta.apps.cli.answers import AnswerFile, print_answer
from percepta.apps.cli.common import (
    BatchSize,
    Debug,
    Device,
    Dtype,
    Json,
    Limit,
    Model,
    Out,
    Overwrite,
    Resume,
    Weights,
)
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta ask photo.jpg "what is the man holding?"
  percepta ask lecture.mp4 "when is the second equation written?" --stream
  percepta ask before.jpg after.jpg "what has changed?"
  percepta ask street.jpg "what does the sign say?" --region 410,80,220,120
  percepta ask photos/ "is anybody in the picture?" -o answers.jsonl
  percepta ask photo.jpg -q "who?" -q "where?" --json
  percepta ask "what is a tensor?"
"""

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MEDIA...] QUESTION", help="Pictures, a video, a folder or nothing; the question last."),
]
Questions = Annotated[
    list[str] | None,
    typer.Option("--question", "-q", metavar="TEXT", help="A question; repeatable. All words before are media then."),
]
Streaming = Annotated[bool, typer.Option("--stream", help="Print the answer as it is made.")]
Samples = Annotated[int, typer.Option("--samples", metavar="N", help="Draw N answers.")]
Each = Annotated[bool, typer.Option("--each", help="Ask about each of several pictures, not about all together.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ask", epilog=EXAMPLES)(ask)


def ask(  # noqa: PLR0913 (the options of a command)
    words: Words = None,
    question: Questions = None,
    region: asking.Region = None,
    frames: asking.Frames = None,
    tiles: asking.Tiles = None,
    visual_tokens: asking.VisualTokens = None,
    chunk_tokens: asking.ChunkTokens = None,
    start: asking.Start = None,
    end: asking.End = None,
    samples: Samples = 1,
    temperature: asking.Temperature = None,
    max_tokens: asking.MaxTokens = None,
    seed: asking.Seed = 0,
    stream: Streaming = False,
    each: Each = False,
    system: asking.System = None,
    chat: asking.Chat = None,
    int8: asking.Int8 = False,
    out: Out = None,
    model: Model = asking.NANO,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    limit: Limit = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Ask about pictures, a video, or nothing but words.

    Several pictures are asked about together, a folder one by one. Intervals that the model names stand as seconds.
    An answer is the model's, without any measure of how sure it is."""
    media, questions = split(words or [], question or [])
    many = each or is_many(media) or (out is not None and len(media) == 1)
    _check(questions, many, {"--stream": stream, "-o": out, "--resume": resume, "--limit": limit}, as_json)
    common.check_ending(out, (".jsonl", ".json"))
    common.check_output(out, overwrite, resume)
    asked: dict[str, Any] = {"question": questions[0] if len(questions) == 1 else questions}
    asked |= {"region": asking.region_of(region), "frames": frames, "tiles": tiles, "visual_tokens": visual_tokens}
    asked |= {"chunk_tokens": chunk_tokens, "start": start, "end": end, "samples": samples, "temperature": temperature}
    asked |= {"max_tokens": max_tokens, "seed": seed}
    sources = common.gather(media, limit) if many else []
    speaker = asking.speaker(model, weights, device, dtype, {"system": system, "chat": chat, "int8": int8})
    if many:
        _over(sources, asked, speaker, batch_size, (out, resume), as_json)
    else:
        _once(media, asked | {"model": speaker}, stream, as_json)


def _once(media: list[str], asked: dict[str, Any], stream: bool, as_json: bool) -> None:
    """Ask about one thing, or about several pictures together."""
    from percepta.tasks.ask import ask as run

    thing: Any = media[0] if len(media) == 1 else media or None
    if stream:
        pieces = run(thing, **asked, stream=True)
        for piece in pieces:
            print(plain_piece(piece), end="", flush=True)
        print(flush=True)
        _tell_cut([pieces.answer])
        return
    found = run(thing, **asked)
    answers = found if isinstance(found, list) else [found]
    for answer in answers:
        if as_json:
            print(json.dumps(answer.to_dict()), flush=True)
        else:
            print_answer(answer, question=len(answers) > 1)
    _tell_cut(answers)


def split(words: list[str], questions: list[str]) -> tuple[list[str], list[str]]:
    """Media and questions: without -q the last word is the question. Raises BadInput where there is none."""
    if questions:
        return words, questions
    if not words:
        raise BadInput('ask needs a question, last and in quotes, such as: percepta ask photo.jpg "what is this?"')
    if is_there(words[-1]):
        raise BadInput(f"ask needs a question, last and in quotes; {words[-1]!r} is a file or folder.")
    media = words[:-1]
    if asked := [
        word for word in media if " " in word and word.rstrip()[-1:] in "?.!" and not (is_there(word) or glob(word))
    ]:
        raise BadInput(f"the last word is the question, and {asked[0]!r} is no file; ask several with -q TEXT.")
    return media, words[-1:]


def is_there(word: str) -> bool:
    """Whether a word names a file or folder; a long question names none."""
    try:
        return bool(word.strip()) and Path(word).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def is_many(media: list[str]) -> bool:
    """Whether a word names many inputs, each to be asked about: a folder, a pattern, or names on standard input."""
    from percepta.tasks.asking_media import is_many as names_many

    return names_many(media)


def plain_piece(piece: str) -> str:
    """A piece of an answer for a terminal; its spaces and line breaks stay."""
    return "\n".join(common.shown(part) for part in piece.split("\n"))


def _check(questions: list[str], many: bool, given: dict[str, Any], as_json: bool) -> None:
    if not many:
        for option in ("-o", "--resume", "--limit"):
            if given[option]:
                raise BadInput(f"{option} is for many inputs: a folder, a pattern, or several pictures with --each.")
    if given["--stream"] and (many or len(questions) > 1 or as_json):
        raise BadInput("--stream shows one answer as it is made; it goes with one question, one input and no --json.")
    if given["--resume"] and given["-o"] is None:
        raise BadInput("--resume needs -o FILE, the output to go on with.")
    if given["-o"] is not None and as_json:
        raise BadInput("-o and --json exclude each other; -o FILE.jsonl writes JSON, one object a line.")


def _over(
    sources: list[Any],
    asked: dict[str, Any],
    speaker: Any,
    batch_size: int | None,
    output: tuple[Path | None, bool],
    as_json: bool,
) -> None:
    """Ask about each of many inputs, as results are made."""
    from percepta.tasks.ask import ask as run

    out, resume = output
    count = 1 if isinstance(asked["question"], str) else len(asked["question"])
    file = None if out is None else AnswerFile(out, asking.made_with(speaker, asked), count, resume)
    todo = sources if file is None else file.todo(sources)
    if common.say_resumed(sources, todo):
        return
    stream: Any = run(todo, **asked, each=True, model=speaker, batch_size=batch_size)
    with file or contextlib.nullcontext():
        for result in stream.watched(common.progress("ask")):
            write(result if isinstance(result, list) else [result], file, as_json)
    if out is not None:
        common.say(f"wrote {out}")
    common.finish(stream.failures)


def write(answers: list[Any], file: AnswerFile | None, as_json: bool) -> None:
    """All answers about one input."""
    if file is not None:
        file.write(answers)
        return
    for answer in answers:
        if as_json:
            print(json.dumps(answer.to_dict()), flush=True)
        else:
            print_answer(answer, name=True, question=len(answers) > 1)


def _tell_cut(answers: Iterable[Any]) -> None:
    for answer in answers:
        if not answer.complete:
            common.say("the answer is cut off at its limit of tokens; --max-tokens N lets it go on.")
