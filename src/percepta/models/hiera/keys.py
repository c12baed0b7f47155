"""The public layouts of Hiera checkpoints: official, timm, transformers; and of the windowed trunk inside of SAM 2."""

from __future__ import annotations

from percepta.checkpoints.keymap import KeyMap, Rule, rename, unsqueezed
from percepta.models.hiera.config import HieraConfig


def _pairs(native: str, foreign: str) -> list[Rule]:
    return [rename(f"{native}.{kind}", f"{foreign}.{kind}") for kind in ("weight", "bias")]


def _block(native: str, foreign: str, expand: str, contract: str) -> list[Rule]:
    """A block; the official code, timm and the trunk differ in the names of the MLP alone."""
    return [
        *_pairs(f"{native}.norm1", f"{foreign}.norm1"),
        *_pairs(f"{native}.attention.qkv", f"{foreign}.attn.qkv"),
        *_pairs(f"{native}.attention.proj", f"{foreign}.attn.proj"),
        *_pairs(f"{native}.shortcut.proj", f"{foreign}.proj"),
        *_pairs(f"{native}.norm2", f"{foreign}.norm2"),
        *_pairs(f"{native}.mlp.expand", f"{foreign}.{expand}"),
        *_pairs(f"{native}.mlp.contract", f"{foreign}.{contract}"),
    ]


OFFICIAL_TRUNK = KeyMap(
    (
        unsqueezed("positions.background", "pos_embed", 1),
        unsqueezed("positions.window", "pos_embed_window", 1),
        *_pairs("patches", "patch_embed.proj"),
        *_block("blocks.{i}", "blocks.{i}", "mlp.layers.0", "mlp.layers.1"),
    )
)
"""The windowed trunk as SAM 2's checkpoints name it, without a prefix."""


def _tables(config: HieraConfig) -> list[Rule]:
    """Positions, which the official code, timm and transformers lay out alike."""
    if config.positions == "window":
        names = {"background": "pos_embed", "window": "pos_embed_win", "temporal": "pos_embed_temporal"}
        return [unsqueezed(f"positions.{mine}", theirs, 1) for mine, theirs in names.items()]
    if config.positions == "separate":
        return [unsqueezed(f"positions.{mine}", f"pos_embed_{mine}", 1) for mine in ("spatial", "temporal")]
    return [unsqueezed("positions.spatial", "pos_embed", 1)]


def _encoder(config: HieraConfig) -> list[Rule]:
    """What the official code and timm name alike."""
    return [
        *_tables(config),
        *_pairs("patches", "patch_embed.proj"),
        *_block("blocks.{i}", "blocks.{i}", "mlp.fc1", "mlp.fc2"),
        rename("blocks.{i}.scale1.gamma", "blocks.{i}.ls1.gamma"),
        rename("blocks.{i}.scale2.gamma", "blocks.{i}.ls2.gamma"),
    ]


def official(config: HieraConfig) -> KeyMap:
    """The published names; of absolute-win positions, which were never published with a head, timm's."""
    return KeyMap(
        (
            *_encoder(config),
            *_pairs("norm", "norm"),
            *_pairs("projection", "head.projection"),
            *_pairs("fusion.heads.{i}", "multi_scale_fusion_heads.{i}"),
            *_pairs("fusion_norm", "encoder_norm"),
            *_pairs("decoder.embed", "decoder_embed"),
            rename("decoder.mask_token", "mask_token"),
            unsqueezed("decoder.positions.spatial", "decoder_pos_embed", 1),
            *_block("decoder.blocks.{i}", "decoder_blocks.{i}", "mlp.fc1", "mlp.fc2"),
            *_pairs("decoder.norm", "decoder_norm"),
            *_pairs("decoder.predict", "decoder_pred"),
        )
    )


def timm(config: HieraConfig) -> KeyMap:
    """timm's names; it has no decoder."""
    return KeyMap((*_encoder(config), *_pairs("norm", "head.norm"), *_pairs("projection", "head.fc")))


def transformers(config: HieraConfig) -> KeyMap:
    """The names of transformers, of `HieraModel`, `HieraForImageClassification` and `HieraForPreTraining`."""
    prefix = "" if config.classes is None and config.decoder is None else "hiera."
    rules = [
        unsqueezed("positions.spatial", f"{prefix}embeddings.position_embeddings", 1),
        *_pairs("patches", f"{prefix}embeddings.patch_embeddings.projection"),
    ]
    first = 0
    for stage, blocks in enumerate(config.stages):
        for layer in range(blocks):
            foreign = f"{prefix}encoder.stages.{stage}.layers.{layer}"
            rules += _transformers_block(f"blocks.{first + layer}", foreign)
        first += blocks
    rules += _pairs("norm", f"{prefix}pooler.layernorm")
    rules += _pairs("projection", "classifier")
    rules += _pairs("fusion.heads.{i}", "multiscale_fusion.multi_scale_fusion_heads.{i}")
    rules += _pairs("fusion_norm", "encoder_norm")
    rules += _pairs("decoder.embed", "decoder.decoder_embeddings")
    rules += [
        rename("decoder.mask_token", "decoder.mask_token"),
        unsqueezed("decoder.positions.spatial", "decoder.decoder_position_embeddings", 1),
    ]
    rules += _transformers_block("decoder.blocks.{i}", "decoder.decoder_block.layers.{i}")
    rules += [*_pairs("decoder.norm", "decoder.decoder_norm"), *_pairs("decoder.predict", "decoder.decoder_pred")]
    return KeyMap(tuple(rules))


def _transformers_block(native: str, foreign: str) -> list[Rule]:
    return [
        *_pairs(f"{native}.norm1", f"{foreign}.layernorm_before"),
        *_pairs(f"{native}.attention.qkv", f"{foreign}.attn.qkv"),
        *_pairs(f"{native}.attention.proj", f"{foreign}.attn.proj"),
        *_pairs(f"{native}.shortcut.proj", f"{foreign}.proj"),
        *_pairs(f"{native}.norm2", f"{foreign}.layernorm_after"),
        *_pairs(f"{native}.mlp.expand", f"{foreign}.mlp.fc1"),
        *_pairs(f"{native}.mlp.contract", f"{foreign}.mlp.fc2"),
    ]


def layouts(config: HieraConfig) -> dict[str, KeyMap]:
    """Every foreign layout of a model with this config, by name: transformers has pictures and learned tables alone,
    timm has no decoder."""
    known = {"official": official(config)}
    if config.decoder is None and config.axes == 2:
        known["timm"] = timm(config)
    plain = config.positions == "table" and config.layer_scale is None and config.shortcut == "projection"
    if config.axes == 2 and plain:
        known["transformers"] = transformers(config)
    return known


def subtrees(config: HieraConfig) -> dict[str, str]:
    """Foreign prefixes of encoders inside of larger checkpoints: transformers' models without a head."""
    return {"transformers": "hiera."} if config.classes is None and config.decoder is None else {}
