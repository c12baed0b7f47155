"""Frozen features judged by what is easily read from them: k-NN, linear and ridge probes on any layers.

Each layer is probed by itself on one pass of features. Unusual: whatever is chosen (neighbours aside, which the
protocol fixes) is chosen on training pictures; the test pictures only give the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.picture_sets import LabelledSet
from percepta.errors import BadInput
from percepta.evaluation.classification import class_tables, facts, most_frequent, need_classes
from percepta.evaluation.encoding import EncodePictures
from percepta.evaluation.metrics import Points, hits_at_k
from percepta.evaluation.probes import Probe, knn_votes, linear_probe, ridge_probe, split_by_class
from percepta.evaluation.protocols import Evaluation, Measure, Protocol, measured

LAYERS = ("output",)
LINEAR_GRID = tuple(10.0**power for power in range(-6, 2))
RIDGE_GRID = tuple(10.0**power for power in range(-6, 3))
HELD_OUT = 0.2
Layers = Sequence[int | str]
Judged = tuple[dict[str, NDArray[np.float64]], dict[str, Any]]
"""Scores (M, K) of one layer by the name of the measure, the first the headline, and facts about the choice."""


def knn_protocol(layers: Layers = LAYERS, pooling: str = "mean", k: int = 20, temperature: float = 0.07) -> Protocol:
    """Accuracy of the k nearest training pictures; arguments as of `knn_votes` and `linear_probe_protocol`."""
    return Protocol(
        "knn",
        {
            **_common(layers, pooling),
            "k": k,
            "temperature": temperature,
            "similarity": "cosine",
            "votes": "exp(cosine / temperature); majority: one each",
        },
    )


def linear_probe_protocol(
    layers: Layers = LAYERS, pooling: str = "mean", grid: Sequence[float] = LINEAR_GRID, held_out: float = HELD_OUT
) -> Protocol:
    """Accuracy of multinomial logistic regression on frozen features.

    Args:
        layers: block numbers (0-based, negative from the end), "last", "all", or "output" for the model's own vector.
        pooling: of the tokens of a layer: "mean" of the patches, "class" token, or the model's "attention" pooling.
        grid, held_out: as of `linear_probe`.
    """
    return Protocol(
        "linear-probe",
        {
            **_common(layers, pooling),
            "probe": "multinomial logistic regression, LBFGS, mean cross entropy + strength / 2 x squared weights",
            "scaling": "mean 0 and variance 1 over the training pictures",
            "grid": tuple(grid),
            "choice": "accuracy on a held-out part of the training pictures, then all of them; seed 0",
            "held out": held_out,
        },
    )


def ridge_probe_protocol(
    layers: Layers = LAYERS, pooling: str = "mean", grid: Sequence[float] = RIDGE_GRID, criterion: str = "leave-one-out"
) -> Protocol:
    """Accuracy of ridge regression to one-hot targets, in closed form; arguments as of `ridge_probe`."""
    return Protocol(
        "ridge-probe",
        {
            **_common(layers, pooling),
            "probe": "ridge regression to one-hot targets, mean squared error + strength x squared weights",
            "scaling": "mean 0 and variance 1 over the training pictures",
            "grid": tuple(grid),
            "criterion": criterion,
        },
    )


def evaluate_probe(train: LabelledSet, test: LabelledSet, encode: EncodePictures, protocol: Protocol) -> Evaluation:
    """The accuracy of a probe on each layer; which probe, the protocol's name says.

    Args:
        train, test: pictures with classes; those of the test must be among those of the training.
        encode: pictures → vectors by the names of layers; called once for each part.

    Raises:
        BadInput: one class only, test classes that are not trained, more neighbours than training pictures.
        BadMedia: no picture of a part can be read.
    """
    settings = protocol.settings
    train, test = same_classes(train, test)
    need_classes(train, protocol)
    if settings["train count"] is not None:
        train = thinned(train, settings["train count"])
    known, asked = encode(train.pictures), encode(test.pictures)
    learned, labels = train.labels[known.rows], test.labels[asked.rows]
    missing = sorted(set(labels.tolist()) - set(learned.tolist()))
    if missing:
        raise BadInput(f"every class needs training pictures that can be read; {test.names[missing[0]]!r} has none.")
    judge = JUDGES[protocol.name]
    measures: list[Measure] = []
    chosen: dict[str, Any] = {}
    curves: dict[str, list[list[float]]] = {}
    tables: dict[str, Any] = {}
    for layer, vectors in known.vectors.items():
        scores, choice = judge(vectors, learned, asked.vectors[layer], settings)
        alone = len(known.vectors) == 1
        for number, (name, table) in enumerate(scores.items()):
            points = _points(table, labels)
            one = measured(name if alone else f"{name}, {layer}", points, 1 / len(train.names), number == 0)
            measures.append(one)
            curves.setdefault(name, []).append([one.value, one.low, one.high])
            if alone and number == 0:
                tables = class_tables(test.names, labels, table.argmax(axis=1), points)
        chosen |= {name if alone else f"{name}, {layer}": value for name, value in choice.items()}
    return Evaluation(
        protocol,
        tuple(sorted(measures, key=lambda one: not one.headline)),
        (most_frequent(labels, learned, measures[0].name),),
        {**facts(test, labels), "training pictures": len(learned), **chosen},
        tables=tables | {"layers": {"layers": list(known.vectors), "measures": curves}},
        failures=(*known.failures, *asked.failures),
    )


def same_classes(train: LabelledSet, test: LabelledSet) -> tuple[LabelledSet, LabelledSet]:
    """Both parts with the class numbers of the training part.

    Raises: BadInput for a test class that the training part does not know.
    """
    if train.names == test.names:
        return train, test
    unknown = [name for name in test.names if name not in train.names]
    if unknown:
        raise BadInput(
            f"classes of the test pictures must be among those of the training pictures; {unknown[0]!r} of "
            f"{test.place} is not in {train.place}."
        )
    numbers = np.array([train.names.index(name) for name in test.names], np.int64)
    return train, replace(test, labels=numbers[test.labels], names=train.names, keys=train.keys)


def thinned(data: LabelledSet, count: int) -> LabelledSet:
    """About `count` pictures, the same share of each class, by seed 0; all where there are no more.

    Raises: BadInput for a count below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise BadInput(f"train count must be a whole number of 1 or more, or None for all; got {count!r}.")
    if count >= len(data):
        return data
    return data.subset(split_by_class(data.labels, 1 - count / len(data))[0])


