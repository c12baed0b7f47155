"""Zips that end before the network does: one trunk, and what is behind it once for each model (arXiv 2305.03053 §4.4).

Order of this file: where a network may be cut, cutting it, the module of one trunk and several heads.
Unusual: each head reads its own features out of the merged ones with one gather (the unmerge matrix has a single 1 in
each row), so any cut will do and no weight behind it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from percepta.errors import BadInput, nearest
from percepta.merging.tracing import modules_of


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where one tensor is all that passes.

    Attributes:
        node: name of the operation that makes it.
        name: what to call it: the largest module that ends here, or the operation.
        share: of the layers with weights (convolutions and linear layers), those before it.
        aliases: further names of places with the same layers before them.
    """

    node: str
    name: str
    share: float
    aliases: tuple[str, ...] = ()


def cuts_of(graph: torch.fx.GraphModule) -> list[Cut]:
    """All places where a traced network may be cut in two, from its input on.

    Cuts that have the same layers before them are one, the last of them.
    """
    nodes = list(graph.graph.nodes)
    order = {node: place for place, node in enumerate(nodes)}
    last = {node: max((order[user] for user in node.users), default=-1) for node in nodes}
    layers = [place for place, node in enumerate(nodes) if _is_layer(graph, node)]
    ends = {path: place for place, node in enumerate(nodes) for path in modules_of(node)}
    found: dict[int, list[tuple[str, str]]] = {}
    for place, node in enumerate(nodes[:-1]):
        live = [one for one in nodes[: place + 1] if last[one] > place and one.op != "get_attr"]
        passed = sum(layer <= place for layer in layers)
        if live == [node] and node.op != "placeholder" and 0 < passed < len(layers):
            names = [path for path in modules_of(node) if ends[path] == place]
            found.setdefault(passed, []).append((node.name, names[0] if names else ""))
    return [_cut(places, passed / len(layers)) for passed, places in found.items()]


def _cut(places: Sequence[tuple[str, str]], share: float) -> Cut:
    """One cut of places, (operation, module that ends there), with the same layers before them; the last is taken."""
    node = places[-1][0]
    names = sorted((module for _, module in places if module), key=lambda path: path.count("."))
    return Cut(node, names[0] if names else node, share, (*names, *(name for name, _ in places)))


def _is_layer(graph: torch.fx.GraphModule, node: torch.fx.Node) -> bool:
    if node.op != "call_module":
        return False
    module = graph.get_submodule(str(node.target))
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.MultiheadAttention) or hasattr(module, "qkv")


def cut_at(graph: torch.fx.GraphModule, stop: str | float) -> Cut:
    """The cut of a name, or the one nearest to a share of the layers (0 to 1). Raises BadInput with those there are."""
    cuts = cuts_of(graph)
    if not cuts:
        raise BadInput("this network cannot be cut in two: several tensors pass everywhere.")
    if isinstance(stop, str):
        for cut in cuts:
            if stop in (cut.name, *cut.aliases):
                return cut
        names = [cut.name for cut in cuts]
        hint = nearest(stop, names, 1)
        meant = f" (did you mean {hint[0]!r}?)" if hint else ""
        raise BadInput(f"stop must be a place where one tensor passes, {', '.join(names)}; got {stop!r}{meant}.")
    if not 0 < stop <= 1:
        raise BadInput(f"stop must be the name of a cut, or a share of the layers above 0 and at most 1; got {stop}.")
    return min(cuts, key=lambda cut: abs(cut.share - stop))


def split_at(graph: torch.fx.GraphModule, node: str) -> tuple[torch.fx.GraphModule, torch.fx.GraphModule]:
    """The parts of a network before and behind a cut; they share its modules."""
    nodes = list(graph.graph.nodes)
    border = next(place for place, one in enumerate(nodes) if one.name == node)
    back = torch.fx.Graph()
    known = {nodes[border]: back.placeholder("features")}
    for one in nodes[:border]:
        if one.op == "get_attr" and any(user in nodes[border + 1 :] for user in one.users):
            known[one] = back.node_copy(one, lambda old: known[old])
    for one in nodes[border + 1 :]:
        known[one] = back.node_copy(one, lambda old: known[old])
    return front_of(graph, node), torch.fx.GraphModule(graph, back)


def front_of(graph: torch.fx.GraphModule, node: str) -> torch.fx.GraphModule:
    """The part of a network that makes what one operation gives, and gives that; it shares the network's modules."""
    front, known = torch.fx.Graph(), dict[torch.fx.Node, torch.fx.Node]()
    for one in graph.graph.nodes:
        known[one] = front.node_copy(one, lambda old: known[old])
        if one.name == node:
            front.output(known[one])
            break
    found = torch.fx.GraphModule(graph, front)
    found.graph.eliminate_dead_code()
    found.recompile()
    return found


class MultiHead(nn.Module):
    """One trunk and several heads.

    Args:
        trunk: gives the merged features.
        heads: one a model.
        index: (heads, features) which merged feature each feature of a head is.
        dim: the axis of features.
        joined: put the results of the heads side by side, (B, sum of classes); otherwise they come as a list.
    """

    index: Tensor

    def __init__(
        self, trunk: nn.Module, heads: Sequence[nn.Module], index: Tensor, dim: int, joined: bool = False
    ) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList(heads)
        self.dim, self.joined = dim, joined
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Any:
        """A batch → one result a head, (B, classes of the model), in a list, or side by side."""
        features = self.trunk(x)
        results = [head(features.index_select(self.dim, row)) for head, row in zip(self.heads, self.index, strict=True)]
        return torch.cat(results, dim=-1) if self.joined else results
