"""Blueprints of our own transformers, whose forward looks at sizes and is not traced: the Perception Encoder and Hiera.

Both are made of the same parts, and so are their blueprints: streams that norms read, heads, hidden layers. Words are
not seen here: a text tower is averaged, which is right for fine-tunes of one model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from percepta.errors import BadInput
from percepta.merging.spaces import BLOCKS, FIXED, PERMUTE, ZIP, Axis, Blueprint, Part, Rule, Space, Tap
from percepta.models.hiera import Hiera
from percepta.models.perception_encoder import PerceptionEncoder, VisionTower


def blueprint_of_tower(model: nn.Module) -> Blueprint | None:
    """The blueprint of one of our towers; None for any other network. Raises BadInput for a form that cannot merge."""
    if isinstance(model, VisionTower):
        return _perception_encoder(model, "")
    if isinstance(model, PerceptionEncoder):
        return _perception_encoder(model.vision, "vision.")
    return _hiera(model) if isinstance(model, Hiera) else None


@dataclass
class _Draft:
    """A blueprint in the making; keys that the model lacks are passed over."""

    keys: dict[str, int]
    prefix: str
    spaces: dict[str, Space] = field(default_factory=dict)
    rules: dict[str, list[Axis]] = field(default_factory=dict)
    taps: dict[str, Tap] = field(default_factory=dict)

    def space(self, name: str, space: Space, tap: Tap | None = None) -> str:
        """Open a space and say where it is seen."""
        self.spaces[name] = space
        if tap is not None:
            self.taps[name] = Tap(self.prefix + tap.place, tap.side, tap.dim, tap.starts)
        return name

    def axis(self, key: str, dim: int, *spaces: str, writes: bool = True) -> None:
        """Say what an axis of a weight is made of."""
        key = self.prefix + key
        if key in self.keys:
            ndim = self.keys[key]
            self.rules.setdefault(key, []).append(Axis(dim % ndim, tuple(Part(name) for name in spaces), writes))

    def linear(self, path: str, reads: str, *writes: str) -> None:
        """A linear layer or a convolution."""
        self.axis(f"{path}.weight", 0, *writes)
        self.axis(f"{path}.weight", 1, reads, writes=False)
        self.axis(f"{path}.bias", 0, *writes)

    def own(self, path: str, space: str) -> None:
        """A norm or a scale: a value for each feature."""
        for name in ("weight", "bias", "gamma"):
            self.axis(f"{path}.{name}", 0, space)

    def mlp(self, path: str, stream: str, hidden: int) -> None:
        """Two linear layers; what is between them merges freely."""
        inner = self.space(f"{path}.hidden", Space(hidden), Tap(f"{path}.contract", "input"))
        self.linear(f"{path}.expand", stream, inner)
        self.linear(f"{path}.contract", inner, stream)

    def attention(self, path: str, module: Any, stream: str, result: str, inside: str) -> None:
        """Fused queries, keys and values, and the layer behind them."""
        size = module.proj.in_features
        heads, values = _heads(self, path, size, module.heads, inside, f"{path}.qkv", (0, size), 2 * size)
        self.linear(f"{path}.qkv", stream, heads, heads, values)
        self.linear(f"{path}.proj", values, result)

    def blueprint(self) -> Blueprint:
        """The blueprint."""
        rules = {key: Rule(tuple(sorted(axes, key=lambda axis: axis.dim))) for key, axes in self.rules.items()}
        return Blueprint(self.spaces, rules, self.taps)


def _heads(
    draft: _Draft, path: str, size: int, heads: int, inside: str, layer: str, keys: tuple[int, ...], values: int
) -> tuple[str, str]:
    family = f"{path}.heads"
    first = draft.space(family, Space(size, inside, heads, family), Tap(layer, "output", starts=keys))
    second = draft.space(f"{path}.values", Space(size, ZIP, heads, family), Tap(layer, "output", starts=(values,)))
    return first, second


def _perception_encoder(tower: Any, prefix: str) -> Blueprint:
    config = tower.config
    draft = _Draft({f"{prefix}{key}": value.ndim for key, value in tower.state_dict().items()}, prefix)
    draft.space("pictures", Space(3, FIXED))
    kind = FIXED if config.pooling != "attention" and config.output_dim is None else PERMUTE
    stream = draft.space("stream", Space(config.width, kind, normed=True), Tap("norm_post", "input"))
    draft.linear("patches", "pictures", stream)
    draft.axis("class_token", -1, stream)
    draft.axis("positions", -1, stream)
    for path in ("norm_pre", "norm_post"):
        draft.own(path, stream)
    for number, block in enumerate(tower.blocks):
        path = f"blocks.{number}"
        for name in ("norm1", "scale1", "norm2", "scale2"):
            draft.own(f"{path}.{name}", stream)
        draft.attention(f"{path}.attention", block.attention, stream, stream, BLOCKS if config.rope else PERMUTE)
        draft.mlp(f"{path}.mlp", stream, block.mlp.expand.out_features)
    if config.pooling == "attention":
        stream = _pool(draft, tower.pool, config.width, stream, fixed=config.output_dim is None)
    if config.output_dim is not None:
        draft.space("embedding", Space(config.output_dim, FIXED))
        draft.axis("projection", 0, stream, writes=False)
        draft.axis("projection", 1, "embedding")
    return draft.blueprint()


def _pool(draft: _Draft, pool: Any, width: int, stream: str, fixed: bool) -> str:
    """Attention pooling; its probe, which is no feature of anything, is averaged."""
    draft.space("pool.probe", Space(width, FIXED))
    pooled = draft.space("pool", Space(width, FIXED if fixed else PERMUTE, normed=True), Tap("pool.norm", "input"))
    heads, values = _heads(draft, "pool", width, pool.heads, PERMUTE, "pool.key_value", (0,), width)
    draft.axis("pool.probe", -1, "pool.probe")
    draft.linear("pool.query", "pool.probe", heads)
    draft.linear("pool.key_value", stream, heads, values)
    draft.linear("pool.proj", values, pooled)
    draft.own("pool.norm", pooled)
    draft.mlp("pool.mlp", pooled, pool.mlp.expand.out_features)
    return pooled


def _hiera(model: Any) -> Blueprint:
    config = model.config
    if config.decoder is not None or config.shortcut != "projection":
        raise BadInput(
            "a Hiera merges as a classifier or encoder whose shortcuts are projections; this one has "
            f"{'a decoder' if config.decoder is not None else f'{config.shortcut} shortcuts'}."
        )
    draft = _Draft({key: value.ndim for key, value in model.state_dict().items()}, "")
    draft.space("pictures", Space(config.in_channels, FIXED))
    last = len(config.stages) - 1
    for stage, width in enumerate(config.widths):
        ends = stage == last
        tap = Tap("norm" if ends else f"blocks.{config.stage_ends[stage] + 1}.norm1", "input")
        kind = FIXED if ends and config.classes is None else PERMUTE
        draft.space(f"stage{stage}", Space(width, kind, normed=True), tap)
    draft.linear("patches", "pictures", "stage0")
    for key in draft.keys:
        if key.startswith("positions."):
            draft.axis(key, 0 if config.positions == "window" else -1, "stage0")
    for number, block in enumerate(model.blocks):
        path, stream = f"blocks.{number}", f"stage{config.stage(number)}"
        coming = f"stage{config.stage(number - 1)}" if number else stream
        draft.own(f"{path}.norm1", coming)
        for name in ("scale1", "norm2", "scale2"):
            draft.own(f"{path}.{name}", stream)
        draft.attention(f"{path}.attention", block.attention, coming, stream, PERMUTE)
        if block.shortcut is not None:
            draft.linear(f"{path}.shortcut.proj", coming, stream)
        draft.mlp(f"{path}.mlp", stream, block.mlp.expand.out_features)
    draft.own("norm", f"stage{last}")
    if config.classes is not None:
        draft.space("logits", Space(config.classes, FIXED))
        draft.linear("projection", f"stage{last}", "logits")
    return draft.blueprint()
