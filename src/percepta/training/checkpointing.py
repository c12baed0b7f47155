"""Training states as safetensors: everything that the next step depends on, so that a resumed run is exact.

Unusual: nothing is pickled. Tensors of the model, the averages, the optimiser and the random generators stand under
their prefix; the step and all plain numbers are JSON in the header, with a schema number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from percepta.checkpoints import write_safetensors
from percepta.errors import BadInput, CheckpointMismatch
from percepta.training.averaging import MovingAverage

SCHEMA = 1
HEADER = "percepta_training"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The live objects of a run; `save` reads and `restore` writes them.

    Attributes:
        model: weights and buffers.
        optimiser: over parameters of `model`.
        average: averaged weights, or None.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: MovingAverage | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under "model.", "average.", "optimiser.", "group." and "random."."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.tensors.items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser.{name}/{key}"] = torch.as_tensor(value)
        for number, group in enumerate(self.optimiser.param_groups):
            if "step" in group:  # LAMB counts by group
                found[f"group.{number}"] = torch.as_tensor(group["step"])
        found["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            found["random.cuda"] = torch.cuda.get_rng_state()
        return found

    def save(self, path: Path, step: int, details: Mapping[str, Any] | None = None) -> None:
        """Write the state after `step` updates; readers see the old file or the new one, never a part."""
        header = {"schema": SCHEMA, "step": step, "position": step, **(details or {})}
        write_safetensors(path, self.tensors(), header, key=HEADER)

    def restore(self, path: Path) -> dict[str, Any]:
        """Take over the state in `path`; returns its header: "step" (updates made) and what `save` was given.

        Raises:
            BadInput: not a training state, or of a newer schema. CheckpointMismatch: of another model.
        """
        header, tensors = read_state(path)
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            prefix, _, rest = name.partition(".")
            groups.setdefault(prefix, {})[rest] = value
        _check(path, self.model.state_dict(), groups.get("model", {}))
        self.model.load_state_dict(groups["model"])
        if self.average is not None:
            averages = groups.get("average") or {name: groups["model"][name] for name in self.average.tensors}
            _check(path, self.average.tensors, averages)
            for name, value in self.average.tensors.items():
                value.copy_(averages[name])
        self._restore_optimiser(groups.get("optimiser", {}), groups.get("group", {}))
        torch.set_rng_state(groups["random"]["cpu"])
        if "cuda" in groups["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(groups["random"]["cuda"])
        return header

    def _restore_optimiser(self, values: Mapping[str, Tensor], steps: Mapping[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        self.optimiser.state.clear()
        for name, value in values.items():
            owner, _, key = name.rpartition("/")
            self.optimiser.state[parameters[owner]][key] = value.to(parameters[owner].device)
        for number, value in steps.items():
            self.optimiser.param_groups[int(number)]["step"] = value


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a training state.

    Raises:
        BadInput: not one, or of a newer schema.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            # Cloned: the file may be replaced while the run goes on.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} must be a training state of Percepta; {error}. Delete it to start afresh.") from error
    if header is None:
        raise BadInput(f"{path} must be a training state; it is a plain checkpoint. Choose another folder for `out`.")
    if header["schema"] > SCHEMA:
        raise BadInput(f"{path} has schema {header['schema']}; this Percepta reads up to {SCHEMA}: upgrade it.")
    return header, tensors


def _check(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    misshapen = sorted(name for name in set(expected) & set(found) if expected[name].shape != found[name].shape)
    if missing or unexpected or misshapen:
        hint = "nothing was loaded; use another folder for `out` or `resume=False`"
        raise CheckpointMismatch(str(path), missing, unexpected, misshapen, hint)
