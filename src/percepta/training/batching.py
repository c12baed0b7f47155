"""From a batch of the mixture to the tensors of one update.

Unusual: each distinct caption is tokenised and encoded once, whatever the number of samples that share it, and token
rows are cut to the longest caption of the batch. The text tower then costs a fraction of the vision tower. The cut is
exact for text towers that read causally up to an end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from percepta.training.augmentation import prepare_pictures
from percepta.training.data import Batch, Part

REMEMBERED_CAPTIONS = 200_000


@dataclass(frozen=True, slots=True)
class Inputs:
    """Tensors of one update.

    Attributes:
        pictures: (B, 3, S, S) float32.
        tokens: (U, n) int64, one row for each distinct caption.
        caption_ids: (B,) row of each sample's caption.
        negative_ids: (B,) row of each sample's hard negative, or None where no sample has one.
        negative_mask: (B,) bool, whether the sample has one.
    """

    pictures: Tensor
    tokens: Tensor
    caption_ids: Tensor
    negative_ids: Tensor | None
    negative_mask: Tensor | None

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        moved = [None if value is None else value.to(device, non_blocking=True) for value in self._values()]
        return Inputs(*moved)  # type: ignore[arg-type]

    def _values(self) -> tuple[Tensor | None, ...]:
        return self.pictures, self.tokens, self.caption_ids, self.negative_ids, self.negative_mask


class Tokens:
    """Token rows of captions, remembered.

    Args:
        tokenize: from N strings to (N, context) integers, padded with zeros.
    """

    def __init__(self, tokenize: Callable[[list[str]], Tensor]) -> None:
        self.tokenize = tokenize
        self.rows: dict[str, Tensor] = {}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """(N, n) int64, cut to the longest caption."""
        if len(self.rows) > REMEMBERED_CAPTIONS:
            self.rows.clear()
        unknown = [caption for caption in dict.fromkeys(captions) if caption not in self.rows]
        if unknown:
            self.rows.update(zip(unknown, self.tokenize(unknown), strict=True))
        tokens = torch.stack([self.rows[caption] for caption in captions])
        return tokens[:, : int(tokens.ne(0).any(0).nonzero().max()) + 1]


def make_inputs(batch: Batch, size: int, tokens: Tokens, seed: int, hard_negatives: bool = True) -> Inputs:
    """Varied pictures of side `size` and the token rows of a batch; a function of (seed, step) alone."""
    generator = torch.Generator().manual_seed((seed << 32) + batch.step)
    pictures = torch.cat([prepare_pictures(part.pictures, size, part.augment, generator) for part in batch.parts])
    return _gather(batch.parts, pictures, tokens, hard_negatives)


def heldout_inputs(part: Part, size: int, tokens: Tokens) -> Inputs:
    """The tensors of validation samples, not varied."""
    return _gather((part,), prepare_pictures(part.pictures, size), tokens, hard_negatives=True)


def _gather(parts: Sequence[Part], pictures: Tensor, tokens: Tokens, hard_negatives: bool) -> Inputs:
    rows: dict[str, int] = {}

    def row(text: str) -> int:
        return rows.setdefault(text, len(rows))

    caption_ids = [row(caption) for part in parts for caption in part.captions]
    mask = [part.hard_negatives is not None and hard_negatives for part in parts for _ in part.captions]
    negatives = [text for part in parts for text in (part.hard_negatives or part.captions)]
    negative_ids = [row(text) if real else 0 for text, real in zip(negatives, mask, strict=True)]
    some = any(mask)
    return Inputs(
        pictures,
        tokens(list(rows)),
        torch.tensor(caption_ids),
        torch.tensor(negative_ids) if some else None,
        torch.tensor(mask) if some else None,
    )
