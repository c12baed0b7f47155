"""What a network's tensors are made of: spaces of features, and which space each axis of each weight counts in.

Two axes count in the same space where their features must stay matched: along a residual stream, through a norm, from
the channels that a convolution writes to those that the next one reads. Merging needs no more of a network than this:
one matching a space, and each weight is W* = sum over models of M W U (arXiv 2305.03053 §4.3), M of the spaces that it
writes and U of those that it reads.
Order of this file: spaces and axes, the blueprint of a network, weights merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.merging.matching import Matching

ZIP, PERMUTE, BLOCKS, FIXED = "zip", "permute", "blocks", "fixed"
"""What may happen in a space, from most to least: features of any models merge; each goes to one of every other model;
whole blocks of them do, such as attention heads; nothing, as for the network's inputs and outputs."""
KINDS = (ZIP, PERMUTE, BLOCKS, FIXED)


@dataclass(frozen=True, slots=True)
class Space:
    """A space of features.

    Attributes:
        size: number of features.
        kind: of `KINDS`.
        blocks: equal blocks of neighbouring features that stay together: heads, groups of a convolution.
        family: spaces of one family move their blocks alike; empty for a space by itself.
        normed: whether a layer norm takes its mean and deviation over these features. Merging then keeps its meaning
            for permutations alone, and no others are tried unless asked for.
    """

    size: int
    kind: str = ZIP
    blocks: int = 1
    family: str = ""
    normed: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an axis: a space, each of whose features takes `repeat` neighbouring places (a flattened map)."""

    space: str
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a weight: its number, the spaces it is made of, and whether the weight writes or reads them."""

    dim: int
    parts: tuple[Part, ...]
    writes: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """How a weight merges; `groups` of a grouped convolution, whose second axis counts inside of a group."""

    axes: tuple[Axis, ...]
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Tap:
    """Where the features of a space are seen.

    Attributes:
        place: a node of the traced graph, or a module's path.
        side: "node", or "input" or "output" of the module; "projected" for what a torch.nn.MultiheadAttention makes of
            its inputs.
        dim: the axis of features.
        starts: where they begin on it; several give several looks at the same features.
    """

    place: str
    side: str
    dim: int = -1
    starts: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What merging knows of an architecture.

    Attributes:
        spaces: by name, in the order in which the network makes them.
        rules: by the key of the state dict; tensors without one are averaged.
        taps: where the features of each space that may move are seen.
    """

    spaces: dict[str, Space]
    rules: dict[str, Rule]
    taps: dict[str, Tap] = field(default_factory=dict)

    def movable(self) -> list[str]:
        """The spaces that have something to match."""
        return [name for name, space in self.spaces.items() if space.kind != FIXED]


def merge_states(
    states: Sequence[Mapping[str, Tensor]],
    blueprint: Blueprint,
    matchings: Mapping[str, Matching],
    epsilon: float = 0.0,
) -> dict[str, Tensor]:
    """One state dict of N: each weight moved into the merged spaces, summed over the models.

    Args:
        states: of models of one architecture.
        matchings: by space; a space without one is averaged feature by feature.
        epsilon: added to the sizes of groups, see `matching.PUBLISHED_EPSILON`.

    Returns: a state dict of the first's shapes and types. Raises: BadInput where shapes differ.
    """
    merged = {}
    for key, first in states[0].items():
        values = [_value(state, key, first) for state in states]
        if not first.is_floating_point():
            merged[key] = torch.stack([value.double() for value in values]).mean(dim=0).to(first.dtype)
            continue
        rule = blueprint.rules.get(key)
        total = sum(
            (
                moved(value.detach().float(), rule, blueprint, matchings, model, len(states))
                for model, value in enumerate(values)
            ),
            start=torch.zeros(()),
        )
        merged[key] = total.to(first.dtype)
    return merged


def _value(state: Mapping[str, Tensor], key: str, first: Tensor) -> Tensor:
    if key not in state or state[key].shape != first.shape:
        shape = tuple(state[key].shape) if key in state else "nothing"
        raise BadInput(f"models to merge must be of one architecture; {key} is {tuple(first.shape)} and {shape}.")
    return state[key]


def moved(
    value: Tensor,
    rule: Rule | None,
    blueprint: Blueprint,
    matchings: Mapping[str, Matching],
    model: int,
    models: int,
    epsilon: float = 0.0,
) -> Tensor:
    """What the weight of one model adds to the merged one: M W U, or its share of the mean."""
    if rule is None or not any(axis.writes for axis in rule.axes):
        value = value / models
    if rule is None:
        return value
    if rule.groups > 1:
        value = _dense(value, rule.groups)
    for axis in rule.axes:
        pieces = []
        sizes = [blueprint.spaces[part.space].size * part.repeat for part in axis.parts]
        for part, piece in zip(axis.parts, value.split(sizes, dim=axis.dim), strict=True):
            matching = matchings.get(part.space)
            if matching is None:
                pieces.append(piece / models if axis.writes else piece)
            else:
                pieces.append(_grouped(piece, axis, part.repeat, matching, model, epsilon))
        value = torch.cat(pieces, dim=axis.dim) if len(pieces) > 1 else pieces[0]
    return _diagonal(value, rule.groups) if rule.groups > 1 else value


def _grouped(piece: Tensor, axis: Axis, repeat: int, matching: Matching, model: int, epsilon: float) -> Tensor:
    """One stretch of an axis: features summed by their groups, and, where they are written, made means."""
    dim = axis.dim % piece.ndim
    piece = piece.unflatten(dim, (-1, repeat))
    shape = [*piece.shape]
    shape[dim] = matching.merged
    found = piece.new_zeros(shape).index_add_(dim, torch.from_numpy(matching.groups[model]).to(piece.device), piece)
    if axis.writes:
        counts = np.bincount(matching.groups.reshape(-1), minlength=matching.merged)
        weights = torch.from_numpy(1 / (counts.astype(np.float32) + np.float32(epsilon))).to(piece.device)
        found = found * weights.view(-1, *[1] * (found.ndim - dim - 1))
    return found.flatten(dim, dim + 1)


def _dense(value: Tensor, groups: int) -> Tensor:
    """The weight of a grouped convolution as that of a full one, zero between groups."""
    outputs, inputs = len(value) // groups, value.shape[1]
    full = value.new_zeros(len(value), inputs * groups, *value.shape[2:])
    for group in range(groups):
        rows, columns = slice(group * outputs, (group + 1) * outputs), slice(group * inputs, (group + 1) * inputs)
        full[rows, columns] = value[rows]
    return full


def _diagonal(value: Tensor, groups: int) -> Tensor:
    """`_dense` backwards."""
    outputs, inputs = len(value) // groups, value.shape[1] // groups
    blocks = [
        value[group * outputs : (group + 1) * outputs, group * inputs : (group + 1) * inputs] for group in range(groups)
    ]
    return torch.cat(blocks)
