"""A session and a clicked picture that know the truth, with flaws on demand: what protocols are tested with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

Flaw = Callable[[int, int, np.ndarray, set[int]], np.ndarray]
"""(frame, object, true mask, frames on which the object was prompted) → the mask that is given back."""


class Found(NamedTuple):
    frame: int
    objects: tuple[int, ...]
    logits: torch.Tensor
    object_scores: torch.Tensor


class OracleSession:
    """Gives each prompted object its true mask, or what `flaw` makes of it."""

    def __init__(self, video: Any, flaw: Flaw | None = None) -> None:
        self.video, self.flaw = video, flaw
        self.prompts: dict[int, set[int]] = {}
        self.calls: list[tuple[Any, ...]] = []

    def _found(self, frame: int) -> Found:
        shown = self.video.objects(frame) if frame in self.video.annotated else {}
        masks, scores = [], []
        for number, prompted in self.prompts.items():
            truth = shown.get(number, np.zeros(self.video.size(), bool))
            mask = truth if self.flaw is None else self.flaw(frame, number, truth, prompted)
            masks.append(torch.where(torch.from_numpy(mask), 5.0 + number / 100, -5.0))
            scores.append(1.0 if mask.any() else -1.0)
        return Found(frame, tuple(self.prompts), torch.stack(masks), torch.tensor(scores))

    def _prompt(self, frame: int, number: int) -> Found:
        self.prompts.setdefault(number, set()).add(frame)
        return self._found(frame)

    def add_mask(self, frame: int, number: int, mask: torch.Tensor) -> Found:
        self.calls.append(("mask", frame, number, int(mask.sum())))
        return self._prompt(frame, number)

    def add_box(self, frame: int, number: int, box: Any) -> Found:
        self.calls.append(("box", frame, number, tuple(box)))
        return self._prompt(frame, number)

    def add_points(self, frame: int, number: int, points: Any, labels: Any, clear: bool = True) -> Found:
        self.calls.append(("points", frame, number, *torch.as_tensor(points)[0].tolist(), int(labels[0]), clear))
        return self._prompt(frame, number)

    def propagate(self, start: int | None = None) -> Iterator[Found]:
        first = min(frame for frames in self.prompts.values() for frame in frames) if start is None else start
        self.calls.append(("propagate", first))
        for frame in range(first, len(self.video)):
            yield self._found(frame)


class DrawnVideo:
    """A video of label maps (T, H, W), some frames of it annotated; masks by object where asked for."""

    def __init__(self, labels: np.ndarray, every: int = 1, apart: bool = False) -> None:
        self.labels, self.annotated, self.apart, self.name = labels, tuple(range(0, len(labels), every)), apart, "drawn"

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, frame: int) -> np.ndarray:
        return np.stack([(self.labels[frame] * 60).astype(np.uint8)] * 3, axis=-1)

    def size(self) -> tuple[int, int]:
        return self.labels.shape[1], self.labels.shape[2]

    def masks(self, frame: int) -> Any:
        assert frame in self.annotated
        return self.objects(frame) if self.apart else self.labels[frame]

    def objects(self, frame: int) -> dict[int, np.ndarray]:
        return {n: self.labels[frame] == n for n in np.unique(self.labels[frame]).tolist() if n}


def drawn(frames: int = 8, every: int = 1, apart: bool = False, late: int = 3) -> DrawnVideo:
    """A square that walks right, another that comes in later, and a third that is hidden for two frames."""
    labels = np.zeros((frames, 24, 40), np.int64)
    for frame in range(frames):
        labels[frame, 2:9, 2 + frame : 9 + frame] = 4
        if frame >= late:
            labels[frame, 12:20, 20:28] = 1
        if frame not in (4, 5):
            labels[frame, 14:22, 3:11] = 7
    return DrawnVideo(labels, every, apart)
