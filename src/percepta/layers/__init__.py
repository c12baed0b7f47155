"""Parts that know no model: tokens, attention, the block, rotary and learned positions."""

from percepta.layers.attention import Attention, AttentionPooling, Mlp
from percepta.layers.block import Block, DropPath, LayerScale, Shorten
from percepta.layers.positions import resize_positions
from percepta.layers.rope import grid_angles, grid_positions, grid_rotation, rope_angles, rotate
from percepta.layers.tokens import Tokens

__all__ = [
    "Attention",
    "AttentionPooling",
    "Block",
    "DropPath",
    "LayerScale",
    "Mlp",
    "Shorten",
    "Tokens",
    "grid_angles",
    "grid_positions",
    "grid_rotation",
    "resize_positions",
    "rope_angles",
    "rotate",
]
