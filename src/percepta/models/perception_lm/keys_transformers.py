"""The names of a Perception Language Model in transformers' checkpoints (`PerceptionLMForConditionalGeneration`).

Unusual: the tower there is timm's, and rows of queries and keys already lie as the layers want them.
"""

from __future__ import annotations

from typing import Any

from percepta.checkpoints.keymap import KeyMap, rename
from percepta.models.perception_encoder.keys import timm_vision
from percepta.models.perception_lm.config import PerceptionLMConfig
from percepta.models.perception_lm.keys import head, official, projector

TOWER = "model.vision_tower.timm_model."
LAYERS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
    "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
)  # fmt: skip


def transformers(config: PerceptionLMConfig) -> KeyMap:
    """Every name of a whole model."""
    decoder = KeyMap(
        tuple(rename(f"{name}.weight", f"{name}.weight") for name in ("embed_tokens", "norm"))
        + tuple(rename(f"layers.{{i}}.{name}.weight", f"layers.{{i}}.{name}.weight") for name in LAYERS)
    )
    return (
        timm_vision(config.vision).nested("vision.", TOWER)
        + projector("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2")
        + decoder.nested("decoder.", "model.language_model.")
        + head(config.text, "lm_head.weight", "lm_head.weight")
    )


def layouts(config: PerceptionLMConfig) -> dict[str, KeyMap]:
    """By name: "official" and "transformers"."""
    return {"official": official(config), "transformers": transformers(config)}


def subtrees(config: PerceptionLMConfig) -> dict[str, str]:
    """A Perception Language Model is never a part of a larger checkpoint."""
    return {}


def transformers_config(config: PerceptionLMConfig) -> dict[str, Any]:
    """What `transformers.PerceptionLMConfig(**...)` takes for the same architecture."""
    vision, text = config.vision, config.text
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": text.rope_theta}
    if text.rope_scale != 1.0:
        rope |= {
            "rope_type": "llama3",
            "factor": text.rope_scale,
            "low_freq_factor": text.rope_low,
            "high_freq_factor": text.rope_high,
            "original_max_position_embeddings": text.rope_original_length,
        }
    grid = (vision.grid, vision.grid)
    tower = {
        "embed_dim": vision.width,
        "depth": vision.depth,
        "num_heads": vision.heads,
        "mlp_ratio": vision.mlp_ratio,
        "img_size": (vision.image_size, vision.image_size),
        "patch_size": vision.patch_size,
        "class_token": vision.class_token,
        "global_pool": "",
        "use_post_transformer_norm": False,
        "init_values": vision.layer_scale,
        "ref_feat_shape": grid,
    }
    large = vision.class_token
    name = "vit_pe_core_large_patch14_336" if large else "vit_pe_core_gigantic_patch14_448"
    return {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": name,
            "do_pooling": True,
            "global_pool": "",
            "num_classes": 0,
            "model_args": tower,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": text.vocabulary,
            "hidden_size": text.width,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "head_dim": text.head_size,
            "intermediate_size": text.hidden,
            "rms_norm_eps": text.norm_eps,
            "max_position_embeddings": text.max_length,
            "tie_word_embeddings": text.tied,
            "rope_parameters": rope,
        },
        "tie_word_embeddings": text.tied,
        "vision_use_cls_token": vision.class_token,
        "projector_pooling_ratio": config.pooling,
        "image_token_id": config.image_token,
        "video_token_id": config.image_token + 1,
    }
