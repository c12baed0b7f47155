"""`percepta index`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import BatchSize, Debug, Device, Dtype, Inputs, Json, Limit, Overwrite, Weights

EXAMPLES = """\b
Examples:
  percepta index ~/Pictures
  percepta index ~/Pictures ~/Videos --to home.index
  percepta index photos/ --exclude "raw/*" --exclude "*.gif"
  find . -name "*.jpg" -print0 | percepta index - --to found.index
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("index", epilog=EXAMPLES)(index)


def index(  # noqa: PLR0913 (the options of a command)
    inputs: Inputs,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="INDEX",
            help="The file; by default FOLDER/.percepta.index, of several folders one for your account.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Pass over such names or paths; repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A name or file; by default that of the index.")
    ] = None,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    limit: Limit = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; an index always does, unless --overwrite.")] = False,
    debug: Debug = False,
) -> None:
    """Index pictures and videos, so that search answers at once; run it again to bring it up to date.

    Only what is new or has changed is looked at; what moved keeps its place, what is gone is removed. It may be
    interrupted at any time. Hidden files, @eaDir, node_modules and the like are passed over."""
    from percepta.running.loading import as_device
    from percepta.tasks.indexing import index as run
    from percepta.tasks.indexing.places import default_place

    place = default_place(inputs) if to is None else to.expanduser()
    reports: list[Any] = []
    found = run(
        inputs[0] if len(inputs) == 1 else inputs,
        place,
        model,
        weights,
        as_device(device),
        dtype,
        batch_size,
        exclude=exclude or (),
        limit=limit,
        overwrite=overwrite,
        progress=common.progress("index"),
        told=lambda news: reports.append(news) if hasattr(news, "added") else _say_estimate(news),
    )
    report = reports[-1]
    if as_json:
        print(json.dumps(_record(found, report)))
    else:
        _say_report(found, report)
    common.finish(list(report.failures))


def _say_estimate(news: Any) -> None:
    if not news.pictures and not news.videos:
        return
    work = [common.counted(news.pictures, "picture")] if news.pictures else []
    if news.videos:
        work.append(f"{common.counted(news.videos, 'video')} ({common.lasting(news.video_seconds)})")
    time = "" if news.seconds is None else f"; about {common.lasting(news.seconds)} and {common.sized(news.bytes)}"
    common.say(f"to index: {' and '.join(work)}{time}.")


def _record(found: Any, report: Any) -> dict[str, Any]:
    return {
        "index": str(found.path),
        "entries": len(found),
        "bytes": found.path.stat().st_size,
        "added": report.added,
        "moved": report.moved,
        "removed": report.removed,
        "unchanged": report.unchanged,
        "seconds": round(report.seconds, 1),
        "failures": [failure.to_dict() for failure in report.failures],
    }


def _say_report(found: Any, report: Any) -> None:
    changed = [
        f"{number} {word}"
        for number, word in (
            (report.added, "added"),
            (report.moved, "moved"),
            (report.removed, "removed"),
            (report.unchanged, "unchanged"),
            (len(report.failures), "failed"),
        )
        if number
    ]
    print(f"{', '.join(changed) or 'nothing to do'}; {common.lasting(report.seconds)}.")
    contents = common.counted(len(found), "picture and moment", "pictures and moments")
    print(f"{common.shown(str(found.path))}: {contents}, {common.sized(found.path.stat().st_size)}.")
    shortest = found.path.parent if found.path.name == ".percepta.index" else found.path
    print(f'next: percepta search {shlex.quote(common.shown(str(shortest)))} "what you look for"')
