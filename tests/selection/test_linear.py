"""Linear probes against scikit-learn, and ridge regression against fitting n times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler

from percepta.errors import BadInput
from percepta.selection import LogisticSolver, logistic_cv, logistic_split, ridge_loo
from percepta.selection.linear import CONVERGED, left_vectors
from tests.selection.worlds import blobs, worlds


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("shape", [(60, 8), (40, 90)])
def test_ridge_equals_fitting_without_each_sample(strength: float, shape: tuple[int, int]) -> None:
    features, labels = blobs(*shape, apart=0.6)
    x, y = StandardScaler().fit_transform(features), np.eye(4)[labels]
    predicted = cross_val_predict(Ridge(strength * len(x)), x, y, cv=LeaveOneOut())
    assert ridge_loo(features, labels, [strength]) == pytest.approx(100 * np.mean(predicted.argmax(1) == labels))
    target = features[:, 0] + features[:, 1] ** 2
    predicted = cross_val_predict(Ridge(strength * len(x)), x, target, cv=LeaveOneOut())
    share = 1 - ((target - predicted) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert ridge_loo(features, target, [strength]) == pytest.approx(100 * share, abs=1e-5)


def test_the_strength_is_the_one_that_scikit_learn_takes() -> None:
    features, _ = blobs(50, 60)
    target = features[:, :3].sum(axis=1) + np.random.default_rng(0).normal(size=50)
    strengths = [1e-3, 1e-2, 0.1, 1.0, 10.0]
    peer = RidgeCV([50 * one for one in strengths]).fit(StandardScaler().fit_transform(features), target)
    assert ridge_loo(features, target, strengths) == ridge_loo(features, target, [peer.alpha_ / 50])


@settings(max_examples=25, deadline=None)
@given(worlds)
def test_ridge_does_not_see_scale_shift_or_order(world) -> None:
    features, labels = world
    scale = np.random.default_rng(0).uniform(0.5, 5, features.shape[1])
    usual = ridge_loo(features, labels)
    assert ridge_loo(features * scale + 3, labels) == pytest.approx(usual)
    assert ridge_loo(features[::-1], labels[::-1]) == pytest.approx(usual)


def test_random_features_get_chance() -> None:
    random = np.random.default_rng(0)
    found = [ridge_loo(random.normal(size=(100, 300)), np.arange(100) % 4) for _ in range(10)]
    assert np.mean(found) < 32


def test_multi_label_ridge_knows_the_columns_it_sees() -> None:
    features, _ = blobs(100)
    rows = (features[:, :3] > 0).astype(int)
    assert ridge_loo(features, rows) > 90
    rows[:, 1] = 1  # a label that all carry tells nothing and is left out
    assert ridge_loo(features, rows) > 90


def test_logistic_split_is_scikit_learn_s() -> None:
    features, labels = blobs(apart=0.8)
    peer = LogisticRegression(max_iter=20, tol=0.1).fit(features[:30], labels[:30])
    assert logistic_split(features, labels) == pytest.approx(100 * peer.score(features[30:], labels[30:]))
    peer = LogisticRegression(C=0.1, max_iter=1000).fit(features[:45], labels[:45])
    mine = logistic_split(features, labels, 0.25, solver=LogisticSolver(10.0, 1000, 1e-4))
    assert mine == pytest.approx(100 * peer.score(features[45:], labels[45:]))


def test_logistic_folds_hold_every_sample_once() -> None:
    features, labels = blobs(apart=3.0)
    assert logistic_cv(features, labels) > 90
    assert logistic_cv(features, labels, seed=3) > 90
    found = cross_val_predict(LogisticRegression(max_iter=1000), StandardScaler().fit_transform(features), labels)
    assert abs(logistic_cv(features, labels) - 100 * np.mean(found == labels)) < 10
    assert logistic_cv(features, labels, 60) == pytest.approx(
        100
        * np.mean(
            cross_val_predict(
                LogisticRegression(max_iter=CONVERGED.iterations),
                StandardScaler().fit_transform(features),
                labels,
                cv=LeaveOneOut(),
            )
            == labels
        )
    )


def test_left_vectors_by_either_side() -> None:
    random = np.random.default_rng(0)
    for shape in ((30, 7), (7, 30), (20, 20)):
        x = random.normal(size=shape)
        left, squares = left_vectors(x)
        _, values, _ = np.linalg.svd(x, full_matrices=False)
        np.testing.assert_allclose(np.sort(squares)[::-1], values**2, rtol=1e-8)
        np.testing.assert_allclose(left @ np.diag(squares) @ left.T, x @ x.T, atol=1e-9)
    left, squares = left_vectors(np.ones((5, 3)))
    assert squares.shape == (1,)


@pytest.mark.parametrize("given", [[], [0.0], [-1.0, 1.0], [np.inf]])
def test_strengths_out_of_range(given) -> None:
    with pytest.raises(BadInput, match="strengths of ridge_loo must be at least one number above 0"):
        ridge_loo(*blobs(), strengths=given)


def test_folds_and_parts_that_cannot_be() -> None:
    with pytest.raises(BadInput, match="folds of logistic_cv must be 2 to 60"):
        logistic_cv(*blobs(), folds=1)
    features, _ = blobs()
    with pytest.raises(BadInput, match="two classes among the samples it is fitted on"):
        logistic_split(features, [0] * 40 + [1] * 20)
