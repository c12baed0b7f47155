"""The names of SAM 2 in the official checkpoints, of both versions.

Unusual: 1 x 1 convolutions of the official layout are linear layers here, so their weights lose two axes of length one;
the official laterals are numbered from the coarsest level.
"""

from __future__ import annotations

from percepta.checkpoints.keymap import KeyMap, Rule, rename
from percepta.models.hiera.keys import OFFICIAL_TRUNK
from percepta.models.sam2.config import Sam2Config


def pairs(native: str, foreign: str) -> list[Rule]:
    """Weight and bias."""
    return [rename(f"{native}.{kind}", f"{foreign}.{kind}") for kind in ("weight", "bias")]


def convolution(native: str, foreign: str) -> list[Rule]:
    """A linear layer that the foreign layout stores as a 1 x 1 convolution."""
    weight = Rule((f"{native}.weight",), f"{foreign}.weight", lambda x: x[..., None, None], lambda x: x[..., 0, 0])
    return [weight, rename(f"{native}.bias", f"{foreign}.bias")]


def reshaped(native: str, foreign: str, middle: int, front: int = 0) -> Rule:
    """A table (n, d) stored as (1 ..., n, 1 ..., d): `middle` axes of length one before the last, `front` in front."""
    grow = (None,) * front + (slice(None),) + (None,) * middle
    shrink = (0,) * front + (slice(None),) + (0,) * middle
    return Rule((native,), foreign, lambda x: x[grow], lambda x: x[shrink])


def attention(native: str, foreign: str) -> list[Rule]:
    """Four projections."""
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "proj": "out_proj"}
    return [rule for mine, theirs in names.items() for rule in pairs(f"{native}.{mine}", f"{foreign}.{theirs}")]


def image_encoder(config: Sam2Config) -> KeyMap:
    """Trunk and laterals."""
    coarsest = len(config.trunk.stages) - 1
    rules = [
        rule
        for level in range(coarsest + 1)
        for rule in convolution(f"laterals.{level}", f"neck.convs.{coarsest - level}.conv")
    ]
    return OFFICIAL_TRUNK.nested("trunk.", "trunk.") + KeyMap(tuple(rules))


PROMPT_ENCODER = KeyMap(
    (
        rename("frequencies", "pe_layer.positional_encoding_gaussian_matrix"),
        rename("point_kinds.{i}", "point_embeddings.{i}.weight"),
        rename("no_point", "not_a_point_embed.weight"),
        rename("no_mask", "no_mask_embed.weight"),
        *pairs("mask.shrink1", "mask_downscaling.0"),
        *pairs("mask.norm1", "mask_downscaling.1"),
        *pairs("mask.shrink2", "mask_downscaling.3"),
        *pairs("mask.norm2", "mask_downscaling.4"),
        *convolution("mask.proj", "mask_downscaling.6"),
    )
)

MASK_DECODER = KeyMap(
    (
        rename("object_token", "obj_score_token.weight"),
        rename("quality_token", "iou_token.weight"),
        rename("mask_tokens", "mask_tokens.weight"),
        *attention("transformer.blocks.{i}.self_attention", "transformer.layers.{i}.self_attn"),
        *attention("transformer.blocks.{i}.to_image", "transformer.layers.{i}.cross_attn_token_to_image"),
        *attention("transformer.blocks.{i}.from_image", "transformer.layers.{i}.cross_attn_image_to_token"),
        *(
            rule
            for number in (1, 2, 3, 4)
            for rule in pairs(f"transformer.blocks.{{i}}.norm{number}", f"transformer.layers.{{i}}.norm{number}")
        ),
        *pairs("transformer.blocks.{i}.mlp.layers.{i}", "transformer.layers.{i}.mlp.layers.{i}"),
        *attention("transformer.last", "transformer.final_attn_token_to_image"),
        *pairs("transformer.norm", "transformer.norm_final_attn"),
        *pairs("enlarge1", "output_upscaling.0"),
        *pairs("norm", "output_upscaling.1"),
        *pairs("enlarge2", "output_upscaling.3"),
        *convolution("fine", "conv_s0"),
        *convolution("middle", "conv_s1"),
        *pairs("mask_heads.{i}.layers.{i}", "output_hypernetworks_mlps.{i}.layers.{i}"),
        *pairs("quality_head.layers.{i}", "iou_prediction_head.layers.{i}"),
        *pairs("object_head.layers.{i}", "pred_obj_score_head.layers.{i}"),
    )
)

MEMORY_ATTENTION = KeyMap(
    (
        *attention("layers.{i}.self_attention", "layers.{i}.self_attn"),
        *attention("layers.{i}.memory_attention", "layers.{i}.cross_attn_image"),
        *pairs("layers.{i}.expand", "layers.{i}.linear1"),
        *pairs("layers.{i}.contract", "layers.{i}.linear2"),
        *(rule for number in (1, 2, 3) for rule in pairs(f"layers.{{i}}.norm{number}", f"layers.{{i}}.norm{number}")),
        *pairs("norm", "norm"),
    )
)


def _memory_encoder() -> KeyMap:
    rules: list[Rule] = []
    for number in range(4):
        rules += pairs(f"shrink.{number}", f"mask_downsampler.encoder.{3 * number}")
        rules += pairs(f"shrink_norms.{number}", f"mask_downsampler.encoder.{3 * number + 1}")
    rules += convolution("mask_proj", "mask_downsampler.encoder.12")
    rules += convolution("map_proj", "pix_feat_proj")
    rules += [rename("fusers.{i}.gamma", "fuser.layers.{i}.gamma")]
    for mine, theirs in {"depthwise": "dwconv", "norm": "norm", "expand": "pwconv1", "contract": "pwconv2"}.items():
        rules += pairs(f"fusers.{{i}}.{mine}", f"fuser.layers.{{i}}.{theirs}")
    return KeyMap((*rules, *convolution("proj", "out_proj")))


MEMORY_ENCODER = _memory_encoder()


def official(config: Sam2Config) -> KeyMap:
    """The published names."""
    own = [
        *pairs("mask_shrink", "mask_downsample"),
        *pairs("pointer_proj.layers.{i}", "obj_ptr_proj.layers.{i}"),
        reshaped("memory_times", "maskmem_tpos_enc", middle=2),
        reshaped("no_memory", "no_mem_embed", middle=0, front=1),
        reshaped("no_memory_code", "no_mem_pos_enc", middle=0, front=1),
        rename("no_pointer", "no_obj_ptr"),
    ]
    if config.pointer_times:
        own += pairs("pointer_time", "obj_ptr_tpos_proj")
    if config.absent_memory:
        own += [rename("absent", "no_obj_embed_spatial")]
    return (
        image_encoder(config).nested("image_encoder.", "image_encoder.")
        + PROMPT_ENCODER.nested("prompt_encoder.", "sam_prompt_encoder.")
        + MASK_DECODER.nested("mask_decoder.", "sam_mask_decoder.")
        + MEMORY_ATTENTION.nested("memory_attention.", "memory_attention.")
        + MEMORY_ENCODER.nested("memory_encoder.", "memory_encoder.")
        + KeyMap(tuple(own))
    )
