"""How well one list of scores orders what another list says, as pure functions; and what following it costs.

Unusual: where scores tie, what is taken first is left to chance and the mean over all orders counts, so that a prior
which ties (models of one depth) is neither helped nor hurt by the order of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import comb
from types import MappingProxyType
from typing import Any

import numpy as np

from percepta.errors import BadInput, out_of_range
from percepta.selection.inputs import Matrix


def pearson(first: Any, second: Any) -> float:
    """Linear correlation of two lists, -1 to 1; 0 where one of them is constant and tells nothing."""
    one, other = (_centred(values) for values in _two(first, second))
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


def spearman(first: Any, second: Any) -> float:
    """Rank correlation with average ranks, -1 to 1; 0 where a list is constant."""
    from scipy.stats import rankdata

    one, other = _two(first, second)
    return pearson(rankdata(one), rankdata(other))


def kendall(first: Any, second: Any) -> float:
    """Kendall's tau-b, -1 to 1; 0 where a list is constant."""
    one, other = (np.sign(values[:, None] - values[None]) for values in _two(first, second))
    length = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / length if length else 0.0


def weighted_kendall(first: Any, second: Any) -> float:
    """Kendall's tau with hyperbolic, additive weights by rank (Vigna 2015; the field's standard), -1 to 1; the top of
    both lists counts most. 0 where a list is constant."""
    from scipy.stats import weightedtau

    one, other = _two(first, second)
    if (one == one[0]).all() or (other == other[0]).all():
        return 0.0
    return float(weightedtau(one, other).statistic)


def regret_at(scores: Any, oracle: Any, k: int = 1) -> float:
    """What is lost by fine-tuning only the k best by score: the best oracle less the best among those, in its unit.

    Raises: BadInput for k below 1; k of all or more loses nothing.
    """
    given, truth = _two(scores, oracle)
    if k < 1:
        raise out_of_range("k", k, "1 or more", "regret_at")
    return float(truth.max()) - _expected_best(given, truth, min(k, len(truth)))


def relative_accuracy(scores: Any, oracle: Any) -> float:
    """The oracle of the best by score as a share of the best oracle. Raises BadInput for a best oracle of 0 or less."""
    given, truth = _two(scores, oracle)
    best = float(truth.max())
    if best <= 0:
        raise BadInput(f"relative accuracy needs a best accuracy above 0; got {best}.")
    return _expected_best(given, truth, 1) / best


def top_hit(scores: Any, oracle: Any) -> float:
    """Whether the best by score is the best by oracle, 0 to 1; a fraction only where scores tie."""
    given, truth = _two(scores, oracle)
    return float((truth[given == given.max()] == truth.max()).mean())


MEASURES: Mapping[str, Callable[[Matrix, Matrix], float]] = MappingProxyType(
    {
        "pearson": lambda scores, oracle: 100 * pearson(scores, oracle),
        "spearman": lambda scores, oracle: 100 * spearman(scores, oracle),
        "kendall": lambda scores, oracle: 100 * kendall(scores, oracle),
        "weighted kendall": lambda scores, oracle: 100 * weighted_kendall(scores, oracle),
        "regret@1": lambda scores, oracle: regret_at(scores, oracle, 1),
        "regret@3": lambda scores, oracle: regret_at(scores, oracle, 3),
        "relative accuracy": lambda scores, oracle: 100 * relative_accuracy(scores, oracle),
        "top-1 hit": lambda scores, oracle: 100 * top_hit(scores, oracle),
    }
)
"""What is measured of the models of one target: correlations and shares times 100, regret in the oracle's unit."""


def _two(first: Any, second: Any) -> tuple[Matrix, Matrix]:
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape or one.ndim != 1 or len(one) < 2:
        raise BadInput(f"two lists of one length, at least 2, are needed; got {one.shape} and {other.shape}.")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise BadInput("both lists must be finite numbers; got NaN or infinity.")
    return one, other


def _centred(values: Matrix) -> Matrix:
    """Less the mean; 0 where nothing but rounding is left."""
    centred = values - values.mean()
    return np.asarray(np.where(np.abs(centred).max() > 1e-13 * np.abs(values).max(), centred, 0.0))


def _expected_best(scores: Matrix, oracle: Matrix, k: int) -> float:
    """The best oracle among the k highest scores, the mean over the orders of the tied ones."""
    cut = np.sort(scores)[-k]
    sure, tied = oracle[scores > cut], np.sort(oracle[scores == cut])[::-1]
    places = k - len(sure)
    floor = float(sure.max()) if len(sure) else -np.inf
    orders = comb(len(tied), places)
    # The i-th best of the tied ones is the best drawn when the other places come from those after it.
    chances = [comb(len(tied) - 1 - place, places - 1) / orders for place in range(len(tied))]
    return float(sum(chance * max(floor, float(value)) for chance, value in zip(chances, tied) if chance))
