"""Which samples of the target to look at: few, and every class at least twice.

The sampler of PARC's benchmark (arXiv 2111.06977, section 3): with more classes than half the budget, some classes are
left out; then one sample of each class in turn until the budget is spent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from percepta.errors import out_of_range
from percepta.selection.inputs import CLASSES, Rows, Targets, as_targets

BUDGET = 500


def sample_probe(labels: Any, budget: int = BUDGET, min_per_class: int = 2, seed: int = 0) -> Rows:
    """Ascending rows of the samples to use.

    Args:
        labels: of all samples; see `as_targets`. Multi-label and regression targets give a random subset.
        budget: samples to use at most.
        min_per_class: each class used gets at least so many, or all it has; budget // min_per_class classes at most.
        seed: of the choice.

    Returns:
        (min(budget, n),) int64; fewer where the classes that are used have no more.

    Raises:
        BadInput: see `as_targets`; a budget below twice `min_per_class`.
    """
    known = labels if isinstance(labels, Targets) else as_targets(labels)
    if min_per_class < 1:
        raise out_of_range("min_per_class", min_per_class, "1 or more", "sample_probe")
    if budget < 2 * min_per_class:
        raise out_of_range("budget", budget, f"at least {2 * min_per_class} samples, of two classes", "sample_probe")
    random = np.random.default_rng(seed)
    if known.kind != CLASSES:
        return np.sort(random.permutation(len(known))[:budget]).astype(np.int64)
    present = np.unique(known.numbers)
    if len(present) * min_per_class > budget:
        present = random.permutation(present)[: budget // min_per_class]
    queues = [random.permutation(np.flatnonzero(known.numbers == number)) for number in present]
    chosen: list[int] = []
    for place in range(max(len(queue) for queue in queues)):
        turn = [int(queue[place]) for queue in queues if place < len(queue)]
        # The last turn may be cut short; by chance, not by the order of the classes.
        chosen += (
            turn if len(chosen) + len(turn) <= budget else random.permutation(turn)[: budget - len(chosen)].tolist()
        )
        if len(chosen) >= budget:
            break
    return np.sort(np.array(chosen, np.int64))
