"""Things found by words in a video, and looked at again while they are followed.

Order of this file: the settings, the watch: looking for things, looking at what is followed.
Unusual: a thing is only as sure as its looks over time: its probability is a running mean over the frames in which it
was looked at, and what turns out to be something else is let go. While nothing is followed, every few frames are
searched, so that what appears later is found later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from percepta.calibration.words import LIKELY
from percepta.results import Masks
from percepta.tasks.segment import ENCODER, Prompt, Segmenter
from percepta.tasks.words import CALIBRATED, WordFinder

EVERY = 8
"""Frames between two looks."""
FADE = 0.5
"""What the newest look counts in the running mean."""
LET_GO = 0.3
"""Mean probability below which a thing is let go, once it was looked at a second time."""


@dataclass(slots=True)
class Followed:
    """A thing that is followed: its mean probability, and how often it was looked at."""

    probability: float
    looks: int = 1


@dataclass(slots=True, eq=False)
class WordWatch:
    """Finds things in a `VideoSession` by words and keeps an eye on them.

    Attributes:
        text: what to look for.
        every: frames between two looks.
        followed: by the numbers of their objects.
    """

    finder: WordFinder
    text: str
    every: int = EVERY
    followed: dict[int, Followed] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """JSON-ready: what `resumed` needs."""
        followed = {str(number): [one.probability, one.looks] for number, one in self.followed.items()}
        return {"text": self.text, "encoder": self.finder.encoder.name, "every": self.every, "followed": followed}

    @classmethod
    def resumed(cls, state: dict[str, Any], segmenter: Segmenter) -> WordWatch:
        """The watch whose `state` was kept."""
        watch = find_in_video(state["text"], segmenter, state["encoder"], state["every"])
        watch.followed = {int(number): Followed(*one) for number, one in state["followed"].items()}
        return watch

    def begin(self, session: Any) -> bool:
        """Look through the video until something fits and point at it; whether anything did.

        Of a stream only the first frame is looked at; later ones are looked at as they come.
        """
        length = session.frames.length
        for frame in range(0, 1 if length is None else length, self.every):
            if frame not in session.frames.failures and self._find(session, frame):
                return True
        return False

    def before(self, session: Any, frame: int) -> None:
        """Called before a frame is tracked."""
        if frame % self.every or frame == 0:
            return
        last = session.at(frame - 1)
        if last is not None and len(last):
            self._look_again(session, frame - 1, last)
        if not self.followed:
            self._find(session, frame)

    def _find(self, session: Any, frame: int) -> bool:
        picture = np.asarray(session.frames[frame].convert("RGB"))
        if frame in session.frames.failures:
            return False
        candidates = self.finder.candidates(torch.from_numpy(picture.copy()).permute(2, 0, 1))
        found = self.finder.answer(candidates, self.text)
        nothing = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        prompts = [Prompt(*nothing, mask=mask) for mask in found]
        numbers = session.add(frame, prompts, self.text)
        scores = np.ones(len(found)) if found.scores is None else found.scores
        for number, score in zip(numbers, scores.tolist(), strict=True):
            self.followed[number] = Followed(score if self.finder.score_kind == CALIBRATED else 1.0)
        return bool(numbers)

    def _look_again(self, session: Any, frame: int, seen: Any) -> None:
        if self.finder.prior is None:
            return
        picture = np.asarray(session.frames[frame].convert("RGB"))
        rows = [row for row, number in enumerate(seen.objects) if number in self.followed]
        masks = seen.masks.select(rows)
        for row, score in zip(rows, self._scores(picture, masks), strict=True):
            one = self.followed[seen.objects[row]]
            one.probability += FADE * (score - one.probability)
            one.looks += 1
            if one.looks > 1 and one.probability < LET_GO:
                del self.followed[seen.objects[row]]
                session.remove(seen.objects[row])

    def _scores(self, picture: Any, masks: Masks) -> list[float]:
        """The probability of each mask, in its order; the quality of tracked masks is taken as their score."""
        single = [
            self.finder.ask(self.finder.read(picture, masks.select([row])), self.text) for row in range(len(masks))
        ]
        return [0.0 if not len(one) or one.scores is None else float(one.scores[0]) for one in single]

    @property
    def likely(self) -> dict[int, float]:
        """The things that are followed, with their mean probability, the likeliest first."""
        order = sorted(self.followed.items(), key=lambda entry: -entry[1].probability)
        return {number: one.probability for number, one in order if one.probability >= LIKELY}


def find_in_video(
    text: str, segmenter: Segmenter, encoder: str | torch.nn.Module = ENCODER, every: int = EVERY
) -> WordWatch:
    """What `track` asks of a video."""
    return WordWatch(WordFinder(segmenter, encoder), text, every)
