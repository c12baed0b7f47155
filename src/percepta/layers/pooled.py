"""The block of hierarchical transformers, once: attention with pooled queries, inside groups of tokens.

Hiera, arXiv 2306.00989; its windowed form in SAM 2, arXiv 2408.00714. Where a stage begins, the block widens the tokens
and takes the maximum over neighbouring queries, so fewer and wider tokens leave it.
Unusual: how tokens are grouped is no business of the block. It is handed an `Arrangement`: windows of a map, the mask
units of an unrolled token axis, or all tokens at once.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from percepta.layers.attention import Mlp, attend
from percepta.layers.block import DropPath


class Arrangement(Protocol):
    """How the tokens of a tensor (..., C) fall into groups that attend among themselves, and how they are pooled."""

    def split(self, x: Tensor) -> Tensor:
        """All tokens as (G, T, C), G groups of T tokens."""

    def pool_queries(self, queries: Tensor) -> Tensor:
        """(G, T, C) → (G, T', C): the queries of each group after pooling; itself where nothing is pooled."""

    def pool(self, x: Tensor) -> Tensor:
        """The tokens (..., C) after the same pooling; itself where nothing is pooled."""

    def join(self, update: Tensor, like: Tensor) -> Tensor:
        """(G, T', C) back to the shape of the pooled tokens `like` (..., C')."""


class PooledAttention(nn.Module):
    """Self-attention inside groups, from `width` to `out` channels, with pooled queries.

    Args:
        width, out: channels before and after.
        heads: number of heads; divides `out`.
    """

    def __init__(self, width: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor, arrangement: Arrangement) -> Tensor:
        """(G, T, width) → (G, T', out)."""
        groups, count, _ = x.shape
        qkv = self.qkv(x).view(groups, count, 3, -1)
        queries = arrangement.pool_queries(qkv[:, :, 0])
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, qkv[:, :, 1], qkv[:, :, 2])
        )
        return self.proj(attend(query, key, value).transpose(1, 2).flatten(2))


class PooledBlock(nn.Module):
    """shortcut + attention(norm(x)), then x + mlp(norm(x)); where the width changes the shortcut is the pooled
    projection of the *normalised* tokens.

    Args:
        width, out: channels before and after.
        heads: number of heads.
        mlp_ratio: hidden width = int(out * mlp_ratio).
        epsilon: of the norms.
        drop_path: the rate at which whole branches are dropped while training.
    """

    def __init__(
        self, width: int, out: int, heads: int, mlp_ratio: float = 4.0, epsilon: float = 1e-6, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attention = PooledAttention(width, out, heads)
        self.widen = nn.Linear(width, out) if width != out else None
        self.norm2 = nn.LayerNorm(out, eps=epsilon)
        self.mlp = Mlp(out, int(out * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, arrangement: Arrangement) -> Tensor:
        """(..., width) → (..., out), fewer tokens where the arrangement pools."""
        normed = self.norm1(x)
        shortcut = arrangement.pool(x if self.widen is None else self.widen(normed))
        update = self.attention(arrangement.split(normed), arrangement)
        x = shortcut + self.drop_path(arrangement.join(update, shortcut))
        return x + self.drop_path(self.mlp(self.norm2(x)))
