"""`percepta index`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import BatchSize, Debug, Device, Dtype, Inputs, Json, Limit, Model, Overwrite, Weights
from percepta.errors import BadInput

HIDDEN = ".percepta.index"
"""The index of a folder lies in it under this name, unless --to names another place."""
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
        Path | None, typer.Option("--to", metavar="INDEX", help=f"The file; FOLDER/{HIDDEN} for a single folder.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Pass over such names or paths; repeatable."),
    ] = None,
    model: Model = common.NANO,
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
    from percepta.tasks.encoder import check_device
    from percepta.tasks.indexing import index as run

    place = _place(inputs, to)
    reports: list[Any] = []
    found = run(
        inputs if limit is None else common.gather(inputs, limit),
        place,
        model,
        weights,
        check_device(device),
        dtype,
        batch_size,
        exclude=exclude or (),
        overwrite=overwrite,
        progress=common.progress("index"),
        told=lambda news: reports.append(news) if hasattr(news, "added") else _say_estimate(news),
    )
    report = reports[-1]
    size = place.stat().st_size
    if as_json:
        record = {
            "index": str(place),
            "entries": len(found),
            "bytes": size,
            "added": report.added,
            "moved": report.moved,
            "removed": report.removed,
            "unchanged": report.unchanged,
            "seconds": round(report.seconds, 1),
            "failures": [failure.to_dict() for failure in report.failures],
        }
        print(json.dumps(record))
    else:
        _say_report(found, report, size)
    common.finish(list(report.failures))


def _place(inputs: list[str], to: Path | None) -> Path:
    if to is not None:
        return to.expanduser()
    folder = Path(inputs[0]).expanduser()
    if len(inputs) > 1 or not folder.is_dir():
        raise BadInput(
            "name the index with --to FILE; only that of a single folder has a place by itself, in the folder."
        )
    return folder / HIDDEN


def _say_estimate(news: Any) -> None:
    if not news.pictures and not news.videos:
        return
    work = [common.counted(news.pictures, "picture")] if news.pictures else []
    if news.videos:
        work.append(f"{common.counted(news.videos, 'video')} ({news.video_seconds / 60:.0f} min)")
    time = "" if news.seconds is None else f"; about {common.lasting(news.seconds)} and {common.sized(news.bytes)}"
    common.say(f"to index: {' and '.join(work)}{time}.")


def _say_report(found: Any, report: Any, size: int) -> None:
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
    print(f"{found.path}: {contents}, {common.sized(size)}.")
    print(f'next: percepta search {found.path} "what you look for"')
