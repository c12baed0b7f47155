"""The blueprint of a network, found by tracing it: no graph is written by hand.

`torch.fx` gives the operations, one run with real values their shapes; then every tensor is annotated, from the first
operation to the last, with the axis of its features and the spaces that this axis is made of. A convolution or a linear
layer opens a new space, a norm or an activation stays in it, a residual sum makes one space of two.
Order of this file: tracing, the walk, what it hands out.
Unusual: a class token or a table of positions takes its place when it meets features, wherever it was before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.merging.attentions import is_attention
from percepta.merging.spaces import FIXED, KINDS, Axis, Blueprint, Part, Rule, Space, Tap
from percepta.running.modes import evaluating

WHOLE = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.Linear, nn.modules.conv._ConvNd)
"""Modules that are not looked into, nor are their subclasses."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a tensor holds: features along `dim`, made of `parts`; pooled where places have become one."""

    dim: int
    parts: tuple[Part, ...]
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """Parameters, or what was made of them alone, that have not met features yet."""

    names: tuple[str, ...]


class Refused(BadInput):
    """An operation through which features cannot be followed."""


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, WHOLE) or is_attention(m) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> torch.fx.GraphModule:
    """A network as a graph of the operations of its evaluation, which shares its modules.

    Raises: BadInput for one whose path depends on values, with the reason.
    """
    try:
        with evaluating(model):
            graph = _Tracer().trace(model)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{type(model).__name__} cannot be traced: {reason} What depends on values can be put into a function "
            "marked with torch.fx.wrap, or merged by itself."
        ) from error
    return torch.fx.GraphModule(model, graph)


class _Values(torch.fx.Interpreter):
    """Runs a graph and keeps the shapes of tensors, and everything else that is made."""

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["value"] = torch.fx.node.map_aggregate(value, _shape_alone)
        if n.op == "get_attr" and isinstance(value, Tensor):
            n.meta["tensor"] = True
        return value


def _shape_alone(value: Any) -> Any:
    return torch.empty(value.shape, device="meta") if isinstance(value, Tensor) else value


