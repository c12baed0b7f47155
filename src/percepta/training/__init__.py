"""Training: objectives, optimisers, schedules, data mixing, one loop and the recipe runner.

Unusual: names are imported when they are first used. The process that makes batches needs `data` alone, without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from percepta.training.averaging import MovingAverage
    from percepta.training.checkpointing import TrainingState
    from percepta.training.loop import RunResult, run
    from percepta.training.objectives import contrastive_loss, masked_token_loss
    from percepta.training.optimisers import make_optimiser
    from percepta.training.recipe import Recipe, list_recipes, make_recipe, read_recipe
    from percepta.training.records import read_records
    from percepta.training.schedules import SCHEDULES, schedule_factor

_HOMES = {
    "MovingAverage": "averaging",
    "Recipe": "recipe",
    "RunResult": "loop",
    "SCHEDULES": "schedules",
    "TrainingState": "checkpointing",
    "contrastive_loss": "objectives",
    "list_recipes": "recipe",
    "make_optimiser": "optimisers",
    "masked_token_loss": "objectives",
    "make_recipe": "recipe",
    "read_recipe": "recipe",
    "read_records": "records",
    "run": "loop",
    "schedule_factor": "schedules",
}

__all__ = [
    "SCHEDULES",
    "MovingAverage",
    "Recipe",
    "RunResult",
    "TrainingState",
    "contrastive_loss",
    "list_recipes",
    "make_optimiser",
    "make_recipe",
    "masked_token_loss",
    "read_recipe",
    "read_records",
    "run",
    "schedule_factor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
