"""Parts of a probe, and that their deviations have the spread of other probes."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.selection import as_targets, knn_loo, ridge_loo
from percepta.selection.resampling import deviations, probe_parts
from tests.selection.worlds import blobs


def test_parts_are_halves_without_doubles_and_keep_two_of_a_class() -> None:
    targets = as_targets([0] * 40 + [1] * 21 + [2] * 3)
    parts = probe_parts(targets, 200, 0)
    for rows in parts:
        assert np.array_equal(rows, np.unique(rows))
        assert (np.bincount(targets.numbers[rows]) >= 2).all()
    sizes = np.mean([np.bincount(targets.numbers[rows]) for rows in parts], axis=0)
    assert sizes == pytest.approx([20, 10.5, 2], abs=0.2)


def test_of_many_small_classes_whole_ones_are_left_out() -> None:
    targets = as_targets(np.arange(90) // 3)
    for rows in probe_parts(targets, 20, 0):
        counts = np.bincount(targets.numbers[rows], minlength=30)
        assert sorted(set(counts)) == [0, 3]
        assert (counts > 0).sum() == 15


def test_other_targets_and_probes_that_are_too_small() -> None:
    random = np.random.default_rng(0)
    assert all(len(rows) == 20 for rows in probe_parts(as_targets(random.normal(size=40)), 5, 0))
    assert probe_parts(as_targets([0, 0, 1, 1]), 5, 0) == []
    assert probe_parts(as_targets([0, 0, 1, 1] * 9), 0, 0) == []


def test_deviations_surround_the_whole_and_forgive_gaps() -> None:
    parts = np.array([[1.0, 10.0], [3.0, np.nan], [5.0, 14.0]])
    draws = deviations(np.array([8.0, 20.0]), parts, np.array([50.0, 50.0, 50.0]), 100)
    assert draws == pytest.approx(np.array([[6.0, 18.0], [8.0, 20.0], [10.0, 22.0]]))
    wide = deviations(np.array([8.0, 20.0]), parts, np.array([80.0, 80.0, 80.0]), 100)
    assert wide[:, 0] == pytest.approx([4, 8, 12])


@pytest.mark.parametrize("score", [knn_loo, ridge_loo])
def test_the_spread_is_that_of_other_probes(score) -> None:
    """Against the truth: many probes of the same size from one world."""
    centres = np.random.default_rng(1).normal(size=(4, 6))

    def world(seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        labels = np.arange(120) % 4
        return 0.7 * centres[labels] + random.normal(size=(120, 6)), labels

    true = np.std([score(*world(seed)) for seed in range(60)])
    estimated = []
    for seed in range(6):
        features, labels = world(seed)
        parts = probe_parts(as_targets(labels), 40, seed)
        pieces = np.array([score(features[rows], labels[rows]) for rows in parts])
        sizes = np.array([len(rows) for rows in parts], float)
        estimated.append(deviations(np.array(score(features, labels)), pieces, sizes, 120).std())
    assert 0.6 < np.mean(estimated) / true < 1.6


def test_with_replacement_leave_one_out_would_be_too_good() -> None:
    """Why parts have no doubles."""
    features, labels = blobs(100, 8, 4, 0.0)
    random = np.random.default_rng(0)
    drawn = [random.integers(100, size=100) for _ in range(10)]
    assert np.mean([knn_loo(features[rows], labels[rows]) for rows in drawn]) > knn_loo(features, labels) + 25
