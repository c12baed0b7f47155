"""`percepta evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import BatchSize, Debug, Device, Dtype, Json, Model, Overwrite, Weights

EXAMPLES = """\b
Examples:
  percepta evaluate nano --data cifar10-test.parquet
  percepta evaluate scenes-retrieval scenes-hard-negatives
  percepta evaluate nano --weights runs/pe-core-nano/model.safetensors --data cifar10-test.parquet -o scores.json
  percepta evaluate scenes-video-retrieval -o scores.png
"""
ENDINGS = (".json", ".png")
TOGETHER = 64  # pictures, frames or texts at once


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog=EXAMPLES)(evaluate)


def evaluate(  # noqa: PLR0913 (the options of a command)
    protocols: Annotated[
        list[str],
        typer.Argument(
            metavar="PROTOCOL...",
            help="cifar10-zero-shot, scenes-retrieval, scenes-hard-negatives, scenes-video-retrieval; nano for all.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="CIFAR-10 test set: parquet with the columns img and label."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Scores as .json, or bars as .png.")
    ] = None,
    model: Model = common.NANO,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Score a model by protocols: each figure with its interval, its baselines and the hash of its protocol."""
    from percepta.tasks.evaluate import evaluate as run
    from percepta.tasks.evaluate import protocols_of

    names = protocols_of(protocols)
    common.check_ending(out, ENDINGS)
    common.check_output(out, overwrite)
    chosen = TOGETHER if batch_size is None else batch_size
    found = []
    for result in run(names, model, weights, data, device, dtype, chosen, common.progress):
        found.append(result)
        if as_json:
            print(json.dumps(result.to_dict()), flush=True)
        else:
            show(result)
    if out is not None:
        write(out, found)
        common.say(f"wrote {out}")


def show(result: Any) -> None:
    """One evaluation as a table on standard output, with all that its figures need to be compared."""
    import rich.box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 110
    table = Table(title=f"{result.protocol.name}  ·  protocol {result.protocol.hash}", box=rich.box.SIMPLE_HEAD)
    table.add_column("measure")
    beside = list(dict.fromkeys(baseline.name for baseline in result.baselines))
    for name in ("%", "95 % interval", "n", "chance", *beside):
        table.add_column(name, justify="right", no_wrap=True)
    for measure in result.measures:
        values = {one.name: one.value for one in result.baselines if one.measure == measure.name}
        table.add_row(
            measure.name,
            f"{_figure(measure, measure.value)} {measure.unit}".strip(),
            f"{_figure(measure, measure.low)} – {_figure(measure, measure.high)}",
            f"{measure.count:,}",
            _figure(measure, measure.chance),
            *(_figure(measure, values.get(name)) for name in beside),
            style="bold" if measure.headline else None,
        )
    console.print(table)
    for facts in (result.model, result.details):
        console.print("; ".join(f"{key} {value}" for key, value in facts.items() if value != ""), style="dim")
    for name, note in dict.fromkeys((baseline.name, baseline.note) for baseline in result.baselines):
        console.print(f"{name}: {note}", style="dim")


def _figure(measure: Any, value: float | None) -> str:
    """A share in per cent, an error in its own unit."""
    if value is None:
        return ""
    return f"{value:.3f}" if measure.unit else f"{100 * value:.1f}"


def write(path: Path, results: list[Any]) -> None:
    """All scores as a JSON list, or the headlines as bars, told by the ending."""
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps([result.to_dict() for result in results], indent=2) + "\n", encoding="utf-8")
        return
    from percepta.apps.cli.bars import bar_picture

    bar_picture(results).save(path)
