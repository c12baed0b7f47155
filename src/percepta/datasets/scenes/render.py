"""From placed objects to pixels and ground truth.

Order of this file: the backdrop, the patches of the objects (distance, texture, light), the painting from far to near.
Unusual: everything is a signed distance on the pixel grid, so edges are smooth at any resolution; an object is worked
out on a small patch around it, all objects of a scene at once; pictures are planar (3, H, W) float32 until the end.
"""

# numpy's stubs give Any for sums of arrays and Python numbers, hence:
# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.scenes.layout import LARGEST_RADIUS
from percepta.datasets.scenes.scene import Backdrop, SceneObject
from percepta.datasets.scenes.shapes import DISTANCES, Array
from percepta.datasets.scenes.vocabulary import COLOURS, PATTERN_COLOURS, SceneConfig

BEVEL = 0.34  # width of the rounded rim, in radii
SHADOW_SOFTNESS = 0.075  # in shorter sides, as all lengths below
SHADOW_SHIFT = 0.05
SHADOW_STRENGTH = 0.5
STRIPE_PERIOD, STRIPE_SHARE = 0.094, 0.44
DOT_PERIOD, DOT_RADIUS = 0.092, 0.031
WALL_DISTANCE, FRONT_DISTANCE = 6.0, 2.6  # metres to the wall and to the floor at the lower edge


class Patches(NamedTuple):
    """All objects of a picture on equal patches; row and column of the first pixel may lie outside the picture."""

    rows: list[int]
    columns: list[int]
    cover: Array  # (N, P, P) share of the pixel that the object covers
    shadow: Array  # (N, P, P) darkness of the soft shadow, in the object's own place
    paint: Array  # (N, 3, P, P) colours, 0 to 255


@lru_cache(maxsize=32)
def _pixel_centres(config: SceneConfig) -> tuple[Array, Array]:
    """x as (1, W) and y as (H, 1), in units of the shorter side."""
    x = (np.arange(config.width, dtype=np.float32) + 0.5) / config.shorter_side
    y = (np.arange(config.height, dtype=np.float32) + 0.5) / config.shorter_side
    return x[None], y[:, None]


def paint_backdrop(backdrop: Backdrop, config: SceneConfig) -> tuple[Array, Array]:
    """The empty room or field: canvas (3, H, W) float32 in 0 to 255, nearness of the floor (H, W), 0 to 1."""
    x, y = _pixel_centres(config)
    width, height = config.extent
    horizon = _horizon(backdrop, x)
    below = y - horizon
    floor_share = np.clip(below * config.shorter_side + 0.5, 0, 1)
    nearness = np.clip(below / max(height - backdrop.horizon, 0.05), 0, 1)
    wall = _wall_light(backdrop, x, y, width)
    floor = _floor_light(backdrop, x, nearness, width)
    if not backdrop.outdoors:  # a skirting board and the shade above it
        board = np.clip(1 - np.abs(below + 0.012) * 60, 0, 1)
        wall = wall * (1 - 0.16 * board)
    wall = wall * (1 - floor_share)
    floor = floor * floor_share
    lit = _glow(backdrop, x, y, width, height)
    wall *= lit
    floor *= lit
    canvas = np.empty((3, config.height, config.width), np.float32)
    for channel in range(3):
        np.multiply(wall, backdrop.wall[channel], out=canvas[channel])
        canvas[channel] += floor * backdrop.floor[channel]
    return canvas, nearness


def backdrop_depth(nearness: Array) -> Array:
    """(H, W) float32 metres: the wall is far, the floor comes nearer as perspective has it."""
    far, near = 1 / WALL_DISTANCE, 1 / FRONT_DISTANCE
    return (1 / (far + (near - far) * nearness)).astype(np.float32)


def _horizon(backdrop: Backdrop, x: Array) -> Array:
    """(1, W): straight in rooms, two soft hills outdoors."""
    if not backdrop.outdoors:
        return np.full_like(x, backdrop.horizon)
    hills = np.sin(x * 4.2 + backdrop.phase) * 0.035
    hills += np.sin(x * 9.1 + backdrop.phase * 1.7) * 0.014
    return backdrop.horizon + hills


def _glow(backdrop: Backdrop, x: Array, y: Array, width: float, height: float) -> Array:
    """(H, W): a soft fall of light away from the lamp's side."""
    side = (0.16 * backdrop.light[0] / width) * (x - width / 2)
    return 1.03 + side - (0.13 / height) * (y - height / 2)


