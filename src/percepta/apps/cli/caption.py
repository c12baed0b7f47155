"""`percepta caption`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import asking, common
from percepta.apps.cli.answers import AnswerFile, Subtitles, print_answer
from percepta.apps.cli.common import (
    BatchSize,
    Debug,
    Device,
    Dtype,
    Inputs,
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
  percepta caption photos/ -o captions.jsonl
  percepta caption photos/ -o captions.jsonl --resume
  percepta caption film.mp4 --dense
  percepta caption film.mp4 --every 10 -o film.srt
  percepta caption field.mp4 --dense --about "the brown cow" --json
  percepta caption videos/ --dense -o captions.jsonl --subtitles vtt
"""

Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="What to ask for instead.")]
Dense = Annotated[bool, typer.Option("--dense", help="Timed captions of videos.")]
About = Annotated[str | None, typer.Option("--about", metavar="WORDS", help="The thing that these are about.")]
Every = Annotated[
    float | None, typer.Option("--every", metavar="SECONDS", help="Cut videos into parts, each with its caption.")
]
SubtitleKind = Annotated[
    str | None, typer.Option("--subtitles", metavar="srt|vtt", help="Also write subtitles for each video, beside -o.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("caption", epilog=EXAMPLES)(caption)


def caption(  # noqa: PLR0913 (the options of a command)
    inputs: Inputs,
    prompt: Prompt = None,
    dense: Dense = False,
    about: About = None,
    every: Every = None,
    region: asking.Region = None,
    frames: asking.Frames = None,
    tiles: asking.Tiles = None,
    visual_tokens: asking.VisualTokens = None,
    chunk_tokens: asking.ChunkTokens = None,
    start: asking.Start = None,
    end: asking.End = None,
    temperature: asking.Temperature = None,
    max_tokens: asking.MaxTokens = None,
    seed: asking.Seed = 0,
    system: asking.System = None,
    chat: asking.Chat = None,
    int8: asking.Int8 = False,
    subtitles: SubtitleKind = None,
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
    """Describe pictures and videos, one by one.

    -o FILE.jsonl writes a line each, as they are made; -o FILE.srt or FILE.vtt the subtitles of one video. Times are
    seconds."""
    asked: dict[str, Any] = {"prompt": prompt, "dense": dense, "about": about, "every": every}
    asked |= {"region": asking.region_of(region), "frames": frames, "tiles": tiles, "visual_tokens": visual_tokens}
    asked |= {"chunk_tokens": chunk_tokens, "start": start, "end": end}
    asked |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    _check(out, as_json, resume, subtitles)
    common.check_output(out, overwrite, resume)
    sources = common.gather(inputs, limit)
    speaker = asking.speaker(model, weights, device, dtype, {"system": system, "chat": chat, "int8": int8})
    kept = _Kept(out, subtitles, asking.made_with(speaker, asked), resume)
    todo = kept.todo(sources)
    if not common.say_resumed(sources, todo):
        _describe(todo, asked | {"model": speaker, "batch_size": batch_size}, kept, as_json)


def _describe(todo: list[Any], asked: dict[str, Any], kept: _Kept, as_json: bool) -> None:
    """Caption what is left to do, as results are made."""
    from percepta.tasks.caption import caption as run

    stream: Any = run(todo, **asked)
    with kept:
        for answer in stream.watched(common.progress("caption")):
            kept.write(answer)
            if as_json:
                print(json.dumps(answer.to_dict()), flush=True)
            elif kept.out is None:
                print_answer(answer, name=True)
    if kept.out is not None:
        common.say(f"wrote {kept.out}")
    common.finish(stream.failures)


def _check(out: Path | None, as_json: bool, resume: bool, subtitles: str | None) -> None:
    common.check_ending(out, (".jsonl", ".json", ".srt", ".vtt"))
    lines = out is not None and out.suffix.lower() in (".jsonl", ".json")
    if resume and not lines:
        raise BadInput("--resume needs -o FILE.jsonl, the output to go on with.")
    if out is not None and as_json:
        raise BadInput("-o and --json exclude each other; -o FILE.jsonl writes JSON, one object a line.")
    if subtitles is not None:
        Subtitles.check(subtitles)
        if not lines:
            raise BadInput("--subtitles goes with -o FILE.jsonl, beside which they are written.")


class _Kept:
    """What is written: lines, and subtitles for each video; or the subtitles of one."""

    def __init__(self, out: Path | None, kind: str | None, made_with: str, resume: bool) -> None:
        self.out = out
        self._single = out is not None and out.suffix.lower() in (".srt", ".vtt")
        self._file = None if out is None or self._single else AnswerFile(out, made_with, 1, resume)
        self._subtitles = None if kind is None or out is None else Subtitles(out, kind)
        self._stack = contextlib.ExitStack()

    def todo(self, sources: list[Any]) -> list[Any]:
        """The sources that are not done. Raises BadInput where subtitles of one video are asked of other inputs."""
        if self._single and (len(sources) != 1 or getattr(sources[0], "kind", "video") != "video"):
            raise BadInput(
                f"-o {self.out} holds the subtitles of one video; got {common.counted(len(sources), 'input')}, so "
                "write -o FILE.jsonl with --subtitles."
            )
        if self._subtitles is not None:
            self._subtitles.name(sources)
        return sources if self._file is None else self._file.todo(sources)

    def write(self, answer: Any) -> None:
        """One answer; its subtitles first, so that what the lines hold is whole."""
        if self._subtitles is not None and answer.span is not None:
            self._subtitles.write(answer)
        if self._file is not None:
            self._file.write([answer])
        elif self._single and self.out is not None:
            Subtitles.save(self.out, answer)

    def __enter__(self) -> _Kept:
        if self._file is not None:
            self._stack.enter_context(self._file)
        return self

    def __exit__(self, *what: object) -> None:
        self._stack.close()
