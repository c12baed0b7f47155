"""PARC against its definition, its invariances, its ceiling; RSA and DDS."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from percepta.errors import BadInput
from percepta.selection import as_targets, dds, official_parc, parc, parc_auc, parc_ceiling, rsa
from percepta.selection.reduction import standardise
from tests.selection.worlds import blobs, worlds

few = settings(max_examples=40, deadline=None)


def by_definition(features: np.ndarray, labels: np.ndarray) -> float:
    """Spearman with average ranks of all pairs; distances that differ by rounding alone are made equal."""
    pairs = np.triu_indices(len(labels), 1)
    distances = (1 - np.corrcoef(standardise(features)))[pairs]
    order = np.argsort(distances)
    for before, after in pairwise(order):
        if distances[after] - distances[before] < 1e-12:
            distances[after] = distances[before]
    alike = (labels[:, None] == labels[None])[pairs]
    return 100 * float(np.corrcoef(rankdata(distances), rankdata(~alike))[0, 1])


@few
@given(worlds)
def test_one_sort_gives_what_the_definition_gives(world) -> None:
    features, labels = world
    assert parc(features, labels) == pytest.approx(by_definition(features, labels), abs=1e-8)


@few
@given(worlds, st.integers(1, 3))
def test_ties_of_distances_count_as_average_ranks(world, copies: int) -> None:
    features, labels = world
    features, labels = np.tile(features, (copies + 1, 1)), np.concatenate([labels, *[(labels + 1) % 3] * copies])
    assert parc(features, labels) == pytest.approx(by_definition(features, labels), abs=1e-8)
    coarse = np.round(features)
    assert parc(coarse, labels) == pytest.approx(by_definition(coarse, labels), abs=1e-8)


@few
@given(worlds, st.integers(0, 1000))
def test_order_of_samples_names_of_classes_scale_and_shift_of_columns_do_not_matter(world, seed: int) -> None:
    features, labels = world
    random = np.random.default_rng(seed)
    rows, names = random.permutation(len(labels)), random.permutation(labels.max() + 1)
    scale, shift = random.uniform(0.1, 10, features.shape[1]), random.normal(size=features.shape[1])
    for score in (parc, parc_auc):
        usual = score(features, labels)
        assert score(features[rows], labels[rows]) == pytest.approx(usual, abs=1e-6)
        assert score(features, names[labels]) == pytest.approx(usual, abs=1e-9)
        assert score(features * scale + shift, labels) == pytest.approx(usual, abs=1e-6)


@few
@given(worlds)
def test_the_ceiling_ties_parc_to_its_area(world) -> None:
    features, labels = world
    area = parc_auc(features, labels) / 100
    assert parc(features, labels) == pytest.approx((2 * area - 1) * parc_ceiling(labels), abs=1e-6)
    assert parc(features, labels) <= parc_ceiling(labels) + 1e-9


def test_the_ceiling_is_reached_where_classes_lie_apart() -> None:
    random, labels = np.random.default_rng(0), np.arange(40) % 4
    features = 1000 * random.normal(size=(4, 30))[labels] + random.normal(size=(40, 30))
    assert parc_auc(features, labels) == 100
    assert parc(features, labels) == pytest.approx(parc_ceiling(labels), abs=1e-9)
    assert parc_ceiling(labels) < 100


@pytest.mark.parametrize(("classes", "ceiling"), [(10, 52), (100, 17), (200, 12)])
def test_the_ceiling_of_balanced_classes(classes: int, ceiling: int) -> None:
    assert parc_ceiling(np.arange(2000) % classes) == pytest.approx(ceiling, abs=0.6)


def test_the_area_is_that_of_scikit_learn() -> None:
    features, labels = blobs(apart=0.7)
    pairs = np.triu_indices(len(labels), 1)
    distances = (1 - np.corrcoef(standardise(features)))[pairs]
    differ = (labels[:, None] != labels[None])[pairs]
    assert parc_auc(features, labels) == pytest.approx(100 * roc_auc_score(differ, distances), abs=1e-9)


def test_random_features_give_about_nothing() -> None:
    random = np.random.default_rng(0)
    found = [parc(random.normal(size=(200, 32)), random.integers(10, size=200)) for _ in range(20)]
    assert abs(np.mean(found)) < 0.5
    assert np.std(found) < 2


def test_better_features_score_higher_reduced_or_not() -> None:
    for dims in (None, 4, 32):
        scores = [parc(*blobs(200, 40, 10, apart), dims=dims) for apart in (0.0, 0.5, 1.0, 2.0)]
        assert scores == sorted(scores)


def test_the_general_path_agrees_with_the_one_sort() -> None:
    features, labels = blobs()
    rows = as_targets(np.eye(4)[labels], "multi-label")
    assert parc(features, rows) == pytest.approx(parc(features, labels), abs=1e-9)


def test_multi_label_and_regression_targets() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(100, 10))
    rows = (features[:, :3] > 0).astype(int)
    assert parc(features, rows) > 15
    assert parc(features, features[:, :2]) > 15
    assert parc(features, features[:, 0] * 1000) == pytest.approx(parc(features, features[:, 0]), abs=1e-9)
    assert abs(parc(features, random.normal(size=100))) < 6


def test_rows_without_a_label_do_not_break_it() -> None:
    random = np.random.default_rng(0)
    features, rows = random.normal(size=(40, 6)), random.integers(2, size=(40, 3))
    rows[:5] = 0
    assert np.isfinite(parc(features, rows))


def test_the_official_rounding_breaks_ties_and_ours_does_not() -> None:
    features, labels = blobs(111, 20, 37, 1.0)
    assert parc(features, labels) == pytest.approx(by_definition(features, labels), abs=1e-8)
    two = np.arange(60) % 2  # corrcoef of two columns is exact
    assert official_parc(*blobs(60, 8, 2)) == pytest.approx(parc(*blobs(60, 8, 2)), abs=1e-6)
    assert official_parc(features[:60], two) == pytest.approx(parc(features[:60], two), abs=1e-6)
    assert official_parc(features, features[:, 0]) == parc(features, features[:, 0])


def test_pairs_of_one_sort_are_refused() -> None:
    with pytest.raises(BadInput, match="more samples than classes"):
        parc(np.random.default_rng(0).normal(size=(4, 3)), [0, 1, 2, 3])


def test_rsa_and_dds_are_100_for_the_same_features() -> None:
    features, _ = blobs()
    other = np.random.default_rng(1).normal(size=(60, 5))
    for score in (rsa, dds):
        assert score(features, features) == pytest.approx(100)
        assert score(features, 3 * features + 1) == pytest.approx(100, abs=1e-4)
        assert abs(score(features, other)) < 20
        assert score(features, other) == pytest.approx(score(other, features), abs=1e-9)
        assert score(features, features, dims=4) == pytest.approx(100)
        with pytest.raises(BadInput, match="reference features and targets must be of the same samples"):
            score(features, other[:10])


def test_dds_is_centred_without_bias() -> None:
    """Independent features agree by 0 in the mean, few samples or many; the biased alignment would not."""
    random = np.random.default_rng(0)
    found = [dds(random.normal(size=(12, 30)), random.normal(size=(12, 30))) for _ in range(60)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 60**0.5
    with pytest.raises(BadInput, match="at least four samples"):
        dds(random.normal(size=(3, 2)), random.normal(size=(3, 2)))
