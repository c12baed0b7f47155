"""Variation of pictures and clips together with the masks of their objects (SAM 2, arXiv 2408.00714, appendix).

A flip and an affine map for each clip, a change of colour for each clip and a smaller one for each frame, time turned
round. Unusual: flip, rotation, shear, scale and shift are one map, so that a batch and its masks are sampled once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from percepta.training.augmentation import GREY_WEIGHTS, resize
from percepta.training.data_recipe import AnnotatedAugmentRecipe
from percepta.training.sources import Part


def vary_annotated(
    pictures: Tensor, masks: Tensor, size: int, part: Part, draws: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Clips and masks of one size, varied.

    Args:
        pictures: (B, T, H, W, 3) uint8.
        masks: (B, O, T, H, W) bool.
        size: side S of the result; aspect ratios are not kept.
        part: whose `augment` says how to vary them.
        draws: source of randomness; None varies nothing.

    Returns: (B, T, 3, S, S) float32 in [0, 1], and (B, O, T, S, S) bool.
    """
    clips, frames = pictures.shape[:2]
    x = resize(pictures.flatten(0, 1).permute(0, 3, 1, 2).float().div_(255), size)
    if masks.shape[-1] != size or masks.shape[-2] != size:
        flat = functional.interpolate(masks.flatten(0, 1).float(), (size, size), mode="area")
        masks = (flat >= 0.5).view(*masks.shape[:3], size, size)
    recipe = part.augment
    if draws is None or not isinstance(recipe, AnnotatedAugmentRecipe):
        return x.view(clips, frames, *x.shape[1:]), masks
    if moves(recipe):
        grid = functional.affine_grid(affine_maps(recipe, clips, draws), [clips, 1, size, size], align_corners=False)
        x = _sampled(x, grid.repeat_interleave(frames, 0), "bilinear")
        masks = _sampled(masks.flatten(1, 2).float(), grid, "nearest").view(masks.shape) > 0.5
    x = recolour(x.view(clips, frames, *x.shape[1:]), recipe, draws)
    if recipe.reverse:
        turned = (torch.rand(clips, generator=draws) < recipe.reverse)[:, None]
        order = torch.where(turned, torch.arange(frames - 1, -1, -1), torch.arange(frames))
        rows = torch.arange(clips)[:, None]
        x, masks = x[rows, order], masks.transpose(1, 2)[rows, order].transpose(1, 2)
    return x, masks


def moves(recipe: AnnotatedAugmentRecipe) -> bool:
    """Whether pictures are moved at all."""
    return any((recipe.flip, recipe.rotate, recipe.shear, recipe.translate)) or recipe.scale != (1.0, 1.0)


def affine_maps(recipe: AnnotatedAugmentRecipe, count: int, draws: torch.Generator) -> Tensor:
    """(count, 2, 3) maps from places of the result to places of the original, both from -1 to 1."""

    def between(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=draws) * (high - low) + low

    angle = between(-1, 1) * math.radians(recipe.rotate)
    across, down = (torch.tan(between(-1, 1) * math.radians(recipe.shear)) for _ in range(2))
    scale = torch.exp(between(math.log(recipe.scale[0]), math.log(recipe.scale[1])))
    side = torch.where(torch.rand(count, generator=draws) < recipe.flip, -1.0, 1.0)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    one = torch.ones_like(across)
    shear = torch.stack([torch.stack([one, across], -1), torch.stack([down, one], -1)], 1)
    matrix = (turn @ shear) * torch.stack([side, one], -1)[:, None]
    shift = torch.stack([between(-1, 1), between(-1, 1)], -1)[..., None] * 2 * recipe.translate
    return torch.cat([matrix, shift], 2)


def recolour(x: Tensor, recipe: AnnotatedAugmentRecipe, draws: torch.Generator) -> Tensor:
    """(B, T, 3, H, W) in [0, 1] with changed brightness, contrast and saturation; some clips in grey."""
    clips, frames = x.shape[:2]
    grey = x.new_tensor(GREY_WEIGHTS).view(3, 1, 1)
    amounts = (
        (recipe.brightness, recipe.frame_brightness),
        (recipe.contrast, recipe.frame_contrast),
        (recipe.saturation, recipe.frame_saturation),
    )
    factors = []
    for whole, single in amounts:
        clip = 1 + whole * (2 * torch.rand(clips, 1, generator=draws) - 1)
        frame = 1 + single * (2 * torch.rand(clips, frames, generator=draws) - 1)
        factors.append((clip * frame)[..., None, None, None])
    brightness, contrast, saturation = factors
    if any(amounts[0]):
        x = (x * brightness).clamp(0, 1)
    if any(amounts[1]):
        middle = (x * grey).sum(-3, keepdim=True).mean((-2, -1), keepdim=True)
        x = torch.lerp(middle, x, contrast).clamp(0, 1)
    if any(amounts[2]):
        x = torch.lerp((x * grey).sum(-3, keepdim=True), x, saturation).clamp(0, 1)
    if recipe.grey:
        plain = torch.rand(clips, generator=draws) < recipe.grey
        x = torch.where(plain.view(-1, 1, 1, 1, 1), (x * grey).sum(-3, keepdim=True), x)
    return x


def _sampled(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    return functional.grid_sample(x, grid, mode, "zeros", align_corners=False)