def _wall_light(backdrop: Backdrop, x: Array, y: Array, width: float) -> Array:
    """A faint pattern around 1, broadcastable to (H, W): paint, wallpaper, panels or plaster; sky outdoors."""
    phase = backdrop.phase
    if backdrop.outdoors:
        return 0.86 + 0.26 * np.minimum(y, 1) + 0 * x
    if backdrop.wall_pattern == 1:
        wave = np.abs((x * 7 + phase) % 1 - 0.5) * 4 - 1
        return 1 + 0.04 * np.clip(wave * 4, -1, 1) + 0 * y
    if backdrop.wall_pattern == 2:
        across = np.abs((x * 2.5 + phase) % 1 - 0.5)
        seam = np.clip(1 - across * 26, 0, 1)
        return 1.01 - 0.08 * seam + 0 * y
    if backdrop.wall_pattern == 3:
        plaster = np.sin(x * 11 + phase) * np.sin(y * 9 + phase * 0.7)
        plaster += np.sin(x * 23 - phase) * np.sin(y * 19 + phase) * 0.6
        return 1 + 0.025 * plaster
    return np.ones_like(y) + 0 * x


def _floor_light(backdrop: Backdrop, x: Array, nearness: Array, width: float) -> Array:
    """(H, W) around 1: planks, tiles or carpet in perspective; mown stripes outdoors."""
    scale = 0.3 + nearness  # how wide one metre looks there
    across = (x - width / 2) / scale
    along = 1.5 / scale + backdrop.phase
    sharp = np.minimum(nearness * 5, 1)  # patterns fade with distance instead of flickering
    if backdrop.outdoors:
        wave = np.abs((across * 1.3 + backdrop.phase) % 1 - 0.5) * 4 - 1
        return 0.93 + 0.12 * nearness + 0.035 * np.clip(wave * 5, -1, 1) * sharp
    if backdrop.floor_pattern == 0:
        plank = across * 4
        seam = np.clip(1 - np.abs(plank % 1 - 0.5) * 18, 0, 1)
        board = np.sin(np.floor(plank + 0.5) * 2.4 + backdrop.phase)
        return 1 - (0.14 * seam - 0.05 * board) * sharp
    if backdrop.floor_pattern == 1:
        u = np.abs(across * 1.6 % 1 - 0.5) - 0.25
        v = np.abs(along * 1.1 % 1 - 0.5) - 0.25
        return 1 + 0.07 * np.clip(u * 24, -1, 1) * np.clip(v * 24, -1, 1) * sharp
    weave = np.sin(across * 16) * np.sin(along * 14)
    return 0.97 + 0.04 * nearness + 0.02 * weave * sharp


def object_patches(objects: Sequence[SceneObject], backdrop: Backdrop, config: SceneConfig) -> Patches:
    """Cover, shadow and colours of every object on its own patch."""
    scale = config.shorter_side
    half = math.ceil((LARGEST_RADIUS * 1.04 + SHADOW_SOFTNESS) * scale)
    columns = [math.floor(thing.centre[0] * scale) - half for thing in objects]
    rows = [math.floor(thing.centre[1] * scale) - half for thing in objects]
    steps = (np.arange(2 * half + 1, dtype=np.float32) + 0.5) / scale
    shift = np.array(
        [[c / scale - t.centre[0], r / scale - t.centre[1]] for c, r, t in zip(columns, rows, objects, strict=True)],
        np.float32,
    )
    x, y = (shift[:, 0:1] + steps)[:, None, :], (shift[:, 1:2] + steps)[:, :, None]  # (N, 1, P), (N, P, 1)
    turn = np.array([[math.cos(t.angle), math.sin(t.angle), t.radius] for t in objects], np.float32)
    cosine, sine, radius = (turn[:, k, None, None] for k in range(3))
    u, v = x * cosine + y * sine, y * cosine - x * sine  # in the object's frame, shorter sides
    u_unit, v_unit = u / radius, v / radius
    distance = np.empty_like(u)
    for i, thing in enumerate(objects):
        distance[i] = DISTANCES[thing.shape](u_unit[i], v_unit[i])
    in_sides = distance * radius
    cover = np.clip(0.5 - in_sides * scale, 0, 1)
    fade = np.clip(0.62 - in_sides / SHADOW_SOFTNESS, 0, 1)
    shadow = fade * fade * SHADOW_STRENGTH * (3 - 2 * fade)
    light, shine = _light(distance, u_unit, v_unit, backdrop, turn, scale)
    pattern = _pattern(objects, u, v, scale)
    paint = np.empty((len(objects), 3, *u.shape[1:]), np.float32)
    for i, thing in enumerate(objects):
        base, other = COLOURS[thing.colour], PATTERN_COLOURS[thing.colour]
        for channel in range(3):
            if thing.texture == "plain":
                np.multiply(light[i], base[channel], out=paint[i, channel])
            else:
                tone = pattern[i] * (other[channel] - base[channel])
                tone += base[channel]
                np.multiply(tone, light[i], out=paint[i, channel])
            paint[i, channel] += shine[i]
    return Patches(rows, columns, cover, shadow, paint)


