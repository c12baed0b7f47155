"""The windowed Hiera that carries SAM 2 (HieraDet), with absolute-window positions (arXiv 2311.05613, 2408.00714).

Order of this file: config, windows, positions, the trunk.
Unusual: a block at the start of a stage still uses the window of the stage before; windows are padded with zeros after
the norm, and padding takes part in attention. While windows fit, neighbouring blocks that use the same ones run on the
windows as if they were small pictures, so the map is cut once and not for every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput, wrong_shape
from percepta.layers.pooled import PooledBlock


@dataclass(frozen=True, slots=True)
class TrunkConfig:
    """Sizes of the trunk; the defaults are SAM 2's tiny one.

    Attributes:
        embed_dim, heads: channels and heads of the first stage; both double at every stage.
        stages: blocks of each stage.
        q_pool: how many stage changes halve the map.
        windows: side of the attention windows of each stage, in tokens; 0 is the whole map.
        global_blocks: blocks, counted through all stages, that attend over the whole map.
        background: rows and columns of the position table that is stretched over the map.
        mlp_ratio, norm_eps: of the blocks.
        drop_path: stochastic depth of the last block while training, rising linearly from 0.
        in_channels, patch_kernel, patch_stride, patch_padding: of the patch convolution.
    """

    embed_dim: int = 96
    heads: int = 1
    stages: tuple[int, ...] = (1, 2, 7, 2)
    q_pool: int = 3
    windows: tuple[int, ...] = (8, 4, 14, 7)
    global_blocks: tuple[int, ...] = (5, 7, 9)
    background: tuple[int, int] = (7, 7)
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    in_channels: int = 3
    patch_kernel: int = 7
    patch_stride: int = 4
    patch_padding: int = 3

    def __post_init__(self) -> None:
        for name in ("stages", "windows", "global_blocks", "background"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.windows) != len(self.stages) or min(self.stages, default=0) < 1:
            raise BadInput(
                f"stages and windows must be as many, each stage of 1 block or more; got {self.stages}, {self.windows}."
            )
        if self.embed_dim % self.heads:
            raise BadInput(f"heads must divide embed_dim; got embed_dim={self.embed_dim}, heads={self.heads}.")
        if not 0 <= self.q_pool < len(self.stages):
            raise BadInput(f"q_pool must be 0 to {len(self.stages) - 1}; got {self.q_pool}.")
        if pooled := {sum(self.stages[:stage]) for stage in range(1, self.q_pool + 1)} & set(self.global_blocks):
            raise BadInput(f"global_blocks must not be the first of a pooled stage; got {sorted(pooled)}.")
        if self.windows[0] < 1:
            raise BadInput(f"the first window must be 1 or more, it is tiled as positions; got {self.windows[0]}.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.stages)))


class Windows:
    """Square windows of a map (B, H, W, C), an `Arrangement` of `layers.pooled`.

    Args:
        side: of a window, 0 for the whole map.
        pooled: whether queries and tokens are pooled 2 x 2.
    """

    def __init__(self, side: int, pooled: bool) -> None:
        self.side, self.pooled = side, pooled
        self.rows, self.columns = side, side

    def split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (windows, tokens, C), padded with zeros on the right and at the bottom."""
        if not self.side:
            self.rows, self.columns = x.shape[1:3]
            return x.flatten(1, 2)
        return cut(x, self.side).flatten(1, 2)

    def pool_queries(self, queries: Tensor) -> Tensor:
        """The largest value of each 2 x 2 neighbourhood inside a window."""
        if not self.pooled:
            return queries
        return halve(queries.unflatten(1, (self.rows, self.columns))).flatten(1, 2)

    def pool(self, x: Tensor) -> Tensor:
        """The same of the map."""
        return halve(x) if self.pooled else x

    def join(self, update: Tensor, like: Tensor) -> Tensor:
        """Windows back to the map, without their padding."""
        batch, height, width = like.shape[:3]
        if not self.side:
            return update.view(batch, height, width, -1)
        side = self.side // 2 if self.pooled else self.side
        return paste(update.unflatten(1, (side, side)), height, width)


