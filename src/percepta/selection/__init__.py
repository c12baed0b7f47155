"""Which model, which layer: scores that foretell fine-tuning from a few labelled samples, and what judges them.

Order of reading: inputs and reduction; the scores (representation, neighbours, linear, evidence, statistics, counting,
priors); estimators, the table of them; probe_sampling, resampling and ranking, which use them; oracle, which tells
whether they are right.
"""

from __future__ import annotations

from percepta.selection.agreement import (
    MEASURES,
    kendall,
    pearson,
    regret_at,
    relative_accuracy,
    spearman,
    top_hit,
    weighted_kendall,
)
from percepta.selection.counting import leep, nce
from percepta.selection.estimators import ESTIMATORS, RECOMMENDED, Estimator
from percepta.selection.evidence import logme
from percepta.selection.inputs import KINDS, Targets, as_targets
from percepta.selection.linear import LogisticSolver, logistic_cv, logistic_split, ridge_loo
from percepta.selection.neighbours import knn_loo, knn_split
from percepta.selection.official import official_parc
from percepta.selection.oracle import Judgement, OracleTable, ScoreEvaluation, evaluate_scores
from percepta.selection.priors import depth_prior, parameters_prior, with_capacity, z_scores
from percepta.selection.probe_sampling import sample_probe
from percepta.selection.ranking import Candidate, Ranking, Row, Standing, rank
from percepta.selection.reduction import Reduction, reduce
from percepta.selection.representation import dds, parc, parc_auc, parc_ceiling, rsa
from percepta.selection.statistics import gbc, h_score

__all__ = [
    "ESTIMATORS",
    "KINDS",
    "MEASURES",
    "RECOMMENDED",
    "Candidate",
    "Estimator",
    "Judgement",
    "LogisticSolver",
    "OracleTable",
    "Ranking",
    "Reduction",
    "Row",
    "ScoreEvaluation",
    "Standing",
    "Targets",
    "as_targets",
    "dds",
    "depth_prior",
    "evaluate_scores",
    "gbc",
    "h_score",
    "kendall",
    "knn_loo",
    "knn_split",
    "leep",
    "logistic_cv",
    "logistic_split",
    "logme",
    "nce",
    "official_parc",
    "parameters_prior",
    "parc",
    "parc_auc",
    "parc_ceiling",
    "pearson",
    "rank",
    "reduce",
    "regret_at",
    "relative_accuracy",
    "ridge_loo",
    "rsa",
    "sample_probe",
    "spearman",
    "top_hit",
    "weighted_kendall",
    "with_capacity",
    "z_scores",
]
