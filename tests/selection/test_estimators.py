"""The table: every score takes what it says it takes, and ranks better features higher."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.selection import ESTIMATORS, KINDS, RECOMMENDED, Estimator, as_targets, logme, parc, ridge_loo
from tests.selection.worlds import blobs


def targets_of(kind: str, features: np.ndarray, labels: np.ndarray) -> object:
    return {"classes": labels, "multi-label": (features[:, :3] > 0).astype(int), "regression": features[:, 0]}[kind]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_is_what_its_line_says(name: str) -> None:
    one = ESTIMATORS[name]
    assert one.name == name
    assert one.line
    features, labels = blobs(80, 40, 4, 1.0)
    likely = np.random.default_rng(0).dirichlet(np.ones(5), 80)
    for kind in KINDS:
        targets = as_targets(targets_of(kind, features, labels), kind)
        if kind in one.targets:
            value = one(features, targets, likely)
            assert isinstance(value, float)
            assert np.isfinite(value)
        else:
            with pytest.raises(BadInput, match=f"{name} takes {' or '.join(one.targets)}"):
                one(features, targets, likely)


@pytest.mark.parametrize("name", [name for name, one in ESTIMATORS.items() if not one.needs_probabilities])
def test_better_features_have_higher_scores(name: str) -> None:
    scores = []
    for apart in (0.0, 0.4, 1.2):
        features, labels = blobs(160, 40, 4, apart)
        scores.append(ESTIMATORS[name](features, as_targets(labels)))
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


@pytest.mark.parametrize("name", [name for name, one in ESTIMATORS.items() if one.needs_probabilities])
def test_better_predictions_have_higher_scores(name: str) -> None:
    features, labels = blobs(160)
    random = np.random.default_rng(0)
    scores = []
    for sure in (0.0, 1.0, 4.0):
        logits = sure * np.eye(4)[labels] + random.normal(size=(160, 4))
        likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        scores.append(ESTIMATORS[name](features, as_targets(labels), likely))
    assert scores == sorted(scores)
    with pytest.raises(BadInput, match=f"{name} needs the probabilities of the source's classifier"):
        ESTIMATORS[name](features, as_targets(labels))


def test_the_recommended_take_every_kind() -> None:
    for name in RECOMMENDED:
        assert set(ESTIMATORS[name].targets) == set(KINDS)
        assert not ESTIMATORS[name].needs_probabilities


def test_the_table_is_closed_and_kinds_are_known() -> None:
    with pytest.raises(TypeError):
        ESTIMATORS["mine"] = ESTIMATORS["knn"]  # type: ignore[index]
    with pytest.raises(BadInput, match="targets of mine must be one of classes"):
        Estimator("mine", lambda f, y, p: 0.0, "nothing", ("labels",))


@pytest.mark.parametrize("shape", [(80, 40), (60, 200)])
def test_what_is_prepared_once_changes_nothing(shape: tuple[int, int]) -> None:
    features, labels = blobs(*shape)
    targets = as_targets(labels)
    assert ESTIMATORS["ridge"](features, targets) == ridge_loo(features, labels)
    assert ESTIMATORS["logme"](features, targets) == pytest.approx(logme(features, labels))
    assert ESTIMATORS["parc-32"](features, targets) == parc(features, labels, 32)
    rows = np.flatnonzero(np.random.default_rng(0).random(len(labels)) < 0.6)
    one = ESTIMATORS["logme"]
    assert one.score(one.prepared(features)[rows], targets.take(rows)) == pytest.approx(
        logme(features[rows], targets.take(rows))
    )
