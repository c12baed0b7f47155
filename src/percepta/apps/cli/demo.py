"""`percepta demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import Debug, Device, Model, Overwrite, Settings, Weights

EXAMPLES = """\b
Examples:
  percepta demo
  percepta demo -o /tmp/percepta-demo --overwrite
  percepta demo --model pe-core-l14-336
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog=EXAMPLES)(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for media and report.")] = Path(
        "percepta-demo"
    ),
    model: Model = common.NANO,
    weights: Weights = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Show all of this on made pictures, in a minute.

    Pictures and clips are made, searched, labelled and looked into, and shown on one page."""
    from percepta.apps.demo import run

    print(run(out, Settings(model, weights, device), overwrite))
