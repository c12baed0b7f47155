"""What a model says of frames and regions, in seconds and pixels.

A Perception Language Model (arXiv 2504.13180) knows a video as frames 0 to F - 1 and a picture as a square of 1000 by
1000, and speaks so: "[3, 9]" is an interval of frames, "[012,340,500,999]" a region.
Unusual: frame k stands for the time from its own to that of the next one, so that intervals that touch in frames touch
in seconds; numbers that are no frames of this video are left as they were said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from percepta.errors import BadInput
from percepta.media.regions import read_regions
from percepta.results import Boxes
from percepta.results.answer import Moment

_NUMBER = r"(\d{1,6}(?:\.\d{1,3})?)"
_INTERVAL = re.compile(rf"\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]")
_FRAME = re.compile(r"\b[Ff]rame (\d{1,6})\b")
_FRAMES = re.compile(r"\b[Ff]rames (\d{1,6})(?: ?(?:-|–|to|and) ?)(\d{1,6})\b")
_OPEN = re.compile(r"(?:\[[\d\s,.]{0,24}|\b[Ff](?:r(?:a(?:m(?:e(?: ?\d{0,6}|s ?[\d and–to-]{0,20})?)?)?)?)?)$")
"""The end of a text that may yet become an interval or a frame."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The frames that a model was shown, in seconds of their video.

    Attributes:
        starts: when each of the F frames is shown; not decreasing.
        end: when the last of them gives way, or the clip ends.
    """

    starts: tuple[float, ...]
    end: float

    def __post_init__(self) -> None:
        if not self.starts or any(late < early for early, late in zip(self.starts, self.starts[1:], strict=False)):
            raise BadInput("a timeline must have at least one frame, and times that do not decrease.")
        object.__setattr__(self, "end", max(self.end, self.starts[-1]))

    def interval(self, first: float, last: float) -> tuple[float, float] | None:
        """Seconds from frame `first` to the end of frame `last`, in whichever order they are said and with `last` cut
        to the last frame; None where the interval begins after it. Parts of a frame are parts of its time."""
        first, last = min(first, last), max(first, last)
        if first > len(self.starts) - 1:
            return None
        last = min(last, len(self.starts) - 1)
        start = self._at(first)
        end = self._at(last) if last != int(last) else self._after(int(last))
        return start, max(start, end)

    def _at(self, frame: float) -> float:
        whole = int(frame)
        start = self.starts[whole]
        return start + (frame - whole) * (self._after(whole) - start)

    def _after(self, frame: int) -> float:
        return self.starts[frame + 1] if frame + 1 < len(self.starts) else self.end


def in_seconds(words: str, timeline: Timeline | None) -> str:
    """The words with "[3, 9]" as "[1.2 s, 4.0 s]", "frame 3" as "frame 3 (1.2 s)" and "frames 3 to 9" likewise; as they
    are without a video."""
    if timeline is None:
        return words

    def interval(match: re.Match[str]) -> str:
        seconds = timeline.interval(float(match[1]), float(match[2]))
        return match[0] if seconds is None else f"[{seconds[0]:.1f} s, {seconds[1]:.1f} s]"

    def frame(match: re.Match[str]) -> str:
        seconds = timeline.interval(float(match[1]), float(match[1]))
        return match[0] if seconds is None else f"{match[0]} ({seconds[0]:.1f} s)"

    def frames(match: re.Match[str]) -> str:
        seconds = timeline.interval(float(match[1]), float(match[2]))
        return match[0] if seconds is None else f"{match[0]} ({seconds[0]:.1f} s to {seconds[1]:.1f} s)"

    return _FRAME.sub(frame, _FRAMES.sub(frames, _INTERVAL.sub(interval, words)))


def settled(words: str, timeline: Timeline | None) -> str:
    """The part of unfinished words that will be the same `in_seconds` whatever comes after, so that it can be shown."""
    if timeline is None:
        return words
    match = _OPEN.search(words)
    return words if match is None else words[: match.start()]


def moments_in(words: str, timeline: Timeline | None) -> tuple[Moment, ...]:
    """The intervals that are named, each with what stands after it up to the next one.

    For dense captions, one "[first, last]: words" a line; an interval in the middle of a sentence has no words.
    """
    if timeline is None:
        return ()
    found, matches = [], list(_INTERVAL.finditer(words))
    for match, following in zip_longest(matches, matches[1:]):
        seconds = timeline.interval(float(match[1]), float(match[2]))
        if seconds is None:
            continue
        begins_line = not words[: match.start()].rpartition("\n")[2].strip(" -*\t")
        rest = words[match.end() : len(words) if following is None else following.start()]
        told = " ".join(rest.strip().lstrip(":-").split()).rstrip(",;-* ") if begins_line else ""
        found.append(Moment(*seconds, told))
    return tuple(found)


def dense(words: str, timeline: Timeline) -> tuple[Moment, ...]:
    """The timed captions in an answer; words without any interval are one caption of all that was shown."""
    told = tuple(moment for moment in moments_in(words, timeline) if moment.words)
    plain = " ".join(words.split())
    return told or ((Moment(timeline.starts[0], timeline.end, plain),) if plain else ())


def boxes_in(words: str, source: str, size: tuple[int, int]) -> Boxes | None:
    """The regions of a picture of this (height, width) that are named, in pixels; None where none is."""
    rows = [row for row in read_regions(words, size[1], size[0]) if row[0] < row[2] and row[1] < row[3]]
    return Boxes(source, np.array(rows, np.float32), size=size) if rows else None
