"""Whether stated probabilities are kept: reliability and the expected calibration error, as pure functions.

Naeini, Cooper and Hauskrecht 2015; bins that hold equally many predictions: Nixon et al. 2019 (arXiv 1904.01685).
Unusual: most pairs of a question and a picture are plainly wrong and get probabilities near 0, which any bins of
equal width would reward; choose the predictions that matter (the first hit of each question, or p of 0.01 and more)
before calling, and say which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, out_of_range

BINS = 15


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Predictions sorted into bins of equally many.

    Attributes:
        stated: (B,) mean probability of each bin, ascending.
        kept: (B,) share of the bin that turned out true.
        counts: (B,) predictions in it.
    """

    stated: NDArray[np.float64]
    kept: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error: |stated - kept|, weighted by the counts; 0 to 1."""
        return float((self.counts * np.abs(self.stated - self.kept)).sum() / self.counts.sum())


def reliability(probabilities: Any, outcomes: Any, bins: int = BINS) -> Reliability:
    """Stated against kept, in at most `bins` bins of equally many predictions.

    Args:
        probabilities: (N,) from 0 to 1.
        outcomes: (N,) bool.

    Equal probabilities share one bin, so the order of the input does not matter.
    Raises: BadInput for none, for rows of different length, for a value outside 0..1 or NaN, for fewer bins than 1.
    """
    stated = np.asarray(probabilities, np.float64)
    came = np.asarray(outcomes)
    if stated.ndim != 1 or stated.shape != came.shape or not stated.size:
        raise BadInput(f"reliability needs two rows of one length, at least 1; got {stated.shape} and {came.shape}.")
    if not ((stated >= 0) & (stated <= 1)).all():
        raise BadInput("probabilities must lie from 0 to 1, and be numbers.")
    if bins < 1:
        raise out_of_range("bins", bins, "1 or more", "reliability")
    order = np.argsort(stated, kind="stable")
    stated, kept = stated[order], came[order].astype(np.float64)
    # A prediction belongs to the bin of the first of its equals.
    first = np.searchsorted(stated, stated, side="left")
    number = first * bins // len(stated)
    _, where = np.unique(number, return_inverse=True)
    counts = np.bincount(where)
    return Reliability(np.bincount(where, stated) / counts, np.bincount(where, kept) / counts, counts.astype(np.int64))


def expected_calibration_error(probabilities: Any, outcomes: Any, bins: int = BINS) -> float:
    """The error of `reliability`, 0 (what is stated is kept) to 1; with few predictions chance alone adds to it."""
    return reliability(probabilities, outcomes, bins).error
