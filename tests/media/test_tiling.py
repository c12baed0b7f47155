"""Grids of tiles against a slow search over every canvas, and the chunks of pictures."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from percepta.errors import BadInput
from percepta.media.tiling import picture_chunks, resize_bicubic, resize_bytes, tile_grid


def slow_grid(width: int, height: int, most: int, tile: int) -> tuple[int, int, bool]:
    """The rule of the specification, step by step."""
    groups: dict[Fraction, list[tuple[int, int]]] = {}
    for count in range(most, 0, -1):
        for across in (number for number in range(1, count + 1) if count % number == 0):
            groups.setdefault(Fraction(across, count // across), []).append((across, count // across))
    best, best_score = None, None
    for across, down in (grid for group in groups.values() for grid in group):
        canvas_width, canvas_height = across * tile, down * tile
        if canvas_width < width or canvas_height < height:
            continue
        ratio, scale = width / height, min(canvas_width / width, canvas_height / height)
        score = math.floor(scale * width / ratio) if ratio > 1 else scale * height
        if ratio < 1:
            score = math.floor(scale * height * ratio)
        if best_score is None or score >= best_score:
            best, best_score = (across, down), score
    if best is not None:
        return *best, True
    ratio = width / height
    if ratio >= 1:
        chosen = max(known for known in groups if float(known) <= ratio)
        return *max(groups[chosen], key=lambda grid: grid[0]), False
    chosen = min((known for known in groups if float(known) > ratio), key=lambda known: abs(1 / known - 1 / ratio))
    return *max(groups[chosen], key=lambda grid: grid[1]), False


@pytest.mark.parametrize(("most", "tile"), [(1, 448), (4, 448), (9, 336), (16, 448), (36, 448), (7, 28)])
def test_grids_are_those_of_a_search_over_all_canvases(most: int, tile: int) -> None:
    draws = np.random.default_rng(most)
    sizes = draws.integers(1, 3001, (120, 2)).tolist()
    edges = [tile, tile - 1, tile + 1, 2 * tile, most * tile, most * tile + 1, 1]
    sizes += [[width, height] for width in edges for height in edges]
    for width, height in sizes:
        assert tuple(tile_grid(width, height, most, tile)) == slow_grid(width, height, most, tile), (width, height)


def test_without_upscaling_the_fewest_tiles_that_hold_the_picture() -> None:
    assert tuple(tile_grid(100, 100)) == (6, 6, True)
    assert tuple(tile_grid(100, 100, upscale=False)) == (1, 1, True)
    assert tuple(tile_grid(640, 480, upscale=False)) == (2, 2, True)
    assert tuple(tile_grid(449, 448, upscale=False)) == (2, 1, True)
    for width, height in np.random.default_rng(0).integers(1, 2600, (60, 2)).tolist():
        small, large = tile_grid(width, height, upscale=False), tile_grid(width, height)
        assert small.fits == large.fits
        assert small.tiles <= large.tiles
        if small.fits:
            assert small.columns * 448 >= width
            assert small.rows * 448 >= height


def test_the_asymmetry_of_the_rule_is_kept() -> None:
    """Closest ratio not above for wide pictures, strictly above for tall ones: a picture and its turn differ."""
    assert tuple(tile_grid(4000, 3000)) == (4, 3, False)
    assert tuple(tile_grid(3000, 4000)) == (4, 5, False)


@pytest.mark.parametrize("numbers", [(0, 10), (10, 0), (10, 10, 0), (10, 10, 4, 0)])
def test_sizes_below_one_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="1 or more"):
        tile_grid(*numbers)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_chunks_are_the_thumbnail_and_the_tiles_row_by_row() -> None:
    picture = noise(90, 50)
    chunks, grid = picture_chunks(picture, 16, 6)
    assert (grid.columns, grid.rows) == (3, 2)
    assert len(chunks) == 7
    assert np.array_equal(chunks[0], picture.resize((16, 16), Image.Resampling.BICUBIC))
    canvas = np.asarray(picture.resize((48, 32), Image.Resampling.BICUBIC))
    rows = [np.concatenate([np.asarray(tile) for tile in chunks[1 + 3 * row : 4 + 3 * row]], axis=1) for row in (0, 1)]
    assert np.array_equal(np.concatenate(rows), canvas)


def test_one_tile_is_officially_a_second_chunk() -> None:
    assert len(picture_chunks(noise(10, 10), 16, 1)[0]) == 2
    assert len(picture_chunks(noise(10, 10), 16, 1, upscale=False)[0]) == 1
    assert len(picture_chunks(noise(40, 40), 16, 9, mode="vanilla")[0]) == 1


def test_the_port_resizes_as_bytes_within_two_grey_levels() -> None:
    picture = noise(61, 37)
    ours, port = (np.asarray(resize_bicubic(picture, 28, 28, rule), np.int64) for rule in ("official", "transformers"))
    assert np.abs(ours - port).max() in (1, 2)


def test_frames_are_resized_as_torchvision_resizes_bytes() -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    frames = torch.randint(0, 256, (3, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    want = resize(frames, [28, 28], InterpolationMode.BICUBIC)
    assert torch.equal(resize_bytes(frames, 28, 28), want)
    assert resize_bytes(frames, 40, 60) is frames


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BadInput, match="mode of picture_chunks must be one of"):
        picture_chunks(noise(8, 8), 8, mode="tile")
    with pytest.raises(BadInput, match="rule of resize_bicubic must be one of"):
        resize_bicubic(noise(8, 8), 8, 8, "official-ish")
