"""How features pass through each operation: the rules of the walk in `tracing`.

Order of this file: nodes by kind, layers with weights, what joins, what moves axes, what passes everything on.
A new operation is one line in `PASS`, or a rule in `FUNCTIONS`, `METHODS` or `MODULES`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.fx
import torch.nn.functional as functional
from torch import Tensor, nn

from percepta.merging import attentions
from percepta.merging.spaces import FIXED, Part, Space, Tap
from percepta.merging.tracing import Features, Free, Refused, Walk

Node = torch.fx.Node


def annotate(walk: Walk, node: Node) -> Any:
    """The annotation of one operation. Raises Refused."""
    if node.op == "placeholder":
        return _input(walk, node)
    if node.op == "get_attr":
        return Free((str(node.target),)) if node.meta.get("tensor") else None
    if node.op == "output":
        _fix(walk, given(node))
        return None
    carried = [walk.found[one] for one in node.all_input_nodes]
    if not any(_holds(one) for one in carried):  # sizes and other numbers
        return None
    if all(not _holds(one) or isinstance(one, Free) for one in carried):
        names = [name for one in carried if isinstance(one, Free) for name in one.names]
        return Free(tuple(dict.fromkeys(names))) if _tensors(node.meta["value"]) else None
    found = _module(walk, node) if node.op == "call_module" else _function(walk, node)
    if isinstance(found, Features):
        walk.look(found.parts, Tap(node.name, "node", found.dim), found.pooled)
    return found


def _holds(found: Any) -> bool:
    if isinstance(found, tuple):
        return any(_holds(one) for one in found)
    return isinstance(found, Features | Free)


def given(node: Node) -> tuple[Any, ...]:
    """The positional arguments of an operation."""
    return cast(tuple[Any, ...], node.args)


def named(node: Node) -> dict[str, Any]:
    """Those by name."""
    return cast(dict[str, Any], node.kwargs)


def _tensors(value: Any) -> bool:
    return any(_tensors(one) for one in value) if isinstance(value, tuple | list) else isinstance(value, Tensor)


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a tensor in the example run."""
    return tuple(node.meta["value"].shape)


def _input(walk: Walk, node: Node) -> Features | None:
    value = node.meta["value"]
    if not isinstance(value, Tensor):
        return None
    dim = 1 if value.ndim in (3, 4, 5) else value.ndim - 1
    return Features(dim, (Part(walk.open(node.name, Space(value.shape[dim], FIXED))),))


def _fix(walk: Walk, result: Any) -> None:
    """What the network gives stays as it is."""
    if isinstance(result, Node):
        found = walk.found[result]
        for one in found if isinstance(found, tuple) else (found,):
            if isinstance(one, Features):
                walk.limit(one.parts, Space(0, FIXED), "the output")
    elif isinstance(result, Mapping):
        _fix(walk, list(result.values()))
    elif isinstance(result, list | tuple):
        for one in result:
            _fix(walk, one)


# Layers with weights


def _module(walk: Walk, node: Node) -> Any:
    path, module = str(node.target), walk.graph.get_submodule(str(node.target))
    incoming = walk.found[node.all_input_nodes[0]]
    if not isinstance(incoming, Features):
        raise Refused("its input holds no features.")
    for kinds, rule in MODULES:
        if isinstance(module, kinds):
            return rule(walk, node, path, module, incoming)
    if attentions.is_fused(module):
        return replace(incoming, parts=attentions.annotate_fused(walk, path, module, incoming.parts))
    if not list(module.parameters()) and type(module).__module__.startswith("torch.nn"):
        return incoming if shape_of(node) == shape_of(node.all_input_nodes[0]) else _reshaped(walk, node, incoming)
    raise Refused("this kind of module is not known to merging.")


def _linear(walk: Walk, node: Node, path: str, module: Any, incoming: Features) -> Features:
    if incoming.dim != len(shape_of(node.all_input_nodes[0])) - 1:
        raise Refused("it mixes an axis that is not the features'.")
    return _layer(walk, path, module, incoming, module.out_features, (0, 1))


