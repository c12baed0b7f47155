"""What a ranking says in words: why this candidate, and what to know before believing it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

UNRELIABLE = 0.3  # below this tau between two draws, the order is mostly chance


def reason_of(name: str, score: float, regret: float, estimators: Sequence[str], prior: str) -> str:
    """Why the first is recommended, in a sentence."""
    added = f", with a prior for {prior}" if prior else ""
    lost = "" if math.isnan(regret) else f"; taking it loses {regret:.2f} deviations in the mean over other probes"
    means = "the best" if len(estimators) == 1 else "the best mean of"
    return f"{name} has {means} {listed(estimators)} ({score:+.2f} deviations from the mean{added}){lost}."


def warnings_of(
    tied: Sequence[str], reliability: float, agreement: Mapping[str, float], resamples: int
) -> tuple[str, ...]:
    """What limits the ranking, a sentence each; empty where nothing does."""
    if not resamples:
        return ("no intervals: nothing was drawn, or the probe is too small to leave a part of it out; label more.",)
    found = []
    if reliability < UNRELIABLE:
        found.append(
            f"the order is mostly chance: two draws of the probe agree by tau {reliability:.2f}; label more samples."
        )
    for prior, tau in agreement.items():
        if tau >= reliability:
            found.append(
                f"{prior} alone rank the candidates as well as the scores (tau {tau:.2f} with a draw of the probe; two "
                f"draws have {reliability:.2f}): the probe says no more than the size."
            )
    if len(tied) > 1:
        found.append(
            f"the first {len(tied)} cannot be told apart on this probe ({listed(tied)}): train with each of these "
            f"{len(tied)} and take the best, or label more samples."
        )
    return tuple(found)


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; of more than six the first five and how many more."""
    shown = list(names) if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
