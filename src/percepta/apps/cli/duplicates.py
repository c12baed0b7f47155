"""`percepta duplicates`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import Debug, Inputs, Json, Limit, Out, Overwrite
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta duplicates photos/
  percepta duplicates photos.index --kinds exact,near -o duplicates.csv
  percepta duplicates photos/ old-photos/ --json
  percepta duplicates photos/ --kinds exact -0 | xargs -0 ls -l
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("duplicates", epilog=EXAMPLES)(duplicates)


def duplicates(
    inputs: Inputs,
    kinds: Annotated[
        str, typer.Option("--kinds", metavar="KINDS", help="Which groups, with commas: exact, near, burst.")
    ] = "exact,near,burst",
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="From one picture of a burst to the next, at most.")
    ] = 3.0,
    names_only: Annotated[
        bool, typer.Option("-0", "--null", help="Only the names of what need not be kept, each ended by a NUL.")
    ] = False,
    out: Out = None,
    limit: Limit = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Find pictures and videos that are there more than once.

    Groups of exact copies, of near copies (encoded anew, resized, cropped a little) and of bursts, with the one to keep
    and why. Nothing is ever deleted. INPUTS may be an index; no model is needed.
    """
    from percepta.tasks.indexing.duplicates import duplicates as run

    common.check_ending(out, (".csv", ".jsonl", ".json"))
    common.check_output(out, overwrite)
    if names_only and as_json:
        raise BadInput("-0 and --json cannot be had at once.")
    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    things: Any = inputs[0] if len(inputs) == 1 and limit is None else common.gather(inputs, limit)
    found = run(things, chosen, seconds, progress=common.progress("duplicates"))
    if out is not None:
        _write(found, out)
    if names_only:
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in found.others))
        sys.stdout.buffer.flush()
    elif as_json:
        print(json.dumps(found.to_dict()))
    elif out is None:
        _show(found)
    common.finish(list(found.failures))


def _write(found: Any, out: Any) -> None:
    from percepta.results.formats.table import rows, to_csv

    columns = ["group", "kind", "source", "keep", "why", "savings"]
    text = to_csv(rows(found), columns) if out.suffix == ".csv" else json.dumps(found.to_dict()) + "\n"
    out.write_text(text, encoding="utf-8", errors="surrogateescape")
    common.say(f"wrote {out}")


def _show(found: Any) -> None:
    for group in found:
        print(f"{group.kind}: keep {common.shown(group.keep)} ({group.why})")
        for name in group.others:
            print(f"    {common.shown(name)}")
    compared = common.counted(found.count, "picture or video", "pictures and videos")
    if not found.groups:
        print(f"no duplicates among {compared}")
        return
    groups, size = common.counted(len(found), "group"), common.sized(found.savings)
    print(f"{groups} among {compared}: {len(found.others):,} need not be kept, {size} together; nothing was deleted")
