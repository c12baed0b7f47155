"""Perception Language Models: questions about pictures and videos, answered in words (arXiv 2504.13180)."""

from percepta.models.perception_lm.config import DecoderConfig, PerceptionLMConfig
from percepta.models.perception_lm.keys_transformers import layouts, subtrees, transformers_config
from percepta.models.perception_lm.layout import MediaLayout
from percepta.models.perception_lm.model import PerceptionLM, build
from percepta.models.perception_lm.projector import Projector

__all__ = [
    "DecoderConfig",
    "MediaLayout",
    "PerceptionLM",
    "PerceptionLMConfig",
    "Projector",
    "build",
    "layouts",
    "subtrees",
    "transformers_config",
]
