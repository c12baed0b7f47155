"""The protocols of `evaluate` by name. A new one is one entry here: how it is made, run, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from percepta import evaluation
from percepta.evaluation import Evaluation, Protocol
from percepta.tasks.evaluating.batches import Batches

Data = Mapping[str, Path]
"""Where the data lie: "data", and "train" where the training part lies elsewhere."""


@dataclass(frozen=True, slots=True)
class Evaluator:
    """One row of the table.

    Attributes:
        make: the protocol with its default settings; `evaluate(settings=...)` replaces those that it names.
        run: (protocol, batches, data) to figures; everything that shapes them comes from the protocol's settings.
        line: what it measures, in one line.
        data: the data that it cannot do without, in words; empty for none.
        words: whether the model needs a text tower.
    """

    make: Callable[[], Protocol]
    run: Callable[[Protocol, Batches, Data], Evaluation]
    line: str
    data: str = ""
    words: bool = True


def _cifar10(protocol: Protocol, batches: Batches, data: Data) -> Evaluation:
    from percepta.datasets.cifar import read_cifar10

    return evaluation.evaluate_cifar10(read_cifar10(data["data"]), batches.pictures, batches.texts, protocol)


PROTOCOLS: dict[str, Evaluator] = {
    "cifar10-zero-shot": Evaluator(
        evaluation.cifar10_protocol,
        _cifar10,
        "accuracy on the CIFAR-10 test photographs, the classes named in words",
        "the CIFAR-10 test photographs as a parquet file of the columns img and label",
    ),
    "scenes-retrieval": Evaluator(
        evaluation.scenes_retrieval_protocol,
        lambda protocol, batches, _: evaluation.evaluate_scenes_retrieval(batches.pictures, batches.texts, protocol),
        "captions to generated scenes and back, R@1, R@5, R@10",
    ),
    "scenes-hard-negatives": Evaluator(
        evaluation.scenes_hard_negatives_protocol,
        lambda protocol, batches, _: evaluation.evaluate_scenes_hard_negatives(
            batches.pictures, batches.texts, protocol
        ),
        "the true caption of a generated scene against one with swapped attributes or relations",
    ),
    "scenes-video-retrieval": Evaluator(
        evaluation.scenes_video_retrieval_protocol,
        lambda protocol, batches, _: evaluation.evaluate_scenes_video_retrieval(
            batches.videos, batches.texts, protocol
        ),
        "captions to generated clips and back, R@1, R@5, R@10",
    ),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "nano": ("cifar10-zero-shot", "scenes-retrieval", "scenes-hard-negatives", "scenes-video-retrieval"),
}
"""Protocols by one name: "nano" are those of the nano model's card."""
