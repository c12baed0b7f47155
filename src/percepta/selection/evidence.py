"""LogME: how likely are the targets under a Bayesian linear regression on the features, all weights averaged over?

"LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (arXiv 2102.11005), section 4 and algorithm 1.
Unusual: one decomposition of the features serves all targets, and the fixed point of the two precisions is found for
all of them at once; each stops by its own change.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.errors import out_of_range
from percepta.selection.inputs import Matrix, as_features, as_targets
from percepta.selection.linear import left_vectors
from percepta.selection.reduction import Reduction, reduce

GUARD = 1e-5  # keeps the two divisions finite where the weights or the errors vanish


def logme(
    features: Any,
    targets: Any,
    dims: int | Reduction | None = None,
    tolerance: float = 1e-2,
    rounds: int = 11,
) -> float:
    """The log of the maximum evidence, per sample, the mean over columns of the target.

    With prior precision a and noise precision b of each column y, m the posterior mean of the weights:
    L = n/2 log b + d/2 log a - n/2 log 2 pi - b/2 |F m - y|^2 - a/2 |m|^2 - 1/2 log |a I + b F'F|.

    Args:
        features: (n, d), used as they are.
        targets: classes (one column each, zeros and ones), multi-label, or regression (each column as it is).
        dims: principal components to keep first.
        tolerance: relative change of a / b at which a column stops.
        rounds: at most.

    Returns:
        Nats per sample, without absolute meaning: it may be above 0, and compares models on one probe only.

    Raises:
        BadInput: see `as_targets` and `as_features`; tolerance or rounds out of range.
    """
    known = as_targets(targets)
    if tolerance < 0 or rounds < 1:
        raise out_of_range("tolerance and rounds", (tolerance, rounds), "0 or more, and 1 or more", "logme")
    x = reduce(as_features(features, len(known)), dims)
    table = known.table
    left, squares = left_vectors(x)
    along = (left.T @ table) ** 2  # (r, K): the share of each column along each direction
    outside = np.maximum((table**2).sum(axis=0) - along.sum(axis=0), 0.0)
    return float(_evidence(squares, along, outside, len(x), tolerance, rounds).mean() / len(x))


def _evidence(squares: Matrix, along: Matrix, outside: Matrix, count: int, tolerance: float, rounds: int) -> Matrix:
    """(K,) log evidence of each column at its fixed point of the precisions."""
    prior, noise = np.ones(along.shape[1]), np.ones(along.shape[1])
    going = np.ones(along.shape[1], bool)
    sigma = squares[:, None]
    weight, error = _weight_and_error(sigma, along, outside, prior / noise)
    for _ in range(rounds):
        ratio = prior / noise
        effective = (sigma / (sigma + ratio)).sum(axis=0)
        prior = np.where(going, effective / (weight + GUARD), prior)
        noise = np.where(going, (count - effective) / (error + GUARD), noise)
        noise = np.maximum(noise, np.finfo(np.float64).tiny)
        weight, error = _weight_and_error(sigma, along, outside, prior / noise)
        going &= np.abs(prior / noise - ratio) > tolerance * ratio
        if not going.any():
            break
    determinant = np.log(prior + noise * sigma).sum(axis=0) - len(squares) * np.log(prior)  # less d log a
    return np.asarray(
        count / 2 * np.log(noise / (2 * np.pi)) - noise / 2 * error - prior / 2 * weight - determinant / 2
    )


def _weight_and_error(sigma: Matrix, along: Matrix, outside: Matrix, ratio: Matrix) -> tuple[Matrix, Matrix]:
    """|m|^2 and |F m - y|^2 of each column, for ratio = a / b."""
    weight = (sigma * along / (sigma + ratio) ** 2).sum(axis=0)
    error = (along * (ratio / (sigma + ratio)) ** 2).sum(axis=0) + outside
    return weight, error