def cut(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) → (B * windows, side, side, C), padded with zeros on the right and at the bottom."""
    batch, height, width, channels = x.shape
    down, right = -height % side, -width % side
    if down or right:
        x = F.pad(x, (0, 0, 0, right, 0, down))
    x = x.view(batch, (height + down) // side, side, (width + right) // side, side, channels)
    return x.transpose(2, 3).reshape(-1, side, side, channels)


def paste(windows: Tensor, height: int, width: int) -> Tensor:
    """(B * windows, side, side, C) → (B, height, width, C), the inverse of `cut`."""
    side, channels = windows.shape[1], windows.shape[-1]
    rows, columns = -(-height // side), -(-width // side)
    x = windows.view(-1, rows, columns, side, side, channels).transpose(2, 3)
    return x.reshape(-1, rows * side, columns * side, channels)[:, :height, :width]


def halve(x: Tensor) -> Tensor:
    """(B, H, W, C) → (B, H // 2, W // 2, C), the largest value of each 2 x 2 neighbourhood."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class HieraDet(nn.Module):
    """Pictures of any size to maps of four strides, without a final norm."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(
            config.in_channels, config.embed_dim, config.patch_kernel, config.patch_stride, config.patch_padding
        )
        self.background = nn.Parameter(torch.empty(1, config.embed_dim, *config.background))
        self.window = nn.Parameter(torch.empty(1, config.embed_dim, config.windows[0], config.windows[0]))
        for table in (self.background, self.window):
            nn.init.trunc_normal_(table, std=0.02)
        depth = sum(config.stages)
        self.blocks = nn.ModuleList()
        self.arrangements: list[tuple[int, bool]] = []
        width, heads = config.embed_dim, config.heads
        for stage, blocks in enumerate(config.stages):
            for number in range(blocks):
                first = stage > 0 and number == 0
                index = len(self.blocks)
                out, heads = (2 * width, 2 * heads) if first else (width, heads)
                rate = config.drop_path * index / max(1, depth - 1)
                self.blocks.append(PooledBlock(width, out, heads, config.mlp_ratio, config.norm_eps, rate))
                side = 0 if index in config.global_blocks else config.windows[stage - 1 if first else stage]
                self.arrangements.append((side, first and stage <= config.q_pool))
                width = out
        self.ends = [sum(config.stages[: stage + 1]) - 1 for stage in range(len(config.stages))]
        self._positions: tuple[tuple[object, ...], Tensor] | None = None

    def position_embedding(self, height: int, width: int) -> Tensor:
        """(1, height, width, C) for a token map: the background, stretched, plus the window table, tiled.

        Raises: BadInput for sides that the window does not tile.
        """
        side = self.window.shape[-1]
        if height % side or width % side:
            stride = self.config.patch_stride * side
            raise BadInput(
                f"pictures must have sides that are multiples of {stride} pixels, so that windows tile the map; got "
                f"{height * self.config.patch_stride} x {width * self.config.patch_stride}."
            )
        return (self._stretched((height, width)) + self.window.tile(1, 1, height // side, width // side)).permute(
            0, 2, 3, 1
        )

    def _stretched(self, size: tuple[int, int]) -> Tensor:
        return F.interpolate(self.background, size=size, mode="bicubic", align_corners=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 32 → a map (B, width, H / stride, W / stride) of each stage, the finest
        first; their memory lies with channels last."""
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise wrong_shape("pictures", x.shape, f"(B, {self.config.in_channels}, H, W)")
        x = self.patches(x).permute(0, 2, 3, 1)
        x = x + self._remembered_positions(x.shape[1], x.shape[2])
        maps: list[Tensor] = []
        block = 0
        while block < len(self.blocks):
            together = self._together(block, x.shape[1], x.shape[2])
            if together > 1:
                x = self._in_windows(x, range(block, block + together), maps)
            else:
                x = self.blocks[block](x, Windows(*self.arrangements[block]))
                self._collect(block, x, maps)
            block += together
        return [found.permute(0, 3, 1, 2) for found in maps]

    def _collect(self, block: int, x: Tensor, maps: list[Tensor]) -> None:
        if block in self.ends:
            maps.append(x)

    def _together(self, first: int, height: int, width: int) -> int:
        """How many blocks from `first` on can run on the same windows: 1 where that gains nothing or is not exact."""
        side, _ = self.arrangements[first]
        drops = self.training and self.config.drop_path > 0
        if not side or height % side or width % side or drops:
            return 1
        count = 0
        for expected, pooled in self.arrangements[first:]:
            if expected != side or (pooled and side % 2):
                break
            side = side // 2 if pooled else side
            count += 1
        return count

    def _in_windows(self, x: Tensor, blocks: Sequence[int], maps: list[Tensor]) -> Tensor:
        height, width = x.shape[1:3]
        windows = cut(x, self.arrangements[blocks[0]][0])
        for block in blocks:
            pooled = self.arrangements[block][1]
            windows = self.blocks[block](windows, Windows(0, pooled))
            height, width = (height // 2, width // 2) if pooled else (height, width)
            if block in self.ends:
                maps.append(paste(windows, height, width))
        return maps[-1] if blocks[-1] in self.ends else paste(windows, height, width)

    def _remembered_positions(self, height: int, width: int) -> Tensor:
        """The position table, kept for the last size while nobody learns."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self.window.is_meta:
            return self.position_embedding(height, width)
        tables = (self.background, self.window)
        made_from = (height, width, *((table.data_ptr(), table.dtype, _version(table)) for table in tables))
        if self._positions is None or self._positions[0] != made_from:
            self._positions = (made_from, self.position_embedding(height, width).contiguous())
        return self._positions[1]


def _version(table: Tensor) -> int:
    return -1 if table.is_inference() else table._version
