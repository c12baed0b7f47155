"""What happens to the objects of a clip, frame by frame: in sight, hidden, moving, at rest; and clips drawn for asking.

All of it is read off the ground truth of the frames that are there, whatever moments of the motion they show. Spans are
first and last frame, both included. Unusual: clips for asking rest at their ends and may run backwards, so that the
time of an event cannot be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from percepta.datasets.scenes.clips import REVERSED, make_clip
from percepta.datasets.scenes.dice import Dice
from percepta.datasets.scenes.scene import Clip, Track
from percepta.datasets.scenes.vocabulary import SceneConfig

TIME_STREAM = 5
MOVED = 0.01  # a smaller step between frames, in shorter sides, is rest
COVERED = 0.5  # an object of which less is visible counts as hidden
CLEARLY = 1.5  # how much longer a way must be along one axis for a direction to be said

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a clip and what an object does in it; `words` continue a sentence: 'moves left', 'is hidden' ..."""

    first: int
    last: int
    words: str


def draw_times(seed: int, frames: int) -> tuple[float, ...]:
    """`frames` moments of a motion, 0 to 1: a window of it, at rest for a while before and after, half backwards."""
    dice = Dice(seed, TIME_STREAM)
    first, last = max(dice.between(-0.25, 0.25), 0.0), min(dice.between(0.75, 1.25), 1.0)
    active = max(round(dice.between(0.4, 1.0) * frames), 1)
    before = dice.below(frames - active + 1)
    moments = np.linspace(first, last, active)
    times = np.concatenate([np.full(before, first), moments, np.full(frames - active - before, last)])
    return tuple(float(time) for time in (times[::-1] if dice.chance(0.5) else times))


def make_question_clip(seed: int, config: SceneConfig | None = None, frames: int = 12) -> Clip:
    """The clip of `seed` at moments that say nothing about when things happen; see `draw_times`."""
    return make_clip(seed, config, times=draw_times(seed, frames))


def moving(track: Track) -> np.ndarray:
    """(T,) bool, the frames from or to which the object moves."""
    steps = np.linalg.norm(np.diff(track.centres, axis=0), axis=1) > MOVED
    return np.append(steps, False) | np.insert(steps, 0, False)


def in_sight(track: Track) -> np.ndarray:
    """(T,) bool, whether any pixel of it is seen."""
    return np.asarray(track.visible_masks.any(axis=(1, 2)))


def hidden(track: Track) -> np.ndarray:
    """(T,) bool, whether others cover at least half of what the picture would show of it."""
    return np.asarray(track.amodal_masks.any(axis=(1, 2)) & (track.visible < COVERED))


def direction(track: Track, first: int, last: int) -> str | None:
    """'left', 'right', 'up' or 'down', from one frame to another; None where it is neither clearly."""
    across, down = (float(value) for value in track.centres[last] - track.centres[first])
    longer, shorter = max(abs(across), abs(down)), min(abs(across), abs(down))
    if longer < 3 * MOVED or longer < CLEARLY * shorter:
        return None
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"


def spans(flags: np.ndarray) -> list[Span]:
    """Runs of True: (first, last) of each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]


def summary(track: Track) -> str | None:
    """What the object does in the clip, such as 'moves left' or 'enters from the right'; None where it is not seen."""
    seen, moves = in_sight(track), spans(moving(track))
    if not seen.any():
        return None
    if not moves:
        return "stays still"
    if track.motion == "bounces":
        return "bounces"
    way = direction(track, moves[0][0], moves[-1][1])
    shown = spans(np.asarray(track.amodal_masks.any(axis=(1, 2))))
    if way in ("left", "right") and shown[0][0] > 0:
        return f"enters from the {REVERSED[way]}"
    if way in ("left", "right") and shown[-1][1] < len(seen) - 1:
        return f"leaves to the {way}"
    return "moves" if way is None else f"moves {way}"


def segments(track: Track) -> tuple[Segment, ...]:
    """The whole clip as parts in each of which the object does one thing; of a single frame only where T is 1.

    What cannot be seen goes before what is done: 'is out of sight', 'is hidden', then moving, then 'stays still'.
    """
    state = np.where(moving(track), 1, 0)
    state[hidden(track)] = 2
    state[~in_sight(track) & ~hidden(track)] = 3
    edges = [0, *(int(place) + 1 for place in np.flatnonzero(np.diff(state))), len(state)]
    parts = [[first, last - 1, int(state[first])] for first, last in pairwise(edges)]
    while len(parts) > 1 and any(part[0] == part[1] for part in parts):
        short = next(number for number, part in enumerate(parts) if part[0] == part[1])
        part, other = parts.pop(short), parts[short - 1 if short else 0]
        other[:2] = min(other[0], part[0]), max(other[1], part[1])
        parts = _joined(parts)
    return tuple(Segment(first, last, _words(track, first, last, kind)) for first, last, kind in parts)


def _joined(parts: list[list[int]]) -> list[list[int]]:
    """Neighbours of one kind as one."""
    joined = [parts[0]]
    for part in parts[1:]:
        if part[2] == joined[-1][2]:
            joined[-1][1] = part[1]
        else:
            joined.append(part)
    return joined


def _words(track: Track, first: int, last: int, kind: int) -> str:
    if kind != 1:
        return {0: "stays still", 2: "is hidden", 3: "is out of sight"}[kind]
    if track.motion == "bounces":
        return "bounces"
    way = direction(track, first, last)
    return "moves" if way is None else f"moves {way}"


def events(track: Track) -> list[tuple[str, Span]]:
    """Happenings with a time of their own: ('move', (3, 7)) ...; each happens once, in three frames or more.

    The words fit 'when does it ...' for verbs and 'when is it ...' for states. None fills more than two thirds of the
    clip: the time of what is almost always so can be guessed.
    """
    seen, away, covered, moves = in_sight(track), ~in_sight(track) & ~hidden(track), hidden(track), moving(track)
    found = [("in sight", seen), ("out of sight", away), ("hidden", covered), ("move", moves), ("rest", seen & ~moves)]
    kept = [(words, spans(flags)[0]) for words, flags in found if len(spans(flags)) == 1]
    said = summary(track) or ""
    span = spans(moves)[0] if len(spans(moves)) == 1 else None
    shown = np.flatnonzero(seen)
    if span is not None and said.startswith("enters"):
        kept.append(("enter", (int(shown[0]), span[1])))
    if span is not None and said.startswith("leaves"):
        kept.append(("leave", (span[0], int(shown[-1]))))
    return [(words, (a, b)) for words, (a, b) in kept if 1 < b - a <= len(seen) * 2 / 3 - 1]


def passings(clip: Clip) -> list[tuple[int, int]]:
    """Pairs of objects, the nearer first, that are clearly seen one over the other in some frame."""
    found = []
    for i, near in enumerate(clip.tracks):
        for j, far in enumerate(clip.tracks):
            if near.object.distance >= far.object.distance:
                continue
            both = (near.amodal_masks & far.amodal_masks).sum(axis=(1, 2))
            whole = np.maximum(np.minimum(near.amodal_masks.sum((1, 2)), far.amodal_masks.sum((1, 2))), 1)
            told = (near.visible_masks & far.amodal_masks).sum(axis=(1, 2))  # a third thing may cover the place
            if bool(((both / whole > 0.2) & (told >= 0.8 * both)).any()):
                found.append((i, j))
    return found
