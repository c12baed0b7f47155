"""How well does a linear map of the frozen features do? Logistic regression, and ridge regression in closed form.

PARC (arXiv 2111.06977) compares with a logistic regression that is stopped early; the exact leave-one-out residuals of
ridge regression are Allen's PRESS (1974).
Unusual: `ridge_loo` fits nothing n times: one decomposition serves all samples left out and all strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from percepta.errors import BadInput, out_of_range
from percepta.evaluation.probes import left_out_residuals
from percepta.selection.inputs import Matrix, Rows, as_features, as_targets
from percepta.selection.measures import estimate_score
from percepta.selection.neighbours import held_out
from percepta.selection.reduction import Reduction, reduce, standardise

STRENGTHS = tuple(10.0**exponent for exponent in range(-4, 4))  # per sample, on standardised features


@dataclass(frozen=True, slots=True)
class LogisticSolver:
    """How far a multinomial logistic regression (LBFGS, l2) is taken.

    Attributes:
        strength: the inverse of scikit-learn's C, on the sum of losses.
        iterations, tolerance: where it stops; the defaults are PARC's, long before it has converged, so that the score
            depends on them and on the version of the solver.
    """

    strength: float = 1.0
    iterations: int = 20
    tolerance: float = 0.1


EARLY = LogisticSolver()
CONVERGED = LogisticSolver(iterations=1000, tolerance=1e-4)


def logistic_split(
    features: Any,
    targets: Any,
    test_fraction: float = 0.5,
    dims: int | Reduction | None = None,
    solver: LogisticSolver = EARLY,
) -> float:
    """Accuracy, 0 to 100, for the last int(test_fraction * n) samples of a logistic regression on the others.

    Args:
        features: (n, d), used as they are (PARC scales them not).
        targets: (n,) classes; the order of the samples matters, so shuffle them first.
        test_fraction, dims, solver: see `knn_split`, `reduce` and `LogisticSolver`.

    Raises:
        BadInput: see `as_targets` and `as_features`; one class only among the first samples.
    """
    known = as_targets(targets)
    x = reduce(as_features(features, len(known)), dims)
    fitted = len(x) - held_out(len(x), test_fraction)
    rows = np.arange(len(x))
    return 100 * float(_right(x, known.numbers, rows[:fitted], rows[fitted:], solver).mean())


def logistic_cv(
    features: Any,
    targets: Any,
    folds: int = 5,
    dims: int | Reduction | None = None,
    solver: LogisticSolver = CONVERGED,
    seed: int = 0,
) -> float:
    """Accuracy, 0 to 100, of a logistic regression on standardised features over stratified folds.

    Args:
        features: (n, d).
        targets: (n,) classes; of a class with fewer samples than folds, some folds have none.
        folds: 2 to n.
        dims, solver: see `reduce` and `LogisticSolver`.
        seed: of the folds.
    """
    known = as_targets(targets)
    x = standardise(reduce(as_features(features, len(known)), dims))
    if not 2 <= folds <= len(x):
        raise out_of_range("folds", folds, f"2 to {len(x)}", "logistic_cv")
    numbers = known.numbers
    # Round-robin over a shuffled order sorted by class: every fold gets its share of every class, or one less.
    order = np.random.default_rng(seed).permutation(len(x))
    order = order[np.argsort(numbers[order], kind="stable")]
    right = np.zeros(len(x))
    for fold in range(folds):
        held = order[fold::folds]
        kept = np.setdiff1d(order, held)
        right[held] = _right(x, numbers, kept, held, solver)
    return float(100 * right.mean())


def ridge_loo(
    features: Any,
    targets: Any,
    strengths: Sequence[float] = STRENGTHS,
    dims: int | Reduction | None = None,
    scale: bool = True,
) -> float:
    """Leave-one-out score of ridge regression to the one-hot, multi-label or real targets, in closed form.

    Standardised features, free intercept; of the strengths (times n, on the sum of squares) the one with the smallest
    leave-one-out error counts.

    Args:
        features: (n, d).
        targets: classes, multi-label or regression; see `as_targets`.
        strengths: to try, each above 0.
        dims: principal components to keep first.
        scale: whether columns are standardised; False centres them only, for features that are scaled already.

    Returns:
        Accuracy (chance for random features), mean average precision, or explained variance; all times 100. See
        `estimate_score`.

    Raises:
        BadInput: see `as_targets` and `as_features`; no strength above 0.
    """
    known = as_targets(targets)
    x = reduce(as_features(features, len(known)), dims)
    x = standardise(x) if scale else x - x.mean(axis=0)
    if not len(strengths) or not all(0 < one < np.inf for one in strengths):
        raise out_of_range("strengths", list(strengths), "at least one number above 0", "ridge_loo")
    table = known.table
    centred = table - table.mean(axis=0)
    left, squares = left_vectors(x)
    best, least = centred, np.inf
    for strength in sorted(strengths, reverse=True):
        residuals = left_out_residuals(left, squares, centred, strength * len(x))
        error = float((residuals**2).mean())
        if error < least:
            best, least = residuals, error
    return estimate_score(table - best, known)


def left_vectors(x: Matrix) -> tuple[Matrix, Matrix]:
    """Left singular vectors (n, r) and squared singular values (r,), by the smaller of the two Gram matrices.

    About half the digits of the smallest values are lost on the way, which the regularisation hides; values below what
    can be told from 0 are dropped.
    """
    count, dims = x.shape
    if count <= dims:
        squares, vectors = np.linalg.eigh(x @ x.T)
    else:
        squares, right = np.linalg.eigh(x.T @ x)
        vectors = x @ right / np.sqrt(np.maximum(squares, np.finfo(np.float64).tiny))
    kept = squares > squares[-1] * max(count, dims) * np.finfo(np.float64).eps
    return vectors[:, kept], squares[kept]


def _right(x: Matrix, numbers: Rows, fitted: Rows, asked: Rows, solver: LogisticSolver) -> Matrix:
    """Which of the asked samples a regression on the fitted ones gets right, as 0 and 1."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(numbers[fitted])) < 2:
        raise BadInput("a logistic regression needs two classes among the samples it is fitted on; got one; shuffle.")
    model = LogisticRegression(C=1 / solver.strength, max_iter=solver.iterations, tol=solver.tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped early on purpose
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # a probe has many classes
        model.fit(x[fitted], numbers[fitted])
    return np.asarray(model.predict(x[asked]) == numbers[asked], np.float64)
