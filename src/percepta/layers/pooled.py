"""The block of hierarchical transformers whose queries are max-pooled (Hiera, arXiv 2306.00989 §3; SAM 2's trunk).

Order of this file: tokens of a grid in units, pooling, attention, shortcuts, the block.
Unusual: tokens travel as (B, units, N, D). A unit (a mask unit, an attention window) is a small rectangle of the grid,
and inside of it the tokens lie so that pooling neighbours is a maximum over the first axis of a view. Attention inside
of units and over the whole grid are the same tensors with two axes read as one, or not: nothing is moved for either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers.attention import Mlp, attend
from percepta.layers.block import DropPath

Sides = tuple[int, ...]


def unroll(x: Tensor, unit: Sides, strides: Sequence[Sides]) -> Tensor:
    """A grid as units whose tokens pool by reading.

    Args:
        x: (B, *grid, D); the grid has one, two or three axes and is made of whole units.
        unit: sides of a unit in tokens.
        strides: the poolings to come, first one first; sides of the neighbourhoods that they make one token of.

    Returns: (B, units, N, D): units row-major; the tokens of a unit with the first pooling's neighbourhood as the
    slowest index, then the second's, then what is left, row-major.
    """
    axes = len(unit)
    batch, grid, width = x.shape[0], x.shape[1:-1], x.shape[-1]
    if grid == unit and not strides:
        return x.reshape(batch, 1, -1, width)
    left = _left(unit, strides)
    sizes, order = [batch], [0]
    for axis in range(axes):  # each axis of the grid: (units, what is left, last stride, ..., first stride)
        sizes += [grid[axis] // unit[axis], left[axis], *(stride[axis] for stride in reversed(strides))]
    step = len(strides) + 2
    first = [1 + axis * step for axis in range(axes)]
    order += first
    for number in range(len(strides)):
        order += [start + step - 1 - number for start in first]
    order += [start + 1 for start in first]
    count = math.prod(grid) // math.prod(unit)
    return x.reshape(*sizes, width).permute(*order, len(sizes)).reshape(batch, count, math.prod(unit), width)


def reroll(x: Tensor, units: Sides, unit: Sides, strides: Sequence[Sides]) -> Tensor:
    """`unroll` backwards: (B, units, N, D) → (B, *grid, D).

    Args:
        units: sides of the grid in units.
        unit: sides of a unit in tokens, now.
        strides: the poolings that are still to come.
    """
    axes, left = len(unit), _left(unit, strides)
    sizes = [len(x), *units]
    for stride in strides:
        sizes += stride
    sizes += left
    order = [0]
    for axis in range(axes):
        order.append(1 + axis)
        order.append(1 + axes * (len(strides) + 1) + axis)
        order += [1 + axes * (number + 1) + axis for number in reversed(range(len(strides)))]
    grid = [many * side for many, side in zip(units, unit, strict=True)]
    return x.reshape(*sizes, x.shape[-1]).permute(*order, len(sizes)).reshape(len(x), *grid, x.shape[-1])


def _left(unit: Sides, strides: Sequence[Sides]) -> Sides:
    """Sides of a unit after all poolings."""
    left = list(unit)
    for stride in strides:
        if any(side % step for side, step in zip(left, stride, strict=True)):
            raise BadInput(f"a unit of {unit} tokens cannot be pooled by {[tuple(s) for s in strides]} one by one.")
        left = [side // step for side, step in zip(left, stride, strict=True)]
    return tuple(left)


def pool_tokens(x: Tensor, factor: int) -> Tensor:
    """(B, units, N, D) → (B, units, N / factor, D): the maximum of each neighbourhood, which is the slowest index."""
    if factor == 1:
        return x
    parts = x.unflatten(2, (factor, -1)).unbind(2)
    while len(parts) > 1:  # pairs: three to five times as fast as a reduction over a short axis
        pairs = [torch.maximum(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = (*pairs, *parts[len(pairs) * 2 :])
    return parts[0]


class PooledAttention(nn.Module):
    """Self-attention that may widen its tokens and pool its queries; keys and values are never pooled.

    Args:
        width, out: channels before and after; `heads` divides `out`.
        heads: number of heads; the scale is head_dim^-0.5.
        pool: how many tokens each query is the maximum of.
        whole: attend over all units at once, not inside of each.
    """

    def __init__(self, width: int, out: int, heads: int, pool: int = 1, whole: bool = False) -> None:
        super().__init__()
        if out % heads:
            raise BadInput(f"heads must divide width; got width={out}, heads={heads}.")
        self.heads, self.pool, self.whole = heads, pool, whole
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, units, N, width) → (B, units, N / pool, out)."""
        batch, units, count, _ = x.shape
        out = self.proj.in_features
        sequences, length = (batch, units * count) if self.whole else (batch * units, count)
        qkv = self.qkv(x)
        query, key, value = qkv.view(sequences, length, 3, self.heads, out // self.heads).unbind(2)
        if self.pool > 1:
            pooled = pool_tokens(qkv[..., :out], self.pool)
            query = pooled.reshape(sequences, length // self.pool, self.heads, out // self.heads)
        mixed = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.proj(mixed.transpose(1, 2).reshape(batch, units, count // self.pool, out))


class ProjectedShortcut(nn.Module):
    """Around attention that widens: the *normalised* tokens, projected, then pooled."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, out)

    def forward(self, x: Tensor, normed: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
        """`x` (..., width) and the same after the norm → (..., out), pooled."""
        return pool(self.proj(normed))


class Around(NamedTuple):
    """What happens around attention where tokens do not travel in its units: between the norm and attention, between
    attention and the residual sum, and how the shortcut is pooled."""

    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    pool: Callable[[Tensor], Tensor]


class PooledBlock(nn.Module):
    """shortcut(x) + attention(norm(x)), then x + mlp(norm(x)); the first may widen and pool.

    Args:
        width: channels of what comes in.
        attention: as `PooledAttention`; its `pool` is the block's.
        mlp: of the width that comes out.
        shortcut: called as shortcut(x, norm(x), pool); by default x itself, for blocks that keep width and tokens.
        scales: what multiplies each branch (two LayerScales); the identity by default.
        drop_path: the rate at which whole branches are dropped while training.
        eps: of both norms.
    """

    def __init__(
        self,
        width: int,
        attention: PooledAttention,
        mlp: Mlp,
        shortcut: nn.Module | None = None,
        scales: tuple[nn.Module, nn.Module] | None = None,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        out = attention.proj.out_features
        if shortcut is None and (out != width or attention.pool != 1):
            raise BadInput(f"a block of widths {width} and {out} that pools {attention.pool} needs a shortcut.")
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = attention
        self.shortcut = shortcut
        self.norm2 = nn.LayerNorm(out, eps=eps)
        self.mlp = mlp
        self.scale1, self.scale2 = scales or (nn.Identity(), nn.Identity())
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, around: Around | None = None) -> Tensor:
        """(B, units, N, width) → (B, units, N / pool, out), or in whatever form `around` translates."""
        normed = self.norm1(x)
        update = self.attention(normed if around is None else around.enter(normed))
        if around is not None:
            update = around.leave(update)
        if self.shortcut is not None:
            x = self.shortcut(x, normed, self.pool if around is None else around.pool)
        x = x + self.drop_path(self.scale1(update))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))

    def pool(self, x: Tensor) -> Tensor:
        """(B, units, N, D) → (B, units, N / pool, D)."""
        return pool_tokens(x, self.attention.pool)
