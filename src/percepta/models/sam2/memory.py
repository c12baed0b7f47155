"""How a frame looks at its past: memory attention, and the memory encoder that writes what a later frame may look at.

SAM 2, arXiv 2408.00714, section 4. Unusual: memories are narrower (64 channels) than the map that looks at them (256);
since there is one head, attention mixes the narrow memories first and projects the mixture, which is the same sum with
a quarter of the work; rotary positions count grid places, and the object pointers behind the memories are not rotated.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.layers import grid_rotation, rotate
from percepta.layers.chunked import attend_in_blocks
from percepta.layers.packed import runs_plain
from percepta.models.sam2.parts import ChannelNorm, join_heads, pointwise, split_heads

LOCAL = 3.0
"""Biases of queries and keys in a fresh attention to memory. Equal and turned by their places they agree the better the
nearer the places are: a frame begins by looking at the same place in the past, and learns what moves from there."""


class RotaryAttention(nn.Module):
    """Attention over grids, with queries and keys turned by their places (RoPE over two axes).

    Args:
        width: channels of queries and result.
        heads: number of heads.
        source: channels of keys and values before their projections; by default `width`.
        dropout: of the attention weights, while training.
    """

    def __init__(self, width: int, heads: int = 1, source: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source or width, width)
        self.value = nn.Linear(source or width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, side: int, pointers: int = 0) -> Tensor:
        """Attend.

        Args:
            query: (N, side * side, width), one square map row by row; N = 1 serves every row of keys.
            key, value: (N, K, source): any number of such maps one after the other, then `pointers` tokens that have
                no place.
            side: rows and columns of a map.

        Returns: (N, side * side, width).
        """
        places = side * side
        rotation = grid_rotation(side, side, self.query.out_features // self.heads, device=query.device)
        queries = rotate(split_heads(self.query(query), self.heads), rotation)
        keys = split_heads(self.key(key), self.heads)
        maps, loose = keys[:, :, : keys.shape[2] - pointers], keys[:, :, keys.shape[2] - pointers :]
        maps = rotate(maps.unflatten(2, (-1, places)), rotation).flatten(2, 3)
        keys = torch.cat([maps, loose], dim=2) if pointers else maps
        queries = queries.expand(len(keys), -1, -1, -1)
        return self.proj(self._mix(queries, keys, value))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention weights times projected values; with one head the narrow values are mixed and then projected."""
        if self._mixes_first(value):
            return self.value(attend_in_blocks(query[:, 0], key[:, 0], value))
        values = split_heads(self.value(value), self.heads)
        dropout = self.dropout if self.training else 0.0
        return join_heads(F.scaled_dot_product_attention(query, key, values, dropout_p=dropout))

    def _mixes_first(self, value: Tensor) -> bool:
        """Where the way over narrow values is the faster one: on the CPU, without gradients or tracing."""
        narrow = self.heads == 1 and value.shape[-1] < self.value.out_features
        return narrow and not self.training and not torch.is_grad_enabled() and not runs_plain(value)


class MemoryLayer(nn.Module):
    """Self-attention, attention to the memories, MLP with ReLU; each on normalised tokens, each added."""

    def __init__(self, width: int, heads: int, hidden: int, memory_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = RotaryAttention(width, heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        self.memory_attention = RotaryAttention(width, heads, memory_width, dropout)
        for part in (self.memory_attention.query, self.memory_attention.key):
            nn.init.constant_(part.bias, LOCAL)
        self.norm3 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, side: int, pointers: int) -> Tensor:
        own = self.norm1(x)
        x = x + self.dropout(self.self_attention(own, own, own, side))
        seen = self.memory_attention(self.norm2(x), memory + position, memory, side, pointers)
        x = x + self.dropout(seen)
        return x + self.dropout(self.contract(self.dropout(F.relu(self.expand(self.norm3(x))))))


class MemoryAttention(nn.Module):
    """A frame's map, changed by what it finds in memory.

    Args:
        width, heads, hidden, layers: of the transformer.
        memory_width: channels of the memories and pointer tokens.
        dropout: while training.
    """

    def __init__(self, width: int, heads: int, hidden: int, layers: int, memory_width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryLayer(width, heads, hidden, memory_width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, code: Tensor, memory: Tensor, position: Tensor, pointers: int = 0) -> Tensor:
        """Look at the memories.

        Args:
            x: (N, side * side, width), the frame's map row by row; one row serves every object, and what does not
                depend on the object is then computed once.
            code: its places, broadcastable to x; a tenth of it is added.
            memory: (N, K, memory_width), maps of the same side, then `pointers` tokens.
            position: what is added to the memories where they serve as keys, broadcastable to memory.

        Returns: (N, side * side, width).
        """
        side = round(x.shape[1] ** 0.5)
        x = x + 0.1 * code
        for layer in self.layers:
            x = layer(x, memory, position, side, pointers)
        return self.norm(x)


class MemoryEncoder(nn.Module):
    """A frame's map and its mask to a memory: (N, width, h, w) and (N, 1, 16 h, 16 w) → (N, memory_width, h, w).

    Args:
        width: channels of the map.
        memory_width: channels of the memory.
        fusers: ConvNeXt blocks (arXiv 2201.03545) that join the two.
    """

    def __init__(self, width: int, memory_width: int, fusers: int) -> None:
        super().__init__()
        sizes = [1, 4, 16, 64, 256]
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes))
        self.shrink_norms = nn.ModuleList(ChannelNorm(size) for size in sizes[1:])
        self.mask_proj = nn.Linear(sizes[-1], width)
        self.map_proj = nn.Linear(width, width)
        self.fusers = nn.ModuleList(Fuser(width) for _ in range(fusers))
        self.proj = nn.Linear(width, memory_width)

    def forward(self, maps: Tensor, mask: Tensor) -> Tensor:
        """`mask` is what stands for the mask: its probability, scaled and shifted."""
        for convolution, norm in zip(self.shrink, self.shrink_norms, strict=True):
            mask = F.gelu(norm(convolution(mask)))
        x = pointwise(self.map_proj, maps) + pointwise(self.mask_proj, mask)
        for fuser in self.fusers:
            x = fuser(x)
        return pointwise(self.proj, x)


class Fuser(nn.Module):
    """A ConvNeXt block: depthwise 7 x 7, norm, a wide MLP at every place, layer scale, residual."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        update = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        update = self.gamma * self.contract(F.gelu(self.expand(update)))
        return x + update.permute(0, 3, 1, 2)


def nearest_frames(frame: int, available: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Which prompted frames are attended to at `frame` when at most `limit` may be: (selected, the others).

    First the nearest one before the frame, then the nearest at or after it, then the nearest of the rest. A negative
    limit selects all.
    """
    if limit < 0 or len(available) <= limit:
        return list(available), []
    before = max((other for other in available if other < frame), default=None)
    after = min((other for other in available if other >= frame), default=None)
    chosen = [other for other in (before, after) if other is not None][:limit]
    rest = sorted((other for other in available if other not in chosen), key=lambda other: abs(other - frame))
    chosen += rest[: limit - len(chosen)]
    return chosen, [other for other in available if other not in chosen]
