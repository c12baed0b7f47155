"""Perception Language Models: questions about pictures and videos, answered in words (arXiv 2504.13180)."""

from percepta.models.perception_lm.budget import merge_visual
from percepta.models.perception_lm.config import DecoderConfig, PerceptionLMConfig
from percepta.models.perception_lm.generation import Generated, TextOf, Token, encode_chunks, generate, stream
from percepta.models.perception_lm.keys_transformers import layouts, subtrees, transformers_config
from percepta.models.perception_lm.layout import MediaLayout
from percepta.models.perception_lm.model import PerceptionLM, build
from percepta.models.perception_lm.projector import Projector
from percepta.models.perception_lm.rotary import frequencies, rotation_table
from percepta.models.perception_lm.sampling import GenerationSettings

__all__ = [
    "DecoderConfig",
    "Generated",
    "GenerationSettings",
    "MediaLayout",
    "PerceptionLM",
    "PerceptionLMConfig",
    "Projector",
    "TextOf",
    "Token",
    "build",
    "encode_chunks",
    "frequencies",
    "generate",
    "layouts",
    "merge_visual",
    "rotation_table",
    "stream",
    "subtrees",
    "transformers_config",
]
