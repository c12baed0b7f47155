"""How much do the source's own predictions tell of the target's labels? LEEP and NCE count them together.

LEEP: log expected empirical prediction (arXiv 2002.12462), equations 1 to 4. NCE: negative conditional entropy (arXiv
1908.08142). Both need the probabilities of a classifier, and say little where the source has few classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.selection.inputs import as_probabilities, as_targets

SMOOTHING = 1e-5  # NCE adds it to every cell, as PARC's comparison does


def leep(probabilities: Any, targets: Any) -> float:
    """The mean log likelihood of the labels under P(label | source class) times the source's probabilities.

    Args:
        probabilities: (n, z), rows that sum to 1.
        targets: (n,) classes.

    Returns:
        0 or below. With one-hot probabilities, minus the conditional entropy of the labels (in nats).

    Raises:
        BadInput: see `as_targets`; probabilities that are none.
    """
    known = as_targets(targets)
    numbers = known.numbers
    given = as_probabilities(probabilities, len(known))
    joint = known.table.T @ given
    marginal = joint.sum(axis=0)
    conditional = joint / np.where(marginal > 0, marginal, 1.0)  # a source class that is never given says nothing
    expected = (conditional[numbers] * given).sum(axis=1)
    return float(np.log(expected).mean())


def nce(probabilities: Any, targets: Any) -> float:
    """Minus the conditional entropy (in nats) of the labels given the source's likeliest class, every cell smoothed.

    Args: as `leep`. The sum runs over all cells, so `as_targets(..., classes=C)` counts for classes that are missing.
    """
    known = as_targets(targets)
    given = as_probabilities(probabilities, len(known))
    counts = np.zeros((known.width, given.shape[1]))
    np.add.at(counts, (known.numbers, given.argmax(axis=1)), 1.0)
    joint = counts / len(known) + SMOOTHING
    marginal = counts.sum(axis=0) / len(known) + SMOOTHING
    return float((joint * np.log(joint / marginal)).sum())
