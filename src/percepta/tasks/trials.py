"""One way to run a model against the plain way: how much faster, and what becomes of its outputs.

Unusual: both take turns on the same pictures in one process, and the ratio of each turn counts, so that a machine that
slows down meanwhile slows down both. The copy that is changed shares its parameters with the plain model.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.running.feed import DEFAULT_BATCH
from percepta.running.settings import Setting, apply, as_dict
from percepta.speedups import merge_tokens
from percepta.tasks.encoder import Encoder

ROUNDS = (5, 15)
SECONDS = 0.6  # spent on the rounds of a trial, beyond the first five
MEASURES = ("accuracy", "cosine", "neighbours")


@dataclass(frozen=True, slots=True)
class Trial:
    """What one setting gave.

    Attributes:
        setting: how the model was run.
        flops: multiply-adds over those without merging, 0..1.
        speedup: pictures a second over those of the plain model at its usual batch size: the median of the turns.
        low, high: the lowest and highest turn.
        rate: pictures a second of the vision tower; decoding is not counted.
        start: seconds until the first batch was out (packing, compiling), in each process.
        change: mean of 1 - cosine to the plain model's vectors.
        worst: the smallest cosine to them.
        kept: share of pictures whose nearest neighbour among the others is the same.
        accuracy: share of pictures with the right class, None without labels.
        error: standard error of the difference in accuracy to the plain model, paired by picture.
        answers: share of pictures with another answer than the plain model's.
    """

    setting: Setting
    flops: float
    speedup: float
    low: float
    high: float
    rate: float
    start: float
    change: float
    worst: float
    kept: float
    accuracy: float | None = None
    error: float | None = None
    answers: float | None = None

    def loss(self, measure: str, plain_accuracy: float | None = None) -> float:
        """What is lost by a measure, 0..1: points of accuracy, mean 1 - cosine, or nearest neighbours."""
        if measure == "accuracy":
            assert self.accuracy is not None
            assert plain_accuracy is not None
            return round(plain_accuracy - self.accuracy, 9)
        return self.change if measure == "cosine" else round(1 - self.kept, 9)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"setting": as_dict(self.setting)}


def trial_of(content: Mapping[str, Any]) -> Trial:
    """What `to_dict` gave. Raises TypeError, KeyError, ValueError for anything else."""
    return Trial(**{**content, "setting": Setting(**content["setting"])})


class Bench:
    """The plain model, the pictures, and the right answers where they are known.

    Args:
        encoder: the plain model, neither prepared nor merging.
        pictures: (N, 3, H, W) preprocessed.
        classes: (K, D) unit vectors of the class names, or None.
        labels: (N,) right classes, or None.
    """

    def __init__(
        self,
        encoder: Encoder,
        pictures: Tensor,
        classes: Tensor | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.encoder, self.pictures, self.classes, self.labels = encoder, pictures, classes, labels
        self.tower: Any = getattr(encoder.model, "vision", encoder.model)
        self.batch = min(DEFAULT_BATCH.get(encoder.device.type, 8), len(pictures))
        self.vectors = self._outputs(self.tower, self.batch)
        self.answers = self._answered(self.vectors)
        self.accuracy = None if labels is None or self.answers is None else float((self.answers == labels).mean())

    def merged(self, setting: Setting, strategy: str, flops: float) -> tuple[Setting, float]:
        """A setting that merges to a share of the multiply-adds, and the share that it comes to.

        Raises: BadInput for a share that cannot be reached, or a model that cannot merge so.
        """
        merging = merge_tokens(self.tower.truncated(-1), flops=flops, strategy=strategy)
        return replace(setting, strategy=strategy, removed=tuple(merging.removed)), merging.flops

    def trial(self, setting: Setting, flops: float = 1.0) -> Trial:
        """Measure one setting. Raises BadInput where the model cannot run so."""
        fast = self.changed(setting)
        own, usual = self._cycled(setting.batch_size), self._cycled(self.batch)
        start = self._seconds(fast, own)
        vectors = self._outputs(fast, setting.batch_size)
        ratios: list[float] = []
        seconds: list[float] = []
        began = time.perf_counter()
        while len(ratios) < ROUNDS[0] or (len(ratios) < ROUNDS[1] and time.perf_counter() - began < SECONDS):
            turns = ((fast, own), (self.tower, usual))
            order = turns if len(ratios) % 2 else turns[::-1]
            taken = [self._seconds(*turn) for turn in order]
            mine, plain = taken if len(ratios) % 2 else taken[::-1]
            seconds.append(mine)
            ratios.append((len(own) / mine) / (len(usual) / plain))
        cosines = (vectors * self.vectors).sum(dim=1).clamp(-1, 1)
        return Trial(
            setting,
            round(flops, 4),
            round(statistics.median(ratios), 4),
            round(min(ratios), 4),
            round(max(ratios), 4),
            round(len(own) / statistics.median(seconds), 2),
            round(start, 2),
            round(max(0.0, float(1 - cosines.double().mean())), 6),
            round(float(cosines.min()), 6),
            float((neighbours(vectors) == neighbours(self.vectors)).float().mean()),
            **self.scores(self._answered(vectors)),
        )

    def scores(self, answers: NDArray[np.int64] | None) -> dict[str, float]:
        """Accuracy, its paired standard error and the share of other answers; nothing where no class is known."""
        if answers is None or self.labels is None or self.answers is None:
            return {}
        gained = (answers == self.labels).astype(float) - (self.answers == self.labels)
        return {
            "accuracy": float((answers == self.labels).mean()),
            "error": float(gained.std() / max(1, len(gained) - 1) ** 0.5),
            "answers": float((answers != self.answers).mean()),
        }

    def changed(self, setting: Setting) -> Any:
        """A copy of the tower that runs so; parameters are shared unless their type changes."""
        shares = setting.prepared or setting.dtype == "float32"
        memo = {id(parameter): parameter for parameter in self.tower.parameters()} if shares else {}
        return apply(copy.deepcopy(self.tower, memo).eval(), setting)

    def _cycled(self, count: int) -> Tensor:
        return self.pictures[torch.arange(count) % len(self.pictures)].to(self.encoder.device)

    def _run(self, tower: Any, batch: Tensor) -> Tensor:
        output: Tensor = tower(batch.to(next(tower.parameters()).dtype))
        return output

    def _seconds(self, tower: Any, batch: Tensor) -> float:
        with self.encoder.evaluating():
            self._wait()
            began = time.perf_counter()
            self._run(tower, batch)
            self._wait()
            return time.perf_counter() - began

    def _wait(self) -> None:
        if self.encoder.device.type == "cuda":
            torch.cuda.synchronize(self.encoder.device)

    def _outputs(self, tower: Any, size: int) -> Tensor:
        """(N, D) unit vectors; the last batch is filled up, since a compiled model is slow to meet a new size."""
        parts = []
        with self.encoder.evaluating():
            for first in range(0, len(self.pictures), size):
                rows = torch.arange(first, first + size) % len(self.pictures)
                batch = self.pictures[rows].to(self.encoder.device)
                parts.append(self._run(tower, batch).float().cpu())
        return torch.nn.functional.normalize(torch.cat(parts)[: len(self.pictures)], dim=-1)

    def _answered(self, vectors: Tensor) -> NDArray[np.int64] | None:
        return None if self.classes is None else (vectors @ self.classes.T).argmax(dim=1).numpy()


def neighbours(vectors: Tensor) -> Tensor:
    """(N,): the nearest other row of each unit vector."""
    scores = vectors @ vectors.T
    scores.fill_diagonal_(-torch.inf)
    return scores.argmax(dim=1)


def compiler_works() -> bool:
    """Whether torch's compiler can make a function here, by trying."""
    try:
        with torch.inference_mode():
            torch.compile(lambda x: (x + 1).relu())(torch.ones(3))
    except Exception:  # noqa: BLE001 (whatever a missing compiler raises)
        return False
    return True
