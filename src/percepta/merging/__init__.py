"""Many models into one: ZipIt! for networks of different training, and its rivals."""

from percepta.merging.files import STATE_METHODS, StateMethod, merge_files
from percepta.merging.fine_tunes import average_states, breadcrumbs, dare, model_stock, task_arithmetic, ties
from percepta.merging.matching import (
    MATCHERS,
    Matcher,
    Matching,
    average_features,
    correlation_of,
    matched_correlation,
    pair_features,
    permute_features,
    zip_features,
)
from percepta.merging.matching_spaces import match_spaces
from percepta.merging.norms import reset_norms
from percepta.merging.partial import Cut, MultiHead, cuts_of
from percepta.merging.regression_mean import input_grams, regmean
from percepta.merging.spaces import Axis, Blueprint, Part, Rule, Space, Tap, merge_states
from percepta.merging.statistics import Covariance, covariances
from percepta.merging.streams import StateFile
from percepta.merging.task_matrices import iso_merge, tsv_merge
from percepta.merging.tracing import blueprint_of, trace
from percepta.merging.weights import match_by_weights
from percepta.merging.zipping import METHODS, Merged, Plan, assemble, merge_models, plan_of

__all__ = [
    "MATCHERS",
    "METHODS",
    "STATE_METHODS",
    "Axis",
    "Blueprint",
    "Covariance",
    "Cut",
    "Matcher",
    "Matching",
    "Merged",
    "MultiHead",
    "Part",
    "Plan",
    "Rule",
    "Space",
    "StateFile",
    "StateMethod",
    "Tap",
    "assemble",
    "average_features",
    "average_states",
    "blueprint_of",
    "breadcrumbs",
    "correlation_of",
    "covariances",
    "cuts_of",
    "dare",
    "input_grams",
    "iso_merge",
    "match_by_weights",
    "match_spaces",
    "matched_correlation",
    "merge_files",
    "merge_models",
    "merge_states",
    "model_stock",
    "pair_features",
    "permute_features",
    "plan_of",
    "regmean",
    "reset_norms",
    "task_arithmetic",
    "ties",
    "trace",
    "tsv_merge",
    "zip_features",
]
