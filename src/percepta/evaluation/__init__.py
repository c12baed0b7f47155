"""Evaluation: metrics as pure functions, protocols that take callables and say exactly what they measured.

Order of reading: metrics, zero_shot, protocols, then one file per data set: cifar, scenes.
"""

from __future__ import annotations

from percepta.evaluation.cifar import cifar10_protocol, evaluate_cifar10
from percepta.evaluation.metrics import (
    bootstrap_interval,
    choice_accuracy,
    choices,
    dual_softmax,
    hits_at_k,
    recall_at_k,
    same,
    top_k_accuracy,
)
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol
from percepta.evaluation.scenes import (
    attribute_scores,
    evaluate_scenes_hard_negatives,
    evaluate_scenes_retrieval,
    evaluate_scenes_video_retrieval,
    scenes_hard_negatives_protocol,
    scenes_retrieval_protocol,
    scenes_video_retrieval_protocol,
)
from percepta.evaluation.zero_shot import classifier, predict

__all__ = [
    "Baseline",
    "Evaluation",
    "Measure",
    "Protocol",
    "attribute_scores",
    "bootstrap_interval",
    "choice_accuracy",
    "choices",
    "cifar10_protocol",
    "classifier",
    "dual_softmax",
    "evaluate_cifar10",
    "evaluate_scenes_hard_negatives",
    "evaluate_scenes_retrieval",
    "evaluate_scenes_video_retrieval",
    "hits_at_k",
    "predict",
    "recall_at_k",
    "same",
    "scenes_hard_negatives_protocol",
    "scenes_retrieval_protocol",
    "scenes_video_retrieval_protocol",
    "top_k_accuracy",
]
