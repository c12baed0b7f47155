"""`percepta classify`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import (
    BatchSize,
    Debug,
    Device,
    Dtype,
    Inputs,
    Json,
    Limit,
    Model,
    Out,
    Overwrite,
    ReportFile,
    Resume,
    Settings,
    Weights,
)
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta classify photos/ --labels "a cat,a dog"
  percepta classify "clips/*.mp4" --labels labels.txt -o labels.csv
  percepta classify photos/ --labels "a cat,a dog" --none --sort-into sorted/ --by link
  percepta classify photos/ --labels "beach,night,people" --multi --json
  find . -name "*.jpg" | percepta classify - --labels "a cat,a dog" --report report.html
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("classify", epilog=EXAMPLES)(classify)


def classify(  # noqa: PLR0913 (the options of a command)
    inputs: Inputs,
    labels: Annotated[str, typer.Option("--labels", metavar="TEXT|FILE", help="Labels with commas, or a file.")],
    out: Out = None,
    templates: Annotated[
        str | None,
        typer.Option("--templates", metavar="SET", help="default, plain, imagenet, kinetics, ucf101 or text with {}."),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help='Allow "none of these".')] = False,
    multi: Annotated[bool, typer.Option("--multi", help="Several labels may hold; score each for itself.")] = False,
    sort_into: Annotated[
        Path | None, typer.Option("--sort-into", metavar="DIR", help="Sort into one folder a label; nothing is moved.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="WAY", help="How to sort: copy or link.")] = "copy",
    report: ReportFile = None,
    model: Model = common.NANO,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    limit: Limit = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Label pictures and videos with your own words.

    Without -o the best labels of each input are printed; -o FILE.csv or FILE.jsonl writes all scores.
    """
    from percepta.apps.cli.records import LabelFile
    from percepta.apps.cli.sorting import check_sorting
    from percepta.tasks.classify import NONE
    from percepta.tasks.classify import classify as run

    common.check_ending(out, (".csv", ".jsonl", ".json"))
    common.check_output(out, overwrite, resume)
    common.check_ending(report, (".html", ".htm"))
    common.check_output(report, overwrite)
    check_sorting(sort_into, by)
    if resume and out is None:
        raise BadInput("--resume needs -o FILE, the output to go on with.")
    if out is not None and as_json:
        raise BadInput("-o and --json exclude each other; -o FILE.jsonl writes JSON, one object a line.")
    names = read_names(labels)
    sources = common.gather(inputs, limit)
    loaded = Settings(model, weights, device, dtype, batch_size).load()
    page = _page(report, names, loaded, inputs)
    every = [*names, NONE] if none else names
    file = None if out is None else LabelFile(out, every, _made_with(loaded, templates, multi), resume)
    todo = sources if file is None else file.todo(sources)
    if common.say_resumed(sources, todo, report is not None):
        return
    stream = run(todo, names, loaded, templates, none, multi, batch_size=batch_size)
    places = common.by_name(todo)
    with file or contextlib.nullcontext():  # opened now that nothing is wrong with the arguments
        for result in stream.watched(common.progress("classify")):
            if sort_into is not None:  # before it counts as done
                _sort(places[result.source], result, sort_into, by)
            if page is not None:
                page.add(places[result.source], result)
            if file is not None:
                file.write(result)
            elif as_json:
                print(json.dumps(result.to_dict()), flush=True)
            else:
                print(line_of(result), flush=True)
    _close(out, report, page, stream.failures)
    common.finish(stream.failures)


def read_names(labels: str) -> list[str]:
    """Labels of a comma-separated text, or of a file where one has that name."""
    from percepta.tasks.prompts import labels_of, read_labels

    try:
        is_file = Path(labels).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        is_file = False
    if is_file or ("," not in labels and labels.lower().endswith((".txt", ".csv", ".tsv", ".labels"))):
        return read_labels(labels)
    return labels_of(labels)


def line_of(result: Any, count: int = 3) -> str:
    """One result for people: the best labels in per cent."""
    best = ", ".join(f"{name} {score * 100:.0f} %" for name, score in list(result)[:count])
    return f"{common.shown(result.source)}: {best}"


def _made_with(model: Any, templates: str | None, multi: bool) -> str:
    """What scores depend on besides the labels, in words on one line."""
    from percepta.running.fingerprint import made_with

    made = made_with(model)
    words = f"{made['model']} ({made['weights']}, {made['dtype']}), templates {templates or 'default'}"
    return " ".join(f"{words}, each label for itself".split() if multi else words.split())


def _sort(source: Any, result: Any, folder: Path, by: str) -> None:
    from percepta.apps.cli.sorting import sort_into

    if source.path is not None:
        sort_into(folder, result.top[0], source.path, by)


def _page(report: Path | None, names: list[str], model: Any, inputs: list[str]) -> Any:
    if report is None:
        return None
    from percepta.apps.report import LabelPage

    return LabelPage(names, model, inputs)


def _close(out: Path | None, report: Path | None, page: Any, failures: list[Any]) -> None:
    if out is not None:
        common.say(f"wrote {out}")
    if report is not None:
        page.write(report, failures)
        common.say(f"wrote {report}")
