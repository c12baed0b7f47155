"""What is remembered of an object, and what of it a frame looks at.

SAM 2, arXiv 2408.00714, section 4. Order of this file: one remembered frame, one object, the choice of memories.
Unusual: prompted frames are looked at wherever they lie in time, also ahead; of tracked frames only the latest count,
so that whatever is older may be forgotten without changing any later result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from percepta.models.sam2.config import Sam2Config
from percepta.models.sam2.memory import nearest_frames


@dataclass(slots=True)
class Remembered:
    """The result of one frame for N objects (one in a session, many in training).

    Attributes:
        logits: (N, 1, S / 4, S / 4) float32; None where no longer needed.
        pointer: (N, width).
        object_score: (N, 1) logit.
        memory: (N, memory_width, S / 16, S / 16), in the precision of the config; None before it is written, and where
            it is no longer needed.
    """

    logits: Tensor | None
    pointer: Tensor
    object_score: Tensor
    memory: Tensor | None = None


class Recollection(NamedTuple):
    """What a frame looks at: memories with their row in the table of times, pointers with their distance in frames."""

    memories: list[tuple[Tensor, int]]
    pointers: list[tuple[Tensor, int]]


@dataclass(slots=True)
class Clicks:
    """Points of one object on one frame, in pixels of the model's input: (1, P, 2) and (1, P)."""

    points: Tensor
    labels: Tensor


@dataclass(slots=True)
class TrackedObject:
    """One object: its prompts by frame, the results of prompted and tracked frames, and those not yet written.

    Attributes:
        clicks, masks: the prompts; a mask is (1, 1, S, S) bool.
        prompted, tracked: results by frame, with memories.
        fresh_prompted, fresh_tracked: results of new prompts, whose memories are written when tracking goes on.
        visited: frames that tracking has passed, and whether backwards.
    """

    identity: int
    clicks: dict[int, Clicks] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)
    prompted: dict[int, Remembered] = field(default_factory=dict)
    tracked: dict[int, Remembered] = field(default_factory=dict)
    fresh_prompted: dict[int, Remembered] = field(default_factory=dict)
    fresh_tracked: dict[int, Remembered] = field(default_factory=dict)
    visited: dict[int, bool] = field(default_factory=dict)

    @property
    def prompted_frames(self) -> set[int]:
        """Frames on which there are prompts."""
        return {*self.clicks, *self.masks}

    def latest(self, frame: int, fresh: Mapping[int, Remembered] | None = None) -> Remembered | None:
        """The result for a frame: a fresh one of the given kind, else of a prompt, else of tracking."""
        found = None if fresh is None else fresh.get(frame)
        return found or self.prompted.get(frame) or self.tracked.get(frame)

    def forget(self, frame: int, reverse: bool, config: Sam2Config) -> None:
        """Drop what no frame after `frame`, in the direction of tracking, can look at."""
        sign = 1 if reverse else -1
        window = max(1, (config.memories - 2) * config.memory_stride + 1)
        farthest = max(config.pointers - 1, window)
        for other in [other for other in self.tracked if (other - frame) * sign >= farthest]:
            del self.tracked[other]
        for other, result in self.tracked.items():
            if (other - frame) * sign >= window:
                result.memory = None
            if other != frame:
                result.logits = None

    def forget_around(self, frame: int, config: Sam2Config) -> None:
        """Drop the tracked frames whose memories lie within reach of `frame`, on either side."""
        reach = config.memory_stride * config.memories
        for other in [other for other in self.tracked if other != frame and abs(other - frame) <= reach]:
            del self.tracked[other]


def recollect(
    prompted: Mapping[int, Remembered],
    tracked: Mapping[int, Remembered],
    frame: int,
    config: Sam2Config,
    length: int | None = None,
    reverse: bool = False,
    past_only: bool = True,
) -> Recollection:
    """What `frame` looks at.

    Args:
        prompted, tracked: results by frame.
        length: frames of the video, None for an endless one; pointers reach back at most that far.
        reverse: whether the video is gone through backwards.
        past_only: leave out the pointers of prompted frames that lie ahead (as at evaluation, not while training).
    """
    selected, unselected = nearest_frames(frame, list(prompted), config.prompted_limit)
    others = {other: prompted[other] for other in unselected}
    last = config.memories - 1
    memories = [(found, last) for other in selected if (found := prompted[other].memory) is not None]
    for back in range(last, 0, -1):
        result = tracked.get(_earlier(frame, back, config.memory_stride, reverse))
        if result is None:
            result = others.get(_earlier(frame, back, config.memory_stride, reverse))
        if result is not None and result.memory is not None:
            memories.append((result.memory, back - 1))
    pointers = []
    for other in selected:
        distance = (other - frame) if reverse else (frame - other)
        if not past_only or distance >= 0:
            pointers.append((prompted[other].pointer, distance))
    for back in range(1, pointer_reach(config, length)):
        other = frame + back if reverse else frame - back
        if other < 0 or (length is not None and other >= length):
            break
        result = tracked.get(other) or others.get(other)
        if result is not None:
            pointers.append((result.pointer, back))
    return Recollection(memories, pointers)


def pointer_reach(config: Sam2Config, length: int | None) -> int:
    """How many frames' pointers count, the frame's own included: the config's, or fewer for a shorter video."""
    return config.pointers if length is None else max(2, min(length, config.pointers))


def _earlier(frame: int, back: int, stride: int, reverse: bool) -> int:
    """The frame of the memory number `back` (1 is the latest): the one before, then every `stride`-th."""
    if back == 1:
        return frame + 1 if reverse else frame - 1
    if reverse:
        return -(-(frame + 2) // stride) * stride + (back - 2) * stride
    return (frame - 2) // stride * stride - (back - 2) * stride
