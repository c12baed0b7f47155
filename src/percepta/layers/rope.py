"""Rotary position embedding over two axes (Perception Encoder, arXiv 2504.13181 §2; RoFormer, arXiv 2104.09864).

Unusual: the first half of a head's rotated channels turns with the column, the second half with the row; pairs are
neighbouring channels (2j, 2j+1). Angles are always float32, whatever the dtype of the model. A table is a pure
function of its arguments: modules keep no rotary state, so towers can be shared between threads and sizes.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode as _dispatch_mode

BASE = 10_000.0


def axis_frequencies(head_dim: int, device: torch.device | None = None) -> Tensor:
    """The d // 2 frequencies BASE^(-2j/d) of one axis, d = head_dim // 2: float32, (d // 2,)."""
    axis_dim = head_dim // 2
    exponents = torch.arange(0, axis_dim - axis_dim % 2, 2, dtype=torch.float32, device=device) / axis_dim
    return 1.0 / BASE**exponents


def rope_angles(positions: Tensor, head_dim: int) -> Tensor:
    """Rotation angle of every token and channel pair.

    Args:
        positions: (..., N, 2) patch coordinates (column, row), any real numbers.
        head_dim: channels of one head; 4 * (head_dim // 2 // 2) of them rotate, the rest pass through.

    Returns:
        (..., N, 2 * (head_dim // 2 // 2)) float32: the column's angles, then the row's.
    """
    frequencies = axis_frequencies(head_dim, positions.device)
    return (positions.float().unsqueeze(-1) * frequencies).flatten(-2)


def grid_positions(
    rows: int,
    columns: int,
    start: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    device: torch.device | None = None,
) -> Tensor:
    """Coordinates (column, row) of a patch grid, row by row: (rows * columns, 2) float32.

    Args:
        start: coordinate of the first row and column (1 behind a class token, whose own angle is 0).
        scale: factor of the (column, row) coordinate; (1, 1) keeps integer positions at every size.
    """
    y = torch.arange(rows, dtype=torch.float32, device=device).add(start) * scale[1]
    x = torch.arange(columns, dtype=torch.float32, device=device).add(start) * scale[0]
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1).reshape(-1, 2)


def grid_angles(
    rows: int,
    columns: int,
    head_dim: int,
    prefix: int = 0,
    scale: tuple[float, float] = (1.0, 1.0),
    device: torch.device | None = None,
) -> Tensor:
    """Angles of `prefix` unrotated tokens and a patch grid whose positions start at 1 behind a prefix, else at 0.

    Returns: (prefix + rows * columns, 2 * (head_dim // 2 // 2)) float32.
    """
    patches = rope_angles(grid_positions(rows, columns, float(prefix > 0), scale, device), head_dim)
    if not prefix:
        return patches
    return torch.cat([patches.new_zeros(prefix, patches.shape[-1]), patches])


@functools.lru_cache(maxsize=64)
def _cached_rotation(
    rows: int, columns: int, head_dim: int, prefix: int, scale: tuple[float, float], device: torch.device
) -> Tensor:
    with torch.inference_mode(False):
        return _turns(grid_angles(rows, columns, head_dim, prefix, scale, device))


def grid_rotation(
    rows: int,
    columns: int,
    head_dim: int,
    prefix: int = 0,
    scale: tuple[float, float] = (1.0, 1.0),
    device: torch.device | None = None,
) -> Tensor:
    """What `rotate` takes for a patch grid: complex numbers in eager mode (fastest), angles while tracing.

    Eager tables are kept for the last 64 grids; the cache is read-only to its users and safe between threads. Under a
    dispatch mode (fake tensors, counting) nothing is kept, since what it makes may be no real tensor.
    """
    if torch.compiler.is_compiling() or device is None or device.type == "meta" or _dispatch_mode() is not None:
        return grid_angles(rows, columns, head_dim, prefix, scale, device)
    return _cached_rotation(rows, columns, head_dim, prefix, scale, device)


def place_rotation(positions: Tensor, head_dim: int) -> Tensor:
    """What `rotate` takes for tokens anywhere, such as merged ones: (..., N, 2) (column, row) → (..., N, R)."""
    angles = rope_angles(positions, head_dim)
    return angles if torch.compiler.is_compiling() or angles.is_meta else _turns(angles)


def _turns(angles: Tensor) -> Tensor:
    """Unit complex numbers of angles."""
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn neighbouring channel pairs (a, b) into (a cos - b sin, b cos + a sin).

    Args:
        x: (..., D) queries or keys, any float dtype; the last axis contiguous.
        rotation: angles (float32) or unit complex numbers, broadcastable to (..., R) with 2 R <= D;
            channels beyond 2 R pass through.

    Returns: a new tensor of the shape and dtype of `x`; computed in float32.
    """
    rotated = 2 * rotation.shape[-1]
    head = x[..., :rotated] if rotated < x.shape[-1] else x
    pairs = head.float().unflatten(-1, (-1, 2))
    if rotation.is_complex():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * rotation)
    else:
        cosine, sine = rotation.cos(), rotation.sin()
        a, b = pairs.unbind(-1)
        turned = torch.stack([a * cosine - b * sine, b * cosine + a * sine], dim=-1)
    turned = turned.flatten(-2).to(x.dtype)
    return turned if rotated == x.shape[-1] else torch.cat([turned, x[..., rotated:]], dim=-1)
