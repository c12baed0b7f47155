"""What a model is asked on PLM-VideoBench and its twin: frames and words in, words out, many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from percepta.errors import BadInput, out_of_range

AnswerOne = Callable[[Any, str], str]
"""Frames and a prompt to an answer; frames are RGB pictures, or (T, H, W, 3) uint8."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question.

    Attributes:
        frames: RGB pictures of a video, or (T, H, W, 3) uint8.
        prompt: the words.
        max_new_tokens: how long the answer may be.
        as_video: whether frames are resized as those of a video are, or as pictures.
    """

    frames: Any
    prompt: str
    max_new_tokens: int
    as_video: bool = True


class AnswersMany(Protocol):
    """A model that answers several questions together.

    It may also have `refusal(asked) -> str`: why a question cannot be asked, "" where it can; PLM-VideoBench then
    leaves the row out.
    """

    def many(self, asked: Sequence[Asked]) -> list[str]:
        """One answer a question."""
        ...


def answers(model: AnswerOne | AnswersMany, asked: Sequence[Asked]) -> list[str]:
    """One answer a question: together where the model has `many`, else one by one.

    Raises: BadInput for a model that gives another number of answers, or what is no text.
    """
    together: Callable[[Sequence[Asked]], list[str]] | None = getattr(model, "many", None)
    one_by_one: Any = model
    found = [one_by_one(one.frames, one.prompt) for one in asked] if together is None else list(together(asked))
    if len(found) != len(asked) or not all(isinstance(one, str) for one in found):
        raise BadInput(f"a model must give one text for each of {len(asked)} questions; got {len(found)} answers.")
    return found


def in_batches(
    model: AnswerOne | AnswersMany, asked: Iterator[Asked], size: int, told: Callable[[int], None] | None = None
) -> Iterator[str]:
    """The answers in order, `size` questions at a time; frames of one batch are in memory. `told` hears of each batch.

    Raises: BadInput for a size below 1.
    """
    if size < 1:
        raise out_of_range("batch_size", size, "1 or more")
    batch: list[Asked] = []
    for one in asked:
        batch.append(one)
        if len(batch) == size:
            yield from answers(model, batch)
            if told is not None:
                told(len(batch))
            batch = []
    if batch:
        yield from answers(model, batch)
        if told is not None:
            told(len(batch))


def blank(frames: np.ndarray) -> np.ndarray:
    """The same number of grey frames: nothing to be seen."""
    return np.full_like(frames, 128)
