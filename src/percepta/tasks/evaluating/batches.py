"""A model as the callables that protocols take: arrays and texts to vectors, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from percepta.running.progress import Progress
from percepta.tasks.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Batches:
    """One encoder with a batch size: arrays and texts to (B, D) float32 unit vectors.

    Attributes:
        encoder: the model.
        size: pictures, frames or texts at once.
        progress: makes the Progress of a piece of work from its name; None keeps silent.
        on_error: what to do with pictures of the data that cannot be read: "collect" or "raise".
        kept: what was computed last, for protocols that look at the same pictures in the same way.
    """

    encoder: Encoder
    size: int
    progress: Callable[[str], Progress] | None = None
    on_error: str = "collect"
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def pictures(self, pictures: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8, through the model's own preprocessing."""
        prepare = self.encoder.model.preprocess

        def encode(part: Any) -> Tensor:
            return self.encoder.embed(torch.stack([prepare(item) for item in part]))

        return self._over("pictures", pictures, encode)

    def videos(self, videos: np.ndarray) -> Tensor:
        """(B, T, H, W, 3) uint8: the mean of unit frame embeddings, not scaled again."""
        frames = self.pictures(videos.reshape(-1, *videos.shape[2:]))
        return frames.unflatten(0, videos.shape[:2]).mean(dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """B texts, as they are."""
        return self._over("texts", texts, lambda part: self.encoder.words(part, self.size))

    def watch(self, what: str) -> Progress:
        """The progress of a piece of work."""
        return Progress(what, shown=False) if self.progress is None else self.progress(f"evaluate {what}")

    def _over(self, what: str, items: Any, encode: Callable[[Any], Tensor]) -> Tensor:
        found = []
        with self.watch(what) as progress:
            progress.start(len(items))
            for start in range(0, len(items), self.size):
                part = items[start : start + self.size]
                found.append(encode(part))
                progress.advance(len(part))
        return torch.cat(found)
