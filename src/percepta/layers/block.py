"""The pre-norm transformer block, once, with the one seam where fewer tokens enter.

A block receives its parts; a family that needs another attention, norm or MLP hands in another part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from percepta.layers.attention import Attention, Mlp
from percepta.layers.tokens import Tokens

Shorten = Callable[[Tokens, Tensor], Tokens]
"""A token-merging policy: (tokens, keys (B, heads, N, head_dim)) → fewer tokens, with sizes and positions."""


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor: (..., D) → (..., D)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Drop a residual branch for whole samples while training (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class Block(nn.Module):
    """x + scale(attention(norm(x))), then, after the seam, x + scale(mlp(norm(x))).

    Args:
        width: channels D.
        attention: the attention part, called as attention(x, rotation, bias) → (update, keys).
        mlp: the MLP part.
        scales: what multiplies each branch (two LayerScales); the identity by default.
        drop_path: the rate at which whole branches are dropped while training.
    """

    def __init__(
        self,
        width: int,
        attention: Attention,
        mlp: Mlp,
        scales: tuple[nn.Module, nn.Module] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = mlp
        self.scale1, self.scale2 = scales or (nn.Identity(), nn.Identity())
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tokens, rotation: Tensor | None = None, shorten: Shorten | None = None) -> Tokens:
        """One layer over `tokens`; `shorten` may merge tokens between attention and MLP."""
        update, keys = self.attention(self.norm1(tokens.x), rotation, tokens.bias)
        tokens = tokens._replace(x=tokens.x + self.drop_path(self.scale1(update)))
        if shorten is not None:
            tokens = shorten(tokens, keys)
        return tokens._replace(x=tokens.x + self.drop_path(self.scale2(self.mlp(self.norm2(tokens.x)))))
