"""Many conversations as one row of tokens without padding, and the attention that keeps them apart.

Order of this file: documents, the row, attention. A document is what shares pictures: a beginning (everything up to
the last visual token) and one or more branches, each of which sees the beginning and itself, with positions that go on
from the beginning. So a picture with ten questions costs one picture, and every loss is what it would be for the
question alone. Unusual: all documents of a step lie in a single row, so no place is wasted and no mask is as long as
the row; linear layers see one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from percepta.models.perception_lm.chat import Example


@dataclass(frozen=True, slots=True)
class Document:
    """Conversations that begin with the same pictures.

    Attributes:
        tokens, targets: (n,) int64, the tokens and those that follow them.
        supervised: (n,) bool, places whose target is trained.
        pictures: (n,) bool, places of visual tokens.
        positions: (n,) int64.
        beginning: tokens that all branches share.
        branches: tokens of each branch.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    pictures: NDArray[np.bool_]
    positions: NDArray[np.int64]
    beginning: int
    branches: tuple[int, ...]


def document_of(examples: Sequence[Example]) -> Document:
    """One document of the conversations about the same pictures; what they begin with in common is there once.

    They must have the same tokens up to the last visual one, as conversations with all pictures in front have.
    """
    first = examples[0]
    shown = np.flatnonzero(first.pictures)
    beginning = int(shown[-1]) + 1 if len(examples) > 1 and len(shown) else 0
    if len(examples) > 1:
        assert all(np.array_equal(each.tokens[:beginning], first.tokens[:beginning]) for each in examples)
    parts = [slice(beginning, each.inputs) for each in examples]
    after = [slice(part.start + 1, part.stop + 1) for part in parts]

    def joined(start: NDArray, rest: list[NDArray]) -> NDArray:
        return np.concatenate([start[:beginning], *rest])

    trained = [each.supervised[place] for each, place in zip(examples, after, strict=True)]
    return Document(
        tokens=joined(first.tokens, [each.tokens[place] for each, place in zip(examples, parts, strict=True)]),
        targets=joined(first.tokens, [each.tokens[place] for each, place in zip(examples, after, strict=True)]),
        supervised=joined(np.zeros(beginning, bool), trained),
        pictures=joined(first.pictures, [each.pictures[place] for each, place in zip(examples, parts, strict=True)]),
        positions=joined(np.arange(beginning), [np.arange(part.start, part.stop) for part in parts]),
        beginning=beginning,
        branches=tuple(part.stop - part.start for part in parts),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """All documents of a step, one after the other.

    Attributes:
        tokens, positions, pictures: (1, L) int64; pictures are -1 on text, else 0, 1, 2 ... through the visual tokens.
        places: (S,) int64, the places whose targets are trained.
        targets: (S,) int64.
        branch: (S,) int64, the number of the conversation that each belongs to, counted through the step.
        shapes: for each document its beginning and its branches, in tokens.
    """

    tokens: Tensor
    positions: Tensor
    pictures: Tensor
    places: Tensor
    targets: Tensor
    branch: Tensor
    shapes: tuple[tuple[int, tuple[int, ...]], ...]

    def to(self, device: torch.device) -> Row:
        """The same on another device."""
        tensors = ("tokens", "positions", "pictures", "places", "targets", "branch")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def joined_row(documents: Sequence[Document]) -> Row:
    """Documents as one row."""
    supervised = np.concatenate([each.supervised for each in documents])
    shown = np.concatenate([each.pictures for each in documents])
    counts = [count for each in documents for count in each.branches]
    branch: list[NDArray] = []
    number = 0
    for each in documents:
        branch.append(np.zeros(each.beginning, np.int64))
        branch.append(np.repeat(np.arange(number, number + len(each.branches)), each.branches))
        number += len(each.branches)
    assert number == len(counts)
    places = np.flatnonzero(supervised)
    targets = np.concatenate([each.targets for each in documents])[places]
    return Row(
        tokens=torch.from_numpy(np.concatenate([each.tokens for each in documents]))[None],
        positions=torch.from_numpy(np.concatenate([each.positions for each in documents]))[None],
        pictures=torch.from_numpy(np.where(shown, np.cumsum(shown) - 1, -1))[None],
        places=torch.from_numpy(places),
        targets=torch.from_numpy(targets),
        branch=torch.from_numpy(np.concatenate(branch)[places]),
        shapes=tuple((each.beginning, each.branches) for each in documents),
    )


def branch_mask(beginning: int, branches: Sequence[int], device: torch.device) -> Tensor:
    """(n, n) bool, what each token of a document sees: the beginning and its own branch up to itself."""
    sizes = torch.tensor([beginning, *branches], device=device)
    part = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
    earlier = torch.ones(len(part), len(part), dtype=torch.bool, device=device).tril()
    return earlier & ((part[None] == part[:, None]) | (part[None] == 0))


class Branches:
    """The attention of a row of documents, one after the other; a `perception_lm.attending.Way`.

    Args:
        shapes: as of `Row`.
        device: of the tokens.
    """

    def __init__(self, shapes: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> None:
        self.lengths = [beginning + sum(branches) for beginning, branches in shapes]
        plain = [len(branches) == 1 for _, branches in shapes]
        self.masks = [
            None if single else branch_mask(beginning, branches, device)
            for single, (beginning, branches) in zip(plain, shapes, strict=True)
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(1, heads, L, head_dim), keys and values with their own heads → (1, heads, L, head_dim)."""
        grouped = query.shape[1] != key.shape[1]
        queries, keys, values = (tensor.split(self.lengths, dim=2) for tensor in (query, key, value))
        mixed = [
            functional.scaled_dot_product_attention(
                own, seen, read, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
            )
            for own, seen, read, mask in zip(queries, keys, values, self.masks, strict=True)
        ]
        return torch.cat(mixed, dim=2)
