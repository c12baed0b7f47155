"""Pictures from captions and captions from pictures, over any data (Perception Encoder, arXiv 2504.13181, appendix).

A query is right when at least one of its true matches is among the k best; identical captions share their positives.
Unusual: the intervals redraw pictures, not captions, since the captions of one picture are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.picture_sets import CaptionedSet
from percepta.errors import BadInput
from percepta.evaluation.encoding import EncodePictures
from percepta.evaluation.metrics import Points, dual_softmax, hits_at_k
from percepta.evaluation.protocols import Evaluation, Measure, Protocol, measured
from percepta.evaluation.zero_shot import unit

RANKS = (1, 5, 10)
TOGETHER = 1000  # queries ranked at once


def retrieval_protocol(ranks: Sequence[int] = RANKS, resize: str = "the model's own") -> Protocol:
    """Recall both ways, with and without dual softmax; `resize` as of Preprocess, or the model's own."""
    return Protocol(
        "retrieval",
        {
            "ranks": tuple(ranks),
            "captions": "as they are, all of each picture; identical ones share their positives",
            "score": "cosine",
            "reweighting": "none and dual softmax, scale 1",
            "resize": resize,
        },
    )


def evaluate_retrieval(
    data: CaptionedSet,
    encode_image: EncodePictures,
    encode_text: Callable[[Sequence[str]], Tensor],
    protocol: Protocol | None = None,
) -> Evaluation:
    """Recall at the protocol's ranks both ways, with and without dual softmax.

    Args:
        data: pictures with one or more captions each.
        encode_image: pictures → vectors under one name.
        encode_text: B captions → (B, D).

    Raises:
        BadInput: fewer than two pictures. BadMedia: no picture can be read.
    """
    protocol = protocol or retrieval_protocol()
    if len(data) < 2:
        raise BadInput(f"{protocol.name} needs at least two pictures with captions; {data.place} has {len(data)}.")
    encoded = encode_image(data.pictures)
    (pictures,) = encoded.vectors.values()
    held = [data.captions[row] for row in encoded.rows.tolist()]
    captions = [caption for texts in held for caption in texts]
    owners = np.repeat(np.arange(len(held)), [len(texts) for texts in held])
    scores = (unit(encode_text(captions)) @ unit(pictures).T).numpy()
    return Evaluation(
        protocol,
        both_ways(scores, true_matches(captions, held), "picture", protocol.settings["ranks"], owners),
        details={"data": data.place, "pictures": len(held), "captions": len(captions)},
        failures=encoded.failures,
    )


def true_matches(texts: Sequence[str], held: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """(texts, things) bool: whether a thing has the very text among its own."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(text, []).append(row)
    found = np.zeros((len(texts), len(held)), np.bool_)
    for column, own in enumerate(held):
        for text in own:
            found[rows[text], column] = True
    return found


def both_ways(
    scores: NDArray[Any], positives: NDArray[np.bool_], thing: str, ranks: Sequence[int], owners: Any | None = None
) -> tuple[Measure, ...]:
    """Recalls of a matrix (texts, things) and of its transpose; the plain ones at the first rank are the headlines.

    Args:
        scores: larger is better.
        positives: which things are right for which texts.
        thing: what it is called in the names of the measures, such as "picture".
        owners: (texts,) ids; texts of one id are drawn together for the intervals. None draws each by itself.
    """
    found = []
    for suffix, dual in (("", False), (" with dual softmax", True)):
        ways = ((f"text to {thing}", scores, positives, owners), (f"{thing} to text", scores.T, positives.T, None))
        for way, table, right, groups in ways:
            chance = float(right.sum(axis=1).mean()) / right.shape[1]
            for rank, points in _hits(table, right, ranks, dual).items():
                headline = not dual and rank == ranks[0]
                name = f"{way} R@{rank}{suffix}"
                found.append(measured(name, points, float(min(rank * chance, 1)), headline, groups))
    return tuple(found)


def _hits(table: NDArray[Any], positives: NDArray[np.bool_], ranks: Sequence[int], dual: bool) -> dict[int, Points]:
    """Points for each rank, some queries at a time; dual softmax looks at all queries of some items at a time."""
    if dual:
        weighed = np.empty(table.shape)
        for start in range(0, table.shape[1], TOGETHER):
            weighed[:, start : start + TOGETHER] = dual_softmax(table[:, start : start + TOGETHER])
        table = weighed
    blocks = [slice(start, start + TOGETHER) for start in range(0, len(table), TOGETHER)]
    return {
        rank: np.concatenate([hits_at_k(table[block], positives[block], rank) for block in blocks]) for rank in ranks
    }
