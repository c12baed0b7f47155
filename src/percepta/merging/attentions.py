"""Attention modules that merging knows: the fused one of timm, and torch's.

Heads are matched first, since nothing may pass between them; within a head queries and keys share one permutation and
values have another (arXiv 2403.00986). Queries and keys that are normed channel by channel, or turned by rotary
positions, keep their channels; their heads still move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from percepta.merging.spaces import BLOCKS, PERMUTE, ZIP, Part, Space, Tap

if TYPE_CHECKING:
    from percepta.merging.tracing import Walk


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attended to as a whole."""
    return isinstance(module, nn.MultiheadAttention) or is_fused(module)


def is_fused(module: nn.Module) -> bool:
    """Whether this is timm's attention with one layer for queries, keys and values, and no norm behind it."""
    kind = type(module)
    return (
        kind.__name__ == "Attention"
        and kind.__module__.startswith("timm.")
        and isinstance(getattr(module, "qkv", None), nn.Linear)
        and isinstance(getattr(module, "norm", None), nn.Identity | None)
    )


def annotate_fused(walk: Walk, path: str, module: Any, parts: Sequence[Part]) -> tuple[Part, ...]:
    """timm's attention: reads `parts`, gives what its last layer writes."""
    inside = PERMUTE if isinstance(module.q_norm, nn.Identity) else BLOCKS
    size = module.qkv.out_features // 3
    weights = (f"{path}.qkv.weight", f"{path}.qkv.bias")
    heads, values = _attend(walk, path, weights, (size, module.num_heads), parts, inside)
    walk.look((heads,), Tap(f"{path}.qkv", "output", starts=(0, size)))
    walk.look((values,), Tap(f"{path}.qkv", "output", starts=(2 * size,)))
    return _finish(walk, f"{path}.proj", module.proj, values)


def annotate_multihead(walk: Walk, path: str, module: nn.MultiheadAttention, parts: Sequence[Part]) -> tuple[Part, ...]:
    """torch's attention of a sequence to itself."""
    size = module.embed_dim
    weights = (f"{path}.in_proj_weight", f"{path}.in_proj_bias")
    heads, values = _attend(walk, path, weights, (size, module.num_heads), parts, PERMUTE)
    walk.look((heads,), Tap(path, "projected", starts=(0, size)))
    walk.look((values,), Tap(path, "projected", starts=(2 * size,)))
    return _finish(walk, f"{path}.out_proj", module.out_proj, values)


def _attend(
    walk: Walk, path: str, weights: tuple[str, str], sizes: tuple[int, int], parts: Sequence[Part], inside: str
) -> tuple[Part, Part]:
    """A fused layer (3 D, width) of queries, keys and values; `sizes` are D and the number of heads.

    Returns: the two spaces that it writes: that of queries and keys, and that of values.
    """
    (size, count), family = sizes, f"{path}.heads"
    heads = Part(walk.open(family, Space(size, inside, count, family)))
    values = Part(walk.open(f"{path}.values", Space(size, ZIP, count, family)))
    walk.write(weights[0], 0, (heads, heads, values))
    walk.read(weights[0], 1, parts)
    if weights[1] in walk.keys:
        walk.write(weights[1], 0, (heads, heads, values))
    return heads, values


def _finish(walk: Walk, path: str, layer: nn.Linear, values: Part) -> tuple[Part, ...]:
    """The layer behind attention: reads the values, writes a space of its own."""
    opened = Part(walk.open(path, Space(layer.out_features)))
    walk.read(f"{path}.weight", 1, (values,))
    walk.write(f"{path}.weight", 0, (opened,))
    if layer.bias is not None:
        walk.write(f"{path}.bias", 0, (opened,))
    return (opened,)


def projected(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Queries, keys and values that torch's attention makes of a sequence (..., D), side by side (..., 3 D)."""
    return nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias)
