"""Matchings: the greedy zip against its plain form, and what holds of every matching."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from percepta.errors import BadInput
from percepta.merging import MATCHERS, Matching, correlation_of, matched_correlation, zip_features


def plain_zip(correlation: np.ndarray, models: int, alpha: float, beta: float) -> np.ndarray:
    """The same with a search of the whole shrinking matrix at each step."""
    similarity = correlation.astype(np.float32).copy()
    total, count = len(similarity), len(similarity) // models
    np.fill_diagonal(similarity, -np.inf)
    unmerge, origin = np.eye(total, dtype=np.float32), [place // count for place in range(total)]
    budget = [int(((total - count) // models) * beta + 1e-4)] * models
    while unmerge.shape[1] > count:
        assume(similarity.max() > -np.inf)  # else the budgets leave nothing
        kept, gone = sorted(divmod(int(similarity.argmax()), len(similarity)))
        unmerge[:, kept] += unmerge[:, gone]
        unmerge = np.delete(unmerge, gone, axis=1)
        row = np.minimum(similarity[kept], similarity[gone]) * np.float32(alpha)
        similarity[kept] = similarity[:, kept] = row
        similarity = np.delete(np.delete(similarity, gone, axis=0), gone, axis=1)
        home, other = origin[kept], origin.pop(gone)
        if home == other:
            budget[home] -= 1
            if budget[home] <= 0:
                own = [place for place, one in enumerate(origin) if one == home]
                similarity[np.ix_(own, own)] = -np.inf
    return unmerge


def correlated(models: int, size: int, seed: int, samples: int = 9, rounded: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    shared = random.standard_normal((size, samples))
    features = np.concatenate(
        [random.permutation(shared) + 0.7 * random.standard_normal(shared.shape) for _ in range(models)]
    )
    found = correlation_of(np.cov(features))
    found = np.maximum(found, found.T)
    return np.round(found, 1) if rounded else found


@settings(max_examples=60, deadline=None)
@given(
    models=st.integers(2, 4),
    size=st.integers(2, 14),
    seed=st.integers(0, 10**6),
    alpha=st.sampled_from([1e-4, 0.01, 0.3, 1.0]),
    beta=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
    rounded=st.booleans(),
)
def test_zip_is_the_plain_search_ties_included(models, size, seed, alpha, beta, rounded) -> None:
    correlation = correlated(models, size, seed, rounded=rounded)
    want = plain_zip(correlation, models, alpha, beta)
    assert np.array_equal(zip_features(correlation, models, alpha, beta).unmerge, want)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["zip", "permute", "average"]),
    models=st.integers(2, 4),
    size=st.integers(1, 10),
    seed=st.integers(0, 10**6),
)
def test_what_holds_of_every_matching(name, models, size, seed) -> None:
    found = MATCHERS[name](correlated(models, size, seed), models)
    unmerge, merge = found.unmerge, found.merge()
    assert (unmerge.sum(axis=1) == 1).all()
    assert unmerge.shape == (models * size, size)
    assert np.allclose(merge @ unmerge, np.eye(size), atol=1e-6)
    assert np.allclose(merge.sum(axis=1), 1, atol=1e-6)
    published = found.merge(1e-5)
    assert np.abs(published.sum(axis=1) - 1).max() < 1.1e-5


def test_a_budget_of_nothing_lets_one_merge_happen_within_each_model() -> None:
    # Each model's units come in equal pairs and have nothing to do with the other model's.
    random = np.random.default_rng(0)
    features = np.concatenate([np.repeat(random.standard_normal((4, 50)), 2, axis=0) for _ in range(2)])
    features += 0.01 * random.standard_normal(features.shape)
    found = zip_features(correlation_of(np.cov(features)), 2, alpha=1.0, beta=0.0)
    within = [sum(count - 1 for count in np.unique(row, return_counts=True)[1]) for row in found.groups]
    assert within[0] >= 1
    assert within[1] >= 1
    free = zip_features(correlation_of(np.cov(features)), 2, alpha=1.0, beta=1.0)
    assert all(len(np.unique(row)) == 4 for row in free.groups)


def test_alpha_zero_lets_no_model_meet_itself_again() -> None:
    found = zip_features(correlated(2, 9, 3), 2, alpha=0.0, beta=0.0)
    crossed = [column for column in found.unmerge.T if column[:9].any() and column[9:].any()]
    assert all(column.sum() == 2 for column in crossed)
    assert len(crossed) >= 7


def test_the_optimal_pairing_is_never_worse_than_greedy_pairs() -> None:
    for seed in range(5):
        correlation = correlated(2, 8, seed)
        best = matched_correlation(MATCHERS["optimal"](correlation, 2), correlation)
        assert best >= matched_correlation(MATCHERS["permute"](correlation, 2), correlation) - 1e-6


def test_a_constant_feature_stays_apart() -> None:
    found = MATCHERS["permute"](correlated(2, 3, 0), 2)
    with_bias = Matching(found.groups, found.merged, bias=True).unmerge
    assert with_bias.shape == (8, 4)
    assert with_bias[3].tolist() == with_bias[7].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": 1}, "2 or more"),
        ({"correlation": np.eye(5)}, "N n"),
        ({"correlation": np.full((4, 4), np.nan)}, "finite"),
        ({"alpha": 1.5}, "alpha of zip"),
        ({"beta": -0.1}, "beta of zip"),
    ],
)
def test_bad_input_is_one_sentence(change, said) -> None:
    with pytest.raises(BadInput, match=said):
        zip_features(**{"correlation": np.eye(4), "models": 2} | change)
