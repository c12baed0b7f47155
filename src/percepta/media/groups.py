"""Pictures of merged tokens: each group in the mean colour of its pixels, with a rim of its own colour; numpy only.

The picture is that of Token Merging (arXiv 2210.09461, figures 4 and 5). Unusual: all groups are painted at once from
one map of group numbers, and the groups of a video keep the colour of their rim from frame to frame, by where they lie
and what they look like.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, out_of_range, wrong_shape

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
SIGHT = 0.15  # how far a group moves between two frames, as a share of the picture
ALIKE = 0.25  # likeness, 0..1, below which a group of the next frame is another one


def paint_groups(pixels: Pixels, groups: Whole, colours: Floats, rim: int = 1) -> Pixels:
    """A picture of the groups: the mean colour of each inside, its own colour along its rim.

    Args:
        pixels: (H, W, 3) uint8.
        groups: (h, w) group of each patch, h and w at most H and W; -1 for patches that belong to none, where the
            picture shows through. A patch covers its share of the pixels, to the nearest pixel.
        colours: (n, 3) in 0..1, one row a group.
        rim: width of the rims in pixels; outside the picture is another group.

    Returns: (H, W, 3) uint8; fractions are cut off.

    Raises: BadInput for other shapes, or fewer colours than groups.
    """
    labels = _on_pixels(pixels, groups)
    count = int(labels.max(initial=-1)) + 1
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) < count:
        raise wrong_shape("colours", colours.shape, f"({count}, 3), one row a group", owner="paint_groups")
    if rim < 0:
        raise out_of_range("rim", rim, "0 or more", owner="paint_groups")
    painted = np.array(pixels)
    shown = labels >= 0
    means = _means(pixels, np.where(shown, labels, count), count)
    rims = (np.clip(colours, 0, 1) * 255).astype(np.uint8)
    inside = _inside(labels, rim)
    painted[shown & inside] = means[labels[shown & inside]]
    painted[shown & ~inside] = rims[labels[shown & ~inside]]
    return painted


def seeded_colours(count: int, seed: int = 0) -> Floats:
    """(count, 3) in 0..1: the colours of the official picture, Python's generator read three times a group."""
    generator = random.Random(seed)
    return np.array([[generator.random() for _ in range(3)] for _ in range(count)]).reshape(count, 3)


def counted_groups(groups: Whole) -> int:
    """How many groups a map has; patches of none (-1) do not count."""
    return len(np.unique(groups[groups >= 0]))


@dataclass
class GroupColours:
    """The colours of groups that go on from frame to frame; use one for the frames of one video, in their order.

    Attributes:
        made: how many colours were given so far.
    """

    made: int = 0
    _numbers: Whole = field(default_factory=lambda: np.zeros(0, np.int64))
    _places: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    _features: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def of(self, groups: Whole, features: NDArray[np.floating]) -> Floats:
        """The colours of the next frame's groups.

        Args:
            groups: (h, w), as of `paint_groups`.
            features: (h, w, D) of the patches.

        Returns: (n, 3) in 0..1. A group has the colour of the one of the last frame that is most alike: the cosine of
        their mean features, less the further apart they are; each is followed once, and what is new gets a new colour.

        Raises: BadInput for features of another grid.
        """
        if features.ndim != 3 or features.shape[:2] != groups.shape:
            raise wrong_shape("features", features.shape, f"{(*groups.shape, 'D')}", owner="GroupColours")
        present, places, means = _described(groups, features)
        numbers = np.full(len(present), -1, np.int64)
        if len(self._numbers) and means.shape[1] == self._features.shape[1]:
            apart = np.square(places[:, None] - self._places[None]).sum(axis=2)
            likeness = (means @ self._features.T) * np.exp(-apart / (2 * SIGHT**2))
            for row, column in _pairs(likeness):
                numbers[row] = self._numbers[column]
        fresh = numbers < 0
        numbers[fresh] = self.made + np.arange(int(fresh.sum()))
        self.made += int(fresh.sum())
        self._numbers, self._places, self._features = numbers, places, means
        colours = np.zeros((int(present.max(initial=-1)) + 1, 3))
        colours[present] = _bright(numbers)
        return colours


