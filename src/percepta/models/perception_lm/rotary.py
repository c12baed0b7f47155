"""Rotary positions of Llama 3: frequencies, and the slow ones slowed down further for longer contexts.

Unusual: frequencies are numbers of the config, not state: computed in float32 on the CPU, whatever device or precision
the model has, so a model in bfloat16 turns by exact angles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from percepta.models.perception_lm.config import DecoderConfig


def frequencies(
    theta: float, head_dim: int, scale: float = 1.0, low: float = 1.0, high: float = 4.0, original_length: int = 8192
) -> Tensor:
    """(head_dim / 2,) float32 radians a position, fastest first.

    With wavelength w = 2 pi / f: f stays where w < original_length / high, becomes f / scale where
    w > original_length / low, and a mix of both between (Llama 3.1).
    """
    plain = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim))
    if scale == 1.0:
        return plain
    wavelength = 2 * math.pi / plain
    kept = ((original_length / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * plain / scale + kept * plain


def rotation_table(positions: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of positions (...,) times frequencies (n,): (..., n) float32 each."""
    angles = positions[..., None].float() * of.to(positions.device)
    return angles.cos(), angles.sin()


class Rotary(nn.Module):
    """Positions to what transformers' layers turn queries and keys by."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.frequencies = frequencies(
            config.rope_theta,
            config.head_size,
            config.rope_scale,
            config.rope_low,
            config.rope_high,
            config.rope_original_length,
        )  # fmt: skip  (a plain tensor: no buffer, so `to` leaves it alone)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, width) of the wanted dtype, (B, L) positions → cosine and sine, (B, L, head_dim) each."""
        tables = rotation_table(position_ids, self.frequencies)
        cosine, sine = (torch.cat([table, table], dim=-1).to(x.dtype) for table in tables)
        return cosine, sine
