"""Fewer dimensions before a score: principal components as PARC takes them (arXiv 2111.06977, section 4).

Unusual: the solver is randomised with a fixed seed and one power iteration, and scores depend on that: on small probes
exact components move PARC by points. So the settings travel as one value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from percepta.errors import one_of, out_of_range
from percepta.selection.inputs import Matrix

SOLVERS = ("randomized", "full")
SCALED = 1e-12  # below this a column or a row counts as constant


@dataclass(frozen=True, slots=True)
class Reduction:
    """Principal components of the features.

    Attributes:
        dims: how many, 1 or more; cut to the number of samples and of features.
        solver: "randomized" (the paper's), or "full" for exact components.
        seed, power_iterations, oversamples, normalizer: of the randomised solver, as scikit-learn's PCA names them
            random_state, iterated_power, n_oversamples, power_iteration_normalizer.
    """

    dims: int
    solver: str = "randomized"
    seed: int = 1919
    power_iterations: int = 1
    oversamples: int = 10
    normalizer: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.dims, bool) or self.dims < 1:
            raise out_of_range("dims", self.dims, "1 or more, or None for all", "the reduction")
        if self.solver not in SOLVERS:
            raise one_of("solver", self.solver, SOLVERS, "the reduction")


def reduce(features: Matrix, dims: int | Reduction | None) -> Matrix:
    """(n, d) → (n, min(dims, n, d)) components, not whitened; None gives the features as they are."""
    if dims is None:
        return features
    settings = dims if isinstance(dims, Reduction) else Reduction(dims)
    from sklearn.decomposition import PCA

    components = PCA(
        min(settings.dims, *features.shape),
        svd_solver=settings.solver,
        random_state=settings.seed,
        iterated_power=settings.power_iterations,
        n_oversamples=settings.oversamples,
        power_iteration_normalizer=settings.normalizer,
    )
    return np.asarray(components.fit_transform(features), np.float64)


def standardise(features: Matrix) -> Matrix:
    """Columns with mean 0 and population deviation 1; a constant column becomes 0."""
    mean = features.mean(axis=0)
    centred = features - mean
    deviation = np.sqrt(np.einsum("nd,nd->d", centred, centred) / len(features))
    # A constant column may keep the rounding of its mean: it is told by its deviation relative to that.
    varies = deviation > SCALED * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
    centred *= np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
    return centred


def rotated(features: Matrix) -> Matrix:
    """(n, d) → (n, min(n, d)) with the same products between rows, so that what depends on those alone costs less."""
    count, dims = features.shape
    if dims <= count:
        return features
    squares, vectors = np.linalg.eigh(features @ features.T)
    return np.asarray(vectors * np.sqrt(np.maximum(squares, 0.0)))
