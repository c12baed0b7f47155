"""What is known of a model before any picture is seen: its depth, its parameters, its cost.

Capacity to learn: PARC (arXiv 2111.06977), section 5: deeper networks fine-tune further than frozen features show. That
plain rankings by size often do as well as scores is arXiv 2510.06448; so a static prior stands beside every score.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.errors import BadInput
from percepta.selection.inputs import Matrix

LAYERS = 50.0  # PARC divides the number of layers by it


def z_scores(values: Any, ddof: int = 1) -> Matrix:
    """(values - mean) / deviation over all of them; 0 where all are the same (to the last digits).

    Raises: BadInput for values that are not finite numbers.
    """
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise BadInput("scores must be finite numbers; got NaN or infinity.")
    centred = numbers - numbers.mean()
    deviation = centred.std(ddof=ddof) if numbers.size > ddof else 0.0
    constant = deviation <= 1e-12 * np.abs(numbers).max(initial=0.0)
    return np.zeros_like(centred) if constant else np.asarray(centred / deviation)


def with_capacity(scores: Any, layers: Any, weight: float = 1.0, divisor: float = LAYERS, ddof: int = 1) -> Matrix:
    """Scores with PARC's capacity prior: z-score over all rows (deviation with n - ddof) + weight * layers / divisor.

    Args:
        scores: of every row of a table, of all targets and runs together.
        layers: of the model of each row, of the same shape.
        weight: of the prior; with 0 the scores come back as they are.
        divisor, ddof: the paper's 50 and 1.

    Raises:
        BadInput: other shapes, numbers that are not finite.
    """
    values, depth = np.asarray(scores, np.float64), np.asarray(layers, np.float64)
    if values.shape != depth.shape:
        raise BadInput(f"layers must be as many as scores {values.shape}; got {depth.shape}.")
    return z_scores(values, ddof) + weight * depth / divisor if weight else values


def depth_prior(depths: Any) -> Matrix:
    """The number of layers as a score. Raises BadInput unless all are above 0."""
    return _positive(depths, "depths")


def parameters_prior(parameters: Any) -> Matrix:
    """log10 of the number of parameters as a score. Raises BadInput unless all are above 0."""
    return np.asarray(np.log10(_positive(parameters, "parameters")))


def _positive(values: Any, what: str) -> Matrix:
    numbers = np.asarray(values, np.float64)
    if not (np.isfinite(numbers) & (numbers > 0)).all():
        raise BadInput(f"{what} must be numbers above 0; got {numbers.tolist()}.")
    return numbers
