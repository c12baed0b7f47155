"""Exact attention in tiles small enough for the cache, written with matrix products.

PyTorch's fused kernel on the CPU brings its own inner products, which on many processors run far below its matrix
products. Two ways of using those instead, both softmax(q kᵀ / √d + bias) v to float32 rounding:

- "heads": batched products over a few heads and rows at a time, with one buffer of logits for all tiles;
- "rows": head by head, rows in chunks, through oneDNN's linear layer, where batched products are slow.

Which one wins depends on the processor, the number of tokens and the precision; `running.machine` measures it. Never
more than `TILE` logits exist at a time, so memory does not grow with the square of the tokens.

Unusual: oneDNN's products take bfloat16 too, where the fused kernel gains nothing from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from percepta.layers.attention import Attention, attend
from percepta.layers.packed import Choose, PackedLinear, packed_linear, runs_plain, stand_in
from percepta.layers.rope import rotate

TILE = 1 << 20  # logits at a time: 4 MB of float32, the second-level cache of a few cores
BLOCK_ROWS, BLOCK_KEYS = 512, 2048  # of `attend_in_blocks`: the same 4 MB
WAYS = ("fused", "heads", "rows")


def attend_in_tiles(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, way: str = "fused"
) -> Tensor:
    """softmax(q kᵀ / √head_dim + bias) v.

    Args:
        query, key, value: (B, heads, N, head_dim), (B, heads, M, head_dim) and (B, heads, M, V); any strides, the last
            axis dense. With "fused" V is head_dim.
        bias: added to the logits, broadcastable to (B, heads, N, M), or None.
        way: "fused" (`layers.attend`), "heads" or "rows"; the latter two build no graph for gradients.

    Returns: (B, N, heads * V), contiguous.
    """
    batch, heads, count, head_dim = query.shape
    if way == "fused":
        mixed = attend(query, key, value, bias)
        return mixed.transpose(1, 2).reshape(batch, count, heads * head_dim)
    mixed = query.new_empty(batch, count, heads, value.shape[-1])
    if bias is not None:
        bias = bias.expand(batch, heads, *bias.shape[-2:])
    tiles = _by_heads if way == "heads" else _by_rows
    tiles(query, key, value, bias, mixed.transpose(1, 2))
    return mixed.flatten(2)


def _by_heads(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, mixed: Tensor) -> None:
    batch, heads, count, head_dim = query.shape
    keys = key.shape[2]
    rows = max(1, min(count, TILE // keys))
    together = max(1, min(heads, TILE // (rows * keys)))
    buffer = query.new_empty(together * rows * keys)
    scale, turned = head_dim**-0.5, key.transpose(2, 3)
    for picture in range(batch):
        for head in range(0, heads, together):
            some = slice(head, min(heads, head + together))
            for row in range(0, count, rows):
                part = slice(row, min(count, row + rows))
                shape = (some.stop - some.start, part.stop - part.start, keys)
                logits = buffer[: shape[0] * shape[1] * keys].view(shape)
                # beta=0: what the buffer held, were it NaN, is not read
                torch.baddbmm(
                    logits, query[picture, some, part], turned[picture, some], beta=0, alpha=scale, out=logits
                )
                if bias is not None:
                    logits += bias[picture, some] if bias.shape[2] == 1 else bias[picture, some, part]
                torch.softmax(logits, -1, out=logits)
                mixed[picture, some, part] = torch.bmm(logits, value[picture, some])


def _by_rows(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, mixed: Tensor) -> None:
    batch, heads, count, head_dim = query.shape
    rows = max(1, min(count, TILE // key.shape[2]))
    keys = (key * head_dim**-0.5).contiguous()
    values = value.transpose(2, 3).contiguous()
    for picture in range(batch):
        for head in range(heads):
            for row in range(0, count, rows):
                part = slice(row, min(count, row + rows))
                logits = packed_linear(query[picture, head, part], keys[picture, head], None)
                if bias is not None:
                    logits += bias[picture, head] if bias.shape[2] == 1 else bias[picture, head, part]
                torch.softmax(logits, -1, out=logits)
                mixed[picture, head, part] = packed_linear(logits, values[picture, head], None)


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √head_dim) v with values of any width, for one head: block by block of rows and of keys.

    The sums over blocks of keys are kept at a common maximum (online softmax), so that logits never leave the cache.
    Builds no graph for gradients.

    Args:
        query, key, value: (B, N, head_dim), (B, M, head_dim), (B, M, V).

    Returns: (B, N, V).
    """
    mixed = query.new_empty(*query.shape[:2], value.shape[-1])
    scaled = query * query.shape[-1] ** -0.5
    for picture in range(len(query)):
        turned, values = key[picture].T, value[picture]
        for row in range(0, query.shape[1], BLOCK_ROWS):
            part = scaled[picture, row : row + BLOCK_ROWS]
            highest = part.new_full((len(part), 1), float("-inf"))
            total, sums = part.new_zeros(len(part), 1), part.new_zeros(len(part), value.shape[-1])
            for start in range(0, key.shape[1], BLOCK_KEYS):
                some = slice(start, start + BLOCK_KEYS)
                logits = part @ turned[:, some]
                higher = torch.maximum(highest, logits.amax(1, keepdim=True))
                faded = (highest - higher).exp_()
                logits.sub_(higher).exp_()
                total.mul_(faded).add_(logits.sum(1, keepdim=True))
                sums.mul_(faded).addmm_(logits, values[some])
                highest = higher
            torch.div(sums, total, out=mixed[picture, row : row + BLOCK_ROWS])
    return mixed


