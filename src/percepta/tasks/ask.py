"""Questions about pictures, videos or nothing but words (Perception Language Model, arXiv 2504.13180).

Unusual: several pictures are asked about together, a folder one by one; several questions about one thing share what
was seen of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.media import Source
from percepta.results import Answer
from percepta.running.feed import Stream
from percepta.tasks.asking import NANO, AnswerStream, Drawing, Speaker, View, check_question, speaker_of
from percepta.tasks.asking_media import NOTHING, Looking, Seen, is_many, look, look_at_several, sources_in

Answered = Answer | list[Answer] | AnswerStream | Stream[Any]


def ask(  # noqa: PLR0913 (the front door)
    media: Any,
    question: str | Sequence[str],
    region: Any = None,
    frames: int | None = None,
    tiles: int | None = None,
    visual_tokens: int | None = None,
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
        media: a picture or a video in any form that `collect` takes; a list of pictures, which are asked about
            together; None for words alone; or a folder, a pattern or "-" (names on standard input), whose pictures and
            videos are asked about one by one.
        question: a text, or several; of a picture with a region `<|bbox0|>` in it is replaced by the region in words.
        region: (left, top, width, height) in pixels that the question is about: told in words on a picture, drawn as a
            red box on the frames of a video. Of a video also {frame number: such a box}, or Tracks of one object.
        frames: of a video at most; 32 by default, 16 of a toy model.
        tiles: of a picture at most, without its thumbnail; 36 by default, 0 (the picture alone) of a toy model. More
            tiles see smaller print, and take more time and memory.
        visual_tokens: tokens that one picture or video may take at most; makes tiles and frames fewer.
        start, end: seconds of a video between which it is looked at.
        samples: answers to each question, which are then drawn at a temperature.
        temperature: 0 says the likeliest word; None is 0 for one answer and 0.7 for several.
        max_tokens: of an answer; None is 256, or what the context leaves.
        seed: of what is drawn.
        stream: give the answer as it is made: an AnswerStream, whose pieces are its text, and its `answer` at the end.
        each: take a list as many inputs, asked about one by one.
        model: a name, a model in hand, or a `Speaker`.
        system: another system text than the one that comes with the checkpoint.
        chat: a file or folder with tokenizer and chat template, where they do not lie beside the weights.
        int8: hold the language model's weights in 8 bits: less memory, slightly other answers.
        batch_size: pictures, tiles and frames at once, of many inputs.
        on_error: of many inputs, "collect" (see `failures` of the stream) or "raise" (BadMedia). One always raises.

    Returns:
        An Answer; of several questions a list of them; of many inputs a stream of either, in order, as they are made.

    Raises:
        BadInput: an empty question, a clip or a region that does not lie in its video or picture, several videos, what
            does not fit into the context. BadMedia: the one input cannot be read.
        UnknownModel, MissingWeights, CheckpointMismatch.
    """
    questions = questions_of(question)
    looking = Looking(frames, tiles, visual_tokens, start, end, region)
    drawing = Drawing(samples, temperature, max_tokens, seed)
    one = isinstance(question, str)
    many = each or is_many(media)
    if stream and (many or not one):
        raise BadInput("stream gives one answer as it is made; it goes with one question about one input.")
    sources = [] if many else sources_in(media)
    speaker = speaker_of(model, device, dtype, weights, {"system": system, "chat": chat, "int8": int8})
    if many:
        preprocess = speaker.preprocess(looking)

        def view_of(source: Source) -> tuple[View, Tensor]:
            seen, pixels = look(source, looking, preprocess)
            return View(seen, questions), pixels

        def finish(_source: Source, _view: View, answers: list[Answer]) -> Any:
            return answers[0] if one else answers

        return speaker.over(media, view_of, finish, drawing, batch_size, on_error)
    seen, pixels = _look(sources, looking, speaker)
    for text in questions:
        speaker.prompt(seen, text, drawing)  # what does not fit is refused before anything is computed
    features = None if pixels is None else speaker.encode(pixels)
    if stream:
        return speaker.saying(seen, questions[0], features, drawing)
    answers = speaker.answers(View(seen, questions), features, drawing)
    return answers[0] if one else answers


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
