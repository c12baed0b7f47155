"""The names of SAM 2 in transformers' checkpoints (`Sam2VideoModel`, of which `Sam2Model` is the part for pictures).

Unusual: the four kinds of points are one table there, the first and last layer of a head have names of their own, and
the random frequencies of places are stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from percepta.checkpoints.keymap import KeyMap, Rule, joined, rename, unsqueezed
from percepta.models.sam2.config import Sam2Config
from percepta.models.sam2.keys import convolution, pairs, reshaped


def transformers(config: Sam2Config) -> KeyMap:
    """Every name of a whole model."""
    own = [
        *pairs("mask_shrink", "mask_downsample"),
        *_head("pointer_proj", "object_pointer_proj", 3),
        reshaped("memory_times", "memory_temporal_positional_encoding", middle=2),
        reshaped("no_memory", "no_memory_embedding", middle=0, front=1),
        reshaped("no_memory_code", "no_memory_positional_encoding", middle=0, front=1),
        rename("no_pointer", "no_object_pointer"),
    ]
    if config.pointer_times:
        own += pairs("pointer_time", "temporal_positional_encoding_projection_layer")
    if config.absent_memory:
        own += [rename("absent", "occlusion_spatial_embedding_parameter")]
    return (
        _image_encoder(config).nested("image_encoder.", "vision_encoder.")
        + PROMPT_ENCODER.nested("prompt_encoder.", "prompt_encoder.")
        + FREQUENCIES
        + _mask_decoder(config).nested("mask_decoder.", "mask_decoder.")
        + MEMORY_ATTENTION.nested("memory_attention.", "memory_attention.")
        + MEMORY_ENCODER.nested("memory_encoder.", "memory_encoder.")
        + KeyMap(tuple(own))
    )


def _attention(native: str, foreign: str) -> list[Rule]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "proj": "o_proj"}
    return [rule for mine, theirs in names.items() for rule in pairs(f"{native}.{mine}", f"{foreign}.{theirs}")]


def _head(native: str, foreign: str, depth: int) -> list[Rule]:
    """A head of `depth` linear layers; those between the first and the last are counted from 0."""
    names = ["proj_in", *(f"layers.{number}" for number in range(depth - 2)), "proj_out"]
    return [
        rule for number, name in enumerate(names) for rule in pairs(f"{native}.layers.{number}", f"{foreign}.{name}")
    ]


def _image_encoder(config: Sam2Config) -> KeyMap:
    block, theirs = "trunk.blocks.{i}", "backbone.blocks.{i}"
    rules = [
        unsqueezed("trunk.positions.background", "backbone.pos_embed", 1),
        unsqueezed("trunk.positions.window", "backbone.pos_embed_window", 1),
        *pairs("trunk.patches", "backbone.patch_embed.projection"),
        *pairs(f"{block}.norm1", f"{theirs}.layer_norm1"),
        *pairs(f"{block}.attention.qkv", f"{theirs}.attn.qkv"),
        *pairs(f"{block}.attention.proj", f"{theirs}.attn.proj"),
        *pairs(f"{block}.shortcut.proj", f"{theirs}.proj"),
        *pairs(f"{block}.norm2", f"{theirs}.layer_norm2"),
        *pairs(f"{block}.mlp.expand", f"{theirs}.mlp.proj_in"),
        *pairs(f"{block}.mlp.contract", f"{theirs}.mlp.proj_out"),
    ]
    coarsest = len(config.trunk.stages) - 1
    for level in range(coarsest + 1):
        rules += convolution(f"laterals.{level}", f"neck.convs.{coarsest - level}")
    return KeyMap(tuple(rules))


PROMPT_ENCODER = KeyMap(
    (
        joined([f"point_kinds.{number}" for number in range(4)], "point_embed.weight", (1, 1, 1, 1)),
        rename("no_point", "not_a_point_embed.weight"),
        rename("no_mask", "no_mask_embed.weight"),
        *pairs("mask.shrink1", "mask_embed.conv1"),
        *pairs("mask.norm1", "mask_embed.layer_norm1"),
        *pairs("mask.shrink2", "mask_embed.conv2"),
        *pairs("mask.norm2", "mask_embed.layer_norm2"),
        *convolution("mask.proj", "mask_embed.conv3"),
    )
)


def _frequencies(tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors["prompt_encoder.frequencies"].clone()


FREQUENCIES = KeyMap(
    (
        rename("prompt_encoder.frequencies", "prompt_encoder.shared_embedding.positional_embedding"),
        rename("prompt_encoder.frequencies", "shared_image_embedding.positional_embedding"),
    ),
    {"shared_image_embedding.positional_embedding": _frequencies},
)


def _mask_decoder(config: Sam2Config) -> KeyMap:
    block, theirs = "transformer.blocks.{i}", "transformer.layers.{i}"
    rules = [
        rename("object_token", "obj_score_token.weight"),
        rename("quality_token", "iou_token.weight"),
        rename("mask_tokens", "mask_tokens.weight"),
        *_attention(f"{block}.self_attention", f"{theirs}.self_attn"),
        *_attention(f"{block}.to_image", f"{theirs}.cross_attn_token_to_image"),
        *_attention(f"{block}.from_image", f"{theirs}.cross_attn_image_to_token"),
        *_head(f"{block}.mlp", f"{theirs}.mlp", 2),
        *_attention("transformer.last", "transformer.final_attn_token_to_image"),
        *pairs("transformer.norm", "transformer.layer_norm_final_attn"),
        *pairs("enlarge1", "upscale_conv1"),
        *pairs("norm", "upscale_layer_norm"),
        *pairs("enlarge2", "upscale_conv2"),
        *convolution("fine", "conv_s0"),
        *convolution("middle", "conv_s1"),
        *_head("mask_heads.{i}", "output_hypernetworks_mlps.{i}", 3),
        *_head("quality_head", "iou_prediction_head", config.quality_depth),
        *_head("object_head", "pred_obj_score_head", 3),
    ]
    for number in (1, 2, 3, 4):
        rules += pairs(f"{block}.norm{number}", f"{theirs}.layer_norm{number}")
    return KeyMap(tuple(rules))


MEMORY_ATTENTION = KeyMap(
    (
        *_attention("layers.{i}.self_attention", "layers.{i}.self_attn"),
        *_attention("layers.{i}.memory_attention", "layers.{i}.cross_attn_image"),
        *pairs("layers.{i}.expand", "layers.{i}.linear1"),
        *pairs("layers.{i}.contract", "layers.{i}.linear2"),
        *pairs("layers.{i}.norm1", "layers.{i}.layer_norm1"),
        *pairs("layers.{i}.norm2", "layers.{i}.layer_norm2"),
        *pairs("layers.{i}.norm3", "layers.{i}.layer_norm3"),
        *pairs("norm", "layer_norm"),
    )
)

MEMORY_ENCODER = KeyMap(
    (
        *pairs("shrink.{i}", "mask_downsampler.layers.{i}.conv"),
        *pairs("shrink_norms.{i}", "mask_downsampler.layers.{i}.layer_norm"),
        *convolution("mask_proj", "mask_downsampler.final_conv"),
        *convolution("map_proj", "feature_projection"),
        rename("fusers.{i}.gamma", "memory_fuser.layers.{i}.scale"),
        *pairs("fusers.{i}.depthwise", "memory_fuser.layers.{i}.depthwise_conv"),
        *pairs("fusers.{i}.norm", "memory_fuser.layers.{i}.layer_norm"),
        *pairs("fusers.{i}.expand", "memory_fuser.layers.{i}.pointwise_conv1"),
        *pairs("fusers.{i}.contract", "memory_fuser.layers.{i}.pointwise_conv2"),
        *convolution("proj", "projection"),
    )
)
