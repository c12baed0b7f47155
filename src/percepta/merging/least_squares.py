"""Merged layers fitted to the merged features: least squares over a zip (after PLeaS, arXiv 2407.02447).

A zip says which features become one; the published weights of the merged layer then suppose that each model's inputs
are what unmerging gives, which they are not. Here every layer, from the first on, is fitted once more: from what the
merged network really feeds it to the means of the models' own features, in closed form. Same network, same cost to run.
Unusual: a layer is fitted together with the batch norm behind it, whose statistics then make no difference; the ridge
draws towards the zipped weights, not to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as functional
from torch import Tensor, nn

from percepta.errors import out_of_range
from percepta.merging.matching import Matching
from percepta.merging.partial import front_of
from percepta.merging.spaces import Axis, Blueprint, Rule, moved
from percepta.merging.statistics import Batches, inputs_of
from percepta.running.modes import evaluating

RIDGE = 0.01


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that can be fitted: its node and module, and the node and module of the batch norm behind it, if any."""

    node: str
    path: str
    result: str
    norm: str | None


def fit_layers(
    merged: torch.fx.GraphModule,
    networks: Sequence[Any],
    blueprint: Blueprint,
    matchings: Mapping[str, Matching],
    batches: Batches,
    ridge: float = RIDGE,
) -> None:
    """Fit the layers of a merged network, in place.

    Args:
        merged: the traced network with zipped weights, or its trunk.
        networks: the models, traced alike.
        blueprint, matchings: of the zip.
        batches: inputs of all tasks; seen once for each layer.
        ridge: strength of the pull towards the zipped weights, as a share of the mean square of the inputs, above 0.

    Raises: BadInput for a ridge that is not above 0.
    """
    if not ridge > 0:
        raise out_of_range("ridge", ridge, "above 0", "least squares")
    for layer in layers_of(merged):
        rule = blueprint.rules.get(f"{layer.path}.weight")
        if rule is None or rule.groups > 1:
            continue
        (axis,) = (one for one in rule.axes if one.writes)
        if any(part.space in matchings for part in axis.parts) or _reads(rule.axes, matchings):
            _fit(merged, networks, layer, axis, blueprint, matchings, batches, ridge)


def layers_of(graph: torch.fx.GraphModule) -> list[Layer]:
    """Linear layers and full convolutions that are used once, in order."""
    found = []
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    used = [str(node.target) for node in nodes]
    for node in nodes:
        module = graph.get_submodule(str(node.target))
        if not isinstance(module, nn.Linear | nn.Conv2d) or used.count(str(node.target)) > 1:
            continue
        if isinstance(module, nn.Conv2d) and (
            module.groups > 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)
        ):
            continue
        behind = next(iter(node.users)) if len(node.users) == 1 else None
        norm = None
        if behind is not None and behind.op == "call_module":
            follower = graph.get_submodule(str(behind.target))
            if type(follower) in (nn.BatchNorm1d, nn.BatchNorm2d) and follower.affine:
                norm = str(behind.target)
        result = behind.name if norm and behind is not None else node.name
        found.append(Layer(node.name, str(node.target), result, norm))
    return found


def _reads(axes: Sequence[Axis], matchings: Mapping[str, Matching]) -> bool:
    return any(part.space in matchings for axis in axes if not axis.writes for part in axis.parts)


@torch.no_grad()
def _fit(
    merged: torch.fx.GraphModule,
    networks: Sequence[Any],
    layer: Layer,
    axis: Axis,
    blueprint: Blueprint,
    matchings: Mapping[str, Matching],
    batches: Batches,
    ridge: float,
) -> None:
    module = merged.get_submodule(layer.path)
    (entrance,) = (node.all_input_nodes[0] for node in merged.graph.nodes if node.name == layer.node)
    entering = front_of(merged, entrance.name)
    leaving = [front_of(network, layer.result) for network in networks]
    moments: list[Tensor] = []
    for batch in batches:
        x = inputs_of(batch)
        rows, written = _rows(module, _given(entering, x)), Rule((Axis(1, axis.parts, True),))
        target = torch.zeros(())
        for number, network in enumerate(leaving):
            values = _places(module, _given(network, x))
            target = target + moved(values, written, blueprint, matchings, number, len(networks))
        count = rows.new_tensor(float(len(rows)))
        seen = [one.double() for one in (rows.T @ rows, rows.T @ target, rows.sum(0), target.sum(0), count)]
        moments = seen if not moments else [old + new for old, new in zip(moments, seen, strict=True)]
    _solve(merged, module, layer, moments, ridge)


def _given(network: Any, x: Tensor) -> Tensor:
    with evaluating(network):
        result: Tensor = network(x)
    return result


def _solve(merged: torch.fx.GraphModule, module: Any, layer: Layer, moments: Sequence[Tensor], ridge: float) -> None:
    """The weights that give the targets, and norms that pass them on."""
    gram, cross, inputs, targets, count = moments
    mean_in, mean_out = inputs / count, targets / count
    gram, cross = gram / count - torch.outer(mean_in, mean_in), cross / count - torch.outer(mean_in, mean_out)
    weight = module.weight
    norm: Any = merged.get_submodule(layer.norm) if layer.norm else None
    start = weight.flatten(1).double()
    if norm is not None:  # what the norm makes of the zipped weights
        spread = ((start @ gram) * start).sum(1).clamp_min(1e-12).sqrt()
        start = start * (norm.weight.double() / spread)[:, None]
    strength = ridge * gram.diagonal().mean().clamp_min(1e-12)
    regular = gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    fitted = torch.linalg.solve(regular, cross + strength * start.T).T
    if norm is not None:
        variance = ((fitted @ gram) * fitted).sum(1)
        norm.running_mean.copy_(fitted @ mean_in)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean_out)
        if module.bias is not None:
            module.bias.zero_()
    elif module.bias is not None:
        module.bias.copy_(mean_out - fitted @ mean_in)
    weight.copy_(fitted.reshape(weight.shape))


def _rows(module: Any, x: Tensor) -> Tensor:
    """What each output place of a layer sees: (places, inputs)."""
    if isinstance(module, nn.Conv2d):
        padding: Any = module.padding
        patches = functional.unfold(x, module.kernel_size, module.dilation, padding, module.stride)
        return patches.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)


def _places(module: Any, x: Tensor) -> Tensor:
    """The same places of what the layer gives: (places, outputs)."""
    return x.flatten(2).transpose(1, 2).flatten(0, 1) if isinstance(module, nn.Conv2d) else x.flatten(0, -2)
