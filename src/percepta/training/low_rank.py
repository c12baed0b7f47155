"""Low-rank changes of linear layers in place of their weights (LoRA, arXiv 2106.09685).

Unusual: no layer is replaced. A hook adds the change to what a layer gives, and the changes live outside the model; the
model's own state dict, which is what is saved, has them added to its weights.
"""

from __future__ import annotations

import fnmatch
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.training.answering_recipe import LoraRecipe
from percepta.training.draws import number_of


class LowRank(nn.Module):
    """Changes scale * up @ down of chosen linear layers, which no longer train; `up` begins at zero.

    Args:
        model: whose layers.
        recipe: which, and how large.
        seed: of the first values of `down`.

    Raises: BadInput where a pattern fits no linear layer.
    """

    def __init__(self, model: nn.Module, recipe: LoraRecipe, seed: int) -> None:
        super().__init__()
        self.scale = recipe.alpha / recipe.rank
        linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        for pattern in recipe.layers:
            if not fnmatch.filter(linear, pattern):
                raise BadInput(f"each pattern of lora.layers must fit a linear layer; {pattern!r} fits none.")
        self.names = [name for name in linear if any(fnmatch.fnmatchcase(name, one) for one in recipe.layers)]
        self.layers = [linear[name] for name in self.names]  # a plain list: the weights are not this module's
        generator = torch.Generator().manual_seed(number_of(seed, "low rank"))
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for number, layer in enumerate(self.layers):
            first = torch.randn(recipe.rank, layer.in_features, generator=generator) / layer.in_features**0.5
            self.down.append(nn.Parameter(first.to(layer.weight)))
            self.up.append(nn.Parameter(layer.weight.new_zeros(layer.out_features, recipe.rank)))
            layer.requires_grad_(False)
            layer.register_forward_hook(self._added(number))
        model.register_state_dict_post_hook(self._saved())

    def _added(self, number: int) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
            change = functional.linear(functional.linear(given[0], self.down[number]), self.up[number])
            return result + self.scale * change

        return hook

    def _saved(self) -> Any:
        def hook(model: nn.Module, tensors: dict[str, Tensor], prefix: str, _: Any) -> None:
            if prefix:  # as part of a training state the weights stay as they are
                return
            for name, down, up in zip(self.names, self.down, self.up, strict=True):
                tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + self.scale * (up @ down).detach()

        return hook
