"""Evaluation: metrics as pure functions, protocols that take callables and say exactly what they measured.

Order of reading: metrics, tallies, probes, zero_shot, protocols, then what is measured: classification, retrieval and
probing of any pictures; cifar and scenes; moments of videos; label_propagation, dense_probes, dense_scenes,
segmentation and davis on patches; regions, vos, clicks, clicks_videos and scenes_vos for promptable models;
layer_study over models.
"""

from __future__ import annotations

from percepta.evaluation.cifar import cifar10_protocol, evaluate_cifar10
from percepta.evaluation.classification import evaluate_zero_shot, zero_shot_protocol
from percepta.evaluation.clicks import click_objects, clicks_protocol, evaluate_click_pictures, pictures_of
from percepta.evaluation.clicks_videos import (
    click_offline,
    click_online,
    evaluate_vos_interactive,
    vos_interactive_protocol,
)
from percepta.evaluation.davis import davis_tracking_protocol, evaluate_davis
from percepta.evaluation.dense_probes import (
    AffineMap,
    fit_ridge,
    fit_softmax,
    probe_depth,
    probe_places,
    probe_segmentation,
)
from percepta.evaluation.dense_scenes import (
    EncodeMaps,
    evaluate_scenes_depth,
    evaluate_scenes_objects,
    evaluate_scenes_position,
    evaluate_scenes_segmentation,
    evaluate_scenes_tracking,
    scenes_depth_protocol,
    scenes_objects_protocol,
    scenes_position_protocol,
    scenes_segmentation_protocol,
    scenes_tracking_protocol,
)
from percepta.evaluation.encoding import Encoded, EncodePictures
from percepta.evaluation.label_propagation import PropagationRule, propagate, track
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
from percepta.evaluation.moments import evaluate_scenes_moments, scenes_moments_protocol
from percepta.evaluation.nothing_here import (
    cifar10_nothing_here_protocol,
    evaluate_cifar10_nothing_here,
    evaluate_scenes_nothing_here,
    scenes_nothing_here_protocol,
)
from percepta.evaluation.probes import Probe, knn_votes, linear_probe, ridge_probe, split_by_class
from percepta.evaluation.probing import (
    divided,
    evaluate_probe,
    knn_protocol,
    linear_probe_protocol,
    ridge_probe_protocol,
)
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol
from percepta.evaluation.regions import (
    VideoScore,
    boundary_f,
    contours,
    jaccard,
    score_masks,
    score_video,
    score_videos,
)
from percepta.evaluation.retrieval import evaluate_retrieval, retrieval_protocol
from percepta.evaluation.scenes import (
    attribute_scores,
    evaluate_scenes_hard_negatives,
    evaluate_scenes_retrieval,
    evaluate_scenes_video_retrieval,
    scenes_hard_negatives_protocol,
    scenes_retrieval_protocol,
    scenes_video_retrieval_protocol,
)
from percepta.evaluation.scenes_videobench import evaluate_scenes_videobench, scenes_videobench_protocol
from percepta.evaluation.scenes_vos import (
    evaluate_scenes_clicks,
    evaluate_scenes_vos,
    scenes_clicks_protocol,
    scenes_vos_protocol,
)
from percepta.evaluation.segmentation import evaluate_segmentation, segmentation_protocol
from percepta.evaluation.tallies import Tally
from percepta.evaluation.vos import evaluate_vos, follow, vos_protocol
from percepta.evaluation.words import evaluate_scenes_words, scenes_words_protocol
from percepta.evaluation.zero_shot import classifier, predict

__all__ = [
    "AffineMap",
    "Baseline",
    "EncodeMaps",
    "EncodePictures",
    "Encoded",
    "Evaluation",
    "Measure",
    "Probe",
    "PropagationRule",
    "Protocol",
    "Tally",
    "VideoScore",
    "attribute_scores",
    "bootstrap_interval",
    "boundary_f",
    "choice_accuracy",
    "choices",
    "cifar10_nothing_here_protocol",
    "cifar10_protocol",
    "classifier",
    "click_objects",
    "click_offline",
    "click_online",
    "clicks_protocol",
    "contours",
    "davis_tracking_protocol",
    "divided",
    "dual_softmax",
    "evaluate_cifar10",
    "evaluate_cifar10_nothing_here",
    "evaluate_click_pictures",
    "evaluate_davis",
    "evaluate_probe",
    "evaluate_retrieval",
    "evaluate_scenes_clicks",
    "evaluate_scenes_depth",
    "evaluate_scenes_hard_negatives",
    "evaluate_scenes_moments",
    "evaluate_scenes_nothing_here",
    "evaluate_scenes_objects",
    "evaluate_scenes_position",
    "evaluate_scenes_retrieval",
    "evaluate_scenes_segmentation",
    "evaluate_scenes_tracking",
    "evaluate_scenes_video_retrieval",
    "evaluate_scenes_videobench",
    "evaluate_scenes_vos",
    "evaluate_scenes_words",
    "evaluate_segmentation",
    "evaluate_vos",
    "evaluate_vos_interactive",
    "evaluate_zero_shot",
    "fit_ridge",
    "fit_softmax",
    "follow",
    "hits_at_k",
    "jaccard",
    "knn_protocol",
    "knn_votes",
    "linear_probe",
    "linear_probe_protocol",
    "pictures_of",
    "predict",
    "probe_depth",
    "probe_places",
    "probe_segmentation",
    "propagate",
    "recall_at_k",
    "retrieval_protocol",
    "ridge_probe",
    "ridge_probe_protocol",
    "same",
    "scenes_clicks_protocol",
    "scenes_depth_protocol",
    "scenes_hard_negatives_protocol",
    "scenes_moments_protocol",
    "scenes_nothing_here_protocol",
    "scenes_objects_protocol",
    "scenes_position_protocol",
    "scenes_retrieval_protocol",
    "scenes_segmentation_protocol",
    "scenes_tracking_protocol",
    "scenes_video_retrieval_protocol",
    "scenes_videobench_protocol",
    "scenes_vos_protocol",
    "scenes_words_protocol",
    "score_masks",
    "score_video",
    "score_videos",
    "segmentation_protocol",
    "split_by_class",
    "top_k_accuracy",
    "track",
    "vos_interactive_protocol",
    "vos_protocol",
    "zero_shot_protocol",
]
