"""`percepta evaluate`."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import BatchSize, Debug, Device, Dtype, Json, Overwrite, Weights
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta evaluate                                     # lists the protocols and the data they need
  percepta evaluate zero-shot --data photos/ --templates imagenet --picture confusion.png
  percepta evaluate knn ridge-probe --data cifar10-test.parquet --train cifar10-train.parquet --layers all
  percepta evaluate retrieval --data captioned/ --model pe-core-b16-224 -o scores.json
  percepta evaluate scenes-retrieval scenes-hard-negatives
  percepta evaluate nano --data cifar10-test.parquet -o scores.png
  percepta evaluate vos --data DAVIS/ --model sam2.1-hiera-tiny --set prompt="3 clicks"
  percepta evaluate scenes-vos scenes-clicks
  percepta evaluate scenes-videobench --task fgqa,rtloc -o scores.html
  percepta evaluate videobench --data PLM-VideoBench/ --model plm-1b --judge http://localhost:8000/v1#NAME --run kept/
"""
ENDINGS = (".json", ".png", ".html")

Protocols = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROTOCOL...", help="Names; without one, all are listed with the data they need."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="PATH", help="Pictures with labels or captions: a folder, tar files, parquet."),
]
Train = Annotated[
    Path | None, typer.Option("--train", metavar="PATH", help="The training part, where it lies elsewhere.")
]
Layers = Annotated[str | None, typer.Option("--layers", metavar="LIST", help="Such as 3,6,last; all; or output.")]
Classes = Annotated[str | None, typer.Option("--classes", metavar="FILE", help="Class names, one a line; or imagenet.")]
Templates = Annotated[
    str | None,
    typer.Option("--templates", "--template", metavar="NAME", help="imagenet, kinetics, ucf101, none, or a text."),
]
Tasks = Annotated[str | None, typer.Option("--task", "--tasks", metavar="LIST", help="Of videobench: fgqa,rtloc ...")]
Judged = Annotated[
    str | None,
    typer.Option("--judge", metavar="NAME", help="Of videobench: exact, overlap, local:MODEL, or URL#MODEL."),
]
Kept = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Where answers are kept, and gone on from.")]
Other = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, such as k=5 or pooling=class."),
]
Scores = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Scores as .json, bars as .png, of videobench .html.")
]
AnyModel = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="A name or a file; by default the nano model of the kind.")
]
Picture = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE.png", help="Confusion matrix, curve over layers, or bars.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog=EXAMPLES)(evaluate)


def evaluate(  # noqa: PLR0913 (the options of a command)
    protocols: Protocols = None,
    data: Data = None,
    train: Train = None,
    layers: Layers = None,
    classes: Classes = None,
    templates: Templates = None,
    task: Tasks = None,
    judge: Judged = None,
    kept: Kept = None,
    other: Other = None,
    out: Scores = None,
    picture: Picture = None,
    model: AnyModel = None,
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
    from percepta.tasks.evaluating.table import GROUPS, PROTOCOLS

    if not protocols:
        print(listing())
        return
    if not {*PROTOCOLS, *GROUPS} >= set(protocols):
        print(listing(), file=sys.stderr)
    asked = settings_of(layers, classes, templates, other) | {"judge": judge, "tasks": task and task.split(",")}
    chosen = protocols_of(protocols, {name: value for name, value in asked.items() if value is not None})
    for path, endings in ((out, ENDINGS), (picture, (".png",))):
        common.check_ending(path, endings)
        common.check_output(path, overwrite)
    others = [one.name for one in chosen if not PROTOCOLS[one.name].answers]
    if out is not None and out.suffix.lower() == ".html" and others:
        raise BadInput(
            f"-o FILE.html is for videobench and scenes-videobench, not for {others[0]}; pass .json or .png."
        )
    places = {name: place for name, place in (("data", data), ("train", train), ("run", kept)) if place is not None}
    found = []
    for result in run(chosen, model, weights, places, device, dtype, batch_size, common.progress):
        found.append(result)
        if as_json:
            print(json.dumps(result.to_dict()), flush=True)
        else:
            show(result)
        for path, write in ((out, write_scores), (picture, write_picture)):  # what is done outlives an interruption
            if path is not None:
                write(path, found)
    for path in filter(None, (out, picture)):
        common.say(f"wrote {path}")
    common.finish(list(dict.fromkeys(failure for result in found for failure in result.failures)))


def listing() -> str:
    """Every protocol with one line, and the data that it needs."""
    from percepta.tasks.evaluating.table import GROUPS, PROTOCOLS

    lines = ["Protocols of percepta evaluate:"]
    for name, evaluator in PROTOCOLS.items():
        needs = f"needs {evaluator.data}" if evaluator.data else "needs no data"
        lines += [
            f"  {name}: {evaluator.line}",
            *textwrap.wrap(needs, 106, initial_indent=" " * 6, subsequent_indent=" " * 6),
        ]
    return "\n".join([*lines, *(f"  {name}: {', '.join(members)}" for name, members in GROUPS.items())])


def settings_of(
    layers: str | None, classes: str | None, templates: str | None, other: list[str] | None
) -> dict[str, Any]:
    """The settings that the options name. Raises BadInput for one that is no NAME=VALUE."""
    found: dict[str, Any] = {}
    for text in other or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"--set must be NAME=VALUE, such as k=5; got {text!r}.")
        found[name.strip().replace("-", " ").replace("_", " ")] = _value(value)
    if layers is not None:
        found["layers"] = [_value(layer.strip()) for layer in layers.split(",") if layer.strip()]
    named = {"classes": classes, "templates": templates}
    return found | {name: value for name, value in named.items() if value is not None}


def _value(text: str) -> Any:
    """A number, list or truth value as JSON writes it, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


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


def write_scores(path: Path, results: list[Any]) -> None:
    """All scores as a JSON list, the headlines as bars, or videobench as a page with its frames, told by the ending."""
    if path.suffix.lower() == ".html":
        from percepta.apps.report.videobench import write_page

        write_page(path, results)
        return
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps([result.to_dict() for result in results], indent=2) + "\n", encoding="utf-8")
        return
    from percepta.apps.cli.bars import bar_picture

    bar_picture(results).save(path)


def write_picture(path: Path, results: list[Any]) -> None:
    """One panel an evaluation."""
    from percepta.apps.cli.charts import chart

    chart(results).save(path)
