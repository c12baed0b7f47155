"""The public layouts of Hiera checkpoints."""

from __future__ import annotations

from percepta.checkpoints.keymap import KeyMap, Rule, rename


def pairs(native: str, foreign: str) -> list[Rule]:
    """Weight and bias."""
    return [rename(f"{native}.{kind}", f"{foreign}.{kind}") for kind in ("weight", "bias")]


def blocks(native: str, foreign: str, mlp: tuple[str, str]) -> list[Rule]:
    """One block; `mlp` are the foreign names of its two layers."""
    return [
        *pairs(f"{native}.norm1", f"{foreign}.norm1"),
        *pairs(f"{native}.attention.qkv", f"{foreign}.attn.qkv"),
        *pairs(f"{native}.attention.proj", f"{foreign}.attn.proj"),
        *pairs(f"{native}.widen", f"{foreign}.proj"),
        *pairs(f"{native}.norm2", f"{foreign}.norm2"),
        *pairs(f"{native}.mlp.expand", f"{foreign}.{mlp[0]}"),
        *pairs(f"{native}.mlp.contract", f"{foreign}.{mlp[1]}"),
    ]


OFFICIAL_TRUNK = KeyMap(
    (
        rename("background", "pos_embed"),
        rename("window", "pos_embed_window"),
        *pairs("patches", "patch_embed.proj"),
        *blocks("blocks.{i}", "blocks.{i}", ("mlp.layers.0", "mlp.layers.1")),
    )
)
"""The trunk as it lies in SAM 2 under `image_encoder.trunk.`."""
