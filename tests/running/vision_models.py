"""Tiny models of transformers with random weights and an image processor, written as `save_pretrained` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

WIDE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
WORDS: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

TINY_TRANSFORMERS: dict[str, Callable[[], Any]] = {
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**WIDE, num_labels=5)),
    "dinov2": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(**{**WIDE, "intermediate_size": None}, mlp_ratio=2)
    ),
    "clip": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(vision_config={**WIDE, "projection_dim": 8}, text_config=WORDS, projection_dim=8)
    ),
    "siglip": lambda: transformers.SiglipModel(transformers.SiglipConfig(vision_config=WIDE, text_config=WORDS)),
    "resnet": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16], depths=[1, 1, 1], layer_type="basic", num_labels=5
        )
    ),
    "convnext": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(depths=[1, 1, 1], hidden_sizes=[4, 8, 12], num_stages=3)
    ),
}


def save_tiny(kind: str, folder: Path) -> Path:
    """One of them under seed 0, with a processor for 32 px."""
    torch.manual_seed(0)
    TINY_TRANSFORMERS[kind]().save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
