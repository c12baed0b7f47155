"""Token merging in the vision towers of percepta, which carry `Tokens` and take a policy a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from percepta.layers import Shorten, Tokens
from percepta.speedups.cost import BlockCost, Shape


class TowerAdapter:
    """A tower with `shorten`, `last_tokens` and the config fields of the Perception Encoder."""

    proportional = True

    def __init__(self, tower: Any) -> None:
        self.tower = tower
        self.depth: int = tower.config.depth
        self.protected: int = tower.config.prefix
        self.last_block_matters: bool = tower.config.pooling != "class"

    def shape(self) -> Shape:
        """At the size that the tower was trained on."""
        config = self.tower.config
        patches = config.grid**2
        blocks = tuple(
            BlockCost(linear_weights(block.attention), linear_weights(block.mlp), config.width)
            for block in self.tower.blocks
        )
        per_token, fixed = 0, config.width * (config.output_dim or 0)
        if config.pooling == "attention":  # keys and values of all tokens, one query
            pool = self.tower.pool
            per_token = 2 * config.width**2 + 2 * config.width
            fixed += 2 * config.width**2 + linear_weights(pool.mlp)
        start = patches * config.width * 3 * config.patch_size**2
        return Shape(blocks, patches + config.prefix, config.prefix, start, (per_token, fixed))

    def install(self, policies: Sequence[Shorten | None] | None) -> None:
        """The tower keeps the policies itself."""
        self.tower.shorten = None if policies is None else tuple(policies)
        self.tower.shorten_frames, self.tower.seams = None, ()

    def install_frames(self, policies: Sequence[Shorten | None], seams: tuple[int, ...]) -> None:
        """The tower keeps them beside those of pictures."""
        self.tower.shorten_frames, self.tower.seams = tuple(policies), seams

    def last_tokens(self, x: Tensor) -> Tokens:
        """Of the tower."""
        tokens: Tokens = self.tower.last_tokens(x)
        return tokens

    def check(self) -> None:
        """Nothing to check: without policies the tower runs as it always does."""


def linear_weights(module: nn.Module) -> int:
    """Weights of the linear layers in a module: multiply-adds a token. Biases are not counted."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
