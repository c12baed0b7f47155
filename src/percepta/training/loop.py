"""One training loop over Lightning Fabric: from a recipe to weights.

Batch, inputs, losses, update, log, save: `_Run.learn` and `_Run.update` are the whole of a step. What a batch turns
into and what is learned is the objective's business (`objective_table`). A step is a function of the recipe, the step
number and the saved state, so that a run which was killed and resumed gives the same weights, bit for bit on a CPU, as
one that was not. Several processes deal out each batch among them and take the same steps; so do several passes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.checkpoints import write_safetensors
from percepta.datasets.conversations_mixture import joined_losses
from percepta.errors import BadInput
from percepta.running.loading import build, load, save
from percepta.speedups.hydra import hydra_attention
from percepta.training.averaging import MovingAverage
from percepta.training.checkpointing import TrainingState
from percepta.training.data import Batch, Mixture, batches
from percepta.training.draws import number_of
from percepta.training.interruption import stop_flag
from percepta.training.launching import make_fabric, processes, share_threads
from percepta.training.objective_table import make_objective
from percepta.training.optimisers import make_optimiser
from percepta.training.precision import product_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe, make_recipe, read_recipe
from percepta.training.records import Records
from percepta.training.schedules import schedule_factor
from percepta.training.sharding import check, shared_out
from percepta.training.sources import Part

Figures = Mapping[str, float | int | str]
Progress = Callable[[int, int, Figures], None]
"""Called with (updates made, updates in all, latest figures) after every update."""

STATE_FILE, MODEL_FILE = "training.safetensors", "model.safetensors"


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: where its files are.
        step: updates made so far.
        finished: False where it was interrupted; run it again to go on.
        figures: the latest figures, by name.
        rank: number of this process among those of the run; the first one (0) speaks for all.
    """

    folder: Path
    step: int
    finished: bool
    figures: dict[str, float | int | str]
    rank: int = 0


