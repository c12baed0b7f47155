"""Do the nearest samples carry the right label? Nearest neighbours, leave-one-out and on a split.

PARC (arXiv 2111.06977) compares with them; a study of 42,000 transfers finds cosine neighbours hard to beat
(arXiv 2503.18528).
Unusual: where all votes differ a sample counts with the share of right votes; otherwise the most frequent label is
taken, the smallest of equals. A sample is never its own neighbour, also where it has an exact double.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.errors import BadInput, one_of, out_of_range
from percepta.selection.inputs import CLASSES, Matrix, Rows, as_features, as_targets
from percepta.selection.measures import estimate_score
from percepta.selection.reduction import SCALED, Reduction, reduce

METRICS = ("euclidean", "cosine")
GRID = 1e12  # distances are rounded to 1 / GRID of their scale, so that equal samples tie whatever the order of sums


def knn_loo(
    features: Any, targets: Any, k: int = 1, metric: str = "euclidean", dims: int | Reduction | None = None
) -> float:
    """Leave-one-out score of the k nearest neighbours.

    Args:
        features: (n, d).
        targets: classes, multi-label or regression; see `as_targets`.
        k: neighbours, 1 to n - 1; of equally near ones the first rows are taken.
        metric: "euclidean" or "cosine".
        dims: principal components to keep first.

    Returns:
        For classes the accuracy, 0 to 100. For the others that of the neighbours' mean: mean average precision over
        labels, or the explained share of the variance, 100 at best and below 0 where the mean is the better guess.

    Raises:
        BadInput: see `as_targets` and `as_features`; k or metric out of range.
    """
    known = as_targets(targets)
    x = reduce(as_features(features, len(known)), dims)
    _check(k, len(x) - 1, metric)
    distances = _distances(x, x, metric)
    np.fill_diagonal(distances, np.inf)
    nearest = _nearest(distances, k)
    if known.kind != CLASSES:
        return estimate_score(known.table[nearest].mean(axis=1), known)
    votes = known.numbers[nearest]
    chosen, count = _modes(votes)
    shares = (votes == known.numbers[:, None]).mean(axis=1)
    return float(100 * np.where(count == 1, shares, chosen == known.numbers).mean())


def knn_split(
    features: Any,
    targets: Any,
    k: int = 1,
    metric: str = "euclidean",
    test_fraction: float = 0.5,
    dims: int | Reduction | None = None,
) -> float:
    """Accuracy, 0 to 100, of the k nearest of the first samples for the last int(test_fraction * n), by majority; the
    smallest label wins ties, also where all votes differ.

    Args: as `knn_loo`, for classes only; the order of the samples matters, so shuffle them first.
    """
    known = as_targets(targets)
    x = reduce(as_features(features, len(known)), dims)
    fitted = len(x) - held_out(len(x), test_fraction)
    _check(k, fitted, metric)
    nearest = _nearest(_distances(x[fitted:], x[:fitted], metric), k)
    chosen, _ = _modes(known.numbers[:fitted][nearest])
    return float(100 * (chosen == known.numbers[fitted:]).mean())


def held_out(count: int, test_fraction: float) -> int:
    """How many of the last samples are tested: int(test_fraction * n). Raises BadInput where either part is empty."""
    tested = int(test_fraction * count) if 0 < test_fraction < 1 else 0
    if not 0 < tested < count:
        raise out_of_range("test_fraction", test_fraction, f"a share of the {count} samples that leaves both parts")
    return tested


def _check(k: int, most: int, metric: str) -> None:
    if metric not in METRICS:
        raise one_of("metric", metric, METRICS, "nearest neighbours")
    if most < 1:
        raise BadInput("nearest neighbours need at least two samples; got one.")
    if not 1 <= k <= most:
        raise out_of_range("k", k, f"1 to {most}, the samples to choose from", "nearest neighbours")


def _distances(asked: Matrix, known: Matrix, metric: str) -> Matrix:
    """(M, N), a new array: squared Euclidean distances, or 1 - cosine; a row of zeros has cosine 0 with all."""
    if metric == "cosine":
        lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, known)]
        unit = [x / np.maximum(length, SCALED) for x, length in zip((asked, known), lengths)]
        return np.asarray(np.rint((1 - unit[0] @ unit[1].T) * GRID))
    centre = known.mean(axis=0)  # the sums below lose fewer digits about it
    asked, known = asked - centre, known - centre
    squares = [(x**2).sum(axis=1) for x in (asked, known)]
    distances = squares[0][:, None] + squares[1][None] - 2 * asked @ known.T
    scale = max(float(squares[0].max()), float(squares[1].max()), np.finfo(np.float64).tiny)
    return np.asarray(np.rint(np.maximum(distances, 0) / scale * GRID))


def _nearest(distances: Matrix, k: int) -> Rows:
    """(M, k) rows of the nearest, the first of equals."""
    if k == 1:
        return np.asarray(distances.argmin(axis=1)[:, None], np.int64)
    return np.asarray(np.argsort(distances, axis=1, kind="stable")[:, :k], np.int64)


def _modes(votes: Rows) -> tuple[Rows, Rows]:
    """The most frequent label of each row, the smallest of equals, and how often it came."""
    count = (votes[:, :, None] == votes[:, None]).sum(axis=2)
    most = count.max(axis=1)
    candidates = np.where(count == most[:, None], votes, np.iinfo(np.int64).max)
    return candidates.min(axis=1), most
