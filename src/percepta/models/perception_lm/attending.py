"""How the decoder's queries meet keys: whole rows, packed documents, a first pass that fills a store, single steps.

The layers are transformers' own; they ask one function for attention, and this file is that function. What it does is
an object handed to the forward (`way`), which every layer passes on.

Unusual: no mask is ever made for packed documents or prompts of mixed lengths: they lie one after the other, linear
layers see them as one row, and attention runs document by document, so memory grows with the longest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "percepta"
ROOM = 64  # slots by which a store grows at least


class Way(Protocol):
    """One way to attend, called by every layer in turn."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(B, heads, L, head_dim), keys and values with their own heads → (B, heads, L, head_dim)."""
        ...


class Rows:
    """Every row is one document: plain causal attention."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Way`."""
        return causal(query, key, value, scale)


class Documents:
    """Rows of packed documents.

    Args:
        lengths: for each row the tokens of its documents, in their order.
    """

    def __init__(self, lengths: Sequence[Sequence[int]]) -> None:
        self.lengths = [list(row) for row in lengths]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Way`."""
        rows = []
        for row, lengths in enumerate(self.lengths):
            queries, keys, values = (part[row : row + 1].split(lengths, dim=2) for part in (query, key, value))
            mixed = [causal(*part, scale=scale) for part in zip(queries, keys, values, strict=True)]
            rows.append(torch.cat(mixed, dim=2))
        return torch.cat(rows)


class Store:
    """Keys and values of the tokens so far, for rows of different lengths, with room that grows as they do.

    Row b holds its tokens in slots 0 to lengths[b] - 1. Room doubles by a half, so copies stay rare, and memory
    follows the longest row, never the model's longest context.
    """

    def __init__(self, layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths: list[int] = []

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may come several times."""
        index = torch.tensor(list(rows))
        self.lengths = [self.lengths[row] for row in rows]
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                if tensor is not None:
                    tensors[layer] = tensor[:, :, : self.longest + ROOM].index_select(0, index.to(tensor.device))

    def extend(self, layer: int, keys: Sequence[Tensor], values: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each row (1, heads, n, head_dim) more tokens; gives each row's keys and values from its start on."""
        lengths = self.lengths or [0] * len(keys)
        ends = [start + part.shape[2] for start, part in zip(lengths, keys, strict=True)]
        found = []
        for tensors, parts in ((self.keys, keys), (self.values, values)):
            old = tensors[layer]
            room = parts[0].new_zeros(len(parts), parts[0].shape[1], max(ends) + ROOM, parts[0].shape[3])
            for row, part in enumerate(parts):
                if old is not None:
                    room[row, :, : lengths[row]] = old[row, :, : lengths[row]]
                room[row, :, lengths[row] : ends[row]] = part[0]
            tensors[layer] = room
            found.append([room[row : row + 1, :, :end] for row, end in enumerate(ends)])
        return list(zip(*found, strict=True))

    def add(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, heads, 1, head_dim): one more token a row; gives all keys and values up to the longest row."""
        keys, values = self.keys[layer], self.values[layer]
        assert keys is not None
        assert values is not None
        if keys.shape[2] <= self.longest:
            more = max(ROOM, self.longest // 2)
            keys, values = F.pad(keys, (0, 0, 0, more)), F.pad(values, (0, 0, 0, more))
            self.keys[layer], self.values[layer] = keys, values
        if len(set(self.lengths)) == 1:
            keys[:, :, self.longest] = key[:, :, 0]
            values[:, :, self.longest] = value[:, :, 0]
        else:
            rows, slots = torch.arange(len(self.lengths)), torch.tensor(self.lengths)
            keys[rows, :, slots] = key[:, :, 0]
            values[rows, :, slots] = value[:, :, 0]
        return keys[:, :, : self.longest + 1], values[:, :, : self.longest + 1]


class Prompts:
    """A first pass: prompts, or what follows on what a store holds, one after the other in a single row.

    Args:
        store: gets their keys and values; its rows may hold the beginnings of the prompts.
        lengths: tokens of each prompt in this pass.
    """

    def __init__(self, store: Store, lengths: Sequence[int]) -> None:
        self.store, self.lengths = store, list(lengths)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Way`."""
        queries, keys, values = (part.split(self.lengths, dim=2) for part in (query, key, value))
        mixed = []
        for new, pair in zip(queries, self.store.extend(layer, keys, values), strict=True):
            mixed.append(causal(new, *pair, scale))
        return torch.cat(mixed, dim=2)

    def done(self) -> None:
        """Count the tokens that all layers have added."""
        before = self.store.lengths or [0] * len(self.lengths)
        self.store.lengths = [start + more for start, more in zip(before, self.lengths, strict=True)]


class Step:
    """One more token in every row."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.mask: Tensor | None = None
        if len(set(store.lengths)) > 1:
            slots = torch.arange(store.longest + 1)
            self.mask = (slots <= torch.tensor(store.lengths)[:, None])[:, None, None, :]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Way`."""
        keys, values = self.store.add(layer, key, value)
        mask = None if self.mask is None else self.mask.to(query.device)
        batch, heads, _, head_dim = query.shape
        if heads == keys.shape[1]:
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        groups = query.reshape(batch, keys.shape[1], -1, head_dim)  # the queries of one key head, side by side
        mixed = F.scaled_dot_product_attention(groups, keys, values, attn_mask=mask, scale=scale)
        return mixed.reshape(batch, heads, 1, head_dim)

    def done(self) -> None:
        """Count the tokens that all layers have added."""
        self.store.lengths = [length + 1 for length in self.store.lengths]


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Every token sees itself and earlier ones; key heads serve several query heads each.

    Where there are more keys than queries, the queries are the last tokens.
    """
    grouped = query.shape[1] != key.shape[1]
    new, all_tokens = query.shape[2], key.shape[2]
    mask = None
    if new != all_tokens:
        mask = torch.ones(new, all_tokens, dtype=torch.bool, device=query.device).tril(all_tokens - new)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float = 1.0, **options: Any
) -> tuple[Tensor, None]:
    """What transformers' layers call: (B, heads, L, head_dim) → (B, L, heads, head_dim)."""
    way: Way = options.get("way") or Rows()
    return way.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make `attend` known to transformers; gives the name to ask for."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME
