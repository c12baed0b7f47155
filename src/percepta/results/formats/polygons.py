"""Masks as polygons and polygons as masks, in the two conventions that files use.

Order of this file: the outlines of a mask, polygons whose corners are pixels (YOLO), polygons in a plane (COCO).
Unusual: an outline is followed along the edges between pixels, all edges at once; the pixels on its inner side, one
after the other, are the border as OpenCV gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput
from percepta.results.masks import Counts, Dense, decode, encode

Points = NDArray[np.int64]
SCALE = 5  # COCO's: a polygon is followed on a grid five times as fine


def outlines(mask: Dense) -> list[Points]:
    """The outer borders of an (H, W) mask, one for each part (diagonal pixels touch); holes are left out.

    Returns:
        (K, 2) x and y of border pixels, clockwise, corners alone (OpenCV's external contours, simple chains); K is 1
        for a single pixel.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    loops = _loops(part)
    if any(_turns(loop) < 0 for loop in loops):
        part = _filled(part.shape, [loop for loop in loops if _turns(loop) > 0])
        loops = _loops(part)
    return [_corners(loop[:, 3:1:-1]) + np.array([left, top]) for loop in loops]


def _loops(mask: Dense) -> list[Points]:
    """The closed ways around the true parts of a mask: (E, 4) of each edge its start (row, column) and its pixel.

    Edges have the true pixel on their right hand; where two parts touch at a corner, the way goes on along the other.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    beyond = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    starts = ((0, 0), (0, 1), (1, 1), (1, 0))  # of the edges that go right, down, left and up
    parts = []
    for heading, (other, (down, across)) in enumerate(zip(beyond, starts, strict=True)):
        row, column = np.nonzero(inside & ~other)
        parts.append(np.stack([row + down, column + across, row, column, np.full(len(row), heading)], axis=1))
    edges = np.concatenate(parts)
    stride = mask.shape[1] + 1
    key = (edges[:, 0] * stride + edges[:, 1]) * 4 + edges[:, 4]
    order = np.argsort(key)
    edges, key = edges[order], key[order]
    steps = np.array([1, stride, -1, -stride])
    end = key // 4 + steps[edges[:, 4]]
    following = np.full(len(edges), -1)
    for turn in (1, 0, 3):  # to the right, straight on, to the left: the last that is there stays
        wanted = end * 4 + (edges[:, 4] + turn) % 4
        place = np.searchsorted(key, wanted).clip(max=len(key) - 1)
        following = np.where(key[place] == wanted, place, following)
    return [edges[cycle, :4] for cycle in _cycles(following.tolist())]


def _cycles(following: list[int]) -> list[list[int]]:
    """The cycles of a permutation."""
    found = []
    seen = bytearray(len(following))
    for first in range(len(following)):
        if seen[first]:
            continue
        cycle, place = [], first
        while not seen[place]:
            seen[place] = 1
            cycle.append(place)
            place = following[place]
        found.append(cycle)
    return found


def _turns(loop: Points) -> int:
    """Twice the area within a loop: positive around a part, negative around a hole."""
    row, column = loop[:, 0], loop[:, 1]
    return int((column * np.roll(row, -1) - np.roll(column, -1) * row).sum())


def _filled(shape: tuple[int, ...], loops: Sequence[Points]) -> Dense:
    """All that lies within some loops, counted by the upright edges on the left of each pixel."""
    steps = np.zeros((shape[0], shape[1] + 1), np.int64)
    for loop in loops:
        row, column = loop[:, 0], loop[:, 1]
        down = np.roll(row, -1) - row
        upright = down != 0
        np.add.at(steps, (np.minimum(row, row + down)[upright], column[upright]), -down[upright])
    return np.asarray(np.cumsum(steps, axis=1)[:, :-1] > 0)


def _corners(chain: Points) -> Points:
    """A closed chain of neighbouring pixels without repetitions and without the middle of straight stretches."""
    fresh = (chain != np.roll(chain, 1, axis=0)).any(axis=1)
    if not fresh.any():
        return chain[:1]
    chain = chain[fresh]
    before, after = chain - np.roll(chain, 1, axis=0), np.roll(chain, -1, axis=0) - chain
    return chain[(before != after).any(axis=1)]


def joined(chains: Sequence[Points]) -> Points:
    """Several closed chains as one: each is reached from its nearest earlier corner, and left the same way."""
    whole = chains[0]
    for chain in chains[1:]:
        distances = ((whole[:, None] - chain[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        turned = np.roll(chain, -int(there), axis=0)
        whole = np.concatenate([whole[: here + 1], turned, turned[:1], whole[here:]])
    return whole


def fill_pixels(points: Points, size: tuple[int, int]) -> Dense:
    """The (H, W) mask of a polygon whose corners are pixels: what it goes round, and the pixels on its lines."""
    height, width = size
    mask = np.zeros(size, bool)
    closed = np.concatenate([points, points[:1]])
    steps = np.abs(np.diff(closed, axis=0)).max(axis=1)
    part = np.repeat(np.arange(len(points)), np.maximum(steps, 1))
    first = np.cumsum(np.maximum(steps, 1)) - np.maximum(steps, 1)
    share = (np.arange(len(part)) - first[part]) / np.maximum(steps, 1)[part]
    line = closed[part] + (closed[part + 1] - closed[part]) * share[:, None]
    column, row = np.floor(line + 0.5).astype(np.int64).T
    kept = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    mask[row[kept], column[kept]] = True
    return mask | _within(points, size)


def _within(points: Points, size: tuple[int, int]) -> Dense:
    """The pixels whose centres a polygon goes round an odd number of times; half of its border belongs to it."""
    height, width = size
    flips = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True):
        if y0 == y1:
            continue
        rows = np.arange(max(0, min(y0, y1)), min(height, max(y0, y1)))
        crossing = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
        np.add.at(flips, (rows, np.ceil(crossing).astype(np.int64).clip(0, width)), 1)
    return np.asarray(np.cumsum(flips, axis=1)[:, :-1] % 2 == 1)


def polygon_counts(points: NDArray[np.float64], size: tuple[int, int]) -> Counts:
    """Run lengths of a polygon as COCO's own tools draw it.

    Args:
        points: (K, 2) x and y in a plane in which pixel (0, 0) reaches from 0 to 1; K of at least 3.
        size: (height, width) of the picture.

    Raises:
        BadInput: another shape, or numbers that are not finite.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise BadInput(f"a polygon must be at least 3 pairs of finite numbers; got an array of shape {points.shape}.")
    height, width = size
    fine = (SCALE * points + 0.5).astype(np.int64)  # towards zero
    u, v = _followed(np.concatenate([fine, fine[:1]]))
    moved = np.flatnonzero(np.diff(u)) + 1
    before, here = u[moved - 1], u[moved]
    x = (np.where(here < before, here, here - 1) + 0.5) / SCALE - 0.5
    y = (np.minimum(v[moved], v[moved - 1]) + 0.5) / SCALE - 0.5
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    rows = np.ceil(np.clip(y[kept], 0, height)).astype(np.int64)
    edges = np.sort(x[kept].astype(np.int64) * height + rows)
    places, counts = np.unique(edges[edges < height * width], return_counts=True)
    places = places[counts % 2 == 1]
    return np.diff(np.concatenate([[0], places, [height * width]]))


def _followed(corners: Points) -> tuple[Points, Points]:
    """x and y of the grid points along the lines between corners, as COCO's tools step along them."""
    xs: list[Points] = []
    ys: list[Points] = []
    for (x0, y0), (x1, y1) in zip(corners[:-1].tolist(), corners[1:].tolist(), strict=True):
        wide, high = abs(x1 - x0), abs(y1 - y0)
        turned = x0 > x1 if wide >= high else y0 > y1
        (xa, ya), (xb, yb) = ((x1, y1), (x0, y0)) if turned else ((x0, y0), (x1, y1))
        step = np.arange(max(wide, high) + 1)
        step = step[::-1] if turned else step
        if wide >= high:
            slope = (yb - ya) / wide if wide else 0.0
            xs.append(step + xa)
            ys.append((ya + slope * step + 0.5).astype(np.int64))
        else:
            xs.append((xa + (xb - xa) / high * step + 0.5).astype(np.int64))
            ys.append(step + ya)
    return np.concatenate(xs), np.concatenate(ys)


def counts_of_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Counts:
    """Run lengths of all that lies in at least one of COCO's polygons, each a list x, y, x, y ...

    Raises:
        BadInput: a polygon that is none.
    """
    whole = np.zeros(size, bool)
    for polygon in polygons:
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise BadInput(f"a polygon must be a list of x, y, x, y ...; got {str(polygon)[:40]!r}.") from None
        counts = polygon_counts(points, size)
        if len(polygons) == 1:
            return counts
        whole |= decode(counts, size)
    return encode(whole)
