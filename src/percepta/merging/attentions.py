"""Attention modules that merging knows: the fused one of timm, and torch's.

Heads are matched first, since nothing may pass between them; within a head queries and keys share one permutation and
values have another (arXiv 2403.00986). Queries and keys that are normed channel by channel, or turned by rotary
positions, keep their channels; their heads still move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from percepta.merging.spaces import BLOCKS, PERMUTE, ZIP, Part, Space, Tap


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attended to as a whole."""
    return isinstance(module, nn.MultiheadAttention) or is_fused(module)


def is_fused(module: nn.Module) -> bool:
    """Whether this is timm's attention with one layer for queries, keys and values."""
    kind = type(module)
    return (
        kind.__name__ == "Attention"
        and kind.__module__.startswith("timm.")
        and isinstance(getattr(module, "qkv", None), nn.Linear)
    )


def annotate_fused(walk: Any, path: str, module: Any, parts: Sequence[Part]) -> tuple[Part, ...]:
    """timm's attention: reads `parts`, gives what its last layer writes."""
    normed = not isinstance(module.q_norm, nn.Identity) or not isinstance(
        getattr(module, "norm", None), nn.Identity | None
    )
    attend(
        walk, path, (f"{path}.qkv.weight", f"{path}.qkv.bias"), module.num_heads, parts, BLOCKS if normed else PERMUTE
    )
    size = module.qkv.out_features // 3
    walk.look((Part(f"{path}.heads"),), Tap(f"{path}.qkv", "output", starts=(0, size)))
    walk.look((Part(f"{path}.values"),), Tap(f"{path}.qkv", "output", starts=(2 * size,)))
    return finish(walk, f"{path}.proj", module.proj, f"{path}.values")


def annotate_multihead(walk: Any, path: str, module: nn.MultiheadAttention, parts: Sequence[Part]) -> tuple[Part, ...]:
    """torch's attention of a sequence to itself."""
    weights = (f"{path}.in_proj_weight", f"{path}.in_proj_bias")
    attend(walk, path, weights, module.num_heads, parts, PERMUTE)
    size = module.embed_dim
    walk.look((Part(f"{path}.heads"),), Tap(path, "projected", starts=(0, size)))
    walk.look((Part(f"{path}.values"),), Tap(path, "projected", starts=(2 * size,)))
    return finish(walk, f"{path}.out_proj", module.out_proj, f"{path}.values")


def attend(walk: Any, path: str, weights: tuple[str, str], heads: int, parts: Sequence[Part], inside: str) -> None:
    """A fused layer (3 D, width) of queries, keys and values, and the two spaces that it writes."""
    size = sum(walk.spaces[part.space].size * part.repeat for part in walk.parts(parts))
    size = walk.graph.get_parameter(weights[0]).shape[0] // 3 if size else size
    walk.open(f"{path}.heads", Space(size, inside, heads, f"{path}.heads"))
    walk.open(f"{path}.values", Space(size, PERMUTE if inside == BLOCKS else ZIP, heads, f"{path}.heads"))
    written = (Part(f"{path}.heads"), Part(f"{path}.heads"), Part(f"{path}.values"))
    walk.write(weights[0], 0, written)
    walk.read(weights[0], 1, parts)
    if weights[1] in walk.keys:
        walk.write(weights[1], 0, written)


def finish(walk: Any, path: str, layer: nn.Linear, values: str) -> tuple[Part, ...]:
    """The layer behind attention: reads the values, writes a space of its own."""
    opened = walk.open(path, Space(layer.out_features))
    walk.read(f"{path}.weight", 1, (Part(values),))
    walk.write(f"{path}.weight", 0, (Part(opened),))
    if layer.bias is not None:
        walk.write(f"{path}.bias", 0, (Part(opened),))
    return (Part(opened),)


def projected(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Queries, keys and values that torch's attention makes of a sequence (..., D), side by side (..., 3 D)."""
    return nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias)
