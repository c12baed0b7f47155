"""Which features become one: correlations of all models' features → merge and unmerge matrices (arXiv 2305.03053 §4).

Order of this file: the result, its matrices, greedy zipping, permutation, optimal pairs, averaging, the table.
N models have n features each, stacked model by model. Unusual: zipping keeps the best partner of every feature, so that
a merge costs O(N n) where searching the whole matrix costs its square; the result is the same, ties included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, out_of_range, wrong_shape

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]
PUBLISHED_EPSILON = 1e-5
"""What the published code adds to the size of a group before it takes the mean, so that two weigh 0.999995 together."""
ALPHA, BETA = 0.3, 1.0
"""The published defaults are 0.3 and 0.125; on halves of CIFAR-10 more merges within a model pay (docs/results.md)."""


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """What becomes of the features of N models with n features each.

    Attributes:
        groups: (N, n) the merged feature, 0 to merged - 1, that each feature goes into.
        merged: how many merged features there are.
        bias: whether each model has one more, constant feature, which is kept apart.
    """

    groups: Numbers
    merged: int
    bias: bool = False

    @property
    def models(self) -> int:
        """N."""
        return len(self.groups)

    @property
    def unmerge(self) -> Floats:
        """U (N n, merged): one 1 a row, in the column of the merged feature."""
        blocks = [np.eye(self.merged, dtype=np.float32)[row] for row in self.groups]
        return np.concatenate([_with_corner(block) for block in blocks] if self.bias else blocks)

    def merge(self, epsilon: float = 0.0) -> Floats:
        """M (merged, N n): each merged feature is the mean of its group, `epsilon` added to the group's size."""
        unmerge = self.unmerge
        return (unmerge / (unmerge.sum(axis=0) + np.float32(epsilon))).T


def _with_corner(block: Floats) -> Floats:
    padded = np.pad(block, ((0, 1), (0, 1)))
    padded[-1, -1] = 1
    return padded


def zip_features(
    correlation: NDArray[np.floating], models: int, alpha: float = ALPHA, beta: float = BETA, legacy: bool = False
) -> Matching:
    """ZipIt!: again and again the two most correlated features become one, until n are left (algorithm 1).

    Args:
        correlation: (N n, N n), symmetric.
        models: N, at least 2.
        alpha: what similarities of a merged feature are multiplied by, 0 to 1; the smaller, the later is it merged
            again. 0 forbids that: what holds features of a model meets no others of that model.
        beta: share of the merges that may happen within a model, 0 to 1. As published, even 0 lets one happen in each.
        legacy: with alpha 0, forbid the index ranges that the published code forbids, which move as features go.

    Raises: BadInput for another shape, alpha or beta out of range, or where the legacy rule forbids what is needed.
    """
    count = _checked(correlation, models)
    if not 0 <= alpha <= 1:
        raise out_of_range("alpha", alpha, "0 to 1", "zip")
    if not 0 <= beta <= 1:
        raise out_of_range("beta", beta, "0 to 1", "zip")
    similarity = np.array(correlation, np.float32)
    np.fill_diagonal(similarity, -np.inf)
    if legacy and not alpha:
        return _published_without_repeats(similarity, models, beta)
    state = _Greedy(similarity, models, alpha, beta)
    for _ in range(len(similarity) - count):
        state.merge_best()
    return Matching(state.columns().reshape(models, count), count)


