"""How far do classes lie apart for their spread? The H-score, and the overlap of class Gaussians (GBC).

H-score: arXiv 2212.10082 (first in ICIP 2019); with Ledoit and Wolf's covariance: arXiv 2110.06893. GBC: Gaussian
Bhattacharyya coefficient (arXiv 2111.12780), equations 3 to 5.
Unusual: the H-score is read off the left singular vectors (the sum over classes of n_c times the squared mean of their
rows), which costs one decomposition of the smaller side in place of a pseudo-inverse of d by d.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.errors import one_of
from percepta.selection.inputs import Matrix, Rows, as_features, as_targets
from percepta.selection.reduction import Reduction, reduce, standardise

VARIANTS = ("fast", "published")
COVARIANCES = ("diagonal", "spherical")
CUTOFF = 1e-15  # singular values of the covariance below this share of the largest count as 0
FLOOR = 1e-3  # the least variance of a class, as a share of the mean variance within classes


def h_score(
    features: Any,
    targets: Any,
    dims: int | Reduction | None = None,
    variant: str = "fast",
    shrink: bool = False,
) -> float:
    """trace(pinv(covariance of features) @ covariance of class means), on standardised features.

    Args:
        features: (n, d). Where n < d and nothing is shrunk, every model gets nearly the number of classes less one:
            reduce first, or shrink.
        targets: (n,) classes.
        dims: principal components to keep first.
        variant: "fast" divides the sum of a class by its count + 1e-8, "published" by its count.
        shrink: Ledoit and Wolf's covariance of the features, and class means weighted with what it keeps.

    Returns:
        0 to the number of classes less one.

    Raises:
        BadInput: see `as_targets` and `as_features`; an unknown variant.
    """
    known = as_targets(targets)
    if variant not in VARIANTS:
        raise one_of("variant", variant, VARIANTS, "the H-score")
    x = standardise(reduce(as_features(features, len(known)), dims))
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    squares = values**2
    kept = squares > CUTOFF * squares[0]
    left, squares = left[:, kept], squares[kept]
    sums, counts = _class_sums(left, known.numbers)
    means = sums / (counts + (1e-8 if variant == "fast" else 0.0))
    between = (counts * means**2).sum(axis=0)  # of each direction, as a share of its total
    if not shrink:
        return float(between.sum())
    count, width = x.shape
    share = shrinkage(x)
    total = (1 - share) * squares / count + share * squares.sum() / (count * width)
    return float(((1 - share) * squares * between / ((count - 1) * total)).sum())


def shrinkage(x: Matrix) -> float:
    """Ledoit and Wolf's share (0 to 1) of the sphere in the covariance of centred (n, d) features (2004, equation 14).

    Without a d by d matrix: the sums of squares of covariance and Gram matrix are the same.
    """
    count, width = x.shape
    lengths = (x**2).sum(axis=1)
    gram = x @ x.T if count <= width else x.T @ x
    power, trace = float((gram**2).sum()) / count**2, float(lengths.sum()) / count
    distance = (power - trace**2 / width) / width
    noise = (float((lengths**2).sum()) / count - power) / (count * width)
    return float(min(noise, distance) / distance) if distance > 0 else 0.0


def gbc(features: Any, targets: Any, dims: int | Reduction | None = 64, covariance: str = "diagonal") -> float:
    """Minus the sum over ordered pairs of classes of exp(-Bhattacharyya distance) of their Gaussians.

    A class whose variance vanishes (one sample) gets `FLOOR` of the mean variance within classes.

    Args:
        features: (n, d).
        targets: (n,) classes.
        dims: principal components to keep first, 64 in the paper.
        covariance: "diagonal" or "spherical".

    Returns:
        -C (C - 1) for classes that coincide, to 0 for classes without overlap. It compares models on one probe only.

    Raises:
        BadInput: see `as_targets` and `as_features`; an unknown covariance.
    """
    known = as_targets(targets)
    if covariance not in COVARIANCES:
        raise one_of("covariance", covariance, COVARIANCES, "gbc")
    x = reduce(as_features(features, len(known)), dims)
    sums, counts = _class_sums(x, known.numbers)
    means = sums / counts
    spread = _class_sums(x**2, known.numbers)[0] / counts - means**2
    if covariance == "spherical":
        spread = np.repeat(spread.mean(axis=1, keepdims=True), x.shape[1], axis=1)
    within = float((counts * spread).sum() / (len(x) * x.shape[1]))
    spread = np.maximum(spread, FLOOR * within + np.finfo(np.float64).tiny)
    logs = np.log(spread).sum(axis=1)
    total = 0.0
    for number in range(len(means)):
        middle = (spread[number] + spread) / 2
        apart = ((means[number] - means) ** 2 / middle).sum(axis=1) / 8
        wider = np.log(middle).sum(axis=1) / 2 - (logs[number] + logs) / 4
        total += float(np.exp(-(apart + wider)).sum()) - 1
    return -total


def _class_sums(x: Matrix, numbers: Rows) -> tuple[Matrix, Matrix]:
    """(C, d) sums and (C, 1) counts of the classes that are present."""
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, places, x)
    return sums, counts.astype(np.float64)[:, None]
