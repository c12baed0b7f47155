"""`percepta merge`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import Debug, Json, Overwrite
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta merge birds.safetensors plants.safetensors --data mixed/ -o both.safetensors
  percepta merge a.safetensors b.safetensors --data mixed/ --sweep -o both.safetensors      # where should the zip stop?
  percepta merge a.safetensors b.safetensors --data mixed/ --stop 0.7 -o both.safetensors   # one trunk, two heads
  percepta merge a.pt b.pt --architecture timm/resnet18 --data mixed/ --classes cat,dog --classes elm -o c.safetensors
  percepta merge a.safetensors b.safetensors --method ties --base pe-core-b16-224 -o both.safetensors
"""

Models = Annotated[
    list[str], typer.Argument(metavar="A B [C...]", help="Names or files of models of one architecture.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The merged model, a .safetensors file.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DATA", help="Labelled pictures of all tasks.")]
METHODS = (
    "zipit, least-squares, permute, weights, optimal, average; of fine-tunes: task_arithmetic, ties, dare, "
    "breadcrumbs, model_stock, tsv, iso, regmean."
)
Method = Annotated[str, typer.Option("--method", metavar="NAME", help=METHODS)]
Stop = Annotated[
    str | None, typer.Option("--stop", metavar="NODE", help="Where heads begin: a place, or a share of the layers.")
]
Sweep = Annotated[bool, typer.Option("--sweep", help="Also try up to eight places to stop; draws a picture.")]
Classes = Annotated[
    list[str] | None, typer.Option("--classes", metavar="LIST", help="Of each model, in the order of its outputs.")
]
Base = Annotated[str | None, typer.Option("--base", metavar="NAME", help="What fine-tunes come from.")]
Alpha = Annotated[float, typer.Option("--alpha", help="ZipIt!'s: how willingly merged features merge again, 0 to 1.")]
Beta = Annotated[float, typer.Option("--beta", help="ZipIt!'s: share of merges within one model, 0 to 1.")]
Architecture = Annotated[
    str | None, typer.Option("--architecture", metavar="NAME", help="timm/NAME or torchvision/NAME of plain files.")
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", help="Pictures to see features on, at most.")]
Option = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Options of methods for fine-tunes: scale=0.3.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge", epilog=EXAMPLES)(merge)


def merge(  # noqa: PLR0913 (the options of a command)
    models: Models,
    out: Out,
    data: Data = None,
    method: Method = "zipit",
    stop: Stop = None,
    sweep: Sweep = False,
    classes: Classes = None,
    base: Base = None,
    alpha: Alpha = 0.3,
    beta: Beta = 1.0,
    architecture: Architecture = None,
    limit: Limit = 1000,
    settings: Option = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Merge several trained models into one, without training.

    With labelled pictures it says what the result is worth, beside each model, the ensemble and the plain average;
    beside FILE lie a report (FILE.json) and, of a sweep, a picture (FILE.png)."""
    from percepta.tasks.merge import merge as run

    common.check_ending(out, (".safetensors",))
    for path in (out, *((out.with_suffix(".json"),) if data is not None else ())):
        common.check_output(path, overwrite)
    found = run(
        models,
        data,
        out,
        method,
        parse_stop(stop),
        sweep,
        None if classes is None else [[name.strip() for name in one.split(",")] for one in classes],
        base,
        alpha,
        beta,
        architecture,
        limit,
        dict(parse_setting(one) for one in settings or []),
        progress=common.progress,
    )
    print(json.dumps(found.to_dict())) if as_json else show(found)
    common.say(f"wrote {out}; open it with percepta.load({str(out)!r}).")
    if data is not None:
        out.with_suffix(".json").write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
        common.say(f"wrote {out.with_suffix('.json')}")
    if sweep:
        found.picture().save(out.with_suffix(".png"))
        common.say(f"wrote {out.with_suffix('.png')}")
    common.finish(list(found.failures))


def parse_stop(text: str | None) -> str | float | None:
    """0.7 of "0.7" or "70%"; any other text names a place."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return text


def parse_setting(text: str) -> tuple[str, Any]:
    """("scale", 0.3) of "scale=0.3". Raises BadInput."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise BadInput(f"--set must be KEY=VALUE, such as scale=0.3; got {text!r}.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def show(found: Any) -> None:
    """The table and the verdict on standard output."""
    import rich.box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 118
    if found.rows:
        ensemble = next(row for row in found.rows if row.name == "ensemble")
        table = Table(title=f"{' + '.join(found.names)}, {found.method}", box=rich.box.SIMPLE_HEAD)
        table.add_column("", overflow="fold")
        heads = ["joint", *(f"task {number + 1}" for number in range(len(found.tasks))), "mean", "cost", "parameters"]
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        lines = [*found.rows, *(row for _, row in found.stops)]
        for place, row in enumerate(lines):
            name = (
                row.name
                if place < len(found.rows)
                else f"up to {row.name} ({found.stops[place - len(found.rows)][0]:.0%})"
            )
            values = [_percent(value) for value in (row.accuracy.joint, *row.accuracy.tasks, row.accuracy.mean)]
            table.add_row(
                name,
                *values,
                f"{row.macs / ensemble.macs:.0%}",
                f"{row.parameters:,}",
                style="bold" if place == len(found.rows) - 1 else None,
            )
        console.print(table)
        for number, task in enumerate(found.tasks):
            console.print(f"task {number + 1}: {', '.join(task)}", style="dim", soft_wrap=True)
        console.print(found.verdict, soft_wrap=True)
    for line in found.notes:
        console.print(line, style="dim", soft_wrap=True)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}"
