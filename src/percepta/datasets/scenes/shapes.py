"""Signed distances of the eight shapes, in a frame where the object's radius is 1 and y points down.

Negative inside. Most distances are exact; the triangle, the diamond and the inside of the cross are distances to
edge lines, which is what bevels and anti-aliasing need. Formulas: I. Quilez, "2D distance functions".
"""

# numpy's stubs give Any for sums of arrays and Python numbers, hence:
# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def _length(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y)


def circle(x: Array, y: Array) -> Array:
    return _length(x, y) - 0.9


def ring(x: Array, y: Array) -> Array:
    return np.abs(_length(x, y) - 0.67) - 0.27


def square(x: Array, y: Array) -> Array:
    across, along = np.abs(x) - 0.68, np.abs(y) - 0.68
    outside = _length(np.maximum(across, 0), np.maximum(along, 0))
    return outside + np.minimum(np.maximum(across, along), 0) - 0.12


def diamond(x: Array, y: Array) -> Array:
    half_width, half_height = 0.7, 0.98
    scale = 1.0 / (half_width**2 + half_height**2) ** 0.5
    return np.abs(x) * (half_height * scale) + (np.abs(y) * (half_width * scale) - (half_width * half_height * scale))


def triangle(x: Array, y: Array) -> Array:
    down = y - 0.24
    return np.maximum(np.abs(x) * 0.8660254 - down * 0.5, down) - 0.56


def star(x: Array, y: Array) -> Array:
    """Five points: the plane is folded onto one half point, whose edge is a segment."""
    radius, inner = 0.96, 0.5
    cosine, sine = 0.809016994, 0.587785252
    x, y = np.abs(x), -y + 0.02
    fold = 2 * np.maximum(cosine * x - sine * y, 0)
    x, y = x - fold * cosine, y + fold * sine
    fold = 2 * np.maximum(-cosine * x - sine * y, 0)
    x, y = np.abs(x + fold * cosine), y + fold * sine - radius
    edge_x, edge_y = inner * sine, inner * cosine - 1
    along = np.clip((x * edge_x + y * edge_y) / (edge_x * edge_x + edge_y * edge_y), 0, radius)
    return _length(x - edge_x * along, y - edge_y * along) * np.sign(y * edge_x - x * edge_y) - 0.04


def heart(x: Array, y: Array) -> Array:
    scale = 1.66
    x, y = np.abs(x) * (1 / scale), 0.55 - y * (1 / scale)
    total = x + y
    lobe = _length(x - 0.25, y - 0.75) - 0.35355339
    middle = 0.5 * np.maximum(total, 0)
    tip_x, tip_y = x - middle, y - middle
    top = y - 1
    lower = np.sqrt(np.minimum(x * x + top * top, tip_x * tip_x + tip_y * tip_y)) * np.sign(x - y)
    return np.where(total > 1, lobe, lower) * scale


def cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    long, wide = np.maximum(x, y) - 0.84, np.minimum(x, y) - 0.27
    outside = _length(np.maximum(long, 0), np.maximum(wide, 0))
    return outside + np.minimum(np.maximum(long, wide), 0) - 0.06


DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "cross": cross,
    "ring": ring,
    "diamond": diamond,
}