def _described(groups: Whole, features: NDArray[np.floating]) -> tuple[Whole, Floats, Floats]:
    """The numbers of the groups, their mean places (0..1) and their mean features at length 1."""
    height, width = groups.shape
    flat = groups.reshape(-1)
    kept = np.flatnonzero(flat >= 0)
    present, rows = np.unique(flat[kept], return_inverse=True)
    counts = np.bincount(rows, minlength=len(present))[:, None]
    down, across = np.divmod(kept, width)
    spots = np.stack([(down + 0.5) / height, (across + 0.5) / width], axis=1)
    places, means = np.zeros((len(present), 2)), np.zeros((len(present), features.shape[2]))
    np.add.at(places, rows, spots)
    np.add.at(means, rows, features.reshape(-1, features.shape[2])[kept].astype(np.float64))
    length = np.linalg.norm(means, axis=1, keepdims=True)
    return present.astype(np.int64), places / counts, means / np.maximum(length, 1e-12)


def _pairs(likeness: Floats) -> Iterator[tuple[int, int]]:
    """Rows and columns that belong together, the most alike first, each once."""
    order = np.argsort(-likeness, axis=None, kind="stable")
    rows, columns = np.unravel_index(order, likeness.shape)
    taken: tuple[set[int], set[int]] = (set(), set())
    for row, column in zip(rows.tolist(), columns.tolist()):
        if likeness[row, column] < ALIKE:
            return
        if row not in taken[0] and column not in taken[1]:
            taken[0].add(row)
            taken[1].add(column)
            yield row, column


def _bright(numbers: Iterable[int]) -> Floats:
    """Strong colours, neighbours in number far apart in hue."""
    import colorsys

    return np.array(
        [colorsys.hsv_to_rgb(number * 0.61803398875 % 1, (0.85, 0.6)[number % 2], 0.95) for number in numbers]
    ).reshape(-1, 3)


def _on_pixels(pixels: Pixels, groups: Whole) -> Whole:
    """(H, W) group of each pixel."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise BadInput(f"pixels must be uint8 (H, W, 3); got {pixels.dtype} {pixels.shape}.")
    height, width = pixels.shape[:2]
    if groups.ndim != 2 or not 0 < groups.shape[0] <= height or not 0 < groups.shape[1] <= width:
        raise wrong_shape("groups", groups.shape, f"(h, w) of at most ({height}, {width})", owner="paint_groups")
    rows = np.arange(height) * groups.shape[0] // height
    columns = np.arange(width) * groups.shape[1] // width
    return np.asarray(groups, np.int64)[rows[:, None], columns[None, :]]


def _means(pixels: Pixels, labels: Whole, count: int) -> Pixels:
    """(count, 3) uint8 mean colour of each group; `labels` from 0 to count."""
    flat = labels.reshape(-1)
    sizes = np.maximum(np.bincount(flat, minlength=count + 1), 1)
    sums = [np.bincount(flat, pixels[..., channel].reshape(-1), minlength=count + 1) for channel in range(3)]
    return (np.stack(sums, axis=1) / sizes[:, None] + 1e-9)[:count].astype(np.uint8)


def _inside(labels: Whole, rim: int) -> NDArray[np.bool_]:
    """(H, W) whether a pixel is left after its group was eroded `rim` times by the cross of five pixels."""
    inside = np.ones(labels.shape, np.bool_)
    for _ in range(rim):
        around = np.pad(np.where(inside, labels, -2), 1, constant_values=-2)
        inside = inside & (
            (around[:-2, 1:-1] == labels)
            & (around[2:, 1:-1] == labels)
            & (around[1:-1, :-2] == labels)
            & (around[1:-1, 2:] == labels)
        )
    return inside
