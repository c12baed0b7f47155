"""Probes against scikit-learn, brute force and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from percepta.errors import BadInput
from percepta.evaluation import knn_votes, linear_probe, ridge_probe, split_by_class

GRID = (1e-4, 1e-2, 1e-1, 1.0, 10.0)


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four overlapping classes in 12 channels of very different scales: training features and labels, test both."""
    random = np.random.default_rng(0)
    centres, scales = random.normal(size=(4, 12)), 10.0 ** random.uniform(-2, 2, 12)
    parts = []
    for count in (240, 160):
        labels = random.integers(4, size=count)
        parts += [(centres[labels] + 1.5 * random.normal(size=(count, 12)) + 0.5) * scales, labels]
    return parts[0], parts[1], parts[2], parts[3]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_majority_equals_sklearn(blobs, k: int) -> None:
    train, labels, test, _ = blobs
    votes = knn_votes(train, labels, test, k, None)
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train, labels)
    np.testing.assert_allclose(votes, peer.predict_proba(test), atol=1e-12)
    assert np.array_equal(votes.argmax(axis=1), peer.predict(test))


def test_weighted_votes_equal_sklearn(blobs) -> None:
    train, labels, test, _ = blobs
    votes = knn_votes(torch.tensor(train), torch.tensor(labels), torch.tensor(test), 20, 0.07)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    peer = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=weights).fit(train, labels)
    np.testing.assert_allclose(votes, peer.predict_proba(test), atol=1e-9)
    assert np.abs(votes - knn_votes(train, labels, test, 20, None)).max() > 0.05


def test_neighbours_by_hand() -> None:
    train, labels = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]), np.array([0, 1, 1])
    votes = knn_votes(train, labels, np.array([[5.0, 0.0]]), 3, 1.0)
    assert votes[0] == pytest.approx([np.e / (np.e + 2), 2 / (np.e + 2)])
    assert knn_votes(train, labels, np.array([[5.0, 0.1]]), 3, None).argmax() == 1
    assert knn_votes(train, labels, np.array([[5.0, 0.1]]), 3, 0.07).argmax() == 0


@pytest.mark.parametrize("strength", [1e-2, 1.0])
def test_logistic_regression_equals_sklearn(blobs, strength: float) -> None:
    train, labels, test, _ = blobs
    probe = linear_probe(train, labels, test, [strength])
    scaler = StandardScaler().fit(train)
    peer = LogisticRegression(C=1 / (strength * len(train)), max_iter=5000, tol=1e-8)
    peer.fit(scaler.transform(train), labels)
    np.testing.assert_allclose(probe.scores, peer.decision_function(scaler.transform(test)), atol=2e-3)
    assert np.mean(probe.scores.argmax(1) == peer.predict(scaler.transform(test))) > 0.99


def test_the_strength_is_chosen_on_held_out_training_pictures(blobs) -> None:
    train, labels, test, answers = blobs
    probe = linear_probe(train, labels, test, GRID)
    fitted, held = split_by_class(labels, 0.2)
    scaler = StandardScaler().fit(train[fitted])
    for strength, accuracy in probe.trials.items():
        peer = LogisticRegression(C=1 / (strength * len(fitted)), max_iter=5000)
        peer.fit(scaler.transform(train[fitted]), labels[fitted])
        assert accuracy == pytest.approx(peer.score(scaler.transform(train[held]), labels[held]), abs=0.021)
    best = max(probe.trials.values())
    assert probe.strength == max(strength for strength, accuracy in probe.trials.items() if accuracy == best)
    assert (probe.scores.argmax(axis=1) == answers).mean() > 0.55
    assert not linear_probe(train, labels, test, [0.1]).at_the_end
    assert linear_probe(train, np.arange(240) % 2, test, [1e-9, 1e9]).at_the_end


