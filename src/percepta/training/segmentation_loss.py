"""The losses of promptable segmentation: focal, dice, predicted quality, presence (SAM 2, arXiv 2408.00714, appendix).

Of several masks for one prompt only the best is taught its pixels, the one whose own weighted loss is least; the head
that predicts quality is taught all of them. Unusual: nothing is reduced over objects here, so that a caller can divide
by the number of objects in all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor

from percepta.errors import wrong_shape
from percepta.training.segment_recipe import LossRecipe


class StepLosses(NamedTuple):
    """One prompt of N objects: (N,) float32 each; the first three are 0 where the object is not there.

    Attributes:
        mask, dice: of the best mask, and of all of them together as far as the settings say.
        iou: error of the predicted quality.
        presence: of the object's score.
        best: (N,) true IoU of the best mask, without gradient; 0 where the object is not there.
    """

    mask: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor
    best: Tensor


def focal_loss(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary cross entropy that easy places count little in (arXiv 1708.02002), elementwise.

    Args:
        logits: any shape.
        truth: 0 or 1, broadcastable to it.
        alpha: weight of the ones, 1 - alpha that of the zeros; negative for none.
    """
    truth = truth.expand_as(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    loss = entropy
    if gamma:
        loss = entropy * (1 - torch.exp(-entropy)) ** gamma  # exp(-entropy) is the probability of the truth
    return loss if alpha < 0 else loss * (alpha * truth + (1 - alpha) * (1 - truth))


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - (2 overlap + 1) / (both areas + 1), over the last axis."""
    inside = logits.sigmoid()
    return 1 - (2 * (inside * truth).sum(-1) + 1) / (inside.sum(-1) + truth.sum(-1) + 1)


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of bool masks over the last two axes, float32; 0 where both are empty."""
    both = (masks & truth).flatten(-2).sum(-1)
    either = (masks | truth).flatten(-2).sum(-1)
    return both / either.clamp(min=1).float()


def segmentation_losses(
    logits: Tensor, iou: Tensor, object_score: Tensor, truth: Tensor, settings: LossRecipe | None = None
) -> StepLosses:
    """The losses of one prompt of N objects.

    Args:
        logits: (N, M, H, W), M masks for each object.
        iou: (N, M) predicted quality, 0 to 1.
        object_score: (N, 1) logit of the object being there.
        truth: (N, H, W) bool; an empty mask says that the object is not there.
        settings: weights and shapes.

    Raises: BadInput for shapes that do not fit together.
    """
    settings = settings or LossRecipe()
    if logits.ndim != 4 or truth.shape != (len(logits), *logits.shape[2:]):
        raise wrong_shape("truth", truth.shape, f"(N, H, W) of logits, {tuple(logits.shape)}", "segmentation_losses")
    logits, there = logits.float(), truth.flatten(1).any(1).float()
    wanted = truth[:, None].flatten(2).float()
    focal = focal_loss(logits.flatten(2), wanted, settings.focal_alpha, settings.focal_gamma).mean(-1)
    dice = dice_loss(logits.flatten(2), wanted)
    real = mask_iou(logits.detach() > 0, truth[:, None])
    error = iou.float() - real
    quality = error.abs() if settings.absolute_quality else error.square()
    best = (settings.mask * focal + settings.dice * dice).detach().argmin(1, keepdim=True)
    quality = quality.mean(1) if settings.all_qualities else quality.gather(1, best)[:, 0]
    presence = focal_loss(object_score.float()[:, 0], there, settings.presence_alpha, settings.presence_gamma)

    def of_best(values: Tensor) -> Tensor:
        return values.gather(1, best)[:, 0] * there

    mask, overlap = of_best(focal), of_best(dice)
    if settings.others:
        mask = mask + settings.others * focal.mean(1) * there
        overlap = overlap + settings.others * dice.mean(1) * there
    return StepLosses(mask, overlap, quality * there, presence, of_best(real))


class LossSums(NamedTuple):
    """0-d sums over frames and steps, each divided by the number of objects; `total` is weighted, the rest is not."""

    total: Tensor
    mask: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor


def summed(steps: Sequence[StepLosses], objects: float | Tensor, settings: LossRecipe | None = None) -> LossSums:
    """The loss of a batch.

    Args:
        steps: of every frame and every prompt on it.
        objects: how many there are, of several processes the mean; at least 1 is taken.
        settings: weights of the parts.
    """
    settings = settings or LossRecipe()
    number = torch.as_tensor(objects, dtype=torch.float32).clamp(min=1).to(steps[0].mask.device)
    parts = [torch.stack([step[place].sum() for step in steps]).sum() / number for place in range(4)]
    weights = (settings.mask, settings.dice, settings.iou, settings.presence)
    total = torch.stack([part * weight for part, weight in zip(parts, weights, strict=True)]).sum()
    return LossSums(total, *parts)
