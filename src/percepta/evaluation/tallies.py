"""Scores that are no mean of points, such as mean IoU and RMSE: a function of sums, and what each scene adds to them.

The bootstrap redraws scenes, since patches and objects of one scene are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from percepta.errors import BadInput, out_of_range, wrong_shape
from percepta.evaluation.metrics import LEVEL, RESAMPLES, Points

Score = Callable[[Points], Points]
"""(..., K) sums to (...) scores."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What each scene (or clip, or picture) adds to the sums that a score is made of.

    Attributes:
        parts: (S, K) float64.
        score: (..., K) sums to (...) scores, vectorised.
        queries: what was counted in all, such as objects or pictures; None for the number of scenes.
    """

    parts: Points
    score: Score
    queries: int | None = None

    def __post_init__(self) -> None:
        if self.parts.ndim != 2 or not self.parts.size:
            raise wrong_shape("parts", self.parts.shape, "(scenes, sums) with at least one of each", "a tally")

    @property
    def value(self) -> float:
        """The score over all scenes."""
        return float(self.score(self.parts.sum(axis=0)))

    @property
    def count(self) -> int:
        """How many queries stand behind it."""
        return len(self.parts) if self.queries is None else self.queries

    def interval(self, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
        """Lower and upper end of the percentile bootstrap interval over scenes.

        Raises: BadInput for a level outside 0..1 or no resamples.
        """
        return _ends(self.score(_redrawn(self.parts, resamples, seed)), level)

    def beyond(
        self, other: Tally, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[float, float, float]:
        """This score minus another of the same scenes: the difference, and the ends of its interval.

        The same scenes are redrawn for both, so that what makes a scene hard for both cancels.

        Raises: BadInput for a tally of another number of scenes; else as `interval`.
        """
        if len(other.parts) != len(self.parts):
            raise BadInput(f"tallies must be of the same scenes; got {len(self.parts)} and {len(other.parts)}.")
        mine, its = (one.score(_redrawn(one.parts, resamples, seed)) for one in (self, other))
        return (self.value - other.value, *_ends(mine - its, level))


def ratio(sums: Points) -> Points:
    """(..., 2) sums of points and their number → their mean."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def root_mean_square(sums: Points) -> Points:
    """(..., 2) sums of squared errors and their number → RMSE."""
    return np.sqrt(ratio(sums))


def mean_iou(sums: Points) -> Points:
    """(..., 2C) intersections, then unions, of C classes → mean IoU over the classes that occur or were predicted."""
    classes = sums.shape[-1] // 2
    intersections, unions = sums[..., :classes], sums[..., classes:]
    shares = np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)
    return np.asarray(shares.sum(axis=-1) / np.maximum((unions > 0).sum(axis=-1), 1))


def _redrawn(parts: Points, resamples: int, seed: int) -> Points:
    """(R, K) sums over as many scenes, drawn with replacement."""
    if resamples < 1:
        raise out_of_range("resamples", resamples, "1 or more", "a tally")
    count = len(parts)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.asarray(draws @ parts)


def _ends(values: Points, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise out_of_range("level", level, "above 0 and below 1", "a tally")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
