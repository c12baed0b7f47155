"""Do samples that are far apart in the features carry different labels? PARC, and its relatives RSA and DDS.

PARC: "Scalable Diverse Model Selection for Accessible Transfer Learning" (arXiv 2111.06977), section 4.
RSA: representation similarity analysis (arXiv 1904.11740); DDS: duality diagram similarity (arXiv 2008.02107), with the
debiased kernel alignment of arXiv 1905.00414.
Order of this file: distances, PARC, its AUC and its ceiling, the two that need a reference model.
Unusual: distances between labels of single classes take two values only, so that the rank correlation is a rescaled
area under the ROC curve and one sort of one list gives it, exactly, ties included.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.errors import BadInput
from percepta.selection.agreement import spearman
from percepta.selection.inputs import CLASSES, MULTI_LABEL, Matrix, Rows, Targets, as_features, as_targets
from percepta.selection.reduction import SCALED, Reduction, reduce, standardise

TIE = 1e-12  # distances that differ by less tie: equal samples differ by the order of sums alone


def parc(features: Any, targets: Any, dims: int | Reduction | None = None) -> float:
    """Pairwise annotation representation comparison: 100 times the rank correlation of pairwise distances.

    Features are reduced, standardised by column, and compared by 1 - correlation between samples; so are the one-hot
    rows of classes and the rows of a multi-label target. Rows of regression targets (ours; the paper has none) are
    standardised by column and compared by their Euclidean distance.

    Args:
        features: (n, d).
        targets: classes, multi-label or regression; see `as_targets`.
        dims: principal components to keep first (the paper's best is 32), which the standardisation then whitens.

    Returns:
        -100 to 100; at most `parc_ceiling` for classes, so values compare between models on one probe, never between
        probes. Random features give about 0.

    Raises:
        BadInput: see `as_targets` and `as_features`; targets without two different distances.
    """
    known = as_targets(targets)
    distances = _sample_distances(as_features(features, len(known)), dims)
    if known.kind != CLASSES:
        return 100 * spearman(_levels(_upper(distances)), _levels(_upper(_target_distances(known))))
    area, share, pairs, spread = _one_sort(distances, known.numbers)
    # Ranks have the deviation `spread`; the correlation with a two-valued list is the difference of the two mean ranks.
    return 100 * (2 * area - 1) * pairs / 2 * np.sqrt(share * (1 - share)) / spread if spread else 0.0


def parc_auc(features: Any, targets: Any, dims: int | Reduction | None = None) -> float:
    """PARC without its ceiling: 100 times the probability that two samples of different classes are farther apart than
    two of one class (ties count half).

    Args: as `parc`, for classes only.

    Returns:
        0 to 100; 50 for random features, 100 where every pair of one class is nearer than every pair of two. Without
        ties of distances, PARC is (2 * AUC - 1) times `parc_ceiling`, so both rank the models of one probe alike.
    """
    known = as_targets(targets)
    return 100 * _one_sort(_sample_distances(as_features(features, len(known)), dims), known.numbers)[0]


def parc_ceiling(targets: Any) -> float:
    """The largest PARC that these labels allow: 100 * sqrt(3 p (1 - p)) * N / sqrt(N^2 - 1).

    N = n (n - 1) / 2 pairs, of which the share p is of different classes. All pairs of one class tie among the label
    distances, and a list with ties never correlates perfectly with one without: 52 for 10 balanced classes, 17 for 100.
    """
    numbers = as_targets(targets).numbers
    pairs = len(numbers) * (len(numbers) - 1) / 2
    counts = np.bincount(numbers)
    share = 1 - float((counts * (counts - 1) / 2).sum()) / pairs
    return float(100 * np.sqrt(3 * share * (1 - share)) * pairs / np.sqrt(pairs**2 - 1))


def rsa(features: Any, reference: Any, dims: int | Reduction | None = None) -> float:
    """100 times the rank correlation of 1 - correlation between samples in two sets of features.

    Args:
        features: (n, d).
        reference: (n, e) of a model that was trained on the target, so this is an upper reference and no way to choose.
        dims: principal components of both, each by its own fit.
    """
    first = as_features(features)
    second = as_features(reference, len(first), "reference features")
    one, other = (_levels(_upper(_sample_distances(x, dims))) for x in (first, second))
    return 100 * spearman(one, other)


def dds(features: Any, reference: Any, dims: int | Reduction | None = None) -> float:
    """100 times the debiased centred alignment of 1 - cosine between standardised samples in two sets of features.

    Args: as `rsa`. Raises: BadInput for fewer than four samples, which the debiasing needs.
    """
    first = as_features(features)
    second = as_features(reference, len(first), "reference features")
    if len(first) < 4:
        raise BadInput(f"dds needs at least four samples; got {len(first)}.")
    one, other = (_debiased(1 - _cosines(standardise(reduce(x, dims)))) for x in (first, second))
    return float(100 * (one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))


def _sample_distances(features: Matrix, dims: int | Reduction | None) -> Matrix:
    """(n, n): 1 - correlation between rows of the reduced, standardised features."""
    distances = _correlations(standardise(reduce(features, dims)))
    return np.subtract(1, distances, out=distances)


def _target_distances(targets: Targets) -> Matrix:
    if targets.kind == MULTI_LABEL:
        return 1 - _correlations(targets.table)
    rows = standardise(targets.table)
    return np.asarray(np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(axis=-1)))


def _correlations(x: Matrix) -> Matrix:
    """(n, n) correlations of rows; a constant row has 0 with all. The means leave the products, not the rows."""
    products, sums = x @ x.T, x.sum(axis=1)
    squares = products.diagonal().copy()
    products -= np.outer(sums, sums / x.shape[1])
    return _scaled(products, squares)


def _cosines(x: Matrix) -> Matrix:
    """(n, n) cosines of rows; a row of zeros has 0 with all."""
    products = x @ x.T
    return _scaled(products, products.diagonal().copy())


def _scaled(products: Matrix, squares: Matrix) -> Matrix:
    """Products of rows over the lengths of both, in place; 0 for a length that is nothing beside its `squares`."""
    own = products.diagonal()
    counts = own > SCALED * squares
    lengths = np.where(counts, 1 / np.sqrt(np.where(counts, own, 1.0)), 0.0)
    products *= lengths[:, None]
    products *= lengths
    return products


def _upper(distances: Matrix) -> Matrix:
    """(n (n - 1) / 2,) the strict upper triangle, row by row."""
    return np.concatenate([distances[row, row + 1 :] for row in range(len(distances))])


def _levels(values: Matrix) -> Matrix:
    """The same order, with one whole number for all values of a tie."""
    order = np.argsort(values)
    levels = np.empty(len(values))
    levels[order] = np.cumsum(np.diff(values[order], prepend=values[order[0]]) > TIE)
    return levels


def _one_sort(distances: Matrix, labels: Rows) -> tuple[float, float, int, float]:
    """AUC, share p of pairs of different classes, number of pairs N, deviation of the average ranks.

    AUC by Mann and Whitney's rank sum over the pairs of one class, which are the few; average ranks of tied distances
    are halfway between the ends of the tie in the sorted list.
    """
    order = np.argsort(labels, kind="stable")
    grouped = distances[np.ix_(order, order)]
    ends = np.searchsorted(labels[order], labels[order], side="right")
    everything = _upper(grouped)
    alike = np.concatenate([grouped[row, row + 1 : end] for row, end in enumerate(ends)])
    pairs, few = len(everything), len(alike)
    many = pairs - few
    if not few or not many:
        raise BadInput("PARC needs pairs of one class and pairs of different classes; got only one sort of pair.")
    everything.sort()
    alike.sort()  # neighbours are looked up one after the other
    larger = np.diff(everything) > TIE
    ranks, shared = float(np.searchsorted(everything, alike, "right").sum()), 0.0
    if not larger.all():  # average ranks, halfway between the ends of a tie
        starts = np.concatenate([[0], np.flatnonzero(larger) + 1])
        ties = np.diff(starts, append=pairs).astype(np.float64)
        place = np.searchsorted(everything[starts], alike, "right") - 1
        ranks, shared = float((starts[place] + (ties[place] + 1) / 2).sum()), float((ties**3 - ties).sum())
    area = 1 - (ranks - few * (few + 1) / 2) / (few * many)
    variance = (float(pairs) ** 2 - 1 - shared / pairs) / 12
    return area, many / pairs, pairs, float(np.sqrt(max(variance, 0.0)))


def _debiased(table: Matrix) -> Matrix:
    """U-centring of a symmetric (n, n): row means over n - 2 and n - 1, zero diagonal (Székely and Rizzo 2014)."""
    count = len(table)
    centred = table.copy()
    np.fill_diagonal(centred, 0)
    means = centred.sum(axis=0) / (count - 2)
    means -= means.sum() / (2 * (count - 1))
    centred -= means[:, None] + means[None]
    np.fill_diagonal(centred, 0)
    return centred
