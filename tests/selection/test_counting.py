"""LEEP and NCE by entropies and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percepta.selection import as_targets, leep, nce


def conditional_entropy(labels: np.ndarray, given: np.ndarray) -> float:
    """H(label | given) in nats, by counting."""
    total = 0.0
    for value in np.unique(given):
        counts = np.bincount(labels[given == value]).astype(float)
        shares = counts[counts > 0] / counts.sum()
        total -= (given == value).mean() * (shares * np.log(shares)).sum()
    return total


draws = st.tuples(st.integers(12, 60), st.integers(2, 5), st.integers(1, 6), st.integers(0, 1000))


@settings(max_examples=40, deadline=None)
@given(draws)
def test_one_hot_probabilities_give_minus_the_conditional_entropy(draw) -> None:
    samples, classes, sources, seed = draw
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    source = random.integers(sources, size=samples)
    one_hot = np.eye(sources + 1)[source]  # one class of the source is never given
    assert leep(one_hot, labels) == pytest.approx(-conditional_entropy(labels, source), abs=1e-9)
    assert nce(one_hot, labels) == pytest.approx(-conditional_entropy(labels, source), abs=0.01)


def test_leep_by_hand() -> None:
    given, labels = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]), np.array([0, 1, 1])
    conditional = np.array([[0.8, 0.2], [0.7, 1.3]]) / np.array([1.5, 1.5])
    wanted = np.mean([np.log(conditional[label] @ row) for label, row in zip(labels, given, strict=True)])
    assert leep(given, labels) == pytest.approx(wanted)


@settings(max_examples=30, deadline=None)
@given(draws)
def test_order_and_names_do_not_matter_and_nothing_is_above_0(draw) -> None:
    samples, classes, sources, seed = draw
    random = np.random.default_rng(seed)
    labels, given = np.arange(samples) % classes, random.dirichlet(np.ones(sources), samples)
    rows, names = random.permutation(samples), random.permutation(classes)
    for score in (leep, nce):
        usual = score(given, labels)
        assert usual <= 1e-9
        assert score(given[rows], labels[rows]) == pytest.approx(usual)
        assert score(given[:, ::-1], names[labels]) == pytest.approx(usual)


def test_missing_classes_count_for_nce_alone() -> None:
    labels, given = np.arange(20) % 3, np.random.default_rng(0).dirichlet(np.ones(4), 20)
    wide = as_targets(labels, classes=50)
    assert leep(given, wide) == pytest.approx(leep(given, labels))
    assert nce(given, wide) < nce(given, labels)
