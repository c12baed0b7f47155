"""Learning-rate schedules: stateless functions from a step to a factor of the peak rate.

WSD (warm-up, stable, decay) is MiniCPM's (arXiv 2404.06395). Step t counts from 0 and gets the rate of update t.
Unusual: nothing is stored; a resumed or extended run asks the same function again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from percepta.errors import BadInput, one_of, out_of_range
from percepta.training.schedules_official import plm_cosine

Schedule = Callable[[int, int, int, int], float]
"""(step, total, warmup, decay) in steps, to the factor in [0, 1] of the peak rate."""

FINAL_RATIO = 0.1
"""Factor that `cosine` and the decay of `wsd` reach with the last update."""
RECIPROCAL_TIME = 1000
"""Steps after which `reciprocal_sqrt` has fallen by the square root of two: SAM 2's (arXiv 2408.00714, appendix)."""


def warmup_factor(step: int, warmup: int) -> float:
    """Rise of the first `warmup` steps: (t + 1) / W, then 1; the first update already moves the weights."""
    return min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0


def constant(step: int, total: int, warmup: int, decay: int) -> float:
    """Warm-up, then the peak rate for ever."""
    return warmup_factor(step, warmup)


def cosine(step: int, total: int, warmup: int, decay: int) -> float:
    """Warm-up, then half a cosine from 1 down to `FINAL_RATIO` at the last update."""
    if step < warmup:
        return warmup_factor(step, warmup)
    passed = min(1.0, (step - warmup + 1) / max(1, total - warmup))
    return FINAL_RATIO + (1 - FINAL_RATIO) * (1 + math.cos(math.pi * passed)) / 2


def wsd(step: int, total: int, warmup: int, decay: int) -> float:
    """Warm-up, peak rate, then a decay over the last `decay` steps in which 1/rate rises linearly.

    The decay is inversely proportional (arXiv 2410.05192): 1 / (1 + tau (1/FINAL_RATIO - 1)), tau in (0, 1].
    """
    into_decay = step - (total - decay)
    if into_decay < 0 or decay == 0:
        return warmup_factor(step, warmup)
    passed = min(1.0, (into_decay + 1) / decay)
    return min(warmup_factor(step, warmup), 1 / (1 + passed * (1 / FINAL_RATIO - 1)))


def wsd_linear(step: int, total: int, warmup: int, decay: int) -> float:
    """Warm-up, peak rate, then a straight line down to 0 over the last `decay` steps."""
    into_decay = step - (total - decay)
    if into_decay < 0 or decay == 0:
        return warmup_factor(step, warmup)
    return min(warmup_factor(step, warmup), max(0.0, 1 - (into_decay + 1) / (decay + 1)))


def reciprocal_sqrt(step: int, total: int, warmup: int, decay: int) -> float:
    """Warm-up, then 1 / sqrt(1 + t / RECIPROCAL_TIME) for t steps after it, and a straight line to 0 at the end.

    The line multiplies the curve over the last `decay` steps (arXiv 2106.04560).
    """
    curve = 1 / math.sqrt(1 + max(0, step - warmup) / RECIPROCAL_TIME)
    into_decay = step - (total - decay)
    line = max(0.0, 1 - (into_decay + 1) / (decay + 1)) if into_decay >= 0 and decay else 1.0
    return warmup_factor(step, warmup) * curve * line


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant": constant,
        "cosine": cosine,
        "wsd": wsd,
        "wsd_linear": wsd_linear,
        "reciprocal_sqrt": reciprocal_sqrt,
        "plm_cosine": plm_cosine,
    }
)


def schedule_factor(name: str, step: int, total: int, warmup: int = 0, decay: int = 0) -> float:
    """Factor of the peak rate for update number `step` (from 0) under the named schedule.

    Raises:
        BadInput: unknown name, a negative length, or warm-up and decay longer than the run.
    """
    if name not in SCHEDULES:
        raise one_of("schedule", name, SCHEDULES)
    if step < 0:
        raise out_of_range("step", step, "0 or more", f"schedule {name}")
    if min(total, warmup, decay) < 0 or warmup + decay > total:
        raise BadInput(
            f"schedule {name} needs warm-up ({warmup}) and decay ({decay}) of 0 or more that together fit into "
            f"{total} steps; shorten them or train longer."
        )
    return SCHEDULES[name](step, total, warmup, decay)
