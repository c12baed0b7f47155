"""Scores of classification, retrieval and choice, as pure functions over numpy arrays or torch tensors.

Protocols of zero-shot classification and retrieval: Perception Encoder (arXiv 2504.13181), appendix on evaluation.
Unusual: ties count as the share of random orders in which the query would be right, so that constant scores get
chance and not everything; each metric gives points per query, of which a mean and a bootstrap interval are taken.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, out_of_range, wrong_shape

Points = NDArray[np.float64]
LEVEL, RESAMPLES = 0.95, 2000
DRAWN = 200_000  # numbers that a bootstrap draws at once


def hits_at_k(scores: Any, positives: Any, k: int) -> Points:
    """Whether each query finds at least one of its positives among its k best items.

    Args:
        scores: (Q, N), larger is better; array or tensor.
        positives: (Q, N) bool, or (Q,) the number of the one right item; see `same` for identical captions.
        k: 1 or more; everything counts as found for k >= N.

    Returns:
        (Q,) float64 in 0..1; a fraction only where the k-th place is tied: the share of orders of the tied items in
        which a positive comes among the k best.

    Raises:
        BadInput: other shapes, a query without a positive, a score that is not a number, k below 1.
    """
    table = _numbers(scores, "scores")
    if table.ndim != 2 or not table.size:
        raise wrong_shape("scores", table.shape, "(queries, items) with at least one of each")
    right = _positives(positives, table.shape)
    if k < 1:
        raise out_of_range("k", k, "1 or more", "hits_at_k")
    best = np.where(right, table, -np.inf).max(axis=1, keepdims=True)
    above = ((table > best) & ~right).sum(axis=1)
    tied = (table == best).sum(axis=1)
    tied_right = ((table == best) & right).sum(axis=1)
    places = np.clip(k - above, 0, tied)
    # No positive among the places drawn from the tied items: C(wrong, places) / C(tied, places), factor by factor.
    missed = np.ones(len(table))
    for drawn in range(int(tied_right.max())):
        left = tied - drawn
        factor = np.clip(left - places, 0, None) / np.maximum(left, 1)
        missed *= np.where(drawn < tied_right, factor, 1.0)
    return 1.0 - missed


def recall_at_k(scores: Any, positives: Any, k: int) -> float:
    """Recall@k, 0 to 1: the mean of `hits_at_k`."""
    return float(hits_at_k(scores, positives, k).mean())


def top_k_accuracy(scores: Any, labels: Any, k: int = 1) -> float:
    """The share of rows of (N, K) scores whose label, of (N,) class numbers, is among the k best, 0 to 1."""
    return float(hits_at_k(scores, labels, k).mean())


def same(queries: Sequence[Hashable], items: Sequence[Hashable]) -> NDArray[np.bool_]:
    """(Q, N) bool: which items are right for which queries, by equal ids.

    With captions as ids, identical captions share their positives (the published rule of retrieval).
    """
    numbers: dict[Hashable, int] = {}
    rows = np.array([numbers.setdefault(name, len(numbers)) for name in queries], np.int64)
    columns = np.array([numbers.setdefault(name, len(numbers)) for name in items], np.int64)
    return np.asarray(rows[:, None] == columns[None, :])


def dual_softmax(scores: Any, scale: float = 1.0) -> Points:
    """Retrieval scores weighted by how much each item prefers the query: s * softmax(s over the queries).

    Args:
        scores: (queries, items) cosines; for the other direction hand over the transpose.
        scale: multiplies the scores first; 1 in the Perception Encoder's protocol (no temperature), 10 in PE-AV's.

    Returns:
        (queries, items) float64. It uses all queries at once, so it is no score of a single query: report both.
    """
    table = _numbers(scores, "scores") * scale
    if table.ndim != 2:
        raise wrong_shape("scores", table.shape, "(queries, items)")
    weights = np.exp(table - table.max(axis=0, keepdims=True))
    return np.asarray(table * weights / weights.sum(axis=0, keepdims=True))


def choices(right: Any, wrong: Any) -> Points:
    """(N,) float64: 1 where the score of the true text exceeds that of the false one, 0.5 on a tie, else 0."""
    better, worse = _numbers(right, "right"), _numbers(wrong, "wrong")
    if better.shape != worse.shape or better.ndim != 1 or not better.size:
        raise BadInput(
            f"choices needs two rows of scores of one length, at least 1; got {better.shape} and {worse.shape}."
        )
    return np.where(better == worse, 0.5, (better > worse).astype(np.float64))


def choice_accuracy(right: Any, wrong: Any) -> float:
    """Accuracy at choosing between a true and a false text, 0 to 1; chance is 0.5."""
    return float(choices(right, wrong).mean())


def bootstrap_interval(
    points: Any,
    groups: Any | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean.

    Args:
        points: (N,) points of the queries.
        groups: (N,) ids; queries of one id (such as the negatives of one scene) are drawn together, since they are
            not independent. None draws each by itself.
        level: of confidence, such as 0.95.
        resamples: how many means to draw.
        seed: of the draws.

    Returns:
        Lower and upper end. In retrieval the queries are redrawn and the gallery stays.

    Raises:
        BadInput: no points, groups of another length, a level outside 0..1, no resamples.
    """
    values = _numbers(points, "points")
    if values.ndim != 1 or not values.size:
        raise wrong_shape("points", values.shape, "(N,) with N of at least 1")
    if not 0 < level < 1:
        raise out_of_range("level", level, "above 0 and below 1", "bootstrap_interval")
    if resamples < 1:
        raise out_of_range("resamples", resamples, "1 or more", "bootstrap_interval")
    if groups is None:
        groups = np.arange(len(values))
    elif len(groups) != len(values):
        raise BadInput(f"groups must be as many as points ({len(values)}); got {len(groups)}.")
    _, where = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(where, weights=values), np.bincount(where)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    together = max(1, DRAWN // len(sums))
    for start in range(0, resamples, together):
        drawn = random.integers(len(sums), size=(min(together, resamples - start), len(sums)))
        means[start : start + together] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _numbers(values: Any, what: str) -> Points:
    """float64 of an array, a tensor on any device, or a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    numbers = np.asarray(values, dtype=np.float64)
    if np.isnan(numbers).any():
        raise BadInput(f"{what} must be numbers; {int(np.isnan(numbers).sum())} of {numbers.size} are NaN.")
    return numbers


def _positives(positives: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if hasattr(positives, "detach"):
        positives = positives.detach().cpu().numpy()
    right = np.asarray(positives)
    if right.ndim == 1 and right.dtype.kind in "iu" and len(right) == shape[0]:
        if right.min() < 0 or right.max() >= shape[1]:
            raise out_of_range(
                "positives", int(right.max() if right.min() >= 0 else right.min()), f"0 to {shape[1] - 1}"
            )
        right = np.arange(shape[1])[None, :] == right[:, None]
    if right.shape != shape or right.dtype != np.bool_:
        raise wrong_shape("positives", right.shape, f"{shape} (bool) or ({shape[0]},) (numbers of items)")
    if not right.any(axis=1).all():
        raise BadInput(f"each query needs a positive; {int((~right.any(axis=1)).sum())} of {len(right)} have none.")
    return right
