"""The public layouts of Hiera checkpoints: official, timm, transformers; and of the windowed trunk inside of SAM 2."""

from __future__ import annotations

from percepta.checkpoints.keymap import KeyMap, Rule, rename, unsqueezed


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
