"""The prompt encoder: clicks, boxes and masks to tokens and a map (SAM 2, arXiv 2408.00714; SAM, arXiv 2304.02643).

Unusual: a box is two points with labels of their own, in front of the clicks; where there are points at all, one token
"no point" is always added behind them; a place is coded by random sinusoids whose matrix belongs to the weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import wrong_shape
from percepta.models.sam2.parts import ChannelNorm, pointwise

PAD, OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""Labels of points."""


class PromptEncoder(nn.Module):
    """What a user points at, in the channels of the mask decoder.

    Args:
        width: channels of tokens and maps.
        mask_channels: inner channels of the mask prompt's small network.
        image_size: side in pixels of the model's input, in which points are given.
    """

    def __init__(self, width: int, mask_channels: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.empty(2, width // 2))
        self.point_kinds = nn.ParameterList(torch.empty(1, width) for _ in range(4))
        self.no_point = nn.Parameter(torch.empty(1, width))
        self.no_mask = nn.Parameter(torch.empty(1, width))
        self.mask = MaskPrompt(width, mask_channels)
        nn.init.normal_(self.frequencies)
        for table in (*self.point_kinds.parameters(), self.no_point, self.no_mask):
            nn.init.normal_(table)

    def place_code(self, places: Tensor) -> Tensor:
        """(..., 2) x and y from 0 to 1 → (..., width): sines, then cosines."""
        angles = (2 * places - 1) @ self.frequencies.float() * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid_code(self, height: int, width: int) -> Tensor:
        """The code of the centres of a grid, (1, width, height, width), channels last in memory."""
        device = self.frequencies.device
        y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in (height, width))
        places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        return self.place_code(places)[None].permute(0, 3, 1, 2)

    def points(self, points: Tensor, labels: Tensor) -> Tensor:
        """(N, P, 2) in pixels of the input and (N, P) labels from -1 to 3 → (N, P + 1, width) tokens.

        Raises: BadInput for shapes that do not fit together.
        """
        if points.ndim != 3 or points.shape[-1] != 2 or labels.shape != points.shape[:2]:
            raise wrong_shape("points", points.shape, f"(N, P, 2) beside labels {tuple(labels.shape)} of (N, P)")
        points = F.pad((points.float() + 0.5) / self.image_size, (0, 0, 0, 1))
        labels = F.pad(labels, (0, 1), value=PAD)
        kinds = torch.cat([self.no_point, *self.point_kinds])[labels.long() + 1]
        return torch.where((labels == PAD)[..., None], 0.0, self.place_code(points)) + kinds

    def masks(self, masks: Tensor | None, side: int) -> Tensor:
        """(N, 1, 4 h, 4 h) logits → (N, width, h, h); None → (1, width, h, h), the code of no mask."""
        if masks is None:
            return self.no_mask[..., None, None].expand(1, -1, side, side)
        if masks.ndim != 4 or masks.shape[1:] != (1, 4 * side, 4 * side):
            raise wrong_shape("masks", masks.shape, f"(N, 1, {4 * side}, {4 * side})")
        return self.mask(masks)


class MaskPrompt(nn.Module):
    """A mask's logits at stride 4 to a map at stride 16: (N, 1, 4 h, 4 w) → (N, width, h, w)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.shrink1 = nn.Conv2d(1, channels // 4, 2, stride=2)
        self.norm1 = ChannelNorm(channels // 4)
        self.shrink2 = nn.Conv2d(channels // 4, channels, 2, stride=2)
        self.norm2 = ChannelNorm(channels)
        self.proj = nn.Linear(channels, width)

    def forward(self, masks: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.shrink1(masks)))
        x = F.gelu(self.norm2(self.shrink2(x)))
        return pointwise(self.proj, x)
