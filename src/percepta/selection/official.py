"""PARC exactly as its official code gives it, for comparison with published numbers.

Unusual: distances between one-hot rows should take two values, but rounding gives three or more, and the official code
ranks them as they come. So a tie that should hold thousands of pairs falls apart in an order that means nothing: with
37 classes the score loses ten of fifteen points, with most other numbers a few tenths at most. It even depends on the
order in which the linear algebra adds up. `parc` gives what the paper describes; use it to choose.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.selection.agreement import spearman
from percepta.selection.inputs import REGRESSION, as_features, as_targets
from percepta.selection.reduction import Reduction, reduce, standardise
from percepta.selection.representation import parc


def official_parc(features: Any, targets: Any, dims: int | Reduction | None = None) -> float:
    """`parc` with the rounding of the official code, -100 to 100.

    Args: as `parc`; `as_targets(..., classes=C)` decides the width of the one-hot rows, on which the rounding depends.
    """
    known = as_targets(targets)
    if known.kind == REGRESSION:  # the official code has no rule for it
        return parc(features, known, dims)
    x = standardise(reduce(as_features(features, len(known)), dims))
    pairs = np.triu_indices(len(x), 1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant row has no correlation
        distances = [1 - np.nan_to_num(np.asarray(np.corrcoef(rows)))[pairs] for rows in (x, known.table)]
    return 100 * spearman(*distances)
