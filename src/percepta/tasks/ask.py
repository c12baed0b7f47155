"""Questions about pictures, videos or nothing but words (Perception Language Model, arXiv 2504.13180).

Unusual: several pictures are asked about together, a folder one by one; several questions about one thing share what
was seen of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.media import Source
from percepta.results import Answer
from percepta.running.feed import Stream
from percepta.tasks.asking import NANO, Drawing, Speaker, View, check_question, speaker_of
from percepta.tasks.asking_media import NOTHING, Looking, Seen, is_many, look, look_at_several, sources_in


def ask(  # noqa: PLR0913 (the front door)
    media: Any,
    question: str | Sequence[str],
    region: Any = None,
    frames: int | None = None,
    tiles: int | None = None,
    visual_tokens: int | None = None,
    chunk_tokens: int | None = None,
    start: float | None = None,
    end: float | None = None,
    samples: int = 1,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    stream: bool = False,
    each: bool = False,
    model: str | nn.Module | Speaker = NANO,
    system: str | None = None,
    chat: Any = None,
    int8: bool = False,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
) -> Any:
    """Ask about one thing, or about each of many.

    Args:
        media: a picture or a video in any form that `collect` takes; a list of pictures, asked about together; None for
            words alone; or a folder, a pattern or "-" (names on standard input), asked about one by one.
        question: a text, or several, which share what is seen.
        region, frames, tiles, visual_tokens, chunk_tokens, start, end: how to look, see `Looking`. A region is told in
            words on a picture, in place of `<|bbox0|>` where the question holds that, and drawn on frames.
        samples, temperature, max_tokens, seed: how answers are drawn, see `Drawing`.
        stream: give the answer as it is made: an AnswerStream, whose pieces are its text.
        each: take a list as many inputs, asked about one by one.
        model: a name, a model in hand, or a `Speaker`, which `system`, `chat` and `int8` are settings of.
        batch_size, on_error: of many inputs, as of `classify`. One input that cannot be read always raises.

    Returns: an Answer; of several questions a list; of many inputs a stream of either, in order, as they are made.

    Raises:
        BadInput: an empty question, a clip or region outside its video or picture, what the context cannot hold.
        BadMedia: the one input cannot be read. UnknownModel, MissingWeights, CheckpointMismatch.
    """
    looking = Looking(frames, tiles, visual_tokens, chunk_tokens, start, end, region)
    asked = _Asked(questions_of(question), isinstance(question, str), Drawing(samples, temperature, max_tokens, seed))
    many = each or is_many(media)
    if stream and (many or not asked.one):
        raise BadInput("stream gives one answer as it is made; it goes with one question about one input.")
    sources = [] if many else sources_in(media)
    speaker = speaker_of(model, device, dtype, weights, {"system": system, "chat": chat, "int8": int8})
    if many:
        return _of_many(media, asked, looking, speaker, (batch_size, on_error))
    return _of_one(sources, asked, looking, speaker, stream)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The questions, whether one was given as such, and how answers are drawn."""

    questions: tuple[str, ...]
    one: bool
    drawing: Drawing


def _of_many(
    media: Any, asked: _Asked, looking: Looking, speaker: Speaker, batches: tuple[int | None, str]
) -> Stream[Any]:
    preprocess = speaker.preprocess(looking)

    def view_of(source: Source) -> tuple[View, Tensor]:
        seen, pixels = look(source, looking, preprocess)
        return View(seen, asked.questions), pixels

    def finish(_source: Source, _view: View, answers: list[Answer]) -> Any:
        return answers[0] if asked.one else answers

    return speaker.over(media, view_of, finish, asked.drawing, *batches)


def _of_one(sources: list[Source], asked: _Asked, looking: Looking, speaker: Speaker, stream: bool) -> Any:
    seen, pixels = _look(sources, looking, speaker)
    for text in asked.questions:
        speaker.prompt(seen, text, asked.drawing)  # what does not fit is refused before anything is computed
    if stream and asked.drawing.samples > 1:
        raise BadInput(f"an answer as it is made is one; got samples={asked.drawing.samples}.")
    features = None if pixels is None else speaker.encode(pixels, seen.chunk_tokens)
    if stream:
        return speaker.saying(seen, asked.questions[0], features, asked.drawing)
    answers = speaker.answers(View(seen, asked.questions), features, asked.drawing)
    return answers[0] if asked.one else answers


def questions_of(question: Any) -> tuple[str, ...]:
    """The questions in what people give. Raises BadInput for none, or an empty one."""
    questions = (question,) if isinstance(question, str) else tuple(question) if isinstance(question, Sequence) else ()
    if not questions:
        raise BadInput(f"a question must be a text, or several texts, at least one; got {question!r}.")
    for text in questions:
        check_question(text)
    return questions


def _look(sources: list[Source], looking: Looking, speaker: Speaker) -> tuple[Seen, Tensor | None]:
    """What one question is about, and its chunks."""
    if not sources:
        for what in ("region", "start", "end"):
            if getattr(looking, what) is not None:
                raise BadInput(f"{what} is for a picture or a video; got a question about neither.")
        return NOTHING, None
    preprocess = speaker.preprocess(looking)
    if len(sources) == 1:
        return look(sources[0], looking, preprocess)
    return look_at_several(sources, looking, preprocess)
