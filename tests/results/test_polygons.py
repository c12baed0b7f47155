"""Outlines and polygons by hand, and equality with OpenCV and COCO's tools where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from percepta.results.formats.polygons import (
    counts_of_polygons,
    fill_pixels,
    joined,
    outlines,
    polygon_counts,
)
from percepta.results.masks import compress, decode


def some_mask(seed: int, height: int, width: int) -> np.ndarray:
    """Noise, or blocks of it."""
    random = np.random.default_rng(seed)
    side = 1 + 2 * (seed % 2)
    coarse = random.random((height // side + 1, width // side + 1)) < random.random()
    return np.asarray(coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width])


def test_outlines_by_hand() -> None:
    mask = np.zeros((8, 9), bool)
    mask[1:4, 2:6] = True
    mask[2, 3] = False  # a hole
    mask[4, 6] = True  # touches at a corner
    mask[7, 0] = True  # a part of its own
    first, second = sorted(outlines(mask), key=len, reverse=True)
    start = first.tolist().index([2, 1])
    assert np.roll(first, -start, axis=0).tolist() == [[2, 1], [5, 1], [5, 3], [6, 4], [5, 3], [2, 3]]
    assert second.tolist() == [[0, 7]]
    assert outlines(np.zeros((3, 4), bool)) == []
    assert sorted(outlines(np.ones((3, 4), bool))[0].tolist()) == [[0, 0], [0, 2], [3, 0], [3, 2]]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 25))
def test_outlines_hold_the_mask_without_its_holes(seed: int, height: int, width: int) -> None:
    mask = some_mask(seed, height, width)
    parts = outlines(mask)
    found = np.zeros_like(mask)
    for part in parts:
        found |= fill_pixels(part, mask.shape)
    assert np.array_equal(found, ndimage.binary_fill_holes(mask))
    _, count = ndimage.label(found, np.ones((3, 3)))
    assert len(parts) == count
    if parts:
        assert found[fill_pixels(joined(parts), mask.shape)].sum() == found.sum()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 25))
def test_equal_to_opencv(seed: int, height: int, width: int) -> None:
    cv2 = pytest.importorskip("cv2")
    mask = some_mask(seed, height, width)
    wanted, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    assert sorted(sorted(part.tolist()) for part in outlines(mask)) == sorted(
        sorted(part.reshape(-1, 2).tolist()) for part in wanted
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 50), st.integers(3, 9))
def test_equal_to_coco(seed: int, height: int, width: int, corners: int) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    points = np.random.default_rng(seed).random((corners, 2)) * (1.4 * width, 1.4 * height) - (
        0.2 * width,
        0.2 * height,
    )
    points = np.round(points, seed % 3) if seed % 3 < 2 else points
    (wanted,) = reference.frPyObjects([points.reshape(-1).tolist()], height, width)
    assert compress(polygon_counts(points, (height, width))) == wanted["counts"].decode()


def test_a_plane_polygon_by_hand() -> None:
    """Pixels whose middle lies inside, up to a fifth of a pixel."""
    square = decode(polygon_counts(np.array([[2.0, 1.0], [6, 1], [6, 4], [2, 4]]), (6, 9)), (6, 9))
    assert np.argwhere(square).min(axis=0).tolist() == [1, 2]
    assert np.argwhere(square).max(axis=0).tolist() == [3, 5]
    assert square.sum() == 12
    y, x = np.mgrid[:60, :60]
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    circle = np.stack([30 + 20 * np.cos(angle), 28 + 20 * np.sin(angle)], axis=1)
    disc = (x + 0.5 - 30) ** 2 + (y + 0.5 - 28) ** 2 < 400
    assert (decode(polygon_counts(circle, (60, 60)), (60, 60)) ^ disc).sum() < 40
    both = decode(counts_of_polygons([[0, 0, 3, 0, 3, 3, 0, 3], [2, 2, 5, 2, 5, 5, 2, 5]], (6, 9)), (6, 9))
    assert both.sum() == 9 + 9 - 1
    outside = polygon_counts(np.array([[-9.0, -9], [-5, -9], [-5, -5]]), (6, 9))
    assert outside.tolist() == [54]