@pytest.mark.parametrize("few", [False, True])
def test_ridge_equals_sklearn(blobs, few: bool) -> None:
    train, labels, test, _ = blobs
    if few:  # fewer pictures than channels
        train, labels = train[:10], labels[:10]
    probe = ridge_probe(train, labels, test, GRID)
    scaler = StandardScaler().fit(train)
    known, asked = scaler.transform(train), scaler.transform(test)
    peer = RidgeClassifierCV(alphas=[strength * len(train) for strength in GRID]).fit(known, labels)
    assert probe.strength * len(train) == pytest.approx(peer.alpha_)
    assert min(probe.trials.values()) == pytest.approx(-peer.best_score_ / 4)  # its targets are -1 and 1
    np.testing.assert_allclose(2 * probe.scores - 1, peer.decision_function(asked), atol=1e-8)


def test_leave_one_out_is_what_it_says(blobs) -> None:
    train, labels, _, _ = blobs
    train, labels = train[:30], labels[:30]
    x = StandardScaler().fit_transform(train)
    targets, errors = np.eye(4)[labels], []
    for left in range(30):
        rest = np.delete(np.arange(30), left)
        centre, mean = x[rest].mean(axis=0), targets[rest].mean(axis=0)
        inner = x[rest] - centre
        weights = np.linalg.solve(inner.T @ inner + 0.1 * 30 * np.eye(12), inner.T @ (targets[rest] - mean))
        errors.append((targets[left] - mean - (x[left] - centre) @ weights) ** 2)
    trials = ridge_probe(train, labels, train, GRID).trials
    assert trials[0.1] == pytest.approx(np.mean(errors), rel=1e-8)
    assert ridge_probe(train, labels, train, GRID, "gcv").trials[0.1] == pytest.approx(np.mean(errors), rel=0.1)


def test_classes_may_be_missing_and_channels_constant() -> None:
    random = np.random.default_rng(0)
    train = np.concatenate([random.normal(size=(40, 3)), np.full((40, 1), 7.0)], axis=1)
    labels = np.where(train[:, 0] > 0, 4, 2)
    for probe in (linear_probe(train, labels, train, GRID), ridge_probe(train, labels, train, GRID)):
        assert probe.scores.shape == (40, 5)
        assert set(probe.scores.argmax(axis=1)) == {2, 4}
        assert (probe.scores.argmax(axis=1) == labels).mean() > 0.85


def test_splits_keep_the_shares_of_classes() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 10, 1])
    stay, held = split_by_class(labels, 0.2)
    assert np.bincount(labels[held], minlength=4).tolist() == [20, 10, 2, 0]
    assert sorted([*stay, *held]) == list(range(161))
    assert np.array_equal(held, np.sort(held))
    assert np.array_equal(held, split_by_class(labels, 0.2)[1])
    assert not np.array_equal(held, split_by_class(labels, 0.2, seed=1)[1])
    assert np.bincount(labels[split_by_class(labels, 1.0)[0]]).tolist() == [1, 1, 1, 1]


def test_bad_input(blobs) -> None:
    train, labels, test, _ = blobs
    for call, sentence in (
        (lambda: knn_votes(train, labels, test, 241), "k of knn must be 1 to 240"),
        (lambda: knn_votes(train, labels, test, 5, 0.0), "temperature of knn"),
        (lambda: knn_votes(train, labels, test[:, :3]), "test features"),
        (lambda: knn_votes(train, labels[:3], test), "labels must be 240"),
        (lambda: knn_votes(train * np.nan, labels, test), "must be finite"),
        (lambda: linear_probe(train, labels * 0, test, GRID), "at least two classes"),
        (lambda: ridge_probe(train, labels * 0, test, GRID), "at least two classes"),
        (lambda: ridge_probe(train, labels, test, []), "at least one strength"),
        (lambda: linear_probe(train, labels, test, [0.0]), "at least one strength above 0"),
        (lambda: linear_probe(train, labels, test, ["weak"]), "at least one strength above 0"),
        (lambda: ridge_probe(train, labels, test, GRID, "press"), "criterion must be one of"),
        (lambda: split_by_class(labels, 1.5), "share"),
    ):
        with pytest.raises(BadInput, match=sentence):
            call()
