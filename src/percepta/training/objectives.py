"""Training objectives: pure functions from embeddings to a loss.

Contrastive loss of CLIP (arXiv 2103.00020) as the Perception Encoder uses it (arXiv 2504.13181, section 2).
Unusual: samples with equal captions share the target, so that small vocabularies (class names, grammars) can be
learned with large batches; with distinct captions it is the papers' loss.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from percepta.errors import wrong_shape

LOG_SCALE_LIMIT = math.log(100.0)
"""Largest logarithm of the logit scale: similarities are never multiplied by more than 100."""


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    caption_ids: Tensor | None = None,
    hard_negatives: Tensor | None = None,
    hard_negative_mask: Tensor | None = None,
    hard_negative_weight: float = 1.0,
) -> Tensor:
    """Symmetric softmax cross entropy between images and texts of one batch.

    Row i of `images` belongs to row i of `texts`. Every other row is a negative, except rows with the same caption id:
    the target is uniform over all rows of that id. Hard negatives are extra columns of the image-to-text direction,
    each seen by its own image only.

    Args:
        images: (B, D) image embeddings; normalised here.
        texts: (B, D) text embeddings; normalised here.
        logit_scale: 0-d, the logarithm of the scale; used up to ln(100).
        caption_ids: (B,) integers, equal where captions mean the same; None says that all are distinct.
        hard_negatives: (B, D) or (B, K, D) embeddings of wrong captions for each image.
        hard_negative_mask: (B,) or (B, K) bool, True where a hard negative exists; None says everywhere.
        hard_negative_weight: how many ordinary negatives a hard one counts as; positive.

    Returns:
        0-d float32 loss, the mean of both directions.

    Raises:
        BadInput: if the shapes do not fit together.
    """
    if images.ndim != 2 or images.shape != texts.shape:
        raise wrong_shape("texts", texts.shape, f"of images, {tuple(images.shape)}", "contrastive_loss")
    images = functional.normalize(images.float(), dim=-1)
    texts = functional.normalize(texts.float(), dim=-1)
    scale = logit_scale.float().clamp(max=LOG_SCALE_LIMIT).exp()
    to_texts = scale * images @ texts.T
    to_images = to_texts.T
    if hard_negatives is not None:
        extra = _hard_negative_logits(images, hard_negatives, hard_negative_mask, scale)
        to_texts = torch.cat([to_texts, extra + math.log(hard_negative_weight)], dim=1)
    targets = _shared_targets(caption_ids, images)
    return (_cross_entropy(to_texts, targets) + _cross_entropy(to_images, targets)) / 2


def _shared_targets(caption_ids: Tensor | None, images: Tensor) -> Tensor | None:
    """(B, B) rows of equal weights over equal captions, or None when every caption is its own."""
    if caption_ids is None:
        return None
    if caption_ids.shape != images.shape[:1]:
        raise wrong_shape("caption_ids", caption_ids.shape, f"({len(images)},)", "contrastive_loss")
    equal = (caption_ids[:, None] == caption_ids[None, :]).to(images.dtype)
    return equal / equal.sum(dim=1, keepdim=True)


def _cross_entropy(logits: Tensor, targets: Tensor | None) -> Tensor:
    """Mean over rows; `targets` cover the first B columns, the diagonal where None."""
    if targets is None:
        return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    log_probabilities = logits.log_softmax(dim=1)[:, : targets.shape[1]]
    return -(targets * log_probabilities).sum(dim=1).mean()


def _hard_negative_logits(images: Tensor, negatives: Tensor, mask: Tensor | None, scale: Tensor) -> Tensor:
    """(B, K) logits of each image with its own hard negatives, minus infinity where there is none."""
    if negatives.ndim == 2:
        negatives = negatives[:, None]
    if negatives.shape[0] != images.shape[0] or negatives.shape[2:] != images.shape[1:]:
        allowed = f"({len(images)}, K, {images.shape[1]})"
        raise wrong_shape("hard_negatives", negatives.shape, allowed, "contrastive_loss")
    logits = scale * torch.einsum("bd,bkd->bk", images, functional.normalize(negatives.float(), dim=-1))
    if mask is None:
        return logits
    return logits.masked_fill(~mask.reshape(logits.shape), float("-inf"))
