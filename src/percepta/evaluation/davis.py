"""DAVIS 2017, zero-shot: the masks of the first frame handed on by the tokens of any layer (label_propagation)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.davis import DavisSequence
from percepta.errors import BadInput
from percepta.evaluation.dense_scenes import (
    EncodeMaps,
    Layers,
    by_layer,
    clip_parts,
    propagation_rule,
    propagation_settings,
    tracking_tallies,
)
from percepta.evaluation.label_propagation import PropagationRule, track
from percepta.evaluation.protocols import Evaluation, Protocol

LARGEST = 448
KEPT = "first mask kept"


def davis_tracking_protocol(
    split: str = "val",
    resolution: str = "480p",
    size: int | None = None,
    layers: Layers = ("last",),
    rule: PropagationRule | None = None,
) -> Protocol:
    """J&F of label propagation on DAVIS 2017.

    Args:
        size: shorter side in pixels to which frames are brought; None is the side that the model was trained at, at
            most 448 (our reading of the paper's "native size up to 448").
        layers: as of the protocols on scenes.
    """
    return Protocol(
        "davis-tracking",
        {
            "data": "DAVIS 2017, semi-supervised",
            "split": split,
            "resolution": resolution,
            "size": size,
            "resized": "shorter side to the size, both sides to the nearest multiple of the patch, bilinear",
            "layers": tuple(layers),
            "norm": False,
            **propagation_settings(rule or PropagationRule()),
            "void": "background",
        },
    )


def evaluate_davis(
    sequences: Sequence[DavisSequence], encode: EncodeMaps, patch: int, native: int, protocol: Protocol | None = None
) -> Evaluation:
    """J&F, J and F by layer, over the objects of all sequences.

    Args:
        sequences: videos with their masks (`percepta.datasets.davis.read_davis`).
        encode: pictures (T, H, W, 3) → patch tokens by the names of layers.
        patch: side of the model's patches in pixels.
        native: side in pixels that the model was trained at.

    Raises:
        BadInput: no sequences, or a first mask without objects. BadMedia: a frame or mask that cannot be read.
    """
    protocol = protocol or davis_tracking_protocol()
    if not sequences:
        raise BadInput(f"{protocol.name} needs sequences; got none.")
    rule = propagation_rule(protocol.settings)
    side = protocol.settings["size"] or min(native, LARGEST)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for sequence in sequences:
        truth = sequence.masks()
        size = working_size(sequence.size(), side, patch)
        for layer, tokens in encode(sequence.pictures(size)).items():
            found.setdefault(layer, []).append(clip_parts(track(tokens, truth[0], rule), truth))
        found.setdefault(KEPT, []).append(clip_parts(np.broadcast_to(truth[:1], truth.shape), truth))
    tallies = tracking_tallies(found)
    return by_layer(
        protocol,
        {what: {layer: one for layer, one in by.items() if layer != KEPT} for what, by in tallies.items()},
        {what: {KEPT: by[KEPT]} for what, by in tallies.items()},
        notes={KEPT: "nothing moves"},
        details={"sequences": len(sequences), "objects": tallies["J&F"][KEPT].count, "shorter side": side},
    )


def working_size(size: tuple[int, int], side: int, patch: int) -> tuple[int, int]:
    """Height and width with the shorter side near `side`, the aspect kept, both multiples of the patch."""
    scale = side / min(size)
    height, width = (max(1, round(length * scale / patch)) * patch for length in size)
    return height, width
