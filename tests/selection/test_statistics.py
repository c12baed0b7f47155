"""H-score and GBC against their definitions and scikit-learn's covariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.covariance import LedoitWolf

from percepta.errors import BadInput
from percepta.selection import gbc, h_score
from percepta.selection.reduction import standardise
from percepta.selection.statistics import shrinkage
from tests.selection.worlds import blobs, worlds


def class_means(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([x[labels == label].mean(axis=0) for label in labels])


@settings(max_examples=25, deadline=None)
@given(worlds)
def test_the_h_score_is_its_trace(world) -> None:
    features, labels = world
    x = standardise(features)
    wanted = np.trace(np.linalg.pinv(np.cov(x.T), rcond=1e-15) @ np.cov(class_means(x, labels).T))
    for variant in ("fast", "published"):
        assert h_score(features, labels, variant=variant) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("shape", [(60, 8), (30, 100)])
def test_the_shrunk_h_score_is_its_trace_with_ledoit_and_wolf(shape: tuple[int, int]) -> None:
    features, labels = blobs(*shape)
    x = standardise(features)
    peer = LedoitWolf().fit(x)
    assert shrinkage(x) == pytest.approx(peer.shrinkage_, rel=1e-9)
    between = (1 - peer.shrinkage_) * np.cov(class_means(x, labels).T)
    wanted = np.trace(np.linalg.inv(peer.covariance_) @ between)
    assert h_score(features, labels, shrink=True, variant="published") == pytest.approx(wanted, rel=1e-6)


def test_more_columns_than_samples_need_shrinkage() -> None:
    scores = [h_score(*blobs(40, 200, 4, apart)) for apart in (0.0, 2.0)]
    assert scores == pytest.approx([3, 3], abs=1e-3)
    shrunk = [h_score(*blobs(40, 200, 4, apart), shrink=True) for apart in (0.0, 1.0, 2.0)]
    assert shrunk == sorted(shrunk)
    assert shrunk[2] > shrunk[0] + 0.5


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Bhattacharyya's between Gaussians with the diagonal covariances of two sets of rows."""
    first, second = np.diag(one.var(axis=0)), np.diag(other.var(axis=0))
    middle, apart = (first + second) / 2, one.mean(axis=0) - other.mean(axis=0)
    determinants = [np.linalg.det(table) for table in (middle, first, second)]
    return apart @ np.linalg.inv(middle) @ apart / 8 + np.log(determinants[0] / np.sqrt(np.prod(determinants[1:]))) / 2


def test_gbc_is_the_sum_over_pairs_of_classes() -> None:
    features, labels = blobs(120, 5)
    parts = [features[labels == label] for label in range(4)]
    wanted = -sum(np.exp(-distance(parts[i], parts[j])) for i in range(4) for j in range(4) if i != j)
    assert gbc(features, labels, dims=None) == pytest.approx(wanted, rel=1e-9)
    assert gbc(features, labels, dims=None, covariance="spherical") != pytest.approx(wanted, rel=1e-3)


def test_gbc_goes_from_full_overlap_to_none() -> None:
    same = np.tile(np.random.default_rng(0).normal(size=(10, 4)), (3, 1))
    labels = np.repeat([0, 1, 2], 10)
    assert gbc(same, labels, dims=None) == pytest.approx(-6)
    assert gbc(same + 1000 * labels[:, None], labels, dims=None) == pytest.approx(0, abs=1e-9)
    alone = gbc(*blobs(30, 5, 4)[:1], [0] * 15 + [1] * 14 + [2])  # a class of one sample has no variance
    assert np.isfinite(alone)


def test_unknown_variants() -> None:
    with pytest.raises(BadInput, match="variant of the H-score must be one of fast, published"):
        h_score(*blobs(), variant="slow")
    with pytest.raises(BadInput, match="covariance of gbc must be one of diagonal, spherical"):
        gbc(*blobs(), covariance="full")
