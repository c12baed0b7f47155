"""`percepta export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import Debug, Overwrite, Settings, Weights
from percepta.errors import one_of

EXAMPLES = """\b
Examples:
  percepta export pe-core-nano -o nano.onnx
  percepta export pe-core-b16-224 -o words.onnx --part text
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=EXAMPLES)(export)


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `percepta models`, or a file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.onnx", help="Where to write.")],
    part: Annotated[str, typer.Option("--part", metavar="PART", help="image or text.")] = "image",
    weights: Weights = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Write a model as ONNX, compared with eager.

    Batch and size are dynamic; a file that differs is not kept."""
    if part not in ("image", "text"):
        raise one_of("--part", part, ("image", "text"))
    common.check_ending(out, (".onnx",))
    common.check_output(out, overwrite)
    from percepta.running.export import export as run

    print(run(Settings(name, weights).load(prepare=False), out, part))