def _convolution(walk: Walk, node: Node, path: str, module: Any, incoming: Features) -> Features:
    if incoming.dim != 1:
        raise Refused("its input has no features on the axis of channels.")
    outputs, inputs, groups = module.out_channels, module.in_channels, module.groups
    axes = (1, 0) if module.transposed else (0, 1)
    if groups == 1:
        return _layer(walk, path, module, incoming, outputs, axes)
    if module.transposed:
        raise Refused("a transposed convolution in groups is not known to merging.")
    if groups == inputs == outputs:  # each channel by itself
        _own(walk, path, module, incoming.parts)
        return incoming
    if groups == inputs or len(incoming.parts) > 1 or incoming.parts[0].repeat > 1:
        raise Refused("its groups do not follow whole spaces of features.")
    family = f"{path}.groups"
    walk.limit(incoming.parts, Space(0, blocks=groups, family=family), path)
    family = walk.spaces[walk.leading(incoming.parts[0].space)].family
    found = _layer(walk, path, module, incoming, outputs, axes)
    walk.limit(found.parts, Space(0, blocks=groups, family=family), path)
    walk.groups[f"{path}.weight"] = groups
    return found


def _layer(walk: Walk, path: str, module: Any, incoming: Features, size: int, axes: tuple[int, int]) -> Features:
    """Reads what comes in, opens the space that it writes."""
    known = walk.axes.get((f"{path}.weight", axes[0]))
    parts = known[0] if known else (Part(walk.open(path, Space(size))),)
    walk.write(f"{path}.weight", axes[0], parts)
    walk.read(f"{path}.weight", axes[1], incoming.parts)
    if module.bias is not None:
        walk.write(f"{path}.bias", 0, parts)
    return replace(incoming, parts=parts)


def _own(walk: Walk, path: str, module: nn.Module, parts: Sequence[Part]) -> None:
    """Every weight of a module that has one row for each feature."""
    size = walk.size_of(parts)
    for key, value in module.state_dict().items():
        if value.ndim and len(value) == size:
            walk.write(f"{path}.{key}", 0, parts)
        elif value.numel() > 1:
            raise Refused(f"its {key} of shape {tuple(value.shape)} has no axis for {size} features.")


def _norm(walk: Walk, node: Node, path: str, module: Any, incoming: Features) -> Features:
    _own(walk, path, module, incoming.parts)
    if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
        family = f"{path}.groups" if len(incoming.parts) == 1 else ""
        walk.limit(incoming.parts, Space(0, blocks=module.num_groups, family=family, normed=True), path)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
        walk.limit(incoming.parts, Space(0, normed=True), path)
    return incoming


def _multihead(walk: Walk, node: Node, path: str, module: Any, incoming: Features) -> Any:
    if len(set(given(node)[:3]) | {named(node).get(one) for one in ("query", "key", "value")} - {None}) > 1:
        raise Refused("it attends to another sequence than its own.")
    parts = attentions.annotate_multihead(walk, path, module, incoming.parts)
    return (replace(incoming, parts=parts), None)


def _flatten_module(walk: Walk, node: Node, path: str, module: Any, incoming: Features) -> Features:
    return _reshaped(walk, node, incoming)


def _pool(walk: Walk, node: Node, incoming: Features) -> Features:
    """Fewer places, the same features."""
    shape = shape_of(node)
    return replace(incoming, pooled=incoming.pooled or all(side == 1 for side in shape[incoming.dim + 1 :]))


def _per_channel(walk: Walk, node: Node, path: str, module: Any, incoming: Features) -> Features:
    _own(walk, path, module, incoming.parts)
    return incoming


POOLS = (
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
)
MODULES: tuple[tuple[Any, Callable[[Walk, Node, str, Any, Features], Any]], ...] = (
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _convolution),
    ((nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm), _norm),
    (nn.MultiheadAttention, _multihead),
    (nn.PReLU, _per_channel),
    (nn.Flatten, _flatten_module),
    (POOLS, lambda walk, node, path, module, incoming: _pool(walk, node, incoming)),
)
"""Modules with a rule of their own; others of torch.nn without parameters pass features on."""


# Functions and methods


def _function(walk: Walk, node: Node) -> Any:
    known: Any = METHODS.get(str(node.target)) if node.op == "call_method" else FUNCTIONS.get(node.target)
    if known is not None:
        return known(walk, node)
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name.strip("_") in PASS:
        return _first(walk, node)
    if not _tensors(node.meta["value"]):  # the size of a tensor, a comparison
        return None
    raise Refused("this operation is not known to merging.")


def _first(walk: Walk, node: Node) -> Any:
    """The only features that come in."""
    carried = [walk.found[one] for one in node.all_input_nodes]
    holding = [one for one in carried if isinstance(one, Features)]
    if len(holding) != 1 or any(isinstance(one, Free) for one in carried):
        raise Refused("several tensors come in.")
    return holding[0]


