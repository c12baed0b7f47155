"""Augmentation of whole batches: uint8 pictures to varied, resized, normalised float tensors.

The Perception Encoder trains with random crops, brightness and saturation jitter and flips (arXiv 2504.13181, section
2.1). Unusual: crop, shift and flip are one affine map for each picture, so the batch is sampled once. All frames of a
video are varied alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from percepta.training.recipe import AugmentRecipe

GREY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers for the pictures of a batch, or of a share of it, which gets what it would get within the whole.

    Attributes:
        generator: source of all draws.
        total: samples of the whole batch.
        rows: (B,) which of them are at hand, or None for all.
        frames: pictures of a sample, which all get the same numbers.
    """

    generator: torch.Generator
    total: int
    rows: np.ndarray | None = None
    frames: int = 1

    def __call__(self) -> Tensor:
        """(B * frames,) in [0, 1); drawn on the CPU, so that every device gets the same numbers."""
        numbers = torch.rand(self.total, generator=self.generator)
        own = numbers if self.rows is None else numbers[torch.from_numpy(self.rows)]
        return own.repeat_interleave(self.frames) if self.frames > 1 else own


def prepare_pictures(
    pictures: np.ndarray | Tensor, size: int, augment: AugmentRecipe | None = None, draws: Draws | None = None
) -> Tensor:
    """Pictures for a model whose mean and standard deviation are 0.5.

    Args:
        pictures: (B, H, W, 3) uint8.
        size: side of the result in pixels.
        augment: how to vary them; None does not.
        draws: source of randomness, for B pictures; needed to vary them.

    Returns:
        (B, 3, size, size) float32 around [-1, 1].
    """
    x = torch.as_tensor(pictures).permute(0, 3, 1, 2).float().div_(255)
    if augment is not None and draws is not None and _moves(augment):
        x = shrink(x, size)
        x = functional.grid_sample(x, _grid(len(x), size, augment, draws, x), "bilinear", "border", align_corners=False)
    else:
        x = resize(x, size)
    if augment is not None and draws is not None:
        x = jitter(x, augment, draws)
    return x.sub_(0.5).div_(0.5)


def resize(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), bilinear and antialiased."""
    if x.shape[-2:] == (size, size):
        return x
    return functional.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)


def shrink(x: Tensor, size: int) -> Tensor:
    """As `resize` where that makes pictures smaller, unchanged otherwise (sampling then enlarges)."""
    return resize(x, size) if min(x.shape[-2:]) > size else x


def jitter(x: Tensor, augment: AugmentRecipe, draws: Draws) -> Tensor:
    """Brightness and saturation of (B, C, H, W) in [0, 1], changed by a factor of its own for each picture."""
    if augment.brightness:
        x = x * _between(1 - augment.brightness, 1 + augment.brightness, draws, x)[:, None, None, None]
    if augment.saturation:
        grey = (x * x.new_tensor(GREY_WEIGHTS)[None, :, None, None]).sum(1, keepdim=True)
        share = _between(1 - augment.saturation, 1 + augment.saturation, draws, x)
        x = torch.lerp(grey, x, share[:, None, None, None])
    return x.clamp(0, 1) if augment.brightness or augment.saturation else x


def _moves(augment: AugmentRecipe) -> bool:
    return augment.area != (1, 1) or augment.aspect != (1, 1) or augment.flip > 0 or augment.translate > 0


def _grid(count: int, size: int, augment: AugmentRecipe, draws: Draws, like: Tensor) -> Tensor:
    """(B, size, size, 2) sampling places in [-1, 1] of the original pictures."""

    def draw(low: float, high: float) -> Tensor:
        return _between(low, high, draws, like)

    area = draw(*augment.area)
    ratio = draw(math.log(augment.aspect[0]), math.log(augment.aspect[1])).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    shift = 2 * augment.translate
    x = (1 - width) * draw(-1, 1) + shift * draw(-1, 1)
    y = (1 - height) * draw(-1, 1) + shift * draw(-1, 1)
    side = torch.where(draw(0, 1) < augment.flip, -1.0, 1.0)
    zero = torch.zeros_like(x)
    rows = [torch.stack([width * side, zero, x], -1), torch.stack([zero, height, y], -1)]
    return functional.affine_grid(torch.stack(rows, 1), [count, 3, size, size], align_corners=False)


def _between(low: float, high: float, draws: Draws, like: Tensor) -> Tensor:
    """(B,) on the device of `like`."""
    return (draws() * (high - low) + low).to(like)