def budget_of(total: int, models: int, beta: float) -> list[int]:
    """How many merges may happen within each model."""
    return [int((total - total // models) // models * beta + 1e-4)] * models


class _Greedy:
    """The symmetric matrix of similarities while features become fewer; what is gone is met again only by searches.

    `best[i]` is the largest similarity of feature i to a later one and `partner[i]` the first feature that has it, so
    the first maximum of the whole matrix is the best of the first row that has the largest. A row that lost its partner
    is searched again only when its turn comes: until then its old best is a bound.
    """

    def __init__(self, similarity: Floats, models: int, alpha: float, beta: float) -> None:
        total = len(similarity)
        self.plain, self.alpha = similarity, np.float32(alpha)
        # A little wider than needed: columns of a power of two lie in the same few lines of a cache.
        self.similarity = np.empty((total, total + 16), np.float32)[:, :total]
        self.similarity[:] = similarity
        self.gone = np.zeros(total, np.bool_)
        self.origin = np.arange(total) // (total // models)
        self.members = np.eye(models, dtype=np.bool_)[self.origin]  # whose features each one holds
        self.parent = np.arange(total)
        self.budget = budget_of(total, models, beta)
        later = np.where(np.tri(total, dtype=np.bool_), np.float32(-np.inf), similarity)
        self.partner = later.argmax(axis=1).astype(np.int32)
        self.best = later[np.arange(total), self.partner]
        self.stale = np.zeros(total, np.bool_)

    def merge_best(self) -> None:
        """One step."""
        kept = int(self.best.argmax())
        while self.stale[kept]:
            self._search(kept)
            kept = int(self.best.argmax())
        gone = int(self.partner[kept])
        if self.best[kept] == -np.inf:
            kept, gone = self._best_left()
        row = np.minimum(self.similarity[kept], self.similarity[gone])
        if self.alpha:
            row *= self.alpha
        else:
            self.members[kept] |= self.members[gone]
            row[self.members[:, self.members[kept]].any(axis=1)] = -np.inf
        self.parent[gone], self.gone[gone] = kept, True
        np.copyto(row, -np.inf, where=self.gone)
        self.similarity[:, kept] = self.similarity[kept] = row
        self._refresh(kept, gone, row)
        if self.origin[kept] == self.origin[gone]:
            self._spend(int(self.origin[kept]))

    def columns(self) -> Numbers:
        """For each feature the number of the merged one that it is in, in their order."""
        number = np.cumsum(~self.gone) - 1
        for index, parent in enumerate(self.parent):  # a parent comes before its children
            if parent != index:
                number[index] = number[parent]
        return number

    def _refresh(self, kept: int, gone: int, row: Floats) -> None:
        """Every row's best, or a bound on it, after one feature got new similarities and another went."""
        self.stale |= (self.partner == gone) | (self.partner == kept)
        best, partner, stale, new = (one[:kept] for one in (self.best, self.partner, self.stale, row))
        (larger,) = (new > best).nonzero()
        best[larger], partner[larger], stale[larger] = new[larger], kept, False
        (equal,) = (new == best).nonzero()  # of equals the first feature counts
        equal = equal[~stale[equal] & (partner[equal] > kept)]
        partner[equal] = kept
        self.best[gone], self.partner[gone], self.stale[gone] = -np.inf, -1, False
        self._search(kept)

    def _search(self, index: int) -> None:
        self.stale[index] = False
        later = self.similarity[index, index + 1 :]
        np.copyto(later, -np.inf, where=self.gone[index + 1 :])
        if len(later):
            place = int(later.argmax())
            self.partner[index], self.best[index] = index + 1 + place, later[place]
        else:
            self.best[index] = -np.inf

    def _spend(self, origin: int) -> None:
        """One merge within a model; when none is left, its features no longer meet."""
        self.budget[origin] -= 1
        if self.budget[origin] <= 0:
            own = self._left()
            own = own[self.origin[own] == origin]
            self.similarity[np.ix_(own, own)] = -np.inf
            self.stale[own] = True

    def _left(self) -> Numbers:
        return np.flatnonzero(~self.gone)

    def _best_left(self) -> tuple[int, int]:
        """Where everything is forbidden and too many are left: the most correlated ones, of different models first."""
        left = self._left()
        plain = np.triu(self.plain[np.ix_(left, left)] + 2, 1)
        plain[self.origin[left][:, None] != self.origin[left][None]] *= 4
        first, second = np.unravel_index(int(plain.argmax()), plain.shape)
        return int(left[first]), int(left[second])


def _published_without_repeats(similarity: Floats, models: int, beta: float) -> Matching:
    """Alpha 0 as published: the matrix shrinks, the ranges that are forbidden in it do not, rows before columns."""
    count = len(similarity) // models
    origin = np.arange(len(similarity)) // count
    groups = [[index] for index in range(len(similarity))]
    budget = budget_of(len(similarity), models, beta)
    while len(groups) > count:
        kept, gone = sorted(divmod(int(similarity.argmax()), len(similarity)))
        if similarity[kept, gone] == similarity[gone, kept] == -np.inf:
            raise BadInput("the legacy rule of alpha 0 forbids all merges that are left; pass legacy=False.")
        ranges = [slice(home * count, (home + 1) * count) for home in (origin[kept], origin[gone])]
        same = int(origin[kept]) if origin[kept] == origin[gone] else None
        for _ in range(2):  # columns, then rows
            similarity[:, kept] = np.minimum(similarity[:, kept], similarity[:, gone])
            similarity = np.delete(similarity, gone, axis=1)
            for part in ranges:
                similarity[part, kept] = -np.inf
            similarity = similarity.T
        groups[kept] += groups.pop(gone)
        origin = np.delete(origin, gone)
        if same is not None:
            budget[same] -= 1
            if budget[same] <= 0:
                own = np.flatnonzero(origin == same)
                similarity[np.ix_(own, own)] = -np.inf
    flat = np.empty(models * count, np.int64)
    for number, members in enumerate(groups):
        flat[members] = number
    return Matching(flat.reshape(models, count), count)


def permute_features(correlation: NDArray[np.floating], models: int) -> Matching:
    """Each feature of a later model goes to one of the first, so that the sum of correlations is largest.

    Args: as of `zip_features`. The assignment is exact (Kuhn and Munkres).
    """
    from scipy.optimize import linear_sum_assignment

    count = _checked(correlation, models)
    groups = [np.arange(count)]
    for model in range(1, models):
        block = correlation[:count, model * count : (model + 1) * count]
        _, columns = linear_sum_assignment(block, maximize=True)
        groups.append(np.argsort(columns))
    return Matching(np.stack(groups).astype(np.int64), count)


def pair_features(correlation: NDArray[np.floating], models: int) -> Matching:
    """Two models: the perfect pairing of all 2 n features with the largest sum of correlations; nothing merges twice.

    Args: as of `zip_features`. Raises: BadInput for more than two models.
    """
    import networkx

    count = _checked(correlation, models)
    if models != 2:
        raise BadInput(f"optimal pairs are of two models; got {models}. Use zip or permute.")
    graph = networkx.Graph()
    first, second = np.triu_indices(2 * count, 1)
    weights = correlation[first, second].tolist()
    graph.add_weighted_edges_from(zip(first.tolist(), second.tolist(), weights, strict=True))
    pairs = sorted(tuple(sorted(pair)) for pair in networkx.max_weight_matching(graph, maxcardinality=True))
    groups = np.empty(2 * count, np.int64)
    for number, pair in enumerate(pairs):
        groups[list(pair)] = number
    return Matching(groups.reshape(2, count), count)


def average_features(correlation: NDArray[np.floating], models: int) -> Matching:
    """Features of equal number go together, whatever their correlation: plain averaging of weights."""
    count = _checked(correlation, models)
    return Matching(np.tile(np.arange(count), (models, 1)), count)


Matcher = Callable[[NDArray[np.floating], int], Matching]
"""(correlation (N n, N n), N) → matching."""
MATCHERS: Mapping[str, Matcher] = MappingProxyType(
    {"zip": zip_features, "permute": permute_features, "optimal": pair_features, "average": average_features}
)


def correlation_of(covariance: NDArray[np.floating]) -> Floats:
    """(F, F) covariance → correlation; what hardly varies correlates with nothing."""
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0)).astype(np.float32)
    scale = np.maximum(deviation[:, None] * deviation[None], np.float32(1e-7))
    found: Floats = covariance.astype(np.float32) / scale
    return found


def matched_correlation(matching: Matching, correlation: NDArray[np.floating]) -> float:
    """The mean correlation of features that became one, 1 where nothing did: a low one foretells a poor merge."""
    flat = matching.groups.reshape(-1)
    together = np.triu(flat[:, None] == flat[None], 1)
    return float(correlation[together].mean()) if together.any() else 1.0


def _checked(correlation: NDArray[np.floating], models: int) -> int:
    """n. Raises BadInput."""
    if models < 2:
        raise out_of_range("models", models, "2 or more", "matching")
    total = len(correlation)
    if correlation.ndim != 2 or correlation.shape[1] != total or not total or total % models:
        raise wrong_shape("correlation", correlation.shape, f"(N n, N n) for the N = {models} models")
    if not np.isfinite(correlation).all():
        raise BadInput("correlations must be finite numbers; got NaN or infinity.")
    return total // models
