"""How features of several models vary together, in one streaming pass (arXiv 2305.03053 §4.2).

Order of this file: the covariance, what is seen of a network, the pass over data.
Unusual: features are never kept beyond a batch; where the matrices of all spaces do not fit into the memory that is
allowed, there are several passes, each for some of the spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.merging.attentions import projected
from percepta.merging.matching import Floats
from percepta.merging.spaces import Blueprint, Space, Tap
from percepta.running.modes import evaluating

MEMORY = 2 * 2**30
"""Bytes that the covariances of one pass may take."""
Batches = Iterable[Any]
"""Batches of inputs that can be gone through again and again: tensors, or tuples whose first entry is one."""
Seen = Callable[[str, Tensor], None]


class Covariance:
    """The covariance of features over places and samples.

    Each batch counts by its number of samples, whatever its number of places; the mean is taken off at the end.

    Args:
        size: number of features F.
    """

    def __init__(self, size: int) -> None:
        self.mean = torch.zeros(size)
        self.outer = torch.zeros(size, size)
        self.count = 0

    def update(self, features: Tensor, samples: int) -> None:
        """Take in a batch: (F, places), of so many samples. What is not a number counts as 0."""
        values = features.detach().float().nan_to_num(0.0, 0.0, 0.0)
        if self.outer.device != values.device:
            self.mean, self.outer = self.mean.to(values.device), self.outer.to(values.device)
        self.mean += values.mean(dim=1) * samples
        self.outer.addmm_(values, values.T, alpha=samples / values.shape[1])
        self.count += samples

    def result(self) -> Floats:
        """(F, F) covariance, divided by the number of samples. Raises BadInput where there was none."""
        if not self.count:
            raise BadInput("merging needs data to see what features have in common; got no batch.")
        mean = self.mean / self.count
        found: Floats = (self.outer / self.count - mean[:, None] * mean[None]).cpu().numpy()
        return found


class _Watch(torch.fx.Interpreter):
    """Runs a graph and shows what its nodes give."""

    def __init__(self, graph: torch.fx.GraphModule, wanted: Mapping[str, Callable[[Tensor], None]]) -> None:
        super().__init__(graph)
        self.wanted = wanted

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            self.wanted[n.name](value)
        return value


def look(model: nn.Module, blueprint: Blueprint, spaces: Sequence[str], x: Tensor, seen: Seen) -> None:
    """Run a network once and show the features of some spaces.

    Args:
        model: a traced network (torch.fx.GraphModule), or one whose taps are all at modules.
        x: a batch of inputs.
        seen: called as seen(space, features (F, places)), once for every look at them.
    """
    nodes: dict[str, list[str]] = {}
    with ExitStack() as hooks:
        for name in spaces:
            tap = blueprint.taps[name]
            if tap.side == "node":
                nodes.setdefault(tap.place, []).append(name)
            else:
                hooks.enter_context(_hooked(model, name, blueprint.spaces[name], tap, seen))

        def show(value: Tensor, names: list[str]) -> None:
            for name in names:
                _show(value, name, blueprint.spaces[name], blueprint.taps[name], seen)

        if nodes:
            assert isinstance(model, torch.fx.GraphModule)
            _Watch(model, {place: partial(show, names=names) for place, names in nodes.items()}).run(x)
        else:
            model(x)


@contextmanager
def _hooked(model: nn.Module, name: str, space: Space, tap: Tap, seen: Seen) -> Iterator[None]:
    module = model.get_submodule(tap.place)

    def before(module: Any, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
        value = inputs[0] if inputs else next(iter(named.values()))
        _show(projected(module, value) if tap.side == "projected" else value, name, space, tap, seen)

    def after(module: Any, inputs: Any, value: Tensor) -> None:
        _show(value, name, space, tap, seen)

    if tap.side == "output":
        handle = module.register_forward_hook(after)
    else:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _show(value: Tensor, name: str, space: Space, tap: Tap, seen: Seen) -> None:
    looks = [value.narrow(tap.dim, start, space.size).movedim(tap.dim, 0).flatten(1) for start in tap.starts]
    seen(name, torch.cat(looks, dim=1) if len(looks) > 1 else looks[0])


def covariances(
    models: Sequence[nn.Module],
    blueprint: Blueprint,
    batches: Batches,
    memory: int = MEMORY,
) -> dict[str, Floats]:
    """Covariances (N F, N F) of the features of N models in each space that may move, the models one after another.

    Args:
        models: traced networks, or others whose taps are all at modules; run in evaluation mode without gradients.
        batches: inputs of all tasks.
        memory: bytes for the matrices of one pass.

    Raises: BadInput for no batch, or batches that cannot be gone through again where several passes are needed.
    """
    found: dict[str, Floats] = {}
    rounds = list(_rounds(blueprint, len(models), memory))
    if len(rounds) > 1 and iter(batches) is batches:
        raise BadInput(
            f"the statistics need {len(rounds)} passes in {memory / 2**30:.1f} GiB, and these batches can be gone "
            "through only once; pass a list or a loader, or more memory."
        )
    for spaces in rounds:
        totals = {name: Covariance(blueprint.spaces[name].size * len(models)) for name in spaces}
        for batch in batches:
            x = inputs_of(batch)
            features = [_features(model, blueprint, spaces, x) for model in models]
            for name, total in totals.items():
                total.update(torch.cat([one[name] for one in features]), len(x))
        found |= {name: total.result() for name, total in totals.items()}
    return found


def _features(model: nn.Module, blueprint: Blueprint, spaces: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    with evaluating(model), torch.no_grad():
        look(model, blueprint, spaces, x, lambda name, value: found.setdefault(name, []).append(value))
    return {name: torch.cat(values, dim=1) for name, values in found.items()}


def inputs_of(batch: Any) -> Tensor:
    """The inputs of a batch. Raises BadInput for what holds none."""
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor) or not x.ndim:
        raise BadInput(f"batches must be tensors, or tuples whose first entry is one; got {type(batch).__name__}.")
    return x


def _rounds(blueprint: Blueprint, models: int, memory: int) -> Iterator[list[str]]:
    spaces: list[str] = []
    used = 0
    for name in blueprint.movable():
        if name not in blueprint.taps:
            continue
        size = 4 * (blueprint.spaces[name].size * models) ** 2
        if spaces and used + size > memory:
            yield spaces
            spaces, used = [], 0
        spaces.append(name)
        used += size
    if spaces:
        yield spaces
