"""`percepta search`."""

from __future__ import annotations

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
    Json,
    Model,
    Out,
    Overwrite,
    ReportFile,
    Settings,
    Weights,
)
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta search photos/ "a red boat"
  percepta search photos/ --picture boat.jpg --limit 5
  percepta search "clips/**/*.mp4" "two people arguing" --json
  percepta search photos/ "a red boat" -o hits.csv --report hits.html
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search", epilog=EXAMPLES)(search)


def search(  # noqa: PLR0913 (the options of a command)
    inputs: Annotated[
        str, typer.Argument(metavar="INPUTS", help="A file, folder or quoted glob; - reads names from standard input.")
    ],
    words: Annotated[str | None, typer.Argument(metavar="[WORDS]", help="What to look for.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Look for what is like this picture or video.")
    ] = None,
    out: Out = None,
    report: ReportFile = None,
    model: Model = common.NANO,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="At most N hits.")] = 20,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Find pictures and videos by words or picture.

    Best first; scores are cosines: they order the hits of one query and are no probabilities."""
    from percepta.tasks.encoder import Encoder
    from percepta.tasks.search import index
    from percepta.tasks.search import search as run

    if (words is None) == (picture is None):
        raise BadInput('search needs either words or --picture FILE, such as: percepta search photos/ "a red boat"')
    if words is not None and not words.strip():
        raise BadInput("the words to look for must not be empty.")
    if limit < 1:
        raise BadInput(f"--limit must be a whole number of 1 or more; got {limit}.")
    if picture is not None and not picture.is_file():
        raise BadInput(f"the picture {str(picture)!r} does not exist.")
    common.check_ending(out, (".csv", ".jsonl", ".json"))
    common.check_output(out, overwrite)
    common.check_ending(report, (".html", ".htm"))
    common.check_output(report, overwrite)
    sources = common.gather([inputs])
    encoder = Encoder(Settings(model, weights, device, dtype, batch_size).load())
    if words is not None:
        encoder.need_words("search by words")
    found = index(sources, encoder, batch_size=batch_size, progress=common.progress("search"))
    hits = run(found, picture if picture is not None else words, limit)
    _show(hits, out, as_json)
    if report is not None:
        from percepta.apps.report import SearchPage

        page = SearchPage(encoder.model, [inputs], sources)
        page.add(hits, picture)
        page.write(report, list(found.failures))
        common.say(f"wrote {report}")
    common.finish(list(found.failures))


def _show(hits: Any, out: Path | None, as_json: bool) -> None:
    if out is not None:
        from percepta.results.formats.table import rows, to_csv

        text = to_csv(rows(hits)) if out.suffix == ".csv" else json.dumps(hits.to_dict()) + "\n"
        out.write_text(text, encoding="utf-8")
        common.say(f"wrote {out}")
    elif as_json:
        print(json.dumps(hits.to_dict()))
    else:
        for hit in hits:
            print(f"{hit.score:.3f}  {common.shown(hit.source)}")
