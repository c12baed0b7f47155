"""`percepta select models` and `percepta select layers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import BatchSize, Debug, Device, Dtype, Json, Model, Overwrite, Resume, Weights
from percepta.errors import BadInput

MODELS_EXAMPLES = """\b
Examples:
  percepta select models by-class/                                  # the packaged toys; one sub-folder a class
  percepta select models by-class/ --among "pe-core-*,timm/vit_small*,torchvision/resnet50" -o choice/
  percepta select models labels.csv --among "pe-core-b16-224,hf/facebook/dinov2-small" --budget 300
  percepta select models ages.csv --regression --column age --among "timm/convnext_*" --json
"""
LAYERS_EXAMPLES = """\b
Examples:
  percepta select layers by-class/ --model pe-core-l14-336
  percepta select layers train.parquet --model timm/vit_small_patch14_dinov2.lvd142m -o layers/
  percepta select layers labels.csv --model hf/facebook/dinov2-base --estimators ridge,knn
"""
ASKED, REPORT, PICTURE = "asked.json", "report.json", "ranking.png"

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="One sub-folder a class, tar, parquet, or a CSV of paths and labels.")
]
Among = Annotated[
    str | None,
    typer.Option("--among", metavar="LIST", help="Names and patterns: ours, timm/..., torchvision/..., hf/..."),
]
Budget = Annotated[int, typer.Option("--budget", "--limit", metavar="N", help="Pictures to look at, at most.")]
Estimators = Annotated[
    str | None, typer.Option("--estimators", metavar="LIST", help="Scores, such as knn,ridge,parc-32,logme.")
]
Runs = Annotated[int, typer.Option("--runs", metavar="N", help="Draws of the pictures behind each interval.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the choice of pictures and of the draws.")]
Regression = Annotated[bool, typer.Option("--regression", help="The labels of a CSV are numbers to be foretold.")]
Column = Annotated[str | None, typer.Option("--column", metavar="NAME", help="The labels' column of a CSV.")]
Random = Annotated[
    bool, typer.Option("--random-weights", help="Architectures alone: to try a run where there are no weights.")
]
Folder = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the report and its picture.")
]

app = typer.Typer(
    name="select",
    help="Which model, or which layer of one, suits your labelled pictures; nothing is trained.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(root: typer.Typer) -> None:
    """Add the two commands under `select`."""
    root.add_typer(app)


@app.command("models", epilog=MODELS_EXAMPLES)
def models(  # noqa: PLR0913 (the options of a command)
    data: Data,
    among: Among = None,
    budget: Budget = 500,
    estimators: Estimators = None,
    runs: Runs = 50,
    seed: Seed = 0,
    regression: Regression = False,
    column: Column = None,
    random_weights: Random = False,
    out: Folder = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Rank models by how well they will learn your labels.

    A few hundred pictures go through each once; nothing is trained. Each score stands beside its interval and what
    size alone says. Features are kept: a run that goes on, or with one more model, computes what is new alone."""
    from percepta.tasks.select import select_models

    asked = {"data": data, "among": among, "random_weights": random_weights, "budget": budget, "dtype": dtype}
    asked |= {"estimators": estimators, "runs": runs, "seed": seed, "regression": regression, "column": column}
    _answer(
        asked,
        (out, as_json, overwrite, resume),
        lambda: select_models(
            data,
            among,
            budget,
            _listed(estimators),
            runs,
            seed,
            regression,
            column,
            random_weights,
            device,
            dtype,
            batch_size,
            progress=common.progress,
        ),
    )