def _binary(walk: Walk, node: Node) -> Any:
    """Sums and products, feature by feature."""
    first, second = (walk.found[one] if isinstance(one, Node) else None for one in given(node)[:2])
    shapes = [len(shape_of(one)) if isinstance(one, Node) and _holds(walk.found[one]) else 0 for one in given(node)[:2]]
    if isinstance(second, Features) and not isinstance(first, Features):
        first, second, shapes = second, first, shapes[::-1]
    if not isinstance(first, Features):
        raise Refused("its inputs hold no features.")
    if isinstance(second, Free):
        walk.settle(second.names, first.parts, first.dim, shapes[0])
    elif isinstance(second, Features):
        if first.dim - shapes[0] != second.dim - shapes[1]:
            raise Refused("the features of its inputs lie along different axes.")
        walk.unite(first.parts, second.parts, node.name)
        dim = max(shapes) + first.dim - shapes[0]
        return Features(dim, walk.parts(first.parts), first.pooled and second.pooled)
    return first


def _cat(walk: Walk, node: Node) -> Features:
    tensors = list(given(node)[0] if given(node) else named(node)["tensors"])
    ndim = len(shape_of(node))
    dim = given(node)[1] if len(given(node)) > 1 else named(node).get("dim", named(node).get("axis", 0))
    dim = int(dim) % ndim
    found = [walk.found[one] for one in tensors]
    features = [one for one in found if isinstance(one, Features)]
    if len({one.dim for one in features}) != 1:
        raise Refused("the features of its inputs lie along different axes.")
    first = features[0]
    if dim == first.dim:
        if len(features) < len(found):
            raise Refused("parameters are put beside features.")
        return replace(first, parts=tuple(part for one in features for part in one.parts))
    for one in found:
        if isinstance(one, Free):
            walk.settle(one.names, first.parts, first.dim, ndim)
        else:
            walk.unite(first.parts, one.parts, node.name)
    return replace(first, parts=walk.parts(first.parts))


def _mean(walk: Walk, node: Node) -> Features:
    incoming = walk.found[node.all_input_nodes[0]]
    ndim = len(shape_of(node.all_input_nodes[0]))
    dims = named(node).get("dim", given(node)[1] if len(given(node)) > 1 else None)
    if dims is None:
        raise Refused("it averages over the features.")
    gone = {int(dim) % ndim for dim in (dims if isinstance(dims, Sequence) else [dims])}
    if incoming.dim in gone:
        raise Refused("it averages over the features.")
    kept = len(shape_of(node)) == ndim
    return Features(
        incoming.dim if kept else incoming.dim - sum(dim < incoming.dim for dim in gone), incoming.parts, True
    )


def _reshaped(walk: Walk, node: Node, incoming: Features | None = None) -> Any:
    """Views that keep the features together, alone or with axes behind them flattened into theirs."""
    incoming = walk.found[node.all_input_nodes[0]] if incoming is None else incoming
    before, after, dim = shape_of(node.all_input_nodes[0]), shape_of(node), incoming.dim
    front = math.prod(before[:dim])
    for place in range(len(after)):
        if math.prod(after[:place]) == front and after[place] % before[dim] == 0:
            repeat = after[place] // before[dim]
            if repeat == 1 or (math.prod(before[dim + 1 :]) % repeat == 0 and before[dim + 1 :]):
                if repeat > 1 and any(part.repeat > 1 for part in incoming.parts):
                    raise Refused("features are flattened twice.")
                parts = tuple(Part(part.space, part.repeat * repeat) for part in incoming.parts)
                pooled = incoming.pooled or repeat > 1
                return Features(place, parts, pooled)
    raise Refused("features are split, as into heads; only attention that is known to merging may do that.")


def _moved(order: Callable[[Node, int], Sequence[int]]) -> Callable[[Walk, Node], Features]:
    def rule(walk: Walk, node: Node) -> Features:
        incoming = walk.found[node.all_input_nodes[0]]
        ndim = len(shape_of(node.all_input_nodes[0]))
        axes = [axis % ndim for axis in order(node, ndim)]
        return replace(incoming, dim=axes.index(incoming.dim))

    return rule


def _permutation(node: Node, ndim: int) -> Sequence[int]:
    axes = given(node)[1:] if len(given(node)) > 1 else named(node).get("dims", ())
    flat = axes[0] if len(axes) == 1 and isinstance(axes[0], Sequence) else axes
    return [int(axis) for axis in flat]


def _swap(node: Node, ndim: int) -> Sequence[int]:
    first, second = (int(axis) % ndim for axis in given(node)[1:3])
    axes = list(range(ndim))
    axes[first], axes[second] = second, first
    return axes


def _inserted(walk: Walk, node: Node) -> Features:
    incoming = walk.found[node.all_input_nodes[0]]
    ndim = len(shape_of(node.all_input_nodes[0]))
    dim = given(node)[1] if len(given(node)) > 1 else named(node)["dim"]
    return replace(incoming, dim=incoming.dim + (int(dim) % (ndim + 1) <= incoming.dim))


