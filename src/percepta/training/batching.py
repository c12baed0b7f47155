"""From a batch of the mixture to the tensors of one update.

Unusual: each distinct caption is tokenised and encoded once, whatever the number of samples that share it, and token
rows are cut to the longest caption of the batch. The text tower then costs a fraction of the vision tower. The cut is
exact for text towers that read causally up to an end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.training.augmentation import Draws, prepare_pictures
from percepta.training.data import Batch
from percepta.training.data_recipe import AugmentRecipe
from percepta.training.draws import number_of
from percepta.training.sources import Part

REMEMBERED_CAPTIONS = 200_000


class Inputs(NamedTuple):
    """Tensors of one update, or of one process's share of it.

    Attributes:
        pictures: (P, 3, S, S) float32, the pictures of all samples in order; a video has several.
        runs: (number of samples, pictures of each) for each stretch of alike samples, B samples in all.
        tokens: (U, n) int64, one row for each distinct caption.
        caption_ids: (B,) row of each sample's caption.
        caption_keys: (B,) int64, equal where captions are, in every process.
        negative_ids: (B,) row of each sample's hard negative, or None where no sample has one.
        negative_mask: (B,) bool, whether the sample has one.
    """

    pictures: Tensor
    runs: tuple[tuple[int, int], ...]
    tokens: Tensor
    caption_ids: Tensor
    caption_keys: Tensor
    negative_ids: Tensor | None
    negative_mask: Tensor | None

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        values = self._asdict().items()
        moved: dict[str, Any] = {name: value.to(device) for name, value in values if isinstance(value, Tensor)}
        return self._replace(**moved)


def sample_means(embeddings: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """(P, D) embeddings of pictures to (B, D) of samples; a video is the mean of its frames, not scaled afterwards."""
    if all(frames == 1 for _, frames in runs):
        return embeddings
    stretches = embeddings.split([count * frames for count, frames in runs])
    return torch.cat([rows.unflatten(0, run).mean(1) for rows, run in zip(stretches, runs, strict=True)])


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
    pictures = []
    for part in batch.parts:
        generator = torch.Generator().manual_seed(number_of(seed, batch.step, part.source))
        draws = Draws(generator, part.total or len(part.captions), part.rows, part.frames)
        if not isinstance(part.augment, AugmentRecipe):
            raise BadInput(f"the source {part.source} has masks and no captions; it serves the objective segment.")
        pictures.append(prepare_pictures(_flat(part), size, part.augment, draws))
    return _gather(batch.parts, torch.cat(pictures), tokens, hard_negatives)


def heldout_inputs(part: Part, size: int, tokens: Tokens) -> Inputs:
    """The tensors of validation samples, not varied."""
    return _gather((part,), prepare_pictures(_flat(part), size), tokens, hard_negatives=True)


def _flat(part: Part) -> np.ndarray:
    """(P, H, W, 3) pictures of a part, frames of videos one after the other."""
    return part.pictures.reshape(-1, *part.pictures.shape[-3:])


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
        tuple((len(part.captions), part.frames) for part in parts),
        tokens(list(rows)),
        torch.tensor(caption_ids),
        torch.tensor([number_of(caption) for part in parts for caption in part.captions]),
        torch.tensor(negative_ids) if some else None,
        torch.tensor(mask) if some else None,
    )
