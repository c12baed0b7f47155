"""Multi-head self-attention, once, for every pre-norm block of the house."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers.rope import rotate
from percepta.layers.token_merging import log_size


class Attention(nn.Module):
    """Self-attention with a fused query-key-value projection (biased) and an output projection (biased).

    Args:
        width: channels D; divisible by `heads`.
        heads: number of heads; the scale is head_dim^-0.5.
        causal: a token sees itself and earlier tokens alone.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise BadInput(f"heads must divide width; got width={width}, heads={heads}.")
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor | None = None, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: (B, N, D).
            rotation: what `layers.rope.rotate` takes, (N, R) or (B, N, R); None leaves queries and keys unrotated.
            bias: added to the attention logits of each key, (B, 1, 1, N), or None.

        Returns: the update (B, N, D), and the unrotated keys (B, heads, N, head_dim), which token merging compares.
        """
        batch, count, width = x.shape
        qkv = self.qkv(x).view(batch, count, 3, self.heads, width // self.heads)
        plain_keys = qkv[:, :, 1].transpose(1, 2)
        if rotation is None:
            query, key = qkv[:, :, 0].transpose(1, 2), plain_keys
        else:  # queries and keys side by side: one multiplication turns both
            turned = rotate(qkv[:, :, :2], rotation[..., :, None, None, :])
            query, key = turned[:, :, 0].transpose(1, 2), turned[:, :, 1].transpose(1, 2)
        value = qkv[:, :, 2].transpose(1, 2)
        mixed = attend(query, key, value, bias, self.causal)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width)), plain_keys


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, causal: bool = False) -> Tensor:
    """Fused attention, (B, heads, N, head_dim) each, with a bias a key, (B, 1, 1, N), that no kernel spreads to N x N.

    The bias goes in as a broadcast mask (2 to 6 % on a CPU). The half-precision kernels of CUDA refuse masks; there it
    is one more channel, which gives the same logits: [q, sqrt(d)] · [k, bias] / sqrt(d) = q · k / sqrt(d) + bias.
    """
    if bias is None or causal or not (query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)
    return attend_with_channel(query, key, value, bias)


def attend_with_channel(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """`attend` with the bias as a channel; channels are filled up to a multiple of 8, as the kernels want it."""
    head_dim = query.shape[-1]
    more = 8 - head_dim % 8
    root = torch.full_like(query[..., :1], head_dim**0.5)
    column = bias.transpose(-1, -2).expand(*key.shape[:-1], 1)
    mixed = F.scaled_dot_product_attention(
        F.pad(torch.cat([query, root], dim=-1), (0, more - 1)),
        F.pad(torch.cat([key, column.to(key.dtype)], dim=-1), (0, more - 1)),
        F.pad(value, (0, more)),
        scale=head_dim**-0.5,
    )
    return mixed[..., :head_dim]


class AttentionPooling(nn.Module):
    """One learned query attends to all tokens, then an MLP with a residual (attention pooling of PE, SigLIP, CoCa).

    Args:
        width: channels D; divisible by `heads`.
        heads: heads of the pooling alone.
        mlp_ratio: hidden width of the MLP over D.
    """

    def __init__(self, width: int, heads: int = 8, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if width % heads:
            raise BadInput(f"pooling_heads must divide width; got width={width}, pooling_heads={heads}.")
        self.heads = heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.probe, std=width**-0.5)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        """(B, N, D) → (B, D); `size` (B, N) weights merged tokens by how many inputs they stand for."""
        batch, count, width = x.shape
        head_dim = width // self.heads
        query = self.query(self.probe).view(1, 1, self.heads, head_dim).transpose(1, 2).expand(batch, -1, -1, -1)
        key, value = self.key_value(x).view(batch, count, 2, self.heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        pooled = attend(query, key, value, None if size is None else log_size(size, x.dtype))
        pooled = self.proj(pooled.transpose(1, 2).reshape(batch, 1, width))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class Mlp(nn.Module):
    """Linear, exact GELU, linear: (..., D) → (..., D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))
