"""CIFAR-10 zero-shot: photographs to the names of their classes, through text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from percepta.datasets.cifar import CIFAR10_NAMES, PROMPTS, LabelledPictures
from percepta.errors import BadInput
from percepta.evaluation.metrics import hits_at_k
from percepta.evaluation.protocols import Evaluation, Protocol, measured
from percepta.evaluation.zero_shot import classifier, predict


def cifar10_protocol(templates: Sequence[str] = PROMPTS) -> Protocol:
    """Zero-shot accuracy on the 10,000 test photographs."""
    return Protocol(
        "cifar10-zero-shot",
        {
            "data": "CIFAR-10 test, 10,000 photographs of 32 x 32",
            "names": CIFAR10_NAMES,
            "templates": tuple(templates),
            "classifier": "mean over templates of unit text embeddings, scaled to unit length",
            "score": "cosine",
            "preprocessing": "the model's own, from 32 x 32",
        },
    )


def evaluate_cifar10(
    photographs: LabelledPictures,
    encode_image: Callable[[np.ndarray], Tensor],
    encode_text: Callable[[Sequence[str]], Tensor],
    protocol: Protocol | None = None,
) -> Evaluation:
    """Top-1 and top-5 accuracy, and the accuracy of each class.

    Args:
        photographs: of the test set (`percepta.datasets.cifar.read_cifar10`).
        encode_image: (B, H, W, 3) uint8 → (B, D), of any length.
        encode_text: B texts → (B, D).

    Raises:
        BadInput: no photographs.
    """
    protocol = protocol or cifar10_protocol()
    if not len(photographs):
        raise BadInput(f"{protocol.name} needs photographs; got none.")
    names = photographs.names
    classes = classifier(encode_text, names, tuple(protocol.settings["templates"]))
    logits = predict(encode_image(photographs.pictures), classes).numpy()
    first, fifth = (hits_at_k(logits, photographs.labels, k) for k in (1, 5))
    chance = 1 / len(names)
    by_class = [
        measured(name, first[photographs.labels == number], chance)
        for number, name in enumerate(names)
        if (photographs.labels == number).any()
    ]
    digest = hashlib.sha256(photographs.pictures.tobytes() + photographs.labels.tobytes()).hexdigest()[:12]
    return Evaluation(
        protocol,
        (measured("accuracy", first, chance, headline=True), measured("top-5", fifth, 5 * chance), *by_class),
        details={"photographs": len(photographs), "data hash": digest},
    )
