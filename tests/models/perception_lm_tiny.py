"""A Perception Language Model of a few thousand parameters, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from percepta.models.perception_encoder import PerceptionEncoderConfig
from percepta.models.perception_lm import PerceptionLM, PerceptionLMConfig, build
from percepta.models.perception_lm.chat import Prompt
from percepta.models.perception_lm.config import DecoderConfig

IMAGE, STOP, END = 60, 61, 62
VISION: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "layer_scale": 0.1, "drop_path": 0.1,
    "post_norm": False, "pooling": "none",
}  # fmt: skip
TEXT: dict[str, Any] = {
    "vocabulary": 64, "width": 32, "depth": 3, "heads": 4, "kv_heads": 2, "hidden": 48, "rope_theta": 1000.0,
    "rope_scale": 4.0, "rope_original_length": 32, "max_length": 96,
}  # fmt: skip
SETTINGS: dict[str, Any] = {"image_token": IMAGE, "stop_tokens": (END, STOP), "pad_token": END}
TINY: dict[str, Any] = {"vision": VISION, "text": TEXT, **SETTINGS}


def tiny_config(**text: Any) -> PerceptionLMConfig:
    return PerceptionLMConfig(PerceptionEncoderConfig(**VISION), DecoderConfig(**(TEXT | text)), **SETTINGS)


def tiny_model(seed: int = 0, **text: Any) -> PerceptionLM:
    torch.manual_seed(seed)
    return build(tiny_config(**text)).eval()


def chunks(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def prompt(before: list[int], visual: int = 0, after: list[int] | None = None) -> Prompt:
    """Words, `visual` visual tokens, words."""
    tokens = np.array([*before, *[IMAGE] * visual, *(after or [])], np.int64)
    return Prompt(tokens, tokens == IMAGE)
