"""Which frames of a clip a language model sees (Perception Language Model, arXiv 2504.13180, section 3).

Unusual: the official rule takes one frame a second where that gives as many as are wanted, thins those evenly where it
gives more, and takes even steps over all frames where it gives fewer; halves are rounded to even numbers on the way.
"""

from __future__ import annotations

import math

from percepta.errors import BadInput, one_of, out_of_range

FRAME_RULES = ("official", "transformers")


def frame_indices(
    total: int,
    rate: float,
    count: int,
    start: float | None = None,
    end: float | None = None,
    rule: str = "official",
) -> list[int]:
    """The numbers of the frames that stand for a clip, increasing; fewer than `count` where it has fewer.

    Args:
        total: frames of the video, T >= 1.
        rate: frames a second, above 0.
        count: frames wanted, N >= 1.
        start, end: of the clip, in seconds of the video; None means its ends. They may be given in either order; equal
            ones mean two neighbouring frames.
        rule: "official", or "transformers": int(i * T / N) over all frames, as that port samples.

    Raises:
        BadInput: a number out of range, or a clip that begins after the last frame.
    """
    for what, value in (("frames", total), ("count", count)):
        if value < 1:
            raise out_of_range(what, value, "1 or more", owner="frame_indices")
    if not (math.isfinite(rate) and rate > 0):
        raise out_of_range("rate", rate, "frames a second, above 0", owner="frame_indices")
    if rule not in FRAME_RULES:
        raise one_of("rule", rule, FRAME_RULES, owner="frame_indices")
    first, last = _ends(total, rate, start, end)
    length = last - first + 1
    if rule == "transformers":
        wanted = min(count, length)
        return [first + index * length // wanted for index in range(wanted)]
    # Below half a frame a second the official step is 0, with which nothing can be counted.
    grid = range(first, last + 1, max(1, round(rate)))
    if len(grid) > count:
        return [grid[index] for index in _evenly(len(grid), count)]
    if len(grid) < count:
        return [first + index for index in _evenly(length, min(count, length))]
    return list(grid)


def _ends(total: int, rate: float, start: float | None, end: float | None) -> tuple[int, int]:
    """First and last frame of the clip."""
    for what, value in (("start", start), ("end", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise out_of_range(what, value, "seconds, 0 or more", owner="a clip")
    first = 0 if start is None else int(start * rate)
    last = total - 1 if end is None else min(int(end * rate), total - 1)
    if first > last and end is not None and int(end * rate) < first:
        first, last = last, first  # given the wrong way round; the later end is cut below
    if first > total - 1:
        raise BadInput(
            f"a clip must begin before the last frame, at {(total - 1) / rate:.6g} seconds; got {start:g} seconds."
        )
    if first == last:
        last = first + 1
    return first, min(last, total - 1)


def _evenly(total: int, count: int) -> list[int]:
    """`count` of `total` numbers, both ends among them, halves rounded to even."""
    step = (total - 1) / (count - 1) if count > 1 else 0
    return [round(index * step) for index in range(count)]
