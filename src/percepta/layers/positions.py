"""Learned position embeddings on another grid than the one they were trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(table: Tensor, grid: tuple[int, int], prefix: int = 0, rule: str = "bilinear") -> Tensor:
    """Fit a position table to a patch grid.

    Args:
        table: (prefix + g * g, D), trained on a square grid of side g, rows of the prefix tokens first.
        grid: (rows, columns) wanted.
        prefix: number of leading rows that belong to class or register tokens; they are kept.
        rule: "bilinear" (no antialias; the official rule of PE) or "bicubic-antialias" (timm's).

    Returns: (prefix + rows * columns, D); the very same tensor when the grid is the trained one.
    """
    side = round((table.shape[0] - prefix) ** 0.5)
    if not torch.compiler.is_exporting() and grid == (side, side):  # an export must hold for every grid
        return table
    maps = table[prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    mode, antialias = ("bilinear", False) if rule == "bilinear" else ("bicubic", True)
    maps = F.interpolate(maps.float(), size=grid, mode=mode, align_corners=False, antialias=antialias)
    patches = maps.to(table.dtype).flatten(2)[0].T
    return torch.cat([table[:prefix], patches]) if prefix else patches
