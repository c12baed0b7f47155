"""A picture as a thumbnail and a grid of tiles (Perception Language Model, arXiv 2504.13180, section 3).

Order of this file: the grid, the chunks of a picture, resizing.
Unusual: the grid is the largest one of a canvas that holds the picture, not the smallest, so that a small picture is
blown up to all the tiles there are; `upscale=False` takes the smallest instead. Where no canvas holds it, wide pictures
take the closest ratio that is not above their own and tall ones the closest strictly above. Tiles fill their canvas:
the aspect is lost, nothing is padded.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from percepta.errors import one_of, out_of_range

MODES = ("thumb+tile", "vanilla")
RULES = ("official", "transformers")


class TileGrid(NamedTuple):
    """Tiles across and down, and whether their canvas holds the picture without making it smaller."""

    columns: int
    rows: int
    fits: bool

    @property
    def tiles(self) -> int:
        return self.columns * self.rows


def tile_grid(width: int, height: int, max_tiles: int = 36, tile: int = 448, upscale: bool = True) -> TileGrid:
    """The grid of tiles for a picture.

    Args:
        width, height: of the picture, pixels, 1 or more.
        max_tiles: tiles in all, 1 or more; the thumbnail is not counted.
        tile: side of a tile, pixels.
        upscale: as the published models, the canvas on which the picture is largest; False takes, of the canvases that
            hold the picture, one with the fewest tiles.

    Raises: BadInput for a number below 1.
    """
    numbers = (("width", width), ("height", height), ("max_tiles", max_tiles), ("tile", tile))
    for what, value in numbers:
        if value < 1:
            raise out_of_range(what, value, "1 or more", owner="tile_grid")
    holding = [
        (columns, rows)
        for columns, rows in _arrangements(max_tiles)
        if columns * tile >= width and rows * tile >= height
    ]
    if not holding:
        return TileGrid(*_closest(width, height, max_tiles), False)
    if not upscale:
        fewest = min(columns * rows for columns, rows in holding)
        holding = [grid for grid in holding if grid[0] * grid[1] == fewest]
    best, best_score = holding[0], -math.inf
    for grid in holding:  # of equal scores the later wins
        score = _shown(width, height, grid[0] * tile, grid[1] * tile)
        if score >= best_score:
            best, best_score = grid, score
    return TileGrid(*best, True)


@lru_cache(maxsize=64)
def _arrangements(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All grids of up to `max_tiles`, those of one ratio together, ratios in the order in which they are met."""
    return tuple(grid for group in _by_ratio(max_tiles).values() for grid in group)


def _by_ratio(max_tiles: int) -> dict[float, list[tuple[int, int]]]:
    groups: dict[float, list[tuple[int, int]]] = {}
    for count in range(max_tiles, 0, -1):
        for columns in range(1, count + 1):
            if count % columns == 0:
                rows = count // columns
                groups.setdefault(columns / rows, []).append((columns, rows))
    return groups


def _shown(width: int, height: int, canvas_width: int, canvas_height: int) -> float:
    """The shorter side of the picture as it would be on the canvas with its aspect kept, in the official rounding."""
    ratio = width / height
    scale = min(canvas_width / width, canvas_height / height)
    if ratio > 1:
        return math.floor(scale * width / ratio)
    return math.floor(scale * height * ratio) if ratio < 1 else scale * height


def _closest(width: int, height: int, max_tiles: int) -> tuple[int, int]:
    """The grid for a picture that no canvas holds."""
    groups, ratio = _by_ratio(max_tiles), width / height
    if ratio >= 1:
        nearest = min((known for known in groups if known <= ratio), key=lambda known: abs(known - ratio))
        return max(groups[nearest], key=lambda grid: grid[0])
    above = [known for known in groups if known > ratio]
    nearest = min(above, key=lambda known: abs(1 / known - 1 / ratio))
    return max(groups[nearest], key=lambda grid: grid[1])


def picture_chunks(
    picture: Image.Image,
    tile: int,
    max_tiles: int = 36,
    mode: str = "thumb+tile",
    upscale: bool = True,
    rule: str = "official",
) -> tuple[list[Image.Image], TileGrid]:
    """The RGB pictures, tile x tile pixels each, that stand for a picture, and their grid.

    Args:
        picture: RGB.
        tile, max_tiles, upscale: as `tile_grid`.
        mode: "thumb+tile" gives the whole picture small and then the tiles row by row; "vanilla" the whole alone.
            Without upscaling, a picture that one tile holds is its thumbnail alone.
        rule: "official" resizes with PIL, "transformers" as that port does, see `resize_bytes`.

    Raises: BadInput for an unknown mode or rule.
    """
    if mode not in MODES:
        raise one_of("mode", mode, MODES, owner="picture_chunks")
    whole = resize_bicubic(picture, tile, tile, rule)
    grid = TileGrid(1, 1, max(picture.size) <= tile) if mode == "vanilla" else None
    grid = grid or tile_grid(*picture.size, max_tiles, tile, upscale)
    if mode == "vanilla" or (grid.tiles == 1 and not upscale):
        return [whole], grid
    canvas = resize_bicubic(picture, grid.columns * tile, grid.rows * tile, rule)
    corners = [(tile * column, tile * row) for row in range(grid.rows) for column in range(grid.columns)]
    return [whole, *(canvas.crop((left, top, left + tile, top + tile)) for left, top in corners)], grid


def resize_bicubic(picture: Image.Image, width: int, height: int, rule: str = "official") -> Image.Image:
    """An RGB picture of another size, aspect ignored, by PIL ("official") or as bytes in torch ("transformers")."""
    if rule not in RULES:
        raise one_of("rule", rule, RULES, owner="resize_bicubic")
    if rule == "official":
        return picture.resize((width, height), Image.Resampling.BICUBIC)
    with warnings.catch_warnings():  # PIL's memory is read-only, and only read here
        warnings.simplefilter("ignore", UserWarning)
        pixels = torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None]
    return Image.fromarray(resize_bytes(pixels, height, width, rule)[0].permute(1, 2, 0).contiguous().numpy())


def resize_bytes(frames: Tensor, height: int, width: int, rule: str = "official") -> Tensor:
    """(N, 3, H, W) uint8 → (N, 3, height, width) uint8: bicubic with antialiasing.

    How the official code resizes the frames of videos: as floats, clamped and rounded once (torchvision's first
    transforms). The rule "transformers" resizes bytes, which are rounded and clamped between columns and rows as well
    (torchvision's second transforms); that port does so with pictures too.
    """
    if frames.shape[-2:] == (height, width):
        return frames
    if rule == "transformers":
        return interpolate(frames.contiguous(), (height, width), mode="bicubic", align_corners=False, antialias=True)
    floats = interpolate(frames.float(), (height, width), mode="bicubic", align_corners=False, antialias=True)
    return floats.clamp_(0, 255).round_().to(torch.uint8)
