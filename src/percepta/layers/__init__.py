"""Parts that know no model: tokens, attention, the block, rotary and learned positions."""

from percepta.layers.attention import Attention, AttentionPooling, Mlp, attend
from percepta.layers.block import Block, DropPath, LayerScale, Shorten
from percepta.layers.chunked import PreparedAttention, attend_in_tiles
from percepta.layers.packed import PackedLinear, PackedMlp
from percepta.layers.positions import resize_positions
from percepta.layers.regions import (
    clean_masks,
    error_centres,
    fill_holes,
    label_components,
    remove_specks,
    squared_distances,
)
from percepta.layers.rope import grid_angles, grid_positions, grid_rotation, place_rotation, rope_angles, rotate
from percepta.layers.token_merging import (
    Plan,
    match_agglomerative,
    match_bipartite,
    match_kth,
    match_random,
    removals,
    restored,
    shortened,
    token_counts,
)
from percepta.layers.token_merging_grid import coarsen, hash_picks, match_grid
from percepta.layers.tokens import Tokens

__all__ = [
    "Attention",
    "AttentionPooling",
    "Block",
    "DropPath",
    "LayerScale",
    "Mlp",
    "PackedLinear",
    "PackedMlp",
    "Plan",
    "PreparedAttention",
    "Shorten",
    "Tokens",
    "attend",
    "attend_in_tiles",
    "clean_masks",
    "coarsen",
    "error_centres",
    "fill_holes",
    "grid_angles",
    "grid_positions",
    "grid_rotation",
    "hash_picks",
    "label_components",
    "match_agglomerative",
    "match_bipartite",
    "match_grid",
    "match_kth",
    "match_random",
    "place_rotation",
    "removals",
    "remove_specks",
    "resize_positions",
    "restored",
    "rope_angles",
    "rotate",
    "shortened",
    "squared_distances",
    "token_counts",
]
