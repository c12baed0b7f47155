"""Many models into one: ZipIt! for networks of different training, and its rivals."""

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
from percepta.merging.norms import reset_norms
from percepta.merging.partial import Cut, MultiHead, cuts_of
from percepta.merging.spaces import Axis, Blueprint, Part, Rule, Space, Tap, merge_states
from percepta.merging.statistics import Covariance, covariances
from percepta.merging.tracing import blueprint_of, trace
from percepta.merging.weights import match_by_weights
from percepta.merging.zipping import METHODS, Merged, Plan, assemble, match_spaces, merge_models, plan_of

__all__ = [
    "MATCHERS",
    "METHODS",
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
    "Tap",
    "assemble",
    "average_features",
    "blueprint_of",
    "correlation_of",
    "covariances",
    "cuts_of",
    "match_by_weights",
    "match_spaces",
    "matched_correlation",
    "merge_models",
    "merge_states",
    "pair_features",
    "permute_features",
    "plan_of",
    "reset_norms",
    "trace",
    "zip_features",
]