def _light(distance: Array, u: Array, v: Array, backdrop: Backdrop, turn: Array, scale: int) -> tuple[Array, Array]:
    """Light (factor about 1) and shine (added, 0 to 255) on (N, P, P), from a rounded rim and a soft slope of light.

    The rim's slope is the gradient of the distance, taken by differences over two pixels.
    """
    lamp_x, lamp_y = backdrop.light
    radius = turn[:, 2, None, None]
    span = radius * (scale / 2)  # distance is in radii, one pixel is 1 / (radius * scale)
    toward = np.zeros_like(distance)
    toward[:, :, 1:-1] = (distance[:, :, 2:] - distance[:, :, :-2]) * (lamp_x * span)
    toward[:, 1:-1] += (distance[:, 2:] - distance[:, :-2]) * (lamp_y * span)
    steep = np.clip(1 + distance / BEVEL, 0, 1)  # 0 on the plateau, 1 at the edge
    rim = toward * steep
    body = u * lamp_x + v * lamp_y
    light = 0.98 + 0.3 * rim + 0.1 * body
    light -= 0.2 * (steep * steep * steep)  # the edge turns away and sets the object off
    gleam = np.clip(toward * (steep * (1 - steep)) * 4 - 0.45, 0, 1)
    return light, gleam * 120


def _pattern(objects: Sequence[SceneObject], u: Array, v: Array, scale: int) -> list[Array]:
    """Per object the share (P, P) of the second tone."""
    shares = []
    for i, thing in enumerate(objects):
        if thing.texture == "striped":
            across = (u[i] + v[i] * 0.45) * (0.912 / STRIPE_PERIOD)
            away = np.abs(across - np.rint(across)) - STRIPE_SHARE / 2
            shares.append(np.clip(0.5 - away * (scale * STRIPE_PERIOD), 0, 1))
        elif thing.texture == "dotted":
            slant = 0.7071 / DOT_PERIOD
            across, along = (u[i] + v[i]) * slant, (v[i] - u[i]) * slant
            across, along = across - np.rint(across), along - np.rint(along)
            away = np.sqrt(across * across + along * along) * DOT_PERIOD - DOT_RADIUS
            shares.append(np.clip(0.5 - away * scale, 0, 1))
        else:
            shares.append(u[i])  # not used: the object is plain
    return shares


def _clip(start: int, length: int, limit: int) -> tuple[slice, slice]:
    """The part of [start, start + length) inside [0, limit): where in the picture, where in the patch."""
    low, high = max(start, 0), min(start + length, limit)
    high = max(low, high)
    return slice(low, high), slice(low - start, high - start)


def paint_objects(canvas: Array, objects: Sequence[SceneObject], patches: Patches, backdrop: Backdrop) -> None:
    """Paints shadows and objects from far to near over the canvas (3, H, W), in place."""
    side = patches.cover.shape[1]
    height, width = canvas.shape[1:]
    shorter = min(height, width)
    drop_x = -round(backdrop.light[0] * SHADOW_SHIFT * shorter)
    drop_y = -round(backdrop.light[1] * SHADOW_SHIFT * shorter)
    for i in sorted(range(len(objects)), key=lambda index: -objects[index].distance):
        rows, inner_rows = _clip(patches.rows[i] + drop_y, side, height)
        columns, inner_columns = _clip(patches.columns[i] + drop_x, side, width)
        canvas[:, rows, columns] *= 1 - patches.shadow[i, inner_rows, inner_columns]
        rows, inner_rows = _clip(patches.rows[i], side, height)
        columns, inner_columns = _clip(patches.columns[i], side, width)
        under = canvas[:, rows, columns]
        over = patches.paint[i, :, inner_rows, inner_columns] - under
        over *= patches.cover[i, inner_rows, inner_columns]
        under += over


def to_picture(canvas: Array) -> NDArray[np.uint8]:
    """(3, H, W) float32 to (H, W, 3) uint8, rounded."""
    whole = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(whole.transpose(1, 2, 0))


def object_masks(
    objects: Sequence[SceneObject], patches: Patches, config: SceneConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Visible and amodal masks, each (N, H, W) bool: pixels that are at least half covered."""
    side = patches.cover.shape[1]
    amodal = np.zeros((len(objects), config.height, config.width), bool)
    for i in range(len(objects)):
        rows, inner_rows = _clip(patches.rows[i], side, config.height)
        columns, inner_columns = _clip(patches.columns[i], side, config.width)
        amodal[i, rows, columns] = patches.cover[i, inner_rows, inner_columns] >= 0.5
    visible = amodal.copy()
    taken = np.zeros(amodal.shape[1:], bool)
    for i in sorted(range(len(objects)), key=lambda index: objects[index].distance):
        visible[i] &= ~taken
        taken |= amodal[i]
    return visible, amodal


def object_depth(nearness: Array, objects: Sequence[SceneObject], visible: NDArray[np.bool_]) -> Array:
    """(H, W) float32 metres of what is seen at each pixel."""
    depth = backdrop_depth(nearness)
    for thing, mask in zip(objects, visible, strict=True):
        depth[mask] = thing.distance
    return depth
