"""Networks for the tests of merging: with live, distinct units, and permuted copies of themselves."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import percepta
from percepta.merging import Blueprint, Matching, merge_states, plan_of, reset_norms
from percepta.merging.spaces import BLOCKS, FIXED


def lively(model: nn.Module, seed: int = 0) -> Any:
    """Norms and biases unlike each other and above zero, so that hardly a unit is dead and none is like another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.ndim > 1 and not value.any():  # heads that begin with zeros
                value.copy_(torch.randn(value.shape, generator=generator) * value.shape[1] ** -0.5)
            if not value.is_floating_point() or value.ndim != 1:
                continue
            noise = torch.rand(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.mul_(1 + noise)
            elif name.endswith("bias"):
                value.add_(0.4 + 0.4 * noise)
            else:
                value.add_(0.2 * noise)
    return model.eval()


def settled(model: Any, size: int) -> Any:
    """Norms with the statistics of random pictures, so that signals neither vanish nor grow."""
    return reset_norms(model, [pictures(16, size, seed=5)])


def permuted(model: nn.Module, blueprint: Blueprint, seed: int = 0) -> Any:
    """A copy whose units stand in another order wherever they may; it computes the same."""
    random = np.random.default_rng(seed)
    blocks: dict[str, Any] = {}
    matchings = {}
    for name, space in blueprint.spaces.items():
        if space.kind == FIXED:
            continue
        order = blocks.setdefault(space.family or name, random.permutation(space.blocks))
        size = space.size // space.blocks
        inner = [np.arange(size) if space.kind == BLOCKS else random.permutation(size) for _ in order]
        groups = np.concatenate([block * size + one for block, one in zip(order, inner, strict=True)])
        matchings[name] = Matching(groups[None], space.size)
    copy = deepcopy(model)
    copy.load_state_dict(merge_states([model.state_dict()], blueprint, matchings))
    return copy


def apart(first: Tensor, second: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((first - second).abs().max() / second.abs().max())


def pictures(count: int, size: int, seed: int = 1) -> Tensor:
    """(count, 3, size, size) random pictures."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def pair_of(make: Callable[[], nn.Module], size: int, seed: int = 0) -> tuple[Any, Any]:
    """A lively network and a permuted copy."""
    torch.manual_seed(seed)
    model = settled(lively(make(), seed), size)
    return model, permuted(model, plan_of([model, model], pictures(2, size)).blueprint, seed)


def small_resnet(seed: int = 0, **overrides: Any) -> Any:
    """A residual network of three narrow stages."""
    torch.manual_seed(seed)
    return lively(
        percepta.build("resnet20", **{"stages": (1, 1, 1), "widths": (8, 12, 16), "classes": 5} | overrides), seed
    )