def _item(walk: Walk, node: Node) -> Any:
    """A part of a tensor or of a tuple of results."""
    incoming, index = walk.found[given(node)[0]], given(node)[1]
    if isinstance(incoming, tuple):
        return incoming[index]
    if not isinstance(incoming, Features):
        return None
    keys = list(index) if isinstance(index, tuple) else [index]
    ndim = len(shape_of(given(node)[0]))
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (ndim - sum(one is not None for one in keys) + 1)
    axis, place, dim, pooled = 0, 0, -1, incoming.pooled
    for key in [*keys, *[slice(None)] * (ndim - sum(one is not None for one in keys))]:
        if key is not None and not isinstance(key, slice | int):
            raise Refused("its index is not made of numbers and slices.")
        if key is not None and axis == incoming.dim:
            if key != slice(None):
                raise Refused("it takes some of the features.")
            dim = place
        pooled |= isinstance(key, int) and axis > 0
        place += not isinstance(key, int)
        axis += key is not None
    return Features(dim, incoming.parts, pooled)


def _pooled_function(walk: Walk, node: Node) -> Features:
    return _pool(walk, node, _first(walk, node))


def _chunks(walk: Walk, node: Node) -> tuple[Any, ...]:
    """Pieces along an axis that is not the features', or along theirs where spaces end."""
    incoming = walk.found[node.all_input_nodes[0]]
    values = node.meta["value"]
    before = shape_of(node.all_input_nodes[0])
    sizes = [value.shape[incoming.dim] if value.ndim == len(before) else -1 for value in values]
    if sizes and all(size == before[incoming.dim] for size in sizes):
        return tuple(incoming for _ in sizes)
    pieces, rest = [], list(walk.parts(incoming.parts))
    for size in sizes:
        piece: list[Part] = []
        while size > 0 and rest:
            size -= walk.spaces[rest[0].space].size * rest[0].repeat
            piece.append(rest.pop(0))
        if size:
            raise Refused("it cuts through the features of one layer.")
        pieces.append(replace(incoming, parts=tuple(piece)))
    return tuple(pieces)


_PASS = (
    "relu relu6 gelu silu mish elu selu celu leaky_relu sigmoid logsigmoid hardsigmoid hardswish hardtanh tanh",
    "softplus softsign abs square sqrt rsqrt exp neg pow clamp dropout dropout1d dropout2d dropout3d alpha_dropout",
    "drop_path stochastic_depth contiguous clone detach to type_as float half double identity quick_gelu",
    "interpolate upsample pad softmax log_softmax normalize",
)
PASS = frozenset(" ".join(_PASS).split())
"""Names of functions and methods that leave features where they are."""
FUNCTIONS: Mapping[Any, Callable[[Walk, Node], Any]] = {
    **dict.fromkeys(
        (operator.add, operator.iadd, torch.add, operator.sub, torch.sub, operator.mul, operator.imul), _binary
    ),
    **dict.fromkeys((torch.mul, operator.truediv, torch.div, torch.maximum, torch.minimum), _binary),
    **dict.fromkeys((torch.cat, torch.concat), _cat),
    **dict.fromkeys((torch.flatten, torch.reshape), _reshaped),
    **dict.fromkeys((torch.mean, torch.amax), _mean),
    **dict.fromkeys((torch.chunk, torch.split, torch.tensor_split), _chunks),
    **dict.fromkeys((torch.transpose, torch.swapaxes), _moved(_swap)),
    torch.permute: _moved(_permutation),
    torch.unsqueeze: _inserted,
    torch.squeeze: _reshaped,
    operator.getitem: _item,
    functional.adaptive_avg_pool2d: _pooled_function,
    functional.adaptive_max_pool2d: _pooled_function,
    functional.avg_pool2d: _pooled_function,
    functional.max_pool2d: _pooled_function,
    torch.max_pool2d: _pooled_function,
}
METHODS: Mapping[str, Callable[[Walk, Node], Any]] = {
    **dict.fromkeys(("add", "add_", "sub", "mul", "mul_", "div"), _binary),
    **dict.fromkeys(("flatten", "reshape", "view", "unflatten", "squeeze"), _reshaped),
    **dict.fromkeys(("mean", "amax"), _mean),
    **dict.fromkeys(("chunk", "split", "unbind"), _chunks),
    **dict.fromkeys(("transpose", "swapaxes"), _moved(_swap)),
    "permute": _moved(_permutation),
    "unsqueeze": _inserted,
    "expand": lambda walk, node: _first(walk, node),
}
