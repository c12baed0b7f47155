"""The public layouts of Perception Encoder checkpoints: native, official, timm, open_clip.

Each table is a bijection (tested against every official key list). Vision and text towers are tables of their own,
so sub-trees can be renamed as well as whole models.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from percepta.checkpoints.keymap import KeyMap, Rule, joined, rename, transposed, unsqueezed
from percepta.models.perception_encoder.config import PerceptionEncoderConfig


def _pairs(native: str, foreign: str) -> list[Rule]:
    return [rename(f"{native}.{kind}", f"{foreign}.{kind}") for kind in ("weight", "bias")]


def _resblocks() -> list[Rule]:
    """One block as CLIP-like repositories name it."""
    native, foreign = "blocks.{i}", "transformer.resblocks.{i}"
    return [
        *_pairs(f"{native}.norm1", f"{foreign}.ln_1"),
        rename(f"{native}.attention.qkv.weight", f"{foreign}.attn.in_proj_weight"),
        rename(f"{native}.attention.qkv.bias", f"{foreign}.attn.in_proj_bias"),
        *_pairs(f"{native}.attention.proj", f"{foreign}.attn.out_proj"),
        *_pairs(f"{native}.norm2", f"{foreign}.ln_2"),
        *_pairs(f"{native}.mlp.expand", f"{foreign}.mlp.c_fc"),
        *_pairs(f"{native}.mlp.contract", f"{foreign}.mlp.c_proj"),
        rename(f"{native}.scale1.gamma", f"{foreign}.ls_1.gamma"),
        rename(f"{native}.scale2.gamma", f"{foreign}.ls_2.gamma"),
    ]


OFFICIAL_VISION = KeyMap(
    (
        rename("class_token", "class_embedding"),
        rename("positions", "positional_embedding"),
        rename("patches.weight", "conv1.weight"),
        *_pairs("norm_pre", "ln_pre"),
        *_resblocks(),
        *_pairs("norm_post", "ln_post"),
        rename("pool.probe", "attn_pool.probe"),
        joined(("pool.query.weight", "pool.key_value.weight"), "attn_pool.attn.in_proj_weight", (1, 2)),
        joined(("pool.query.bias", "pool.key_value.bias"), "attn_pool.attn.in_proj_bias", (1, 2)),
        *_pairs("pool.proj", "attn_pool.attn.out_proj"),
        *_pairs("pool.norm", "attn_pool.layernorm"),
        *_pairs("pool.mlp.expand", "attn_pool.mlp.c_fc"),
        *_pairs("pool.mlp.contract", "attn_pool.mlp.c_proj"),
        rename("projection", "proj"),
    )
)

CLIP_TEXT = KeyMap(
    (
        rename("token_embedding.weight", "token_embedding.weight"),
        rename("positions", "positional_embedding"),
        *_resblocks(),
        *_pairs("norm", "ln_final"),
        rename("projection", "text_projection"),
    )
)

LOGIT_SCALE = KeyMap((rename("logit_scale", "logit_scale"),))


def _zero_bias(tensors: Mapping[str, Tensor]) -> Tensor:
    """timm's head has a bias where the official projection has none."""
    projection = tensors["projection"]
    return projection.new_zeros(projection.shape[1])


def timm_vision(config: PerceptionEncoderConfig) -> KeyMap:
    """timm's `vit_pe_*` names."""
    block = "blocks.{i}"
    return KeyMap(
        (
            unsqueezed("class_token", "cls_token", 2),
            unsqueezed("positions", "pos_embed", 1),
            rename("patches.weight", "patch_embed.proj.weight"),
            *_pairs("norm_pre", "norm_pre"),
            *_pairs(f"{block}.norm1", f"{block}.norm1"),
            *_pairs(f"{block}.attention.qkv", f"{block}.attn.qkv"),
            *_pairs(f"{block}.attention.proj", f"{block}.attn.proj"),
            *_pairs(f"{block}.norm2", f"{block}.norm2"),
            *_pairs(f"{block}.mlp.expand", f"{block}.mlp.fc1"),
            *_pairs(f"{block}.mlp.contract", f"{block}.mlp.fc2"),
            rename(f"{block}.scale1.gamma", f"{block}.gamma_1"),
            rename(f"{block}.scale2.gamma", f"{block}.gamma_2"),
            *_pairs("norm_post", "norm"),
            rename("pool.probe", "attn_pool.latent"),
            *_pairs("pool.query", "attn_pool.q"),
            *_pairs("pool.key_value", "attn_pool.kv"),
            *_pairs("pool.proj", "attn_pool.proj"),
            *_pairs("pool.norm", "attn_pool.norm"),
            *_pairs("pool.mlp.expand", "attn_pool.mlp.fc1"),
            *_pairs("pool.mlp.contract", "attn_pool.mlp.fc2"),
            transposed("projection", "head.weight"),
        ),
        {"head.bias": _zero_bias} if config.output_dim is not None else {},
    )


def layouts(config: PerceptionEncoderConfig) -> dict[str, KeyMap]:
    """Every foreign layout of a model with this config, by name (timm has vision towers alone)."""
    if config.text is None:
        return {"official": OFFICIAL_VISION, "timm": timm_vision(config)}
    return {
        "official": OFFICIAL_VISION.nested("vision.", "visual.") + CLIP_TEXT.nested("text.", "") + LOGIT_SCALE,
        "open_clip": timm_vision(config).nested("vision.", "visual.trunk.")
        + CLIP_TEXT.nested("text.", "text.")
        + LOGIT_SCALE,
    }


def subtrees(config: PerceptionEncoderConfig) -> dict[str, str]:
    """Foreign prefixes under which a vision tower lies inside a whole contrastive checkpoint, by layout name."""
    return {"official": "visual.", "timm": "visual.trunk.", "native": "vision."} if config.text is None else {}
