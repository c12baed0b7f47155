"""A matching of every space of a blueprint, within its limits: blocks first, then what is in them.

Attention heads and the groups of convolutions move as wholes, alike in all spaces of their family (arXiv 2403.00986).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from percepta.merging.matching import Floats, Matcher, Matching, average_features, permute_features
from percepta.merging.spaces import BLOCKS, PERMUTE, Blueprint, Space


def match_spaces(
    blueprint: Blueprint,
    correlations: Mapping[str, Floats],
    models: int,
    matcher: Matcher,
    normed: str = PERMUTE,
) -> dict[str, Matching]:
    """A matching of each space, within its limits.

    Args:
        correlations: by space, (N F, N F).
        models: N.
        matcher: what merges freely, such as a partial of `zip_features`.
        normed: "permute" permutes where layer norms are, "zip" lets `matcher` do there, too.
    """
    moves = _block_moves(blueprint, correlations, models)
    found = {}
    for name, space in blueprint.spaces.items():
        if name in correlations:
            inside = _within(space, matcher, normed)
            found[name] = _in_blocks(correlations[name], models, space, moves.get(name), inside)
    return found


def _within(space: Space, matcher: Matcher, normed: str) -> Matcher:
    """What may happen to the features of one block."""
    if space.kind == BLOCKS:
        return average_features
    if space.kind == PERMUTE or (space.normed and normed == PERMUTE):
        return permute_features if matcher is not average_features else matcher
    return matcher


def _block_moves(blueprint: Blueprint, correlations: Mapping[str, Floats], models: int) -> dict[str, np.ndarray]:
    """For each space with blocks (N, blocks): the block of each model that goes to the first's; families agree."""
    families: dict[str, list[str]] = {}
    for name, space in blueprint.spaces.items():
        if space.blocks > 1 and name in correlations:
            families.setdefault(space.family or name, []).append(name)
    found: dict[str, np.ndarray] = {}
    for names in families.values():
        blocks = blueprint.spaces[names[0]].blocks
        order = [np.arange(blocks)]
        for model in range(1, models):
            alike = sum(
                (block_likeness(correlations[name], blueprint.spaces[name], model) for name in names),
                start=np.zeros((blocks, blocks)),
            )
            order.append(linear_sum_assignment(alike, maximize=True)[1])
        found |= dict.fromkeys(names, np.stack(order))
    return found


def block_likeness(correlation: Floats, space: Space, model: int) -> np.ndarray:
    """(blocks, blocks) how well each block of the first model and each of another fit, their features permuted."""
    size, count = space.size // space.blocks, space.size
    between = correlation[:count, model * count : (model + 1) * count]
    tiles = between.reshape(space.blocks, size, space.blocks, size).swapaxes(1, 2)
    found = np.zeros((space.blocks, space.blocks))
    for first in range(space.blocks):
        for second in range(space.blocks):
            tile = tiles[first, second]
            chosen = linear_sum_assignment(tile, maximize=True) if space.kind != BLOCKS else np.diag_indices(size)
            found[first, second] = tile[chosen].sum()
    return found


def _in_blocks(correlation: Floats, models: int, space: Space, moves: np.ndarray | None, inside: Matcher) -> Matching:
    """A matching of each block by itself, put together."""
    if moves is None:
        return inside(correlation, models)
    size = space.size // space.blocks
    groups = np.empty((models, space.size), np.int64)
    for block in range(space.blocks):
        own = moves[:, block, None] * size + np.arange(size)  # features of each model that belong to this block
        rows = (own + np.arange(models)[:, None] * space.size).reshape(-1)
        matched = inside(correlation[np.ix_(rows, rows)], models)
        for model in range(models):
            groups[model, own[model]] = block * size + matched.groups[model]
    return Matching(groups, space.size)
