"""Correlations against scipy; regrets by hand, ties by trying every order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from percepta.errors import BadInput
from percepta.selection import MEASURES, pearson, regret_at, relative_accuracy, spearman, top_hit, weighted_kendall

lists = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=2, max_size=6)


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_scipy_s(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = random.integers(8, size=20), random.normal(size=20)
    assert pearson(one, other) == pytest.approx(stats.pearsonr(one, other).statistic)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert weighted_kendall(one, other) == pytest.approx(stats.weightedtau(one, other).statistic)


def test_a_constant_list_correlates_with_nothing() -> None:
    constant, other = np.full(9, 0.1), np.arange(9.0)
    for measure in (pearson, spearman, weighted_kendall):
        assert measure(constant, other) == 0
        assert measure(other, constant) == 0
    for name in ("pearson", "spearman", "kendall", "weighted kendall"):
        assert MEASURES[name](other, other) == pytest.approx(100)
        assert MEASURES[name](-other, other) == pytest.approx(-100)


def test_regret_by_hand() -> None:
    scores, oracle = [3, 2, 1, 0], [70, 90, 80, 60]
    assert [regret_at(scores, oracle, k) for k in (1, 2, 3, 9)] == [20, 0, 0, 0]
    assert relative_accuracy(scores, oracle) == pytest.approx(70 / 90)
    assert (top_hit(scores, oracle), top_hit(oracle, oracle)) == (0, 1)


@settings(max_examples=60, deadline=None)
@given(lists, st.integers(1, 4))
def test_ties_are_the_mean_over_all_orders(pairs, k: int) -> None:
    scores, oracle = (np.array(values, float) for values in zip(*pairs))
    found = []
    for order in permutations(range(len(scores))):
        rows = sorted(order, key=lambda row: -scores[row])[:k]  # sorted keeps the order of ties
        found.append(
            (oracle.max() - oracle[rows].max(), oracle[rows[0]] / oracle.max(), oracle[rows[0]] == oracle.max())
        )
    regret, share, hit = np.mean(found, axis=0)
    assert regret_at(scores, oracle, k) == pytest.approx(regret, abs=1e-9)
    assert relative_accuracy(scores, oracle) == pytest.approx(share)
    assert top_hit(scores, oracle) == pytest.approx(hit)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: pearson([1, 2], [1, 2, 3]), "two lists of one length"),
        (lambda: pearson([1], [1]), "two lists of one length, at least 2"),
        (lambda: spearman([1, np.nan], [1, 2]), "both lists must be finite"),
        (lambda: regret_at([1, 2], [1, 2], 0), "k of regret_at must be 1 or more"),
        (lambda: relative_accuracy([1, 2], [-1, 0]), "best accuracy above 0"),
    ],
)
def test_lists_that_cannot_be_compared(call, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call()
