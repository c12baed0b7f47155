"""`percepta features`."""

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
    Inputs,
    Json,
    Limit,
    Model,
    Overwrite,
    ReportFile,
    Resume,
    Settings,
    Weights,
)
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta features cat.jpg -o layers/
  percepta features photos/ -o layers/ --layers 0,11,-1 --size 448
  percepta features photos/ -o layers/ --report layers.html
  percepta features cat.jpg --json
"""
SIDE = 384  # of the pictures written


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("features", epilog=EXAMPLES)(features)


def features(  # noqa: PLR0913 (the options of a command)
    inputs: Inputs,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures.")] = None,
    layers: Annotated[str, typer.Option("--layers", metavar="LIST", help="0-based, negative from the end.")] = "-1",
    size: Annotated[
        int | None, typer.Option("--size", metavar="PIXELS", help="Side fed to the model; larger is finer.")
    ] = None,
    arrays: Annotated[bool, typer.Option("--arrays", help="Write the features too, one .npy a picture.")] = False,
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
    """Show what any layer sees, as a picture.

    Like patches have like colours (three principal components of the features)."""
    from percepta.tasks.features import features as run

    if out is None and report is None and not as_json:
        raise BadInput("features needs -o DIR for its pictures, --report FILE.html or --json.")
    if out is not None and out.exists() and not out.is_dir():
        raise BadInput(f"-o must be a folder; {str(out)!r} is a file.")
    common.check_ending(report, (".html", ".htm"))
    common.check_output(report, overwrite)
    sources = common.gather(inputs, limit)
    loaded = Settings(model, weights, device, dtype, batch_size).load()
    wanted = parse_layers(layers)
    writer = _Writer(out, arrays, overwrite, resume) if out is not None else None
    page = _page(report, loaded, wanted, inputs)
    stream = run(sources, wanted, loaded, size, batch_size=batch_size)
    places = common.by_name(sources)
    for result in stream.watched(common.progress("features")):
        if writer is not None:
            writer.write(places[result.source], result)
        if page is not None:
            page.add(places[result.source], result)
        if as_json:
            print(json.dumps(result.to_dict()), flush=True)
    if writer is not None:
        common.say(f"wrote {writer.count} picture{'' if writer.count == 1 else 's'} to {out}")
    if page is not None and report is not None:
        page.write(report, stream.failures)
        common.say(f"wrote {report}")
    common.finish(stream.failures)


def parse_layers(text: str) -> list[int]:
    """Numbers with commas. Raises BadInput."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--layers must be whole numbers with commas, such as 0,5,-1; got {text!r}.") from None


class _Writer:
    """Layer pictures in a folder, named after their inputs."""

    def __init__(self, folder: Path, arrays: bool, overwrite: bool, resume: bool) -> None:
        self.folder, self.arrays, self.overwrite, self.resume = folder, arrays, overwrite, resume
        self.count = 0
        self._names: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, source: Any, result: Any) -> None:
        import numpy as np

        from percepta.apps.report.pictures import layer_picture

        target = self.folder / f"{self._stem(source.name)}.layer{result.layer}.png"
        if target.exists() and self.resume:
            return
        if target.exists() and not self.overwrite:
            raise BadInput(f"{str(target)!r} exists; pass --overwrite to replace it, or --resume to keep it.")
        layer_picture(result, source, SIDE).save(target)
        if self.arrays:
            np.save(target.with_suffix(".npy"), result.values)
        self.count += 1

    def _stem(self, name: str) -> str:
        """The name of the input's file; a number keeps apart two of the same name in different folders."""
        if name not in self._names:
            plain = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in Path(name).stem)[:120]
            taken, number, stem = set(self._names.values()), 1, plain or "picture"
            while stem in taken:
                number += 1
                stem = f"{plain} ({number})"
            self._names[name] = stem
        return self._names[name]


def _page(report: Path | None, model: Any, layers: list[int], inputs: list[str]) -> Any:
    if report is None:
        return None
    from percepta.apps.report import LayerPage

    return LayerPage(model, layers, inputs)
