"""Perception Encoder: core, lang and spatial (arXiv 2504.13181)."""

from percepta.models.perception_encoder.config import PerceptionEncoderConfig, TextConfig
from percepta.models.perception_encoder.keys import layouts, subtrees
from percepta.models.perception_encoder.model import PerceptionEncoder, TextHalf, TextTower, build
from percepta.models.perception_encoder.tokenizer import Tokenizer
from percepta.models.perception_encoder.vision import VisionTower

__all__ = [
    "PerceptionEncoder",
    "PerceptionEncoderConfig",
    "TextConfig",
    "TextHalf",
    "TextTower",
    "Tokenizer",
    "VisionTower",
    "build",
    "layouts",
    "subtrees",
]
