"""Which frames of a video stand for it. Both samplers of the Perception Encoder (arXiv 2504.13181), by name."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from percepta.errors import one_of, out_of_range

RULES = ("ends", "even")


def sample_frames(total: int, count: int, rule: str = "ends") -> list[int]:
    """`count` frame numbers of a video of `total` frames, not decreasing; frames repeat in a video that is shorter.

    Args:
        total: frames in the video, T >= 1.
        count: frames wanted, N >= 1.
        rule: "ends" takes int(i * (T - 1) / (N - 1)), first and last frame included, and T // 2 for N = 1 (the rule of
            the published evaluations); "even" takes int(i * T / N) (the rule of the published demo).

    Raises:
        BadInput: an unknown rule, or a number below 1.
    """
    total, count = _positive("total", total), _positive("count", count)
    if rule not in RULES:
        raise one_of("rule", rule, RULES, owner="sample_frames")
    if rule == "even":
        return [index * total // count for index in range(count)]
    if count == 1:
        return [total // 2]
    return [index * (total - 1) // (count - 1) for index in range(count)]


def _positive(what: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise out_of_range(what, value, "a whole number, 1 or more", owner="sample_frames") from None
    if number < 1:
        raise out_of_range(what, value, "1 or more", owner="sample_frames")
    return number