@dataclass
class Walk:
    """The state of a walk through a graph.

    Attributes:
        graph: with values of one run in the meta data of its nodes.
        spaces: all that were opened, by number; `joined` leads from those that became one with others to these.
        found: annotation of each node: features, free parameters, a tuple of annotations, or None.
        axes: of each weight, by (key, axis): parts, and whether it writes them.
        looks: for each space, in order, where it was seen.
    """

    graph: torch.fx.GraphModule
    spaces: dict[str, Space] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)
    found: dict[torch.fx.Node, Any] = field(default_factory=dict)
    axes: dict[tuple[str, int], tuple[tuple[Part, ...], bool]] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    looks: list[tuple[str, Tap, bool]] = field(default_factory=list)

    @property
    def keys(self) -> set[str]:
        """Keys of the network's state dict."""
        return set(self.graph.state_dict())

    def open(self, name: str, space: Space) -> str:
        """A new space. Its name is that of the module that writes it, or of an input."""
        while name in self.spaces or name in self.joined:
            name += "'"
        self.spaces[name] = space
        return name

    def leading(self, name: str) -> str:
        """The space that a name stands for by now."""
        while name in self.joined:
            name = self.joined[name]
        return name

    def parts(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        """Parts by the names that lead now."""
        return tuple(replace(part, space=self.leading(part.space)) for part in parts)

    def unite(self, first: Sequence[Part], second: Sequence[Part], where: str) -> None:
        """Two axes that meet feature by feature: their spaces become one, with the limits of both."""
        first, second = self.parts(first), self.parts(second)
        if first == second:
            return
        sizes = [[(self.spaces[part.space].size, part.repeat) for part in parts] for parts in (first, second)]
        if sizes[0] != sizes[1]:
            raise Refused(
                f"{where} adds features that are laid out differently, {sizes[0]} and {sizes[1]} (sizes, repeats)."
            )
        for mine, theirs in zip(first, second, strict=True):
            kept, gone = self.leading(mine.space), self.leading(theirs.space)
            if kept != gone:  # the one that was opened first gives the name
                order = list(self.spaces)
                kept, gone = sorted((kept, gone), key=order.index)
                self._join(kept, gone, where)

    def _join(self, kept: str, gone: str, where: str) -> None:
        self.spaces[kept] = _limited(self.spaces[kept], self.spaces[gone], where)
        del self.spaces[gone]
        self.joined[gone] = kept

    def limit(self, parts: Sequence[Part], like: Space, where: str) -> None:
        """Allow no more in these spaces than in one like this."""
        for part in self.parts(parts):
            self.spaces[part.space] = _limited(self.spaces[part.space], like, where)

    def write(self, key: str, dim: int, parts: Sequence[Part]) -> None:
        """Say that an axis of a weight writes features."""
        self._say(key, dim, parts, True)

    def read(self, key: str, dim: int, parts: Sequence[Part]) -> None:
        """Say that an axis of a weight reads features."""
        self._say(key, dim, parts, False)

    def _say(self, key: str, dim: int, parts: Sequence[Part], writes: bool) -> None:
        known = self.axes.get((key, dim))
        if known is not None:  # a module that is used twice
            self.unite(known[0], parts, key)
        self.axes[key, dim] = (tuple(parts), writes)

    def look(self, parts: Sequence[Part], tap: Tap, pooled: bool = False) -> None:
        """Remember where spaces are seen."""
        start = 0
        for part in parts:
            if part.repeat == 1:
                self.looks.append((part.space, replace(tap, starts=tuple(one + start for one in tap.starts)), pooled))
            start += self.spaces[self.leading(part.space)].size * part.repeat

    def size_of(self, parts: Sequence[Part]) -> int:
        """Length of an axis."""
        return sum(self.spaces[part.space].size * part.repeat for part in self.parts(parts))

    def settle(self, names: Sequence[str], parts: Sequence[Part], dim: int, ndim: int) -> None:
        """Give free parameters the features that they met along `dim` of a tensor with `ndim` axes."""
        size = self.size_of(parts)
        for name in names:
            tensor = _attribute(self.graph, name)
            from_end = dim - ndim
            here = [axis for axis in (from_end, -1) if -axis <= tensor.ndim and tensor.shape[axis] == size]
            if here:
                self.write(name, tensor.ndim + here[0], parts)
            elif tensor.numel() != 1:
                raise Refused(f"{name} of shape {tuple(tensor.shape)} meets {size} features and has no axis for them.")

    def blueprint(self) -> Blueprint:
        """All that was found, by the names that lead now."""
        rules: dict[str, list[Axis]] = {}
        for (key, dim), (parts, writes) in self.axes.items():
            rules.setdefault(key, []).append(Axis(dim, self.parts(parts), writes))
        taps: dict[str, Tap] = {}
        whole: set[str] = set()
        for name, tap, pooled in self.looks:  # the last look, but before places were pooled where there is one
            leading = self.leading(name)
            if not pooled or leading not in whole:
                taps[leading] = tap
            if not pooled:
                whole.add(leading)
        for name, space in self.spaces.items():
            if space.kind != FIXED and name not in taps:
                raise Refused(f"the features of {name} are never seen in one piece.")
        found = {
            key: Rule(tuple(sorted(axes, key=lambda a: a.dim)), self.groups.get(key, 1)) for key, axes in rules.items()
        }
        return Blueprint(dict(self.spaces), found, {name: taps[name] for name in self.spaces if name in taps})


def blueprint_of(graph: torch.fx.GraphModule, *inputs: Tensor) -> Blueprint:
    """What merging needs to know of a traced network.

    Args:
        graph: as `trace` gives it, in evaluation mode.
        inputs: an example, such as two pictures (2, 3, H, W).

    Raises: BadInput for an operation through which features cannot be followed, named with the way out.
    """
    return _walked(graph, inputs).blueprint()


def traced_until(graph: torch.fx.GraphModule, node: str, *inputs: Tensor) -> tuple[Blueprint, Features]:
    """The same for the part of a network up to and including an operation, and what passes there."""
    walk = _walked(graph, inputs, node)
    leaving = next(found for one, found in walk.found.items() if one.name == node)
    if not isinstance(leaving, Features):
        raise BadInput(f"nothing that merging can follow passes at {node}; stop elsewhere.")
    return walk.blueprint(), replace(leaving, parts=walk.parts(leaving.parts))


def _walked(graph: torch.fx.GraphModule, inputs: Sequence[Tensor], last: str | None = None) -> Walk:
    from percepta.merging.operations import annotate

    with evaluating(graph), torch.no_grad():
        _Values(graph).run(*inputs)
    walk = Walk(graph)
    for node in graph.graph.nodes:
        try:
            walk.found[node] = annotate(walk, node)
        except Refused as error:
            raise BadInput(
                f"features cannot be followed through {described(node)}: {error} Stop the zip before it, or give a "
                "blueprint of your own."
            ) from None
        if node.name == last:
            break
    return walk


def _limited(a: Space, b: Space, where: str) -> Space:
    """A space with the limits of both."""
    blocks = max(a.blocks, b.blocks)
    if blocks % min(a.blocks, b.blocks) or (a.family and b.family and a.family != b.family):
        raise Refused(f"{where} ties features of different blocks ({a.blocks} and {b.blocks}) to each other.")
    kind = max(a.kind, b.kind, key=KINDS.index)
    return Space(a.size, kind, blocks, a.family or b.family, a.normed or b.normed)


def described(node: torch.fx.Node) -> str:
    """An operation in words: its name, and the module that it belongs to."""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    owner = module_of(node)
    return f"{target} of {owner}" if owner and owner != target else str(target)


def module_of(node: torch.fx.Node) -> str:
    """Path of the innermost module that an operation belongs to; empty for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def modules_of(node: torch.fx.Node) -> Iterator[str]:
    """Paths of the modules that an operation belongs to, from the outermost."""
    for path, _ in (node.meta.get("nn_module_stack") or {}).values():
        yield str(path)


def _attribute(module: nn.Module, name: str) -> Tensor:
    *path, last = name.split(".")
    found: Tensor = getattr(module.get_submodule(".".join(path)), last)
    return found
