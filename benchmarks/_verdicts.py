"""What a claim of a paper comes to, from figures that were measured in pairs; shared by the benchmarks."""

from __future__ import annotations

import statistics

NO_LOSS = 1.0  # points that a setting said to be no worse may be worse


def verdict(differences: list[float], claims_difference: bool) -> str:
    """ "holds", "contradicted" or "open", with the mean of the paired differences and a margin of two standard errors.

    `claims_difference` says whether the first setting is claimed to be better, or only no worse, than the second.
    """
    mean = statistics.mean(differences)
    margin = 2 * statistics.stdev(differences) / len(differences) ** 0.5
    holds = mean > margin if claims_difference else mean - margin > -NO_LOSS
    word = "holds" if holds else "contradicted" if mean < -margin else "open, within noise"
    return f"{word} ({mean:+.2f} points, margin {margin:.2f})"
