"""Linear segmentation of any pictures with masks, such as ADE20K, on any layers.

Like the published linear probe (batch norm and a 1 x 1 convolution on one layer, arXiv 2304.07193 §7.4), at its optimum
instead of after a number of steps, and with pictures and masks squashed to one square.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.masked import IGNORED, MaskedSet, classes_of
from percepta.errors import BadInput
from percepta.evaluation import dense_probes as probes
from percepta.evaluation.dense_scenes import EncodeMaps, Layers, by_layer, segmented
from percepta.evaluation.protocols import Evaluation, Protocol


def segmentation_protocol(size: int | None = None, layers: Layers = ("last",)) -> Protocol:
    """Mean IoU of a linear probe.

    Args:
        size: side in pixels, brought to a multiple of the patch; None is the model's own.
        layers: as of the protocols on scenes.
    """
    return Protocol(
        "segmentation",
        {
            "size": size,
            "resized": "squashed to a square, pictures bilinearly, masks by nearest pixel; figures at that size",
            "layers": tuple(layers),
            "norm": False,
            "probe": "batch norm and 1 x 1 convolution at its optimum: softmax over the classes of a patch, LBFGS",
            "strength": probes.STRENGTH,
            "enlarged": "logits, bilinear",
            "ignored": IGNORED,
        },
    )


def evaluate_segmentation(
    train: MaskedSet,
    test: MaskedSet,
    encode: EncodeMaps,
    patch: int,
    native: int,
    protocol: Protocol | None = None,
) -> Evaluation:
    """mIoU by layer over the pixels of the test pictures; classes are those of the training masks.

    Args:
        train, test: pictures with masks (`percepta.datasets.masked.open_masked`).
        encode: pictures (S, H, W, 3) → patch tokens by the names of layers; all pictures are held in memory.
        patch, native: sides in pixels of the model's patches and of its pictures.

    Raises:
        BadInput: fewer than two classes, or test pictures without any of them. BadMedia: a file cannot be read.
    """
    protocol = protocol or segmentation_protocol()
    side = max(1, round((protocol.settings["size"] or native) / patch)) * patch
    (seen, marked), (shown, wanted) = (part.read((side, side)) for part in (train, test))
    numbers = classes_of([marked])
    known_classes, asked_classes = (_ranked(masks, numbers) for masks in (marked, wanted))
    if (asked_classes < 0).all():
        raise BadInput(f"masks of {test.place} must show classes of {train.place}; they share none.")
    known, asked = encode(seen), encode(shown)
    count, strength = len(numbers), protocol.settings["strength"]
    tallies, beside = segmented(known, known_classes, asked, asked_classes, count, strength)
    details = {"training pictures": len(train), "pictures": len(test), "classes": count, "side": side}
    return by_layer(protocol, {"mIoU": tallies}, {"mIoU": beside}, details=details)


def _ranked(masks: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of class numbers among those known; -1 for the ignored and the unknown."""
    places = np.searchsorted(numbers, masks).clip(max=len(numbers) - 1)
    return np.where(numbers[places] == masks, places, -1)