@app.command("layers", epilog=LAYERS_EXAMPLES)
def layers(  # noqa: PLR0913 (the options of a command)
    data: Data,
    model: Model = common.NANO,
    weights: Weights = None,
    budget: Budget = 500,
    estimators: Estimators = None,
    runs: Runs = 50,
    seed: Seed = 0,
    regression: Regression = False,
    column: Column = None,
    random_weights: Random = False,
    out: Folder = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Rank the layers of one model by what they tell of your labels.

    All layers come from one pass; nothing is trained. --model also takes timm/NAME, torchvision/NAME, hf/OWNER/NAME
    and hf/FOLDER."""
    from percepta.tasks.select import select_layers

    asked = {"data": data, "model": model, "weights": weights, "random_weights": random_weights, "budget": budget}
    asked |= {"estimators": estimators, "runs": runs, "seed": seed, "regression": regression, "column": column}
    _answer(
        asked | {"dtype": dtype},
        (out, as_json, overwrite, resume),
        lambda: select_layers(
            data,
            model,
            budget,
            _listed(estimators),
            runs,
            seed,
            regression,
            column,
            weights,
            random_weights,
            device,
            dtype,
            batch_size,
            progress=common.progress,
        ),
    )


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _answer(asked: dict[str, Any], outputs: tuple[Path | None, bool, bool, bool], run: Callable[[], Any]) -> None:
    """Run, and hand on what was found to wherever it is wanted."""
    out, as_json, overwrite, resume = outputs
    _begin(out, {name: None if value is None else str(value) for name, value in asked.items()}, overwrite, resume)
    found = run()
    print(json.dumps(found.to_dict())) if as_json else show(found)
    if out is not None:
        (out / REPORT).write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
        found.picture().save(out / PICTURE)
        common.say(f"wrote {out / REPORT} and {out / PICTURE}")
    common.finish([*found.left_out, *found.failures])


def _begin(folder: Path | None, asked: dict[str, Any], overwrite: bool, resume: bool) -> None:
    """The folder with a file that says what was asked. Raises BadInput for one that holds another run."""
    if folder is None:
        if resume:
            raise BadInput(
                "--resume needs -o DIR, the folder to go on with; features that were computed are kept anyway."
            )
        return
    common.check_writable(folder)
    file, content = folder / ASKED, json.dumps({"schema": 1, **asked}, indent=1) + "\n"
    if file.exists() and not overwrite:
        if not resume:
            raise BadInput(f"{str(folder)!r} holds a run; pass --resume to go on, --overwrite to begin anew.")
        if file.read_text(encoding="utf-8") != content:
            raise BadInput(f"{str(file)!r} is of another run; resume with the same arguments, or --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def show(found: Any) -> None:
    """The ranking as a table and the recommendation, on standard output."""
    import rich.box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    ranking, of_models = found.ranking, found.what == "models"
    where = found.data if of_models else f"{found.model} on {found.data}"
    table = Table(title=f"{where}, {ranking.samples} pictures", box=rich.box.SIMPLE_HEAD)
    table.add_column("", justify="right")
    longest = max(len(row.name) for row in ranking.rows)
    table.add_column("model" if of_models else "layer", overflow="fold", min_width=min(longest, 40))
    for name in ("parameters", "GMACs") if of_models else ("width",):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("score", "95 %", "regret", "best in", *ranking.estimators, *(("by size",) if of_models else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for row in ranking.rows:
        option, best = found.options[row.name], row.name == ranking.recommendation
        size = (_spelled(option.parameters), f"{option.macs / 1e9:.2f}") if of_models else (str(option.width),)
        standing = row.ensemble
        votes = [f"{row.scores[name].score:.4g}" for name in ranking.estimators]
        table.add_row(
            f"{standing.rank}{' *' if best else ''}",
            row.name,
            *size,
            f"{standing.score:+.2f}",
            "" if standing.low != standing.low else f"{standing.low:+.2f} to {standing.high:+.2f}",
            "" if standing.regret != standing.regret else f"{standing.regret:.2f}",
            "" if row.best != row.best else f"{row.best:.0%}",
            *votes,
            *([f"{row.static['parameters'][1]}"] if of_models else []),
            style="bold" if best else None,
        )
    console.print(table)
    _conclude(console, found)


def _conclude(console: Any, found: Any) -> None:
    """The recommendation with its reason and its line of code, and what to know before believing it."""
    ranking = found.ranking
    said = "" if found.answer == ranking.recommendation else f"{found.answer}: "
    console.print(f"* {said}{ranking.reason}", soft_wrap=True)
    console.print(f"  {found.code}", soft_wrap=True, markup=False)
    for line in (*ranking.warnings, *found.beside):
        console.print(f"! {line}" if line in ranking.warnings else f"  {line}", soft_wrap=True)
    units = (
        f"score and regret in deviations between {found.what}; regret: what taking that row loses in the mean; "
        "best in: share of draws in which it is the best; then each score in its own unit."
    )
    for line in (*found.notes, units):
        console.print(line, style="dim", soft_wrap=True)


def _spelled(count: float) -> str:
    for size, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {word}"
    return f"{count:.0f}"
