"""What merged models are worth: pictures with labels through each of them, each task alone and all together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.picture_sets import LabelledSet, parts_of
from percepta.datasets.targets import CLASSES, TargetSet, open_targets
from percepta.errors import BadInput
from percepta.evaluation import divided
from percepta.evaluation.joint import JointAccuracy, joint_accuracy
from percepta.results import Failure
from percepta.running.backbones import multiply_adds, parameters_of
from percepta.running.modes import evaluating
from percepta.running.progress import Progress
from percepta.tasks.encoding import encode_each
from percepta.tasks.merging_models import Mergeable

Task = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Pictures ready for the models.

    Attributes:
        batches: those for statistics, (B, 3, H, W) each.
        tested: held-out ones.
        labels: their classes, indices into `names`.
        names: of the classes.
        failures: pictures that could not be read.
    """

    batches: tuple[Tensor, ...]
    tested: tuple[Tensor, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a model's name, its accuracies, multiply-adds for a picture, parameters."""

    name: str
    accuracy: JointAccuracy
    macs: int
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        tasks = [None if math.isnan(value) else round(value, 5) for value in self.accuracy.tasks]
        return {
            "name": self.name,
            "joint": round(self.accuracy.joint, 5),
            "tasks": tasks,
            "mean": None if None in tasks else round(self.accuracy.mean, 5),
            "multiply_adds": self.macs,
            "parameters": self.parameters,
        }


def prepare_data(
    data: str | Path, opened: Mergeable, limit: int, tested: int, batch_size: int, progress: Progress | None = None
) -> Prepared:
    """Pictures of a training part for statistics, at most `limit`, and of a test part, evenly spread.

    Data that are not divided are: four fifths and one fifth of each class.

    Raises: BadInput, BadMedia.
    """
    train, test = _parts(data)
    failures: list[Failure] = []
    found = []
    for part, most in ((train, limit), (test, tested)):
        rows = np.unique(np.linspace(0, len(part) - 1, min(most, len(part))).round().astype(np.int64))
        chosen = part.subset(rows)
        vectors, kept, failed = encode_each(
            chosen.pictures, opened.prepare, lambda batch: {"picture": batch}, batch_size, progress
        )
        failures += failed
        if not len(kept):
            why = f": {failed[0].reason}" if failed else "."
            raise BadInput(f"merge needs pictures; {part.place} holds none that can be read{why}")
        found.append((vectors["picture"], chosen.targets[kept]))
    if len(found[0][0]) < 2:
        raise BadInput("merge needs two pictures at least to see what features have in common; got one.")
    (pictures, _), (asked, labels) = found
    return Prepared(pictures.split(batch_size), asked.split(batch_size), labels, train.names, tuple(failures))


def _parts(data: str | Path) -> tuple[TargetSet, TargetSet]:
    parts = None if str(data).endswith((".csv", ".tsv")) else parts_of(data)
    if parts is not None:
        train, test = (_classes(open_targets(part)) for part in parts)
        if train.names != test.names:
            raise BadInput(f"the training and the test part of {data} must have the same classes.")
        return train, test
    whole = _classes(open_targets(data))
    sets = divided(LabelledSet(whole.place, whole.pictures, whole.targets, whole.names))
    train, test = (TargetSet(one.place, one.pictures, one.labels, one.names, CLASSES) for one in sets)
    return train, test


def _classes(found: TargetSet) -> TargetSet:
    if found.kind != CLASSES:
        raise BadInput(f"merge needs one class for each picture; {found.place} has {found.kind} targets.")
    return found


def tasks_of(
    models: Sequence[Mergeable], answers: Sequence[Tensor], data: Prepared, classes: Sequence[Sequence[str]] | None
) -> list[Task]:
    """The classes of each model, as numbers of the data's: those that were told, or, where a model has an output for
    each class of the data, those that it gets right more often than a guess would.

    Args:
        answers: of each model, (n, K) logits of the test pictures.

    Raises: BadInput for names that the data lack, or as many classes as a model has no outputs for.
    """
    total, sizes = len(data.names), [values.shape[1] for values in answers]
    if classes is None:
        if any(size != total for size in sizes):
            told = ", ".join(f"{one.name}: {size}" for one, size in zip(models, sizes, strict=True))
            raise BadInput(
                f"classes must say which of the data's {total} classes the outputs of each model are ({told}); pass a "
                "list for each model, in the order of its outputs."
            )
        return [_known(values, data) for values in answers]
    if len(classes) != len(models):
        raise BadInput(f"classes must be one list for each of {len(models)} models; got {len(classes)}.")
    found = []
    for one, names, size in zip(models, classes, sizes, strict=True):
        numbers = [_number(name, data.names) for name in names]
        if not numbers or size not in (total, len(numbers)):
            raise BadInput(
                f"{one.name} has {size} outputs; its classes must be as many, or, with one output for each of the "
                f"data's {total} classes, any of these; got {len(numbers)}."
            )
        found.append(tuple(numbers))
    return found


def _number(name: str, names: Sequence[str]) -> int:
    text = str(name).strip()
    if text in names:
        return list(names).index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    raise BadInput(f"classes must be names or numbers of the data's ({', '.join(names[:12])}); got {text!r}.")


def _known(answers: Tensor, data: Prepared) -> Task:
    """The classes that a model knows, by its recall on the test pictures."""
    given, total = answers.argmax(dim=1).numpy(), len(data.names)
    right, asked = (np.bincount(rows, minlength=total) for rows in (data.labels[given == data.labels], data.labels))
    known = np.flatnonzero(right > asked / total).tolist()
    return tuple(known) or tuple(range(total))


@torch.no_grad()
def answers_of(model: Any, data: Prepared) -> list[Tensor]:
    """Logits (n, K) of the test pictures; of a trunk with heads one for each."""
    with evaluating(model):
        results = [model(batch) for batch in data.tested]
    if isinstance(results[0], list):
        return [torch.cat([one[head] for one in results]) for head in range(len(results[0]))]
    return [torch.cat(results)]


def classifies(opened: Mergeable) -> bool:
    """Whether a model gives logits: one of another library, or one of ours whose config says how many classes."""
    return "library" in opened.maker or getattr(getattr(opened.model, "config", None), "classes", None) is not None


def of_task(logits: Tensor, task: Task, total: int) -> Tensor:
    """The columns of a task: all of them, or those of its classes where there is one for each class of the data."""
    return logits if logits.shape[1] == len(task) and logits.shape[1] != total else logits[:, list(task)]


def scored(name: str, model: Any, tasks: Sequence[Task], data: Prepared) -> Row:
    """A merged model: with one head for all tasks, or one for each."""
    answers, total = answers_of(model, data), len(data.names)
    if len(answers) == 1:
        answers = answers * len(tasks)
    logits = [of_task(values, task, total) for values, task in zip(answers, tasks, strict=True)]
    return _row(name, model, joint_accuracy(logits, tasks, data.labels, total), data)


def _row(name: str, model: Any, accuracy: JointAccuracy, data: Prepared) -> Row:
    return Row(name, accuracy, multiply_adds(model, data.tested[0][:1]), parameters_of(model))


def singles(models: Sequence[Mergeable], answers: Sequence[Tensor], tasks: Sequence[Task], data: Prepared) -> list[Row]:
    """Each model by itself, which knows its own classes alone, and all of them side by side: the ensemble.

    Args: as of `tasks_of`, and its result.
    """
    total, logits, rows = len(data.names), [], []
    for one, given, task in zip(models, answers, tasks, strict=True):
        values = of_task(given, task, total)
        logits.append(values)
        alone = joint_accuracy([values], [task], data.labels, total)
        own = tuple(alone.tasks[0] if other == task else float("nan") for other in tasks)
        rows.append(_row(one.name, one.model, JointAccuracy(alone.joint, own), data))
    whole = joint_accuracy(logits, tasks, data.labels, total)
    macs, parameters = sum(row.macs for row in rows), sum(row.parameters for row in rows)
    return [*rows, Row("ensemble", whole, macs, parameters)]
