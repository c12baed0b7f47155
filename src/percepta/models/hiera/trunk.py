"""HieraDet: Hiera with windows for pictures of any size, the trunk of SAM 2 (arXiv 2311.05613; 2408.00714).

Order of this file: positions, the plan of a size, the trunk.
Unusual: the position embedding is a small map that is resized plus one window that is only ever tiled, so that
positions and windows stay in step at every size ("absolute win"). Tokens stay in the order of the windows for as many
blocks as share it; only windows that do not fit the map are cut out and put back around each attention, and their
zero padding, added after the norm, takes part in it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from percepta.errors import BadInput, wrong_shape
from percepta.layers import Mlp
from percepta.layers.pooled import Around, PooledAttention, PooledBlock, ProjectedShortcut, reroll, unroll
from percepta.models.hiera.config import TrunkConfig
from percepta.models.hiera.positions import Kept, WindowPositions

STEP = (2, 2)
"""Sides of the neighbourhood that a pooling makes one token of."""


class Step(NamedTuple):
    """How tokens lie in one block, for one size of map.

    Attributes:
        grid: (rows, columns) of tokens that come in.
        side: of the windows that the tokens lie in; 0 for the plain map (B, rows, columns, D).
        pools: poolings that the order inside of a window provides for.
        padded: windows that do not fit the map are cut out around attention, of this side; 0 for none.
    """

    grid: tuple[int, int]
    side: int
    pools: int
    padded: int = 0


class HieraDet(nn.Module):
    """Pictures to one map a stage, fine to coarse."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(
            config.in_channels, config.embed_dim, config.patch_kernel, config.patch_stride, config.patch_padding
        )
        self.positions = WindowPositions(config.embed_dim, config.background, (config.windows[0],) * 2)
        self.blocks = nn.ModuleList(_blocks(config))
        self.gradient_checkpointing = False
        self._kept = Kept()

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) preprocessed pictures of any size → the maps after each stage, without a norm.

        Returns: one (B, D, h, w) a stage, with channels last in memory; strides `config.strides`.

        Raises: BadInput for another shape.
        """
        tokens = self.embed(x)
        rows, columns = tokens.shape[1:3]
        plan = steps(self.config, rows, columns)
        now, maps = Step((rows, columns), 0, 0), []
        for index, (block, step) in enumerate(zip(self.blocks, plan, strict=True)):
            pool = 4 if index in self.config.pooling_blocks else 1
            if (step.side, step.pools) != (now.side, now.pools):
                tokens = _into(_map(tokens, now), step)
            around = _around(step, pool) if step.padded else None
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, around, use_reentrant=False)
            else:
                tokens = block(tokens, around)
            now = _after(step, pool)
            if index in self.config.stage_ends:
                maps.append(_map(tokens, now).permute(0, 3, 1, 2))
        return maps

    def embed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → tokens with their positions in front of the first block, (B, rows, columns, embed_dim)."""
        channels, least = self.config.in_channels, self.config.patch_kernel - 2 * self.config.patch_padding
        if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < max(least, 1):
            raise wrong_shape("pictures", x.shape, f"(B, {channels}, H, W) with H and W of at least {max(least, 1)}")
        if not x.is_floating_point():
            raise BadInput(f"pictures must be a floating-point tensor, as model.preprocess gives; got {x.dtype}.")
        tokens = self.patches(x).permute(0, 2, 3, 1)
        return tokens + self.position_embedding(tokens.shape[1], tokens.shape[2])

    def position_embedding(self, height: int, width: int) -> Tensor:
        """(1, height, width, embed_dim) for a map of as many tokens; what is added to the patches."""
        table: Tensor = self._kept.get(self.positions, (height, width), lambda: self.positions((height, width)))
        return table

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in training: recompute each block in the backward pass."""
        self.gradient_checkpointing = enable


@functools.lru_cache(maxsize=64)
def steps(config: TrunkConfig, rows: int, columns: int) -> tuple[Step, ...]:
    """How tokens lie in each block, for a map of this size: as they lay before wherever that is exact."""
    now, plan = Step((rows, columns), 0, 0), []
    for block in range(config.depth):
        side, pooling = config.window(block), block in config.pooling_blocks
        if side and (now.side != side or (pooling and not now.pools)):
            if any(length % side for length in now.grid):
                now = Step(now.grid, 0, 0, side)
            else:
                coming = sum(later >= block for later in config.pooling_blocks)
                now = Step(now.grid, side, min(coming, _halvings(side)))
        plan.append(now)
        now = _after(now, 4 if pooling else 1)
    return tuple(plan)


def _halvings(side: int) -> int:
    """How often a side can be halved."""
    return (side & -side).bit_length() - 1


def _after(step: Step, pool: int) -> Step:
    """How the tokens lie that come out of a block."""
    if pool == 1:
        return Step(step.grid, step.side, step.pools)
    return Step((step.grid[0] // 2, step.grid[1] // 2), step.side // 2, max(step.pools - 1, 0))


def _into(x: Tensor, step: Step) -> Tensor:
    """(B, rows, columns, D) as a step wants it."""
    return unroll(x, (step.side,) * 2, [STEP] * step.pools) if step.side else x


def _map(x: Tensor, step: Step) -> Tensor:
    """Tokens as a step has them → (B, rows, columns, D)."""
    if not step.side:
        return x
    units = (step.grid[0] // step.side, step.grid[1] // step.side)
    return reroll(x, units, (step.side,) * 2, [STEP] * step.pools)


def _around(step: Step, pool: int) -> Around:
    """Windows that do not fit the map: cut out of a map padded with zeros, and put back."""
    (rows, columns), side, half = step.grid, step.padded, 2 if pool > 1 else 1
    units = (math.ceil(rows / side), math.ceil(columns / side))

    def enter(normed: Tensor) -> Tensor:
        padded = F.pad(normed, (0, 0, 0, units[1] * side - columns, 0, units[0] * side - rows))
        return unroll(padded, (side, side), [STEP] * (half - 1))

    def leave(update: Tensor) -> Tensor:
        return reroll(update, units, (side // half, side // half), [])[:, : rows // half, : columns // half]

    def shrink(x: Tensor) -> Tensor:
        even = x[:, : rows // 2 * 2, : columns // 2 * 2]
        top = torch.maximum(even[:, ::2, ::2], even[:, ::2, 1::2])
        return torch.maximum(top, torch.maximum(even[:, 1::2, ::2], even[:, 1::2, 1::2]))

    return Around(enter, leave, shrink if half > 1 else lambda x: x)


def _blocks(config: TrunkConfig) -> Iterator[PooledBlock]:
    width, heads = config.embed_dim, config.heads
    for block in range(config.depth):
        first = block - 1 in config.stage_ends
        out, heads = (2 * width, 2 * heads) if first else (width, heads)
        pool = 4 if block in config.pooling_blocks else 1
        yield PooledBlock(
            width,
            PooledAttention(width, out, heads, pool, whole=config.window(block) == 0),
            Mlp(out, int(out * config.mlp_ratio)),
            ProjectedShortcut(width, out) if first else None,
            drop_path=config.drop_path * block / max(config.depth - 1, 1),
            eps=config.norm_eps,
        )
        width = out
