"""Zero-shot classification of any labelled pictures as published (arXiv 2103.00020, 2504.13181 appendix).

Unusual: the published figure of a data set is the maximum of two preprocessings, squash and centre crop; both are
measured, both are reported, and the maximum is the headline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.picture_sets import LabelledSet
from percepta.errors import BadInput
from percepta.evaluation.encoding import EncodePictures
from percepta.evaluation.metrics import Points, hits_at_k
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol, measured
from percepta.evaluation.zero_shot import classifier, predict

RESIZES = ("squash", "shorter_side_center_crop")
SAID = {"squash": "squash", "shorter_side_center_crop": "centre crop"}
MATRIX_CLASSES = 100  # a matrix of more classes is left out
TOGETHER = 4096


def zero_shot_protocol(
    templates: Sequence[str], classes: Sequence[str] | None = None, resizes: Sequence[str] = RESIZES
) -> Protocol:
    """Top-1 and top-5 accuracy of pictures against the names of their classes.

    Args:
        templates: texts with {} for the name, filled literally.
        classes: the names, in the order of the labels; None takes those of the data.
        resizes: one or more of "squash" and "shorter_side_center_crop".
    """
    return Protocol(
        "zero-shot",
        {
            "classes": None if classes is None else tuple(classes),
            "templates": tuple(templates),
            "classifier": "mean over templates of unit text embeddings, scaled to unit length",
            "score": "100 x cosine",
            "resizes": tuple(resizes),
            "reported": "the maximum over the resizes",
        },
    )


def evaluate_zero_shot(
    data: LabelledSet,
    encode_image: EncodePictures,
    encode_text: Callable[[Sequence[str]], Tensor],
    protocol: Protocol,
) -> Evaluation:
    """Top-1 and top-5 accuracy with each resize, and the larger.

    Args:
        data: pictures with classes; the protocol's own class names replace theirs.
        encode_image: pictures → vectors by the names of the protocol's resizes.
        encode_text: B texts → (B, D).

    Raises:
        BadInput: one class only, or no class names. BadMedia: no picture can be read.
    """
    settings = protocol.settings
    if settings["classes"] is not None:
        data = data.renamed(settings["classes"])
    if not data.named:
        raise BadInput(
            f"{protocol.name} needs the names of the {len(data.names)} classes of {data.place}: it holds numbers "
            "only; pass classes (on the command line --classes) with a file of one name a line."
        )
    need_classes(data, protocol)
    classes = classifier(encode_text, data.names, settings["templates"])
    encoded = encode_image(data.pictures)
    labels = data.labels[encoded.rows]
    ranks = (1, 5) if len(data.names) > 5 else (1,)
    found = {name: _hits(encoded.vectors[name], classes, labels, ranks) for name in settings["resizes"]}
    best = max(found, key=lambda name: found[name][0][1].mean())
    chance = 1 / len(data.names)
    points, predictions = found[best]
    measures = [measured(_titled(rank), points[rank], rank * chance, rank == 1) for rank in ranks]
    if len(found) > 1:
        measures += [
            measured(f"{_titled(rank)}, {SAID[name]}", hits[rank], rank * chance)
            for rank in ranks
            for name, (hits, _) in found.items()
        ]
    return Evaluation(
        protocol,
        tuple(measures),
        (most_frequent(labels, labels, "accuracy"),),
        {**facts(data, labels), **({"best resize": SAID[best]} if len(found) > 1 else {})},
        tables=class_tables(data.names, labels, predictions, points[1]),
        failures=encoded.failures,
    )


def need_classes(data: LabelledSet, protocol: Protocol) -> None:
    """Raises BadInput for data of one class."""
    if len(data.names) < 2:
        raise BadInput(f"{protocol.name} needs at least two classes; {data.place} has one, {data.names[0]!r}.")


def facts(data: LabelledSet, labels: NDArray[np.int64]) -> dict[str, Any]:
    """What the data are: pictures that were read, classes, classes without a picture."""
    without = len(data.names) - len(np.unique(labels))
    found: dict[str, Any] = {"data": data.place, "pictures": len(labels), "classes": len(data.names)}
    return found | ({"classes without pictures": without} if without else {})


def most_frequent(labels: NDArray[np.int64], known: NDArray[np.int64], measure: str) -> Baseline:
    """Always answering the class that is most frequent in `known`."""
    share = float((labels == np.bincount(known).argmax()).mean())
    return Baseline("most frequent class", measure, share, "always answers the most frequent class")


def class_tables(
    names: Sequence[str], labels: NDArray[np.int64], predictions: NDArray[np.int64], points: Points
) -> dict[str, Any]:
    """The accuracy of each class, and which classes were taken for which (true classes in rows)."""
    by_class: list[Measure] = [
        measured(name, points[labels == number]) for number, name in enumerate(names) if (labels == number).any()
    ]
    found: dict[str, Any] = {
        "classes": [
            {"name": one.name, "value": one.value, "interval": [one.low, one.high], "count": one.count}
            for one in by_class
        ]
    }
    if len(names) <= MATRIX_CLASSES:
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (labels, predictions), 1)
        found["confusion"] = {"names": list(names), "counts": counts.tolist()}
    return found


def _hits(
    embeddings: Tensor, classes: Tensor, labels: NDArray[np.int64], ranks: Sequence[int]
) -> tuple[dict[int, Points], NDArray[np.int64]]:
    """Points for each rank, and the predicted classes; some thousand pictures at a time."""
    parts: dict[int, list[Points]] = {rank: [] for rank in ranks}
    predictions = []
    for start in range(0, len(labels), TOGETHER):
        logits = predict(embeddings[start : start + TOGETHER], classes).numpy()
        for rank in ranks:
            parts[rank].append(hits_at_k(logits, labels[start : start + TOGETHER], rank))
        predictions.append(logits.argmax(axis=1))
    return {rank: np.concatenate(points) for rank, points in parts.items()}, np.concatenate(predictions)


def _titled(rank: int) -> str:
    return "accuracy" if rank == 1 else f"top-{rank}"
