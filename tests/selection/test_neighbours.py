"""Nearest neighbours against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from percepta.errors import BadInput
from percepta.selection import knn_loo, knn_split
from tests.selection.worlds import blobs, worlds


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_one_neighbour_equals_scikit_learn(metric: str) -> None:
    features, labels = blobs(apart=0.8)
    peer = KNeighborsClassifier(1, metric=metric, algorithm="brute")
    predicted = cross_val_predict(peer, features, labels, cv=LeaveOneOut())
    assert knn_loo(features, labels, 1, metric) == pytest.approx(100 * np.mean(predicted == labels))


@pytest.mark.parametrize(("k", "metric"), [(3, "euclidean"), (5, "cosine"), (9, "euclidean")])
def test_majorities_equal_scikit_learn_where_votes_agree(k: int, metric: str) -> None:
    features, labels = blobs(classes=2, apart=0.8)  # two classes and odd k: a majority is sure
    peer = KNeighborsClassifier(k, metric=metric, algorithm="brute")
    predicted = cross_val_predict(peer, features, labels, cv=LeaveOneOut())
    assert knn_loo(features, labels, k, metric) == pytest.approx(100 * np.mean(predicted == labels))
    peer.fit(features[:30], labels[:30])
    assert knn_split(features, labels, k, metric) == pytest.approx(100 * peer.score(features[30:], labels[30:]))


def test_where_all_votes_differ_the_share_of_right_ones_counts() -> None:
    # On a line: the two neighbours of each sample are of different classes, one of them right.
    features = np.array([[0.0, 1], [1.0, 1], [2.1, 1], [3.3, 1]])
    assert knn_loo(features, [0, 0, 1, 1], 2) == pytest.approx(100 * np.mean([0.5, 0.5, 0.5, 0.5]))
    # With three votes 0, 1, 2 a sample of class 2 gets a third, leave-one-out; in a split the smallest label wins.
    features, labels = np.array([[1.0], [2.0], [4.0], [0.0], [50.0], [51.0]]), [0, 1, 2, 2, 3, 3]
    assert knn_split(features[:4], labels[:4], 3, test_fraction=0.25) == 0
    assert knn_loo(features, labels, 3) == pytest.approx(100 * np.mean([0, 0, 1 / 3, 1 / 3, 1 / 3, 1 / 3]))


def test_of_tied_labels_the_smallest_wins() -> None:
    features = np.array([[1.0], [1.1], [1.2], [1.3], [0.0]])
    assert knn_split(features, [1, 1, 0, 0, 0], 4, test_fraction=0.2) == 100
    assert knn_split(features, [1, 1, 0, 0, 1], 4, test_fraction=0.2) == 0


def test_doubles_do_not_hide_a_sample_from_itself() -> None:
    """A sample with an exact double of another class is wrong, whichever of the two comes first."""
    features = np.array([[0.0, 1.0], [0.0, 1.0], [5.0, 1.0], [5.0, 1.0]])
    assert knn_loo(features, [0, 1, 0, 1], 1) == 0
    assert knn_loo(features, [0, 0, 1, 1], 1) == 100


@settings(max_examples=30, deadline=None)
@given(worlds, st.integers(0, 1000), st.sampled_from(["euclidean", "cosine"]), st.sampled_from([1, 3]))
def test_order_of_samples_and_scale_do_not_matter(world, seed: int, metric: str, k: int) -> None:
    features, labels = world
    rows = np.random.default_rng(seed).permutation(len(labels))
    usual = knn_loo(features, labels, k, metric)
    assert knn_loo(features[rows], labels[rows], k, metric) == pytest.approx(usual)
    assert knn_loo(3.7 * features, labels, k, metric) == pytest.approx(usual)


def test_regression_and_multi_label() -> None:
    features, _ = blobs(100)
    target = features @ np.arange(8)
    predicted = cross_val_predict(KNeighborsRegressor(3, algorithm="brute"), features, target, cv=LeaveOneOut())
    share = 1 - ((target - predicted) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert knn_loo(features, target, 3) == pytest.approx(100 * share)
    rows = (features[:, :3] > 0).astype(int)
    found, blind = (knn_loo(x, rows, 5) for x in (features, np.random.default_rng(0).normal(size=(100, 8))))
    assert found > blind + 15
    assert blind == pytest.approx(100 * rows.mean(), abs=15)  # average precision of chance is the share of the label


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k of nearest neighbours must be 1 to 59"),
        ({"k": 60}, "k of nearest neighbours must be 1 to 59"),
        ({"metric": "manhattan"}, "metric of nearest neighbours must be one of euclidean, cosine"),
        ({"dims": 0}, "dims of the reduction must be 1 or more"),
    ],
)
def test_settings_out_of_range(options, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        knn_loo(*blobs(), **options)


@pytest.mark.parametrize("share", [0, 1, 1.5, 0.001])
def test_a_split_needs_both_parts(share: float) -> None:
    with pytest.raises(BadInput, match="test_fraction must be a share of the 60 samples that leaves both parts"):
        knn_split(*blobs(), test_fraction=share)
