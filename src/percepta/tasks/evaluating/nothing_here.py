"""The protocols for "nothing here" for a model, judged by its prior."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from percepta import evaluation
from percepta.calibration import judge, load_prior
from percepta.errors import BadInput
from percepta.evaluation import Evaluation, Protocol
from percepta.evaluation.nothing_here import Judge
from percepta.running.fingerprint import weights_hash
from percepta.tasks.evaluating.batches import Batches


def run_scenes_nothing_here(protocol: Protocol, batches: Batches) -> Evaluation:
    """On generated scenes."""
    return evaluation.evaluate_scenes_nothing_here(batches.pictures, batches.texts, _judge(batches, protocol), protocol)


def run_cifar10_nothing_here(protocol: Protocol, batches: Batches, data: Mapping[str, Path]) -> Evaluation:
    """On photographs by class."""
    from percepta.datasets.cifar import read_cifar10

    known, photographs = _judge(batches, protocol), read_cifar10(data["data"])
    return evaluation.evaluate_cifar10_nothing_here(photographs, batches.pictures, batches.texts, known, protocol)


def _judge(batches: Batches, protocol: Protocol) -> Judge:
    """The prior of the model and its weights. Raises BadInput where there is none."""
    encoder = batches.encoder
    prior = load_prior(encoder.name, weights_hash(encoder.model))
    if prior is None:
        raise BadInput(
            f"{encoder.name} is uncalibrated with these weights; fit a prior: python -m percepta.calibration MODEL."
        )
    return judge(prior, protocol.settings["question"])
