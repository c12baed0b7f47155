"""Which objects a scene holds and where they stand.

Attributes are drawn so that text alone tells nothing: colours, shapes and textures are drawn as three bags and paired
at random, and every condition on them looks at the bags only. A caption with two attributes swapped is therefore
as likely a text as the true one. One colour or one shape occurs twice as soon as there are three objects: that pair
is the distractor. Pairs of colour and shape are unique within a scene, so each description means one object.
"""

from __future__ import annotations

import math

from percepta.datasets.scenes.dice import Dice
from percepta.datasets.scenes.scene import Backdrop, SceneObject
from percepta.datasets.scenes.vocabulary import COLOURS, FIELDS, FLOORS, SHAPES, SKIES, TEXTURES, WALLS

COLOUR_NAMES = tuple(COLOURS)
LARGEST_RADIUS = 0.215
APART = 0.86  # distance of two centres over the sum of the radii; below 1 things may overlap a little


def place_objects(dice: Dice, extent: tuple[float, float]) -> tuple[list[SceneObject], int]:
    """The objects of a scene and how many of them a caption names (these come first)."""
    count = 2 + dice.below(3)
    attributes = draw_attributes(dice, count)
    named = count
    if count > 2 and dice.chance(0.25):  # one twin stays unnamed: a distractor proper
        attributes, named = _twin_last(dice, attributes), count - 1
    radii = draw_radii(dice, count)
    centres, radii = draw_centres(dice, radii, extent)
    distances = dice.shuffled([1.0 + 0.3 * rank for rank in range(count)])
    largest = radii.index(max(radii))
    objects = [
        SceneObject(
            *attributes[i],
            size="large" if i == largest else "small",
            centre=centres[i],
            radius=radii[i],
            angle=dice.between(-0.2, 0.2),
            distance=distances[i],
        )
        for i in range(count)
    ]
    return objects, named


def draw_attributes(dice: Dice, count: int) -> list[tuple[str, str, str]]:
    """(colour, shape, texture) of each object."""
    colours, shapes = dice.shuffled(COLOUR_NAMES)[:count], dice.shuffled(SHAPES)[:count]
    if count > 2:
        twins = colours if dice.chance(0.5) else shapes
        twins[-1] = twins[0]
    textures = [dice.pick(TEXTURES) for _ in range(count)]
    return list(zip(dice.shuffled(colours), dice.shuffled(shapes), textures, strict=True))


def _twin_last(dice: Dice, attributes: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """One object that shares its colour or shape with another moves to the end."""
    twins = [
        i
        for i, mine in enumerate(attributes)
        if any(mine[0] == other[0] or mine[1] == other[1] for other in attributes if other is not mine)
    ]
    last = dice.pick(twins)
    return [pair for i, pair in enumerate(attributes) if i != last] + [attributes[last]]


def draw_radii(dice: Dice, count: int) -> list[float]:
    """Radii in units of the shorter side; exactly one object is clearly the largest."""
    radii = [dice.between(0.14, 0.172 if count == 4 else 0.178) for _ in range(count)]
    radii[dice.below(count)] = dice.between(0.198, 0.205 if count == 4 else LARGEST_RADIUS)
    return radii


def draw_centres(
    dice: Dice, radii: list[float], extent: tuple[float, float]
) -> tuple[list[tuple[float, float]], list[float]]:
    """Random places, pushed apart; where there is no room all radii shrink a little. Returns centres and radii."""
    width, height = extent
    points = [[dice.between(r, width - r), dice.between(r, height - r)] for r in radii]
    for _ in range(40):
        if not _push_apart(points, radii, extent):
            break
    shrink = 1.0
    for i in range(len(points)):
        for j in range(i):
            gap = math.dist(points[i], points[j]) / (radii[i] + radii[j])
            shrink = min(shrink, gap / (0.95 * APART))
    return [(x, y) for x, y in points], [radius * shrink for radius in radii]


def _push_apart(points: list[list[float]], radii: list[float], extent: tuple[float, float]) -> bool:
    """One round of pushing; whether anything moved."""
    moved = False
    for i in range(1, len(points)):
        for j in range(i):
            ax, ay = points[i]
            bx, by = points[j]
            distance = math.hypot(ax - bx, ay - by)
            lack = APART * (radii[i] + radii[j]) - distance
            if lack <= 1e-4:
                continue
            moved = True
            push = 0.55 * lack / max(distance, 1e-3)
            step_x, step_y = push * (ax - bx) + 1e-4, push * (ay - by) - 1e-4
            points[i] = [ax + step_x, ay + step_y]
            points[j] = [bx - step_x, by - step_y]
    for point, radius in zip(points, radii, strict=True):
        point[0] = min(max(point[0], radius), extent[0] - radius)
        point[1] = min(max(point[1], radius), extent[1] - radius)
    return moved


def draw_backdrop(dice: Dice, extent: tuple[float, float]) -> Backdrop:
    outdoors = dice.chance(0.3)
    walls, floors = (SKIES, FIELDS) if outdoors else (WALLS, FLOORS)
    tone = dice.between(0.94, 1.06)
    slant = dice.between(0.35, 0.9) * (1 if dice.chance(0.5) else -1)
    length = math.hypot(slant, 1.0)
    wall, floor = dice.pick(walls), dice.pick(floors)
    while not outdoors and sum(abs(a - b) for a, b in zip(wall, floor, strict=True)) < 60:
        floor = dice.pick(floors)
    return Backdrop(
        wall=(wall[0] * tone, wall[1] * tone, wall[2] * tone),
        floor=(floor[0] * tone, floor[1] * tone, floor[2] * tone),
        outdoors=outdoors,
        wall_pattern=dice.below(4),
        floor_pattern=dice.below(3),
        horizon=extent[1] * dice.between(0.5, 0.74),
        phase=dice.between(0.0, 100.0),
        light=(slant / length, -1.0 / length),
    )
