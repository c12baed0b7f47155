"""What counts as targets, features and probabilities, and the sentence for what does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from percepta.errors import BadInput
from percepta.selection import as_targets, gbc, h_score, knn_loo, leep, logme, parc, ridge_loo
from percepta.selection.inputs import as_features, as_probabilities
from tests.selection.worlds import blobs


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (["cat", "dog", "cat"], "classes"),
        (np.array([3, 7, 3, 7]), "classes"),
        (torch.tensor([0, 1, 1]), "classes"),
        (np.array([True, False, True]), "classes"),
        (np.array([[1, 0], [0, 1], [1, 1]]), "multi-label"),
        (np.array([[1.0, 0.0], [0.0, 1.0]]), "multi-label"),
        (np.array([0.5, 1.5, 2.5]), "regression"),
        (np.array([[0.5, 1.0], [2.0, 3.0]]), "regression"),
        (np.array(["a", "b", "a"], object), "classes"),
    ],
)
def test_the_kind_follows_from_the_form(given, kind: str) -> None:
    assert as_targets(given).kind == kind


def test_class_names_become_numbers_in_sorted_order() -> None:
    targets = as_targets(["dog", "cat", "dog", "emu", "cat"])
    assert targets.values.tolist() == [1, 0, 1, 2, 0]
    assert targets.width == 3
    assert targets.table.tolist()[3] == [0, 0, 1]
    assert as_targets(targets) is targets


def test_numbers_stay_where_the_count_of_classes_is_given() -> None:
    targets = as_targets([5, 2, 5, 2], classes=10)
    assert targets.values.tolist() == [5, 2, 5, 2]
    assert targets.table.shape == (4, 10)


def test_whole_floats_can_be_named_classes() -> None:
    targets = as_targets(np.array([2.0, 1.0, 2.0]), "classes")
    assert (targets.kind, targets.values.tolist()) == ("classes", [1, 0, 1])


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        ([0, 0, 0], {}, "at least two classes; all 3 samples are of the class 0"),
        ([0, 1, 2], {}, "more samples than classes; got 3 samples of 3 classes"),
        (["a", None, "b"], {}, "labels are missing for 1 of 3 samples, the first at row 1"),
        (["a", "", "b"], {}, "labels are missing for 1 of 3 samples"),
        ([0, -1, 1, 1], {}, "labels are missing for 1 of 4 samples"),
        ([0.1, np.nan, 1.0], {}, "labels are missing for 1 of 3 samples"),
        ([0, 1, 0], {"kind": "labels"}, "kind of the targets must be one of classes, multi-label, regression"),
        ([[[0]]], {}, r"targets must have the shape \(n,\) or \(n, m\)"),
        ([], {}, "targets must have the shape"),
        ([0, 5, 5], {"classes": 3}, "class numbers of the targets must be whole numbers from 0 to 2; got 5"),
        ([[1, 2], [0, 1]], {"kind": "multi-label"}, "rows of zeros and ones"),
        ([1.5, 1.5], {}, "regression targets must differ between samples"),
        ([1.0, np.inf], {}, "must be finite numbers"),
        (["a", "b", "a"], {"kind": "regression"}, "regression targets must be numbers"),
        ([[0, 1], [1, 0]], {"kind": "classes"}, "one class for each sample"),
    ],
)
def test_targets_that_cannot_be_used(given, options, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        as_targets(given, **options)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: np.where(np.arange(len(x))[:, None] < 2, np.nan, x), "2 of 60 rows hold NaN or infinity"),
        (lambda x: np.ones_like(x), "all 60 rows are the same"),
        (lambda x: x[:10], "got 10 rows and 60 targets"),
        (lambda x: x[:, 0], r"features must have the shape \(n, d\)"),
    ],
)
@pytest.mark.parametrize("score", [parc, knn_loo, ridge_loo, logme, h_score, gbc])
def test_features_that_cannot_be_used_give_every_score_one_sentence(score, change, sentence: str) -> None:
    features, labels = blobs()
    with pytest.raises(BadInput, match=sentence):
        score(change(features), labels)


def test_tensors_and_constant_columns_are_taken() -> None:
    features, labels = blobs()
    wider = np.concatenate([features, np.full((60, 2), 0.1)], axis=1)
    zeros = np.concatenate([features, np.zeros((60, 2))], axis=1)  # what standardising makes of them
    assert parc(wider, labels) == pytest.approx(parc(zeros, labels), abs=1e-9)
    assert ridge_loo(torch.tensor(wider), labels) == pytest.approx(ridge_loo(features, labels))
    assert as_features(torch.tensor(features, requires_grad=True)).dtype == np.float64


def test_probabilities_are_probabilities() -> None:
    with pytest.raises(BadInput, match="apply the softmax first"):
        leep(np.array([[2.0, -1.0], [0.5, 0.5], [0.5, 0.5]]), [0, 1, 1])
    with pytest.raises(BadInput, match="apply the softmax first"):
        as_probabilities([[np.nan, 1.0]], 1)
    with pytest.raises(BadInput, match=r"must have the shape \(3, z\)"):
        leep(np.full((2, 2), 0.5), [0, 1, 1])


def test_single_class_scores_say_so_for_other_targets() -> None:
    features, _ = blobs()
    with pytest.raises(BadInput, match="one class for each sample; got regression targets"):
        gbc(features, features[:, 0])
