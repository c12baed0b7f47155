"""Training states as safetensors: everything that the next step depends on, so that a resumed run is exact.

Unusual: nothing is pickled. Tensors of the learner, the averages and the optimiser stand under their prefix; the step
and all plain numbers are JSON in the header, with a schema number. Random generators need no place: every step seeds
them by its number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from percepta.checkpoints import write_safetensors
from percepta.errors import BadInput, CheckpointMismatch
from percepta.training.averaging import MovingAverage
from percepta.training.ranks import Ranks
from percepta.training.sharding import as_shared, whole

SCHEMA = 2
HEADER = "percepta_training"
ALONE = Ranks()


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The live objects of a run; `save` reads and `restore` writes them.

    Attributes:
        learner: weights and buffers.
        optimiser: over parameters of `learner`.
        average: averaged weights of the model inside, or None.
        ranks: the processes of the run; where they share out the weights, all of them must save and restore.
    """

    learner: nn.Module
    optimiser: torch.optim.Optimizer
    average: MovingAverage | None = None
    ranks: Ranks = ALONE

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under "learner.", "average.", "optimiser." and "group."."""
        found = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.tensors.items()}
        for name, parameter in self.learner.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser.{name}/{key}"] = whole(torch.as_tensor(value), self.ranks)
        for number, group in enumerate(self.optimiser.param_groups):
            if "step" in group:  # LAMB counts by group
                found[f"group.{number}"] = torch.as_tensor(group["step"])
        return found

    def save(self, path: Path, step: int, details: Mapping[str, Any] | None = None) -> None:
        """Write the state after `step` updates; readers see the old file or the new one, never a part."""
        header = {"schema": SCHEMA, "step": step, "position": step, **(details or {})}
        tensors = self.tensors()
        if self.ranks.first:
            write_safetensors(path, tensors, header, key=HEADER)

    def restore(self, path: Path, check: Callable[[Mapping[str, Any]], None] | None = None) -> dict[str, Any]:
        """Take over the state in `path`; returns its header: "step" (updates made) and what `save` was given.

        Args:
            path: the file.
            check: is shown the header before anything is taken over, and may raise.

        Raises:
            BadInput: not a training state, or of another schema. CheckpointMismatch: of another model.
        """
        header, tensors = read_state(path)
        if check is not None:
            check(header)
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            prefix, _, rest = name.partition(".")
            groups.setdefault(prefix, {})[rest] = value
        _check(path, self.learner.state_dict(), groups.get("learner", {}))
        if self.average is not None:
            _check(path, self.average.tensors, groups.get("average", {}))
        self._restore_learner(groups["learner"])
        if self.average is not None:
            for name, value in self.average.tensors.items():
                value.copy_(groups["average"][name])
        self._restore_optimiser(groups.get("optimiser", {}), groups.get("group", {}))
        return header

    def _restore_learner(self, values: Mapping[str, Tensor]) -> None:
        owners = {name: owner for name, owner in self.learner.named_parameters() if isinstance(owner, DTensor)}
        shared = {name: as_shared(values[name], owner) for name, owner in owners.items()}
        self.learner.load_state_dict({**values, **shared})

    def _restore_optimiser(self, values: Mapping[str, Tensor], steps: Mapping[str, Tensor]) -> None:
        parameters = dict(self.learner.named_parameters())
        self.optimiser.state.clear()
        for name, value in values.items():
            owner, _, key = name.rpartition("/")
            self.optimiser.state[parameters[owner]][key] = as_shared(value, parameters[owner])
        for number, value in steps.items():
            self.optimiser.param_groups[int(number)]["step"] = value.clone()


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a training state; these are mapped from the file, so what is to stay must be copied.

    Raises:
        BadInput: not one, or of another schema.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} must be a training state of Percepta; {error}. Delete it to start afresh.") from error
    if header is None:
        raise BadInput(f"{path} must be a training state; it is a plain checkpoint. Choose another folder for `out`.")
    if header["schema"] > SCHEMA:
        raise BadInput(f"{path} has schema {header['schema']}; this Percepta reads up to {SCHEMA}: upgrade it.")
    if header["schema"] < SCHEMA:
        raise BadInput(f"{path} was written by an earlier Percepta (schema {header['schema']}); begin the run anew.")
    return header, tensors


def _check(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    misshapen = sorted(name for name in set(expected) & set(found) if expected[name].shape != found[name].shape)
    if missing or unexpected or misshapen:
        hint = "nothing was loaded; use another folder for `out` or `resume=False`"
        raise CheckpointMismatch(str(path), missing, unexpected, misshapen, hint)
