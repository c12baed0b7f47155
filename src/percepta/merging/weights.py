"""Matching without data: by the weights that write and read features.

Git Re-Basin (arXiv 2209.04836, algorithm 1): with all other spaces held, the permutation of one is a linear assignment;
spaces take turns in random order until nothing gains. The same similarities, of one sweep from the inputs on, stand in
for correlations of features where there are no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from percepta.merging.matching import (
    Floats,
    Matcher,
    Matching,
    average_features,
    correlation_of,
    permute_features,
)
from percepta.merging.matching_spaces import match_spaces
from percepta.merging.spaces import Axis, Blueprint, Rule, moved

ROUNDS = 100
GAIN = 1e-12


def match_by_weights(
    states: Sequence[Mapping[str, Tensor]], blueprint: Blueprint, seed: int = 0
) -> dict[str, Matching]:
    """Permutations of all spaces onto those of the first model, by coordinate descent (Git Re-Basin's weight matching).

    Args:
        states: state dicts of models of one architecture.
        blueprint: its spaces.
        seed: of the order in which spaces take turns.

    Returns: by space. Each later model is matched to the first.
    """
    models, random = len(states), np.random.default_rng(seed)
    names = blueprint.movable()
    found = {name: average_features(np.eye(blueprint.spaces[name].size * models), models) for name in names}
    for _ in range(ROUNDS):
        gained = False
        for name in random.permutation(names).tolist():
            rows = feature_weights(states, blueprint, found, name)
            gram = rows @ rows.T
            (matching,) = match_spaces(blueprint, {name: gram}, models, permute_features).values()
            now, before = (_agreement(gram, one) for one in (matching, found[name]))
            if now > before + GAIN * max(1.0, abs(before)):
                found[name], gained = matching, True
        if not gained:
            break
    return _with_families(states, blueprint, found)


def _with_families(
    states: Sequence[Mapping[str, Tensor]], blueprint: Blueprint, found: dict[str, Matching]
) -> dict[str, Matching]:
    """Blocks of a family must move alike: where spaces of one disagree, all of it is matched together once more."""
    families: dict[str, list[str]] = {}
    for name in found:
        if blueprint.spaces[name].family:
            families.setdefault(blueprint.spaces[name].family, []).append(name)
    for names in families.values():
        grams = {}
        for name in names:
            rows = feature_weights(
                states, blueprint, {key: one for key, one in found.items() if key not in names}, name
            )
            grams[name] = rows @ rows.T
        found |= match_spaces(blueprint, grams, len(states), permute_features)
    return found


def match_weight_correlations(
    states: Sequence[Mapping[str, Tensor]], blueprint: Blueprint, matcher: Matcher, normed: str
) -> dict[str, Matching]:
    """Matchings of all spaces by correlations of weights, each space after those that it reads."""
    found: dict[str, Matching] = {}
    for name in blueprint.movable():
        family = blueprint.spaces[name].family
        names = [one for one in blueprint.movable() if family and blueprint.spaces[one].family == family] or [name]
        if name in found:
            continue
        correlations = {}
        for one in names:
            rows = feature_weights(states, blueprint, found, one, written=True)
            centred = rows - rows.mean(axis=1, keepdims=True)
            correlations[one] = correlation_of(centred @ centred.T)
        found |= match_spaces(blueprint, correlations, len(states), matcher, normed)
    return found


def feature_weights(
    states: Sequence[Mapping[str, Tensor]],
    blueprint: Blueprint,
    matchings: Mapping[str, Matching],
    space: str,
    written: bool = False,
) -> Floats:
    """(N F, K): for each feature of a space, all weights that write and read it, their other axes as matched so far.

    Args:
        written: leave out what reads the space, and what reads spaces that are not matched yet.
    """
    columns = []
    for key, rule in blueprint.rules.items():
        mine = [axis for axis in rule.axes if any(part.space == space for part in axis.parts)]
        if not mine or key.endswith(("running_mean", "running_var")):
            continue
        for axis in mine:
            others = Rule(tuple(one for one in rule.axes if one is not axis), rule.groups)
            if written and (not axis.writes or not _known(others, blueprint, matchings)):
                continue
            columns += _columns(states, key, axis, others, blueprint, matchings, space)
    size = blueprint.spaces[space].size * len(states)
    return np.concatenate(columns, axis=1) if columns else np.zeros((size, 1), np.float32)


def _known(rule: Rule, blueprint: Blueprint, matchings: Mapping[str, Matching]) -> bool:
    """Whether all that a weight reads is matched, or never moves."""
    parts = [part for axis in rule.axes if not axis.writes for part in axis.parts]
    return all(part.space in matchings or blueprint.spaces[part.space].kind == "fixed" for part in parts)


def _columns(
    states: Sequence[Mapping[str, Tensor]],
    key: str,
    axis: Axis,
    others: Rule,
    blueprint: Blueprint,
    matchings: Mapping[str, Matching],
    space: str,
) -> list[Floats]:
    """The rows that an axis of one weight has for a space, of all models below each other; one entry a stretch."""
    values = []
    for model, state in enumerate(states):
        value = state[key].detach().float()
        if others.axes and others.groups == 1:
            value = moved(value, others, blueprint, matchings, model, len(states))
        values.append(value.movedim(axis.dim, 0))
    found, start = [], 0
    for part in axis.parts:
        size = blueprint.spaces[part.space].size
        if part.space == space:
            rows = [value[start : start + size * part.repeat].reshape(size, -1) for value in values]
            found.append(torch.cat(rows).cpu().numpy())
        start += size * part.repeat
    return found


def _agreement(gram: Floats, matching: Matching) -> float:
    """The sum of similarities of features of later models to those of the first that they go to."""
    size = matching.groups.shape[1]
    first = np.argsort(matching.groups[0])
    return float(
        sum(
            gram[first[matching.groups[model]], model * size + np.arange(size)].sum()
            for model in range(1, matching.models)
        )
    )
