"""Small parts that the heads of SAM 2 share: attention between two sequences, deep ReLU heads, norms, sines.

SAM 2, arXiv 2408.00714. Unusual: 1 x 1 convolutions are linear layers over the last axis, since all maps travel with
channels last in memory; sines have no parameters and are cached by size.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.layers import attend

Heads = tuple[Tensor, Tensor, Tensor]


class CrossAttention(nn.Module):
    """Multi-head attention with separate projections of queries, keys and values.

    Args:
        width: channels of the queries and of the result.
        heads: number of heads; divides `inner`.
        inner: channels inside; by default `width`.
        source: channels of keys and values before their projections; by default `width`.
    """

    def __init__(self, width: int, heads: int, inner: int | None = None, source: int | None = None) -> None:
        super().__init__()
        inner, source = inner or width, source or width
        self.heads = heads
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(source, inner)
        self.value = nn.Linear(source, inner)
        self.proj = nn.Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, Q, width), (M, K, source) twice → (N, Q, width).

        M may be 1 where N is more: then all N share the keys and values, which are projected once, and the queries of
        all attend in one go. N may be 1 where M is more: one set of queries, projected once, for every set of keys.
        """
        heads = split_heads(self.query(query), self.heads)
        keys, values = (split_heads(part, self.heads) for part in (self.key(key), self.value(value)))
        return self.proj(join_heads(attend_shared(heads, keys, values)))


def attend_shared(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(N, heads, Q, d) and (M, heads, K, d) twice → (max(N, M), heads, Q, d), where N = M or one of them is 1."""
    rows, heads, count, depth = query.shape
    if rows == len(key):
        return attend(query, key, value)
    if len(key) == 1:
        together = query.transpose(0, 1).reshape(1, heads, rows * count, depth)
        return attend(together, key, value).view(heads, rows, count, depth).transpose(0, 1)
    return attend(query.expand(len(key), -1, -1, -1), key, value)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, heads * d) → (N, heads, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(N, heads, T, d) → (N, T, heads * d)."""
    return x.transpose(1, 2).flatten(2)


class DeepHead(nn.Module):
    """`depth` linear layers with ReLU between them: (..., width) → (..., out)."""

    def __init__(self, width: int, hidden: int, out: int, depth: int = 3) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (depth - 1), out]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (N, C, H, W), epsilon 1e-6; the result lies with channels last in memory."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer at every place of a map: (N, C, H, W) → (N, out, H, W), channels last in memory."""
    result: Tensor = layer(x.permute(0, 2, 3, 1))
    return result.permute(0, 3, 1, 2)


def tokens_of(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H * W, C), row by row; no copy where channels are last in memory."""
    return x.flatten(2).transpose(1, 2)


def map_of(x: Tensor, height: int, width: int) -> Tensor:
    """(N, H * W, C) → (N, C, H, W), channels last in memory."""
    return x.transpose(1, 2).unflatten(2, (height, width))


def sine_grid(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sine code of a grid's places: (1, channels, height, width) float32, channels last in memory.

    The first half of the channels tells the row, the second the column; places 1 to n are scaled to an angle of 2 pi,
    divided by 10000^(2 floor(i / 2) / (channels / 2)); sines and cosines alternate.
    """
    return _sine_grid(height, width, channels, device or torch.device("cpu"))


@functools.lru_cache(maxsize=32)
def _sine_grid(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        half = channels // 2
        rows, columns = (_grid_code(length, half, device) for length in (height, width))
        table = torch.cat([rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)], dim=-1)
        return table[None].permute(0, 3, 1, 2)


def _grid_code(length: int, channels: int, device: torch.device) -> Tensor:
    places = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * (2 * math.pi)
    angles = places[:, None] / _periods(channels, device)
    return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1).flatten(1)


def sine_places(places: Tensor, channels: int) -> Tensor:
    """Sine code of numbers: (n,) → (n, channels) float32, all sines and then all cosines.

    Entry i of a half is divided by 10000^(2 floor(i / 2) / (channels / 2)).
    """
    half = channels // 2
    angles = places.float()[:, None] / _periods(half, places.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _periods(channels: int, device: torch.device) -> Tensor:
    entries = torch.arange(channels, dtype=torch.float32, device=device)
    return 10_000.0 ** (2 * entries.div(2, rounding_mode="floor") / channels)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned, float32: (N, C, h, w) → (N, C, H, W)."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
