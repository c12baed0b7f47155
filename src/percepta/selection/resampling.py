"""How far would the scores move with another probe? Parts of the probe, drawn without replacement.

Delete-d jackknife: Shao and Wu, "A General Theory for Jackknife Variance Estimation" (1989).
Unusual: the bootstrap draws with replacement, and a sample that is drawn twice is its own nearest neighbour, so that
every leave-one-out score would come out too good. Parts without doubles have the right spread once their deviations
are multiplied by sqrt(m / (n - m)), which is 1 for halves; and since a part is a smaller probe with a lower score,
deviations are taken from the mean of the parts and put around the score of the whole probe.
"""

from __future__ import annotations

import numpy as np

from percepta.selection.inputs import CLASSES, Matrix, Rows, Targets

SHARE = 0.5
LEAST = 2  # samples that a class keeps
SMALL = 4  # below so many samples a class (in the mean), whole classes are left out instead


def probe_parts(targets: Targets, resamples: int, seed: int = 0) -> list[Rows]:
    """Ascending rows of each part: about half of each class, at least two of it; half of the classes where classes have
    fewer than four samples; half of the samples for other kinds.

    Empty where the probe is too small to leave anything out.
    """
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(resamples):
        rows = _part(targets, random)
        if not 2 * LEAST <= len(rows) < len(targets):
            return []
        parts.append(rows)
    return parts


def deviations(whole: Matrix, parts: Matrix, sizes: Matrix, count: int) -> Matrix:
    """Draws of scores as another probe of the same size might give them.

    Args:
        whole: (...) scores on the whole probe.
        parts: (R, ...) scores on the parts; NaN where a part allowed none, which then counts as no deviation.
        sizes: (R,) samples in each part.
        count: samples of the whole probe.

    Returns:
        (R, ...) float64.
    """
    known = np.isfinite(parts)
    means = np.where(known, parts, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    factor = np.sqrt(sizes / (count - sizes)).reshape(-1, *[1] * whole.ndim)
    return np.asarray(whole + factor * np.where(known, parts - means, 0.0))


def _part(targets: Targets, random: np.random.Generator) -> Rows:
    count = len(targets)
    if targets.kind != CLASSES:
        return np.sort(random.permutation(count)[: round(SHARE * count)]).astype(np.int64)
    present = np.unique(targets.numbers)
    if count < SMALL * len(present) and len(present) >= 2 * LEAST:
        chosen = random.permutation(present)[: round(SHARE * len(present))]
        return np.flatnonzero(np.isin(targets.numbers, chosen)).astype(np.int64)
    rows = []
    for number in present:
        own = random.permutation(np.flatnonzero(targets.numbers == number))
        # Odd classes are rounded up or down by chance, so that the parts are halves in the mean.
        kept = int(np.floor(SHARE * len(own) + random.random()))
        rows.append(own[: max(kept, LEAST)])
    return np.sort(np.concatenate(rows)).astype(np.int64)
