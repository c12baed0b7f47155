"""Weights, gradients and the optimiser's averages shared out among processes (FSDP), where one device is too small.

Every process holds a slice of each tensor; the whole of a block is gathered while it is used. Unusual: nothing else
of a run knows of it. The model's state dict gives whole tensors, so a state or a result is the same file as that of a
run where every process holds the whole model, and one can go on with the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from percepta.errors import BadInput
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe


def shared_out(recipe: Recipe, ranks: Ranks) -> bool:
    """Whether the weights of a run are shared out: `strategy: fsdp`, and several processes."""
    return recipe.strategy == "fsdp" and ranks.size > 1


def check(recipe: Recipe) -> None:
    """Refuse what `strategy: fsdp` cannot do, on however many devices.

    Raises: BadInput naming the fields.
    """
    if recipe.strategy != "fsdp":
        return
    lora = recipe.answer is not None and recipe.answer.lora is not None
    wrong = {
        "objective": "" if recipe.objective == "answer" else recipe.objective,
        "optimiser": "" if recipe.optimiser == "adamw" else recipe.optimiser,
        "ema": recipe.ema,
        "evaluate_every": recipe.evaluate_every,
        "answer.lora": lora and "a change",
    }
    if told := [f"{name}: {value}" for name, value in wrong.items() if value]:
        raise BadInput(
            "strategy: fsdp needs objective: answer, optimiser: adamw, ema: 0, evaluate_every: 0 and no answer.lora; "
            f"got {', '.join(told)}."
        )


def strategy_of(ranks: Ranks) -> Any:
    """Fabric's strategy that shares out the weights of a learner, whose `units()` are gathered one by one."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    def share(learner: Any, mesh: Any) -> nn.Module:
        for unit in (*learner.units(), learner):
            fully_shard(unit, mesh=mesh["data_parallel"])
        learner.model.register_state_dict_post_hook(_whole_tensors(ranks))
        shared: nn.Module = learner
        return shared

    return ModelParallelStrategy(share, data_parallel_size=ranks.size, tensor_parallel_size=1)


def whole(value: Tensor, ranks: Ranks) -> Tensor:
    """A shared tensor, gathered for the first process on the CPU, for the others on the meta device; all must call.

    Any other tensor comes back as it is.
    """
    if not isinstance(value, DTensor):
        return value
    gathered: Tensor = value.full_tensor().detach()
    return gathered.cpu() if ranks.first else gathered.to("meta")


def as_shared(value: Tensor, owner: Tensor) -> Tensor:
    """A copy of a whole tensor, the same in all processes, shared out as `owner` is; for its averages too."""
    if isinstance(owner, DTensor) and value.shape == owner.shape:
        return distribute_tensor(value.to(owner.device), owner.device_mesh, owner.placements)
    return value.to(owner.device, copy=True)


def _whole_tensors(ranks: Ranks) -> Any:
    @torch.no_grad()
    def hook(model: nn.Module, tensors: dict[str, Tensor], prefix: str, _: Any) -> None:
        for name in tensors:
            if name.startswith(prefix):
                tensors[name] = whole(tensors[name], ranks)

    return hook
