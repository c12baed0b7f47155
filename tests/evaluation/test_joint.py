"""Accuracies of several tasks, alone and together."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.evaluation.joint import joint_accuracy, joint_probabilities


def test_each_task_has_a_softmax_of_its_own() -> None:
    first, second = np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[50.0, 49.0], [0.0, 0.0]])
    found = joint_probabilities([first, second], [(0, 2), (1, 3)], 4)
    assert np.allclose(found[:, [0, 2]].sum(axis=1), 1)
    assert np.allclose(found[:, [1, 3]].sum(axis=1), 1)
    # The second task's logits are larger, but it is less sure than the first.
    assert found[0].argmax() == 0
    accuracy = joint_accuracy([first, second], [(0, 2), (1, 3)], [0, 3], 4)
    assert accuracy.tasks == (1.0, 0.0)
    assert accuracy.joint == 0.5
    assert accuracy.mean == 0.5


def test_where_tasks_share_a_class_the_surer_counts() -> None:
    found = joint_probabilities([np.array([[4.0, 0.0]]), np.array([[0.0, 1.0]])], [(0, 1), (1, 2)], 3)
    assert found[0, 1] == pytest.approx(1 / (1 + np.e))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(BadInput, match=r"logits of a task must have the shape \(2, 3\)"):
        joint_accuracy([np.zeros((2, 2))], [(0, 1, 2)], [0, 1])
    with pytest.raises(BadInput, match="labels"):
        joint_accuracy([np.zeros((2, 2))], [(0, 1)], [0, 1, 1])
    with pytest.raises(BadInput, match=r"\[2, 3\] have none"):
        joint_accuracy([np.zeros((2, 2))] * 2, [(0, 1), (2, 3)], [0, 1])
