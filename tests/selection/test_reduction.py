"""Components and standardised columns."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from percepta.errors import BadInput
from percepta.selection import Reduction, parc, reduce
from percepta.selection.reduction import standardise


def test_components_are_scikit_learn_s_with_the_papers_solver() -> None:
    x = np.random.default_rng(0).normal(size=(40, 20))
    peer = PCA(8, svd_solver="randomized", random_state=1919, iterated_power=1).fit_transform(x)
    np.testing.assert_allclose(reduce(x, 8), peer)
    np.testing.assert_allclose(reduce(x, Reduction(8)), peer)
    exact = reduce(x, Reduction(8, solver="full"))
    np.testing.assert_allclose(exact, PCA(8, svd_solver="full").fit_transform(x))
    assert abs(exact - peer).max() > 1e-3
    assert reduce(x, None) is x


@pytest.mark.parametrize(("shape", "kept"), [((10, 50), 10), ((50, 6), 6)])
def test_more_components_than_there_are(shape: tuple[int, int], kept: int) -> None:
    assert reduce(np.random.default_rng(0).normal(size=shape), 32).shape == (shape[0], kept)


def test_standardising_is_scikit_learn_s_and_keeps_constants_at_0() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5)) * [1, 1e-6, 1e6, 1, 1] + [0, 1, 1e7, -3, 0]
    np.testing.assert_allclose(standardise(x), StandardScaler().fit_transform(x), atol=1e-6)
    assert (standardise(np.full((7, 2), 0.1)) == 0).all()


def test_standardised_components_are_white() -> None:
    """So the order matters: standardising first and reducing then gives another score."""
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(60, 10)) * np.logspace(0, 2, 10), np.arange(60) % 3
    white = standardise(reduce(x, 4))
    np.testing.assert_allclose(white.T @ white / 60, np.eye(4), atol=1e-9)
    assert parc(x, labels, 4) != pytest.approx(parc(standardise(x), labels, 4), abs=1e-3)


@pytest.mark.parametrize("dims", [0, -3, True])
def test_dims_out_of_range(dims) -> None:
    with pytest.raises(BadInput, match="dims of the reduction must be 1 or more"):
        reduce(np.ones((3, 3)), dims)


def test_unknown_solver() -> None:
    with pytest.raises(BadInput, match="solver of the reduction must be one of randomized, full"):
        Reduction(3, solver="lanczos")
