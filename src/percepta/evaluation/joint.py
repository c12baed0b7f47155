"""Several classification tasks at once: each by itself, and all together without being told which (arXiv 2305.03053).

Order of this file: the answers of a task, probabilities of all classes, accuracies.
Unusual: where tasks share a class, the surer of their answers counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, wrong_shape


@dataclass(frozen=True, slots=True)
class JointAccuracy:
    """What several tasks score.

    Attributes:
        joint: share of all pictures whose class is found among all classes.
        tasks: of each task, the share of its own pictures whose class is found among its own.
    """

    joint: float
    tasks: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the tasks."""
        return float(np.mean(self.tasks))


def joint_probabilities(logits: Sequence[Any], tasks: Sequence[Sequence[int]], classes: int) -> NDArray[np.float64]:
    """(n, classes): a softmax within each task; of a class that several tasks have, the largest.

    Args:
        logits: one (n, K) array a task, its columns in the order of the task's classes.
        tasks: the classes of each task, numbers below `classes`.

    Raises: BadInput for shapes that do not fit.
    """
    found = np.zeros((len(logits[0]), classes))
    for values, task in zip(logits, tasks, strict=True):
        scores = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64)
        if scores.ndim != 2 or scores.shape != (len(found), len(task)):
            raise wrong_shape("logits of a task", scores.shape, f"({len(found)}, {len(task)})")
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        columns = list(task)
        found[:, columns] = np.maximum(found[:, columns], scores / scores.sum(axis=1, keepdims=True))
    return found


def joint_accuracy(
    logits: Sequence[Any], tasks: Sequence[Sequence[int]], labels: Any, classes: int | None = None
) -> JointAccuracy:
    """Accuracies of several tasks, alone and together.

    Args:
        logits, tasks: as of `joint_probabilities`; every label must be in some task.
        labels: (n,) class numbers.
        classes: how many there are; by default as many as the tasks name.

    Raises: BadInput for shapes that do not fit, or a task without pictures.
    """
    numbers = np.asarray(labels, np.int64)
    total = 1 + max(max(task) for task in tasks) if classes is None else classes
    found = joint_probabilities(logits, tasks, total)
    if numbers.shape != (len(found),):
        raise wrong_shape("labels", numbers.shape, f"({len(found)},)")
    alone = []
    for values, task in zip(logits, tasks, strict=True):
        own = np.isin(numbers, list(task))
        if not own.any():
            raise BadInput(f"every task needs pictures of its classes; {list(task)} have none.")
        best = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)[own].argmax(axis=1)
        alone.append(float((np.array(task)[best] == numbers[own]).mean()))
    return JointAccuracy(float((found.argmax(axis=1) == numbers).mean()), tuple(alone))
