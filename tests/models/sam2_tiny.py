"""A SAM 2 with random weights that is small enough for tests, and a short video for it."""

from __future__ import annotations

from typing import Any

import torch

import percepta

TINY: dict[str, Any] = {
    "image_size": 64,
    "trunk": {
        "embed_dim": 16,
        "heads": 1,
        "stages": (1, 1, 2, 1),
        "windows": (8, 4, 4, 2),
        "global_blocks": (3,),
        "background": (4, 4),
    },
    "width": 32,
    "mask_prompt_channels": 8,
    "decoder_heads": 4,
    "decoder_hidden": 64,
    "decoder_inner": 16,
    "quality_width": 32,
    "memory_width": 16,
    "memory_layers": 2,
    "memory_hidden": 64,
}


def tiny_model(seed: int = 0, **overrides: Any) -> Any:
    """A model in evaluation mode whose objects are now there and now not."""
    torch.manual_seed(seed)
    model = percepta.build("sam2.1-hiera-tiny", **{**TINY, **overrides}).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "norm" not in name:
                value.normal_(std=value[0].numel() ** -0.5)
        model.mask_decoder.object_head.layers[-1].bias.fill_(0.3)
    return model


def tiny_video(length: int = 12, seed: int = 1, side: int = 64) -> torch.Tensor:
    """(length, 3, side, side)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(length, 3, side, side, generator=draw)