def divided(data: LabelledSet, share: float = HELD_OUT) -> tuple[LabelledSet, LabelledSet]:
    """A training and a test part of undivided data: `share` of each class is the test, by seed 0.

    Raises: BadInput where that leaves no test picture.
    """
    train, test = split_by_class(data.labels, share)
    if not len(test):
        raise BadInput(f"{data.place} holds too few pictures of each class to be divided; pass training data apart.")
    return data.subset(train), data.subset(test)


def _common(layers: Layers, pooling: str) -> dict[str, Any]:
    return {
        "layers": tuple(layers),
        "pooling": pooling,
        "norm": True,
        "preprocessing": "the model's own",
        "train count": None,
        "division": "as the data are; undivided data by class, 80 % and 20 %, seed 0",
    }


def _points(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Points:
    """Right or not, ties shared; a class that was never trained has no column and is never answered."""
    finite = np.where(np.isfinite(scores), scores, np.finfo(np.float64).min)
    return hits_at_k(finite, labels, 1)


def _knn(train: Tensor, labels: NDArray[np.int64], test: Tensor, settings: Mapping[str, Any]) -> Judged:
    k = settings["k"]
    return {
        "accuracy": knn_votes(train, labels, test, k, settings["temperature"]),
        "accuracy by majority": knn_votes(train, labels, test, k, None),
    }, {}


def _linear(train: Tensor, labels: NDArray[np.int64], test: Tensor, settings: Mapping[str, Any]) -> Judged:
    return _judged(linear_probe(train, labels, test, settings["grid"], settings["held out"]))


def _ridge(train: Tensor, labels: NDArray[np.int64], test: Tensor, settings: Mapping[str, Any]) -> Judged:
    return _judged(ridge_probe(train, labels, test, settings["grid"], settings["criterion"]))


def _judged(probe: Probe) -> Judged:
    end = " (at the end of the grid)" if probe.at_the_end else ""
    return {"accuracy": probe.scores}, {"strength": f"{probe.strength:g}{end}"}


JUDGES: dict[str, Callable[[Tensor, NDArray[np.int64], Tensor, Mapping[str, Any]], Judged]] = {
    "knn": _knn,
    "linear-probe": _linear,
    "ridge-probe": _ridge,
}
"""Which probe a protocol's name means."""
