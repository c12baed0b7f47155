"""Training objectives: pure functions from embeddings to a loss.

Contrastive loss of CLIP (arXiv 2103.00020) as the Perception Encoder uses it (arXiv 2504.13181, section 2), and its
mask regularisation (section 2.1). Unusual: samples with equal captions share the target, so that small vocabularies
(class names, grammars) can be learned with large batches; with distinct captions it is the papers' loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
    gather: Callable[[Tensor], Tensor] | None = None,
    first: int = 0,
) -> Tensor:
    """Symmetric softmax cross entropy between images and texts of one batch.

    Row i of `images` belongs to row i of `texts`. Every other row is a negative, except rows with the same caption id:
    the target is uniform over all rows of that id. Hard negatives are extra columns of the image-to-text direction,
    each seen by its own image only.

    Where several processes share the batch, each computes its own rows against the columns of all. The mean of their
    losses is the loss of the whole batch, and the mean of their gradients its gradient, if `gather` passes on the sum
    of all gradients.

    Args:
        images: (B, D) image embeddings; normalised here.
        texts: (B, D) text embeddings; normalised here.
        logit_scale: 0-d, the logarithm of the scale; used up to ln(100).
        caption_ids: (B,) integers, equal where captions mean the same; None says that all are distinct.
        hard_negatives: (B, D) or (B, K, D) embeddings of wrong captions for each image.
        hard_negative_mask: (B,) or (B, K) bool, True where a hard negative exists; None says everywhere.
        hard_negative_weight: how many ordinary negatives a hard one counts as; positive.
        gather: from (B, ...) of this process to (B * processes, ...) of all, in their order; None for one process.
        first: place of row 0 among the gathered ones.

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
    everyone = gather or (lambda own: own)
    to_texts = scale * images @ everyone(texts).T
    to_images = scale * texts @ everyone(images).T
    if hard_negatives is not None:
        extra = _hard_negative_logits(images, hard_negatives, hard_negative_mask, scale)
        to_texts = torch.cat([to_texts, extra + math.log(hard_negative_weight)], dim=1)
    targets = _targets(caption_ids, to_images, everyone, first)
    return (_cross_entropy(to_texts, targets) + _cross_entropy(to_images, targets)) / 2


def _targets(caption_ids: Tensor | None, logits: Tensor, gather: Callable[[Tensor], Tensor], first: int) -> Tensor:
    """What each row (B) should choose among the columns: a column number, or equal weights over equal captions."""
    if caption_ids is None:
        return torch.arange(first, first + len(logits), device=logits.device)
    if caption_ids.shape != logits.shape[:1]:
        raise wrong_shape("caption_ids", caption_ids.shape, f"({len(logits)},)", "contrastive_loss")
    equal = (caption_ids[:, None] == gather(caption_ids)[None, :]).to(logits.dtype)
    return equal / equal.sum(dim=1, keepdim=True)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows; weights among `targets` cover the first columns, hard negatives come after."""
    if targets.ndim == 1:
        return functional.cross_entropy(logits, targets)
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


def masked_token_loss(tokens: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
    """Mask regularisation: 1 - cosine between a hidden token and the same token of the pass that hid nothing.

    Args:
        tokens: (C, N, D) output tokens of the pass with hidden places.
        targets: (C, N, D) output tokens of the same pictures with nothing hidden; receives no gradient.
        hidden: (C, N) bool, True at hidden places, at least one; only these count.

    Returns:
        0-d float32 in [0, 2], the mean over all hidden places.

    Raises:
        BadInput: if the shapes do not fit together.
    """
    if tokens.ndim != 3 or tokens.shape != targets.shape:
        raise wrong_shape("targets", targets.shape, f"of tokens, {tuple(tokens.shape)}", "masked_token_loss")
    if hidden.shape != tokens.shape[:2]:
        raise wrong_shape("hidden", hidden.shape, f"{tuple(tokens.shape[:2])}", "masked_token_loss")
    cosines = functional.cosine_similarity(tokens[hidden].float(), targets.detach()[hidden].float(), dim=-1)
    return 1 - cosines.mean()