def run(
    recipe: Recipe | str | Path,
    *,
    model: nn.Module | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> RunResult:
    """Train as `recipe` says; SIGINT and SIGTERM save the state and end the run cleanly.

    Args:
        recipe: a recipe, a YAML file or the name of a packaged recipe.
        model: trained in place of a newly built one; needs what the recipe's objective calls.
        resume: go on from the state in the recipe's folder where there is one; False starts afresh, and removes the
            state and the result that an earlier run left there.
        progress: told after every update (in the first process).

    Raises:
        BadInput: a recipe that cannot be run. MissingExtra: Lightning is not installed.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    check(recipe)
    with processes(recipe, model, resume) as ranks:
        share_threads(recipe, ranks)
        torch.manual_seed(recipe.seed)
        model = make_model(recipe) if model is None else model
        live = _Run(recipe, make_fabric(recipe, ranks), model, ranks)
        return _train(live, resume, progress if ranks.first else None)


def _train(live: _Run, resume: bool, progress: Progress | None) -> RunResult:
    recipe, ranks = live.recipe, live.ranks
    step = live.restore() if resume else live.clear()
    records = Records(recipe.folder, keep_until=step) if ranks.first else None
    mixture = Mixture(
        recipe.data, recipe.batch_size, recipe.seed, ranks.rank, ranks.size, recipe.accumulate, live.left_out
    )
    source = batches(mixture, step, recipe.steps)
    with product_precision(recipe.precision), stop_flag() as stopped, source as (made, heldout):
        for batch in made:
            live.learn(batch)
            if batch.micro + 1 < recipe.accumulate:
                continue
            live.update(batch.step)
            step = batch.step + 1
            live.after(step, heldout, records)
            if progress is not None:
                progress(step, recipe.steps, live.figures)
            if ranks.any(stopped.is_set(), live.fabric.device) and step < recipe.steps:
                live.save(step)
                return RunResult(recipe.folder, step, False, dict(live.figures), ranks.rank)
    live.write_model(step)
    return RunResult(recipe.folder, step, True, dict(live.figures), ranks.rank)


class _Run:
    """The live objects of a run and what is done with them."""

    def __init__(self, recipe: Recipe, fabric: Any, model: Any, ranks: Ranks) -> None:
        self.recipe, self.fabric, self.ranks, self.plain = recipe, fabric, ranks, model.train()
        self.objective = make_objective(recipe, model, ranks)
        self.size = self.objective.size()
        self.learner, self.sharded = self.objective.learner, shared_out(recipe, ranks)
        if not self.sharded:  # else Fabric moves to the device what stays of each tensor
            self.learner.to(fabric.device)
        self.wrapped = fabric.setup_module(self.learner)
        self.optimiser = make_optimiser(
            recipe.optimiser,
            self.learner,
            recipe.learning_rate,
            recipe.weight_decay,
            recipe.betas,
            recipe.epsilon,
            recipe.rates,
            exact=recipe.precision == "float32",
        )
        self.wrapped_optimiser = fabric.setup_optimizers(self.optimiser)
        self.average = MovingAverage(model, recipe.ema) if recipe.ema else None
        self.state = TrainingState(self.learner, self.optimiser, self.average, ranks)
        self.figures: dict[str, float | int | str] = {}
        self.losses: list[Tensor] = []
        self.passes: list[tuple[Tensor, float]] = []
        self.left_out: Mapping[str, Mapping[str, Any]] = {}
        if recipe.accumulate > 1 and not hasattr(self.learner, "weight"):
            raise BadInput(
                f"accumulate must be 1 for the objective {recipe.objective}, whose loss is one of the whole batch; "
                f"got {recipe.accumulate}."
            )
        self.last_log = time.perf_counter()

    def learn(self, batch: Batch) -> None:
        """One pass: inputs, loss, gradient; of several, each counts by its weight."""
        recipe, several, rank = self.recipe, self.recipe.accumulate > 1, self.ranks.rank
        size = recipe.image_size(batch.step) or self.size
        inputs = self.objective.inputs(batch, size)
        drawn = (batch.step, rank, batch.micro) if batch.micro else (batch.step, rank)
        torch.manual_seed(number_of(recipe.seed, *drawn))  # for what the model itself draws
        if not batch.micro:
            self.wrapped_optimiser.zero_grad(set_to_none=True)
        # Gradients are exchanged once a step, or where weights are shared out in every pass, which keeps shares alone.
        apart = self.ranks.size > 1 and batch.micro + 1 < recipe.accumulate and not self.sharded
        with self.fabric.no_backward_sync(self.wrapped, enabled=apart):
            inputs = inputs.to(self.fabric.device)
            losses = self.wrapped(inputs)
            weight = self.learner.weight(inputs) if several else 1.0
            self.fabric.backward(losses[0] * weight if several else losses[0])
        self.passes.append((losses.detach(), float(weight)))
        self.figures["image_size"], self.left_out = size, batch.losses

    def update(self, step: int) -> None:
        """The end of a step: new weights of the gradients of its passes, averages."""
        recipe = self.recipe
        whole = sum(weight for _, weight in self.passes) or 1.0
        if recipe.accumulate > 1:
            for parameter in self.learner.parameters():
                if parameter.grad is not None:
                    parameter.grad /= whole
        if recipe.gradient_clip:
            nn.utils.clip_grad_norm_(self.learner.parameters(), recipe.gradient_clip, foreach=True)
        factor = schedule_factor(recipe.schedule, step, recipe.steps, recipe.warmup_steps, recipe.decay_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * factor * group.get("factor", 1.0)
        self.wrapped_optimiser.step()
        with torch.no_grad():
            self.objective.after_update()
        if self.average is not None:
            self.average.update(self.plain, step)
        self.losses.append(self._losses_of_step(whole))
        self.figures["learning_rate"] = recipe.learning_rate * factor

    def _losses_of_step(self, whole: float) -> Tensor:
        """(losses,) of all passes of a step: their weighted mean, or the sum for figures that are counts."""
        passes, self.passes = self.passes, []
        if len(passes) == 1:
            return passes[0][0]
        summed = torch.tensor([name in self.learner.summed for name in self.learner.names], device=self.fabric.device)
        mean = torch.stack([losses * (weight / whole) for losses, weight in passes]).sum(0)
        return torch.where(summed, torch.stack([losses for losses, _ in passes]).sum(0), mean)

    def after(self, step: int, heldout: list[Part], records: Records | None) -> None:
        """Log, validate and save where `step` updates are a multiple of the recipe's intervals."""
        recipe, last = self.recipe, step == self.recipe.steps
        if _due(step, recipe.log_every) or last:
            losses = self.ranks.mean(torch.stack(self.losses))
            passed, self.losses = time.perf_counter() - self.last_log, []
            means = [round(value, 5) for value in losses.mean(0).tolist()]
            now: dict[str, float | int | str] = {
                **{name: self.figures[name] for name in ("image_size", "learning_rate")},
                **dict(zip(self.learner.names, means, strict=True)),
                **self.objective.figures(),
                "samples_per_second": round(len(losses) * recipe.batch_size / passed, 1),
            }
            self.figures |= now
            if not math.isfinite(float(now["loss"])):
                raise BadInput(
                    f"the loss of {recipe.model} is no longer finite at step {step}; lower learning_rate or set "
                    "gradient_clip, then run again to go on from the last saved state."
                )
            if records is not None:
                records.write(step, now)
            self.last_log = time.perf_counter()
        if heldout and records is not None and (_due(step, recipe.evaluate_every) or (last and recipe.evaluate_every)):
            found = self.objective.validate(self.result(), heldout, self.size, self.fabric.device)
            self.figures |= found
            records.write(step, {f"validation.{name}": value for name, value in found.items()})
            self.last_log = time.perf_counter()
        if _due(step, recipe.save_every) or last:
            self.save(step)
            self.last_log = time.perf_counter()

    def result(self) -> Any:
        """The model that the run is to give: the averaged one where there are averages."""
        if self.average is None:
            return self.plain
        averaged = copy.deepcopy(self.plain)
        self.average.copy_to(averaged)
        return averaged

    def save(self, step: int) -> None:
        """Write the state that a later run resumes from, with whatever number of processes."""
        pending = self.ranks.mean(torch.stack(self.losses)).tolist() if self.losses else []
        everyone = self.ranks.all(self.left_out)
        if not self.ranks.first and not self.sharded:
            return
        details = {"recipe": asdict(self.recipe), "losses": pending, "figures": dict(self.objective.figures())}
        details["left_out"] = {name: joined_losses([own[name] for own in everyone]) for name in self.left_out}
        self.state.save(self.recipe.folder / STATE_FILE, step, details)

    def restore(self) -> int:
        """Take over a saved state; returns the updates made, 0 where there is none."""
        path = self.recipe.folder / STATE_FILE
        if not path.is_file():
            return 0
        header = self.state.restore(path, self._check_recipe)
        self.losses = [torch.tensor(loss, device=self.fabric.device) for loss in header.get("losses", ())]
        self.objective.resume(header.get("figures", {}))
        self.left_out = header.get("left_out", {})
        return int(header["step"])

    def _check_recipe(self, header: Mapping[str, Any]) -> None:
        before = header.get("recipe", {})
        with contextlib.suppress(BadInput):  # fields that were not there when the run began have their defaults
            before = asdict(make_recipe(before))
        if changed := changed_fields(before, asdict(self.recipe)):
            raise BadInput(
                f"{self.recipe.folder} holds a run of another recipe ({', '.join(changed[:5])} differ); choose another "
                "folder for out, or begin anew with --overwrite."
            )

    def clear(self) -> int:
        """Remove what an earlier run left, which a later `restore` would take for this run's; 0 updates made."""
        for name in (STATE_FILE, MODEL_FILE) if self.ranks.first else ():
            (self.recipe.folder / name).unlink(missing_ok=True)
        return 0

    def write_model(self, step: int) -> None:
        """Write the result as plain weights that `percepta.load` reads."""
        if not self.ranks.first:
            if self.sharded:
                self.plain.state_dict()  # gives the first process what it gathers
            return
        model, path = self.result(), self.recipe.folder / MODEL_FILE
        if type(model).__module__.startswith("percepta."):
            save(model, path)
        else:
            write_safetensors(path, model.state_dict(), {"step": step})


MAY_CHANGE = (
    "out", "steps", "accumulate", "accelerator", "devices", "strategy", "threads", "log_every", "save_every",
    "evaluate_every", "workers", "ahead", "path",
)  # fmt: skip


def changed_fields(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of recipe fields that decide the weights and differ; lengths, places and intervals may change."""
    changed: list[str] = []
    for name in dict.fromkeys([*before, *now]):
        if name in MAY_CHANGE:
            continue
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += changed_fields(old, new, f"{prefix}{name}.")
        elif json.dumps(old) != json.dumps(new):  # what was saved went through JSON, which knows no tuples
            changed.append(prefix + name)
    return changed


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def make_model(recipe: Recipe) -> Any:
    """The model that a run starts from: fresh, with its own weights, or with those of a file; some blocks converted."""
    if recipe.weights:
        weights = None if recipe.weights == "pretrained" else recipe.weights
        model = load(recipe.model, weights=weights, **recipe.model_overrides)
    else:
        model = build(recipe.model, **recipe.model_overrides)
    if recipe.hydra is not None:
        hydra_attention(model, recipe.hydra)
    return model
