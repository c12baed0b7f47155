"""The sampler: every class at least twice, equal shares, the budget kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percepta.errors import BadInput
from percepta.selection import sample_probe


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(4, 120), st.integers(1, 3), st.integers(0, 99))
def test_every_class_that_is_used_has_its_least_share(classes: int, budget: int, least: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=200)
    labels[: 2 * classes] = np.arange(2 * classes) % classes
    if budget < 2 * least:
        return
    rows = sample_probe(labels, budget, least, seed)
    assert len(rows) <= budget
    assert np.array_equal(rows, np.unique(rows))
    used, counts = np.unique(labels[rows], return_counts=True)
    available = np.bincount(labels)[used]
    assert (counts >= np.minimum(least, available)).all()
    assert len(used) == min(len(np.unique(labels)), budget // least)
    # One sample of each class in turn: no class is ahead of another that has more to give.
    assert all(counts.max() - count <= 1 for count, most in zip(counts, available) if count < most)
    assert len(rows) == min(budget, available.sum())


def test_seeds_decide_and_repeat() -> None:
    labels = np.arange(1000) % 10
    assert np.array_equal(sample_probe(labels, 100), sample_probe(labels, 100))
    assert not np.array_equal(sample_probe(labels, 100), sample_probe(labels, 100, seed=1))
    assert (np.bincount(labels[sample_probe(labels, 100)]) == 10).all()


def test_all_samples_where_there_are_fewer() -> None:
    assert sample_probe(["a", "b"] * 20, 500).tolist() == list(range(40))


def test_many_classes_lose_some_of_them() -> None:
    rows = sample_probe(np.arange(900) % 300, 500)
    assert len(np.unique(rows % 300)) == 250
    assert len(rows) == 500


def test_other_targets_give_a_random_subset() -> None:
    random = np.random.default_rng(0)
    rows = sample_probe(random.normal(size=800), 500)
    assert rows.shape == (500,)
    assert len(np.unique(rows)) == 500
    assert len(sample_probe(random.integers(2, size=(50, 4)), 500)) == 50


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 3}, "budget of sample_probe must be at least 4 samples, of two classes; got 3"),
        ({"min_per_class": 0}, "min_per_class of sample_probe must be 1 or more"),
    ],
)
def test_budgets_that_cannot_be(options, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        sample_probe([0, 1] * 10, **options)
