"""What estimates of a target are worth, as one number a score can return, 100 at best."""

from __future__ import annotations

from percepta.errors import BadInput
from percepta.selection.inputs import CLASSES, MULTI_LABEL, Matrix, Targets


def estimate_score(estimates: Matrix, targets: Targets) -> float:
    """The worth of (n, m) estimates of the targets' table.

    Returns:
        For classes the accuracy of the largest estimate; for multi-label targets the mean average precision over the
        labels that some samples carry and others do not; for regression the explained share of the variance (R^2, the
        mean over columns that vary). All times 100.

    Raises:
        BadInput: no label that some samples carry and others do not.
    """
    if targets.kind == CLASSES:
        return float(100 * (estimates.argmax(axis=1) == targets.numbers).mean())
    truth = targets.table
    varies = truth.min(axis=0) < truth.max(axis=0)
    if not varies.any():
        raise BadInput("a score needs a label that some samples carry and others do not; got none.")
    truth, estimates = truth[:, varies], estimates[:, varies]
    if targets.kind == MULTI_LABEL:
        from sklearn.metrics import average_precision_score

        return float(100 * average_precision_score(truth, estimates, average="macro"))
    missed = ((truth - estimates) ** 2).sum(axis=0) / ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return float(100 * (1 - missed).mean())
