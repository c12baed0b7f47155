"""`percepta train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import Debug, Json, Overwrite, Resume
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta train
  percepta train pe-core-nano
  percepta train pe-core-nano steps=200 data.scenes.weight=0.5 -o runs/short
  percepta train my-recipe.yaml --resume
  percepta train my-recipe.yaml --devices 2
  torchrun --nproc-per-node 8 -m percepta train my-recipe.yaml
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", epilog=EXAMPLES)(train)


def train(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A name or a YAML file.")] = None,
    changes: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda or auto.")] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", metavar="N", help="How many of it, one process each.")
    ] = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Train a model from a recipe; none lists them.

    An interrupted run goes on exactly where it was with --resume."""
    from percepta.training.recipe import list_recipes, read_recipe

    if recipe is None:
        for name in list_recipes():
            print(name)
        return
    places = {"out": out and json.dumps(str(out)), "accelerator": device, "devices": devices}
    options = [f"{name}={value}" for name, value in places.items() if value is not None]
    plan = read_recipe(recipe, [*(changes or []), *options])
    begun = any((plan.folder / name).exists() for name in ("training.safetensors", "model.safetensors"))
    if begun and not (overwrite or resume):
        raise BadInput(f"{str(plan.folder)!r} holds a run; pass --resume to go on, --overwrite to begin anew.")
    from percepta.training.loop import run

    result = run(plan, resume=resume, progress=_Teller(plan.steps).tell)
    if result.rank:  # of several processes the first one speaks
        raise typer.Exit(0 if result.finished else 130)
    if as_json:
        state = {"folder": str(result.folder), "step": result.step, "finished": result.finished}
        print(json.dumps(state | result.figures))
    if not result.finished:
        common.say(f"interrupted after {result.step} of {plan.steps} steps; go on with --resume.")
        raise typer.Exit(130)
    common.say(f"finished {result.step} steps; the model is {result.folder / 'model.safetensors'}")


class _Teller:
    """The latest figures in a progress bar."""

    def __init__(self, steps: int) -> None:
        self.bar = common.progress("train")
        self.steps, self.last = steps, -1

    def tell(self, step: int, steps: int, figures: Any) -> None:
        self.bar.what = f"train (loss {figures['loss']:.3f})" if "loss" in figures else "train"
        if self.last < 0:  # a resumed run begins in the middle; its speed is that of the steps still to do
            self.bar.start(self.steps - step)
        else:
            self.bar.advance(step - self.last)
        self.last = step
        if step >= self.steps:
            self.bar.__exit__(None, None, None)