class PreparedAttention(Attention):
    """`Attention` the fastest way here and, by request, in bfloat16 inside; made by `prepared_attention_of`.

    Same call and same results as `Attention`. With bfloat16 the projections, queries, keys and values are bfloat16 (the
    rotation is computed in float32), the update has the dtype of the input, and the keys are bfloat16.

    Attributes:
        plain: the attention that this one stands for.
        choose: which of `WAYS` is fastest, by (B, heads, N, head_dim).
    """

    plain: Attention
    choose: Choose

    def forward(self, x: Tensor, rotation: Tensor | None = None, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if runs_plain(x) or not self._ready(x, bias):
            return self.plain.forward(x, rotation, bias)
        batch, count, width = x.shape
        qkv = self._project(x).view(batch, count, 3, self.heads, width // self.heads)
        plain_keys = qkv[:, :, 1].transpose(1, 2)
        if rotation is None:
            query, key = qkv[:, :, 0].transpose(1, 2), plain_keys
        else:
            turned = rotate(qkv[:, :, :2], rotation[..., :, None, None, :])
            query, key = turned[:, :, 0].transpose(1, 2), turned[:, :, 1].transpose(1, 2)
        value = qkv[:, :, 2].transpose(1, 2)
        shape = (batch, self.heads, count, width // self.heads)
        way = self.choose("attention", shape, qkv.dtype)
        mixed = attend_in_tiles(query, key, value, bias, way)
        return self.proj(mixed) if mixed.dtype == x.dtype else self._contract(mixed, x.dtype), plain_keys

    def train(self, mode: bool = True) -> PreparedAttention:
        self.plain.training = mode
        super().train(mode)
        return self

    def _ready(self, x: Tensor, bias: Tensor | None) -> bool:
        return (
            not self.training
            and not self.causal
            and x.ndim == 3
            and not (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()))
            and (bias is None or (bias.ndim == 4 and not (torch.is_grad_enabled() and bias.requires_grad)))
        )

    def _project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side: in bfloat16 where that was asked for and can be."""
        qkv: Any = self.qkv
        result: Tensor = qkv.run(x) if self._low(x) else qkv(x)
        return result

    def _contract(self, mixed: Tensor, dtype: torch.dtype) -> Tensor:
        proj: Any = self.proj
        result: Tensor = proj.run(mixed).to(dtype)
        return result

    def _low(self, x: Tensor) -> bool:
        """Whether both projections are to run in a lower precision than `x` has, without a hook on them."""
        return all(
            isinstance(part, PackedLinear)
            and part.precision not in (None, x.dtype)
            and part.ready(x)
            and not (part._forward_hooks or part._forward_pre_hooks)
            for part in (self.qkv, self.proj)
        )


def prepared_attention_of(plain: Attention, choose: Choose) -> PreparedAttention:
    """What stands in for an attention; see `PreparedAttention`."""
    part = stand_in(PreparedAttention, plain)
    part.choose = choose
    return part
