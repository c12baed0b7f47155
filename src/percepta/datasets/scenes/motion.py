"""How the objects of a clip move: paths over time, and the choreography that makes some pass before others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from percepta.datasets.scenes.dice import Dice
from percepta.datasets.scenes.layout import draw_attributes, draw_centres, draw_radii
from percepta.datasets.scenes.scene import SceneObject

PASSING_SHARE = 0.6  # of the clips have one object that passes before or behind another
CLIP_SCALE = 0.9  # objects of clips are a little smaller than those of pictures: they need room to move
STEPS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Path:
    """Where an object's centre is at time t in 0 to 1.

    From `start` to `end` between the times `begin` and `finish`, at rest before and after. `arc` bends the way
    upwards; a path with `walls` (left, top, right, bottom) is reflected by them and may end anywhere.
    """

    motion: str
    start: Point
    end: Point
    begin: float = 0.0
    finish: float = 1.0
    arc: float = 0.0
    walls: tuple[float, float, float, float] | None = None

    def at(self, time: float) -> Point:
        done = min(max((time - self.begin) / (self.finish - self.begin), 0.0), 1.0)
        x = self.start[0] + (self.end[0] - self.start[0]) * done
        y = self.start[1] + (self.end[1] - self.start[1]) * done - 4 * self.arc * done * (1 - done)
        if self.walls is None:
            return x, y
        left, top, right, bottom = self.walls
        return _reflect(x, left, right), _reflect(y, top, bottom)


@dataclass(frozen=True, slots=True)
class Choreography:
    """The objects of a clip at time 0 and their paths; in a passing clip the first passes the second."""

    objects: tuple[SceneObject, ...]
    paths: tuple[Path, ...]
    passing: str | None  # 'behind' or 'in front of'


def _reflect(value: float, low: float, high: float) -> float:
    if high - low < 1e-6:
        return (low + high) / 2
    around = (value - low) % (2 * (high - low))
    return low + min(around, 2 * (high - low) - around)


def choreograph(dice: Dice, extent: Point) -> Choreography:
    """Objects and paths of one clip."""
    count = 2 + dice.below(3)
    attributes = draw_attributes(dice, count)
    radii = [radius * CLIP_SCALE for radius in draw_radii(dice, count)]
    order = dice.shuffled(range(count))
    passing = None
    if dice.chance(PASSING_SHARE):
        passing = dice.pick(("behind", "in front of"))
        paths = _passing_pair(dice, radii, extent)
        for index in range(2, count):
            place = _free_place(dice, paths, radii, index, extent)
            paths.append(_own_path(dice, place, radii[index], extent, calm=True))
        if (order[0] < order[1]) != (passing == "in front of"):
            order[0], order[1] = order[1], order[0]
    else:
        centres, radii = draw_centres(dice, radii, extent)
        busy = [True, *(dice.chance(0.6) for _ in range(count - 1))]
        busy[3:] = [False] * len(busy[3:])  # a fourth mover would make the caption too long
        paths = [_own_path(dice, centres[i], radii[i], extent, calm=i > 1) if busy[i] else _rest(centres[i])
                 for i in range(count)]  # fmt: skip
    largest = radii.index(max(radii))
    objects = tuple(
        SceneObject(
            *attributes[i],
            size="large" if i == largest else "small",
            centre=paths[i].at(0.0),
            radius=radii[i],
            angle=dice.between(-0.2, 0.2),
            distance=1.0 + 0.3 * order[i],
        )
        for i in range(count)
    )
    return Choreography(objects, tuple(paths), passing)


def _rest(place: Point) -> Path:
    return Path("still", place, place)


def _passing_pair(dice: Dice, radii: list[float], extent: Point) -> list[Path]:
    """The mover's way across the picture, and the resting target in its middle."""
    motion = dice.pick(("left", "right", "left", "right", "up", "down"))
    target = extent[0] * dice.between(0.4, 0.6), extent[1] * dice.between(0.38, 0.62)
    axis = 0 if motion in ("left", "right") else 1
    aside = target[1 - axis] + dice.between(-0.4, 0.4) * radii[1]
    low, high = 0.85 * radii[0], extent[axis] - 0.85 * radii[0]
    first, last = (low, high) if motion in ("right", "down") else (high, low)
    start, end = ((first, aside), (last, aside)) if axis == 0 else ((aside, first), (aside, last))
    arc = dice.between(0.0, 0.08) if axis == 0 and dice.chance(0.4) else 0.0
    return [Path(motion, start, end, dice.between(0.0, 0.15), dice.between(0.8, 1.0), arc), _rest(target)]


def _free_place(dice: Dice, paths: list[Path], radii: list[float], index: int, extent: Point) -> Point:
    """Of some random places the one that keeps farthest from the others' ways."""
    radius = radii[index]
    best, best_room = (radius, radius), -math.inf
    for _ in range(14):
        place = dice.between(radius, extent[0] - radius), dice.between(radius, extent[1] - radius)
        room = min(
            math.dist(place, path.at(time)) / (radius + radii[other])
            for other, path in enumerate(paths)
            for time in (0.0, 0.25, 0.5, 0.75, 1.0)
        )
        if room > best_room:
            best, best_room = place, room
    return best


def _own_path(dice: Dice, place: Point, radius: float, extent: Point, calm: bool) -> Path:
    """A path of its own that begins or ends near `place`; calm ones mostly rest."""
    kind = dice.pick(("still", "still", "enters", "leaves", "bounces") if calm else
                     ("moves", "moves", "moves", "bounces", "enters", "leaves"))  # fmt: skip
    if kind == "still":
        return _rest(place)
    if kind in ("enters", "leaves"):
        return _through_the_edge(dice, kind, place, radius, extent)
    if kind == "bounces":
        return _bouncing(dice, place, radius, extent)
    room = {
        "left": place[0] - radius,
        "right": extent[0] - radius - place[0],
        "up": place[1] - radius,
        "down": extent[1] - radius - place[1],
    }
    motion = max(dice.shuffled(tuple(STEPS)), key=lambda name: min(room[name], 0.35))
    step = min(room[motion], dice.between(0.3, 0.6))
    end = place[0] + STEPS[motion][0] * step, place[1] + STEPS[motion][1] * step
    arc = dice.between(0.04, 0.14) if motion in ("left", "right") and dice.chance(0.4) else 0.0
    return Path(motion, place, end, dice.between(0.0, 0.3), dice.between(0.7, 1.0), min(arc, room["up"]))


def _through_the_edge(dice: Dice, kind: str, place: Point, radius: float, extent: Point) -> Path:
    side = "left" if place[0] < extent[0] / 2 else "right"
    outside = (-1.1 * radius if side == "left" else extent[0] + 1.1 * radius), place[1]
    if kind == "enters":
        return Path(f"enters from the {side}", outside, place, dice.between(0.0, 0.12), dice.between(0.3, 0.45))
    return Path(f"leaves to the {side}", place, outside, dice.between(0.55, 0.7), dice.between(0.88, 1.0))


def _bouncing(dice: Dice, place: Point, radius: float, extent: Point) -> Path:
    """Straight on, thrown back by the edges of the picture at least once."""
    turn = dice.between(0.25, 1.3) + math.pi / 2 * dice.below(4)
    direction = math.cos(turn), math.sin(turn)
    walls = (radius, radius, extent[0] - radius, extent[1] - radius)
    length = dice.between(0.8, 1.4) * max(extent)
    return Path("bounces", place, (place[0] + direction[0] * length, place[1] + direction[1] * length), walls=walls)
