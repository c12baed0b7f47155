"""ZipIt!: several networks of one architecture, trained by themselves, become one (arXiv 2305.03053).

Order of this file: what comes back, merging, the plan, what is checked.
Unusual: the graph is found by tracing; what may happen in a space follows from what reads it (see `spaces`), so that
residual streams under layer norms are permuted, heads move as wholes, and everything else is zipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from percepta.errors import BadInput, one_of
from percepta.merging.least_squares import fit_layers
from percepta.merging.matching import (
    ALPHA,
    BETA,
    MATCHERS,
    Floats,
    Matcher,
    Matching,
    average_features,
    correlation_of,
    matched_correlation,
    zip_features,
)
from percepta.merging.matching_spaces import match_spaces
from percepta.merging.norms import reset_norms
from percepta.merging.partial import Cut, MultiHead, cut_at, split_at
from percepta.merging.spaces import PERMUTE, Blueprint, Part, merge_states
from percepta.merging.statistics import Batches, covariances, inputs_of
from percepta.merging.towers import blueprint_of_tower
from percepta.merging.tracing import Features, blueprint_of, trace, traced_until
from percepta.merging.weights import match_by_weights, match_weight_correlations

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "zipit": "ZipIt!: features of any models become one, the most correlated first (arXiv 2305.03053)",
        "least-squares": "zipit, then each layer fitted to the merged features in closed form (after arXiv 2407.02447)",
        "permute": "each feature of a model goes to one of the first model (arXiv 2209.04836, by activations)",
        "weights": "the same by the weights alone: Git Re-Basin's weight matching (arXiv 2209.04836)",
        "optimal": "two models: the best pairs of all features, each merging once",
        "average": "features of equal number, as fine-tunes of one model have them",
    }
)
"""How features are matched."""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What merging gives.

    Attributes:
        model: the merged network: of the models' own class, or a `MultiHead` where the zip stops early.
        matchings: by space.
        correlations: by space, the mean correlation of the features that became one.
        blueprint: the spaces.
        cut: where the zip stops, or None.
    """

    model: nn.Module
    matchings: dict[str, Matching]
    correlations: dict[str, float]
    blueprint: Blueprint
    cut: Cut | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Models that may be merged, and how. Nothing in it is a copy: it shares the models' modules.

    Attributes:
        models: as they were given.
        networks: what merges of them: traced, or themselves where the blueprint needs no graph.
        blueprint: of that part.
        cut: where that part ends, or None.
        leaving: what passes there.
        heads: what is behind it, of each model.
    """

    models: tuple[nn.Module, ...]
    networks: tuple[nn.Module, ...]
    blueprint: Blueprint
    cut: Cut | None = None
    leaving: Features | None = None
    heads: tuple[nn.Module, ...] = ()


def merge_models(
    models: Sequence[nn.Module],
    batches: Batches,
    method: str = "zipit",
    alpha: float = ALPHA,
    beta: float = BETA,
    stop: str | float | None = None,
    normed: str = PERMUTE,
    reset: bool = True,
    statistics: str = "data",
    epsilon: float = 0.0,
) -> Merged:
    """Merge models of one architecture without training.

    Args:
        models: two or more; they stay as they are.
        batches: inputs of all tasks, (B, 3, H, W) or tuples that begin with them, to see what features have in common;
            a few hundred pictures will do. A list or a loader.
        method: of `METHODS`.
        alpha, beta: of "zipit" and "least-squares", see `matching.zip_features`.
        stop: where the zip ends and the models stay separate: a cut's name, or a share of the layers; None merges all.
        normed: what may happen where layer norms are: "permute", or "zip" as published.
        reset: make the statistics of batch norms anew over the batches, without which little works.
        statistics: what correlations are of: "data", or "weights" where there is none to be had (the batches then serve
            for an example, and for norms).
        epsilon: added to the sizes of groups, see `matching.PUBLISHED_EPSILON`.

    Raises: BadInput for fewer than two models, different architectures (with the first difference), an operation that
        features cannot be followed through, or a stop that is none.
    """
    for name, value, allowed in (
        ("method", method, METHODS),
        ("normed", normed, ("zip", PERMUTE)),
        ("statistics", statistics, ("data", "weights")),
    ):
        if value not in allowed:
            raise one_of(name, value, allowed, "merging")
    example = next((inputs_of(batch)[:2] for batch in batches), None)
    if example is None:
        raise BadInput("merging needs data to see what features have in common; got no batch.")
    plan = plan_of(models, example, stop)
    zipping = method in ("zipit", "least-squares")
    matcher = partial(zip_features, alpha=alpha, beta=beta) if zipping else MATCHERS.get(method, average_features)
    matchings, correlations = _matched(plan, batches, method, matcher, normed, statistics)
    merged = assemble(plan, matchings, correlations, epsilon)
    if method == "least-squares":
        _fit(plan, merged, batches)
    if reset:
        reset_norms(merged.model, batches)
    return merged


def _matched(
    plan: Plan, batches: Batches, method: str, matcher: Matcher, normed: str, statistics: str
) -> tuple[dict[str, Matching], dict[str, Floats]]:
    """Matchings by space, and the correlations that they were made by, where features were looked at."""
    states = [network.state_dict() for network in plan.networks]
    if method == "average":
        return {}, {}
    if method == "weights":
        return match_by_weights(states, plan.blueprint), {}
    if statistics == "weights":
        return match_weight_correlations(states, plan.blueprint, matcher, normed), {}
    found = covariances(plan.networks, plan.blueprint, batches)
    correlations = {name: correlation_of(covariance) for name, covariance in found.items()}
    return match_spaces(plan.blueprint, correlations, len(plan.models), matcher, normed), correlations


def _fit(plan: Plan, merged: Merged, batches: Batches) -> None:
    """Fit the layers of what was merged, in place."""
    if not isinstance(plan.networks[0], torch.fx.GraphModule):
        raise BadInput(f"least squares needs a network that can be traced; {type(plan.models[0]).__name__} is not.")
    network: Any
    if isinstance(merged.model, MultiHead):
        network = merged.model.trunk
    else:
        reset_norms(merged.model, batches)
        network = trace(merged.model)
    fit_layers(network, plan.networks, plan.blueprint, merged.matchings, batches)


def plan_of(models: Sequence[nn.Module], example: Tensor, stop: str | float | None = None) -> Plan:
    """Check that models fit together and find their spaces. Arguments and errors as of `merge_models`; `example` is an
    input, (2, 3, H, W)."""
    if len(models) < 2:
        raise BadInput(f"merging needs at least two models; got {len(models)}.")
    for number, model in enumerate(models, 1):
        broken = [key for key, value in model.state_dict().items() if not value.isfinite().all()]
        if broken:
            raise BadInput(f"weights to merge must be finite; {broken[0]} of model {number} holds NaN or infinity.")
    if (blueprint := blueprint_of_tower(models[0])) is not None:
        _check_states(models)
        if stop is not None:
            raise BadInput(f"a zip of {type(models[0]).__name__} cannot stop early; pass stop=None.")
        return Plan(tuple(models), tuple(models), blueprint)
    graphs = [trace(model) for model in models]
    _check_graphs(graphs)
    if stop is None:
        _check_states(models)
        return Plan(tuple(models), tuple(graphs), blueprint_of(graphs[0], example))
    cut = cut_at(graphs[0], stop)
    blueprint, leaving = traced_until(graphs[0], cut.node, example)
    trunks, heads = zip(*(split_at(graph, cut.node) for graph in graphs), strict=True)
    _check_states(trunks)
    return Plan(tuple(models), trunks, blueprint, cut, leaving, heads)


def assemble(
    plan: Plan,
    matchings: Mapping[str, Matching],
    correlations: Mapping[str, Floats] | None = None,
    epsilon: float = 0.0,
) -> Merged:
    """The merged network of a plan and matchings of its spaces; batch norms keep merged statistics."""
    told = {
        name: matched_correlation(matching, correlations[name])
        for name, matching in matchings.items()
        if correlations and name in correlations
    }
    whole = plan.cut is None
    model = deepcopy(plan.models[0] if whole else plan.networks[0]).eval()
    states = [network.state_dict() for network in (plan.models if whole else plan.networks)]
    model.load_state_dict(merge_states(states, plan.blueprint, matchings, epsilon))
    if plan.leaving is not None:
        parts = plan.leaving.parts
        index = [_gather(parts, plan.blueprint, matchings, number) for number in range(len(plan.models))]
        model = MultiHead(model, deepcopy(plan.heads), torch.stack(index), plan.leaving.dim).eval()
    return Merged(model, dict(matchings), told, plan.blueprint, plan.cut)


def _gather(parts: Sequence[Part], blueprint: Blueprint, matchings: Mapping[str, Matching], model: int) -> Tensor:
    """Which merged feature each feature of a model is, along an axis made of `parts`."""
    rows, start = [], 0
    for part in parts:
        size = blueprint.spaces[part.space].size
        groups = matchings[part.space].groups[model] if part.space in matchings else np.arange(size)
        places = groups[:, None] * part.repeat + np.arange(part.repeat)
        rows.append(start + places.reshape(-1))
        start += size * part.repeat
    return torch.from_numpy(np.concatenate(rows))


def _check_states(models: Sequence[nn.Module]) -> None:
    """Raises BadInput for the first weight that differs in shape."""
    first = models[0].state_dict()
    for number, model in enumerate(models[1:], 2):
        other = model.state_dict()
        for key in [*first, *other]:
            shapes = [tuple(state[key].shape) if key in state else None for state in (first, other)]
            if shapes[0] != shapes[1]:
                told = " and ".join("nothing" if shape is None else str(shape) for shape in shapes)
                raise BadInput(
                    f"models to merge must be of one architecture; {key} of the first and of model {number} are "
                    f"{told}. Where only the last layer differs, stop=1.0 leaves it to each model."
                )


def _check_graphs(graphs: Sequence[torch.fx.GraphModule]) -> None:
    """Raises BadInput for the first operation that differs."""
    first = list(graphs[0].graph.nodes)
    for number, graph in enumerate(graphs[1:], 2):
        other = list(graph.graph.nodes)
        for mine, theirs in zip(first, other, strict=False):
            if _signature(mine) != _signature(theirs):
                raise BadInput(
                    f"models to merge must be of one architecture; they differ at {mine.name} ({mine.target}) of the "
                    f"first, which is {theirs.name} ({theirs.target}) in model {number}."
                )
        if len(first) != len(other):
            longer = first if len(first) > len(other) else other
            extra = longer[min(len(first), len(other)) - 1]
            raise BadInput(
                f"models to merge must be of one architecture; model {number} has {len(other)} operations and the "
                f"first {len(first)}, from {extra.name} on."
            )


def _signature(node: torch.fx.Node) -> tuple[Any, ...]:
    return node.op, str(node.target), tuple(one.name for one in node.all_input_nodes)
