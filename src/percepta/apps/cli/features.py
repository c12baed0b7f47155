"""`percepta features`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
  percepta features cat.jpg clip.mp4 -o groups/ --merge 50%
  percepta features cat.jpg --json
"""
SIDE = 384  # of the pictures written


Folder = Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures.")]
Layers = Annotated[str, typer.Option("--layers", metavar="LIST", help="0-based, negative from the end.")]
Side = Annotated[int | None, typer.Option("--size", metavar="PIXELS", help="Side fed to the model; larger is finer.")]
Arrays = Annotated[bool, typer.Option("--arrays", help="Write the features too, one .npy a picture.")]
Merge = Annotated[
    str | None,
    typer.Option("--merge", metavar="N|SHARE", help="Merge N tokens a block, or to 50% of the work; shows the groups."),
]
Strategy = Annotated[str, typer.Option("--strategy", metavar="NAME", help="How to choose what is merged.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("features", epilog=EXAMPLES)(features)


def features(  # noqa: PLR0913 (the options of a command)
    inputs: Inputs,
    out: Folder = None,
    layers: Layers = "-1",
    size: Side = None,
    arrays: Arrays = False,
    merge: Merge = None,
    strategy: Strategy = "bipartite",
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

    Like patches have like colours (three principal components of the features). With --merge a second picture shows
    which patches became one token, of a video frame by frame."""
    from percepta.tasks.encoder import Encoder
    from percepta.tasks.features import features as run
    from percepta.tasks.features import layers_of

    if out is None and report is None and not as_json:
        raise BadInput("features needs -o DIR for its pictures, --report FILE.html or --json.")
    _check_outputs(out, report, overwrite, resume)
    wanted = parse_layers(layers)
    sources = common.gather(inputs, limit)
    loaded = Settings(model, weights, device, dtype, batch_size).load()
    numbers = layers_of(Encoder(loaded), wanted)
    run = partial(run, model=loaded, size=size, merge=merge, strategy=strategy, batch_size=batch_size)
    made_with = _made_with(loaded, size) + ("" if merge is None else f", merging {merge} by {strategy}")
    writer = None if out is None else _Writer(out, numbers, arrays, made_with, merge is not None)
    todo = sources if writer is None else writer.todo(sources, overwrite, resume)
    if common.say_resumed(sources, todo, report is not None):
        return
    page = _page(report, loaded, numbers, inputs)
    stream = run(todo, numbers)
    places = common.by_name(todo)
    for result in stream.watched(common.progress("features")):
        _hand_on(result, places[result.source], writer, page, as_json)
    if writer is not None:
        failed = {failure.source for failure in stream.failures}
        writer.write_videos([source for name, source in places.items() if name not in failed], run)
        common.say(f"wrote {common.counted(writer.count, 'picture')} to {out}")
    if page is not None and report is not None:
        page.write(report, stream.failures)
        common.say(f"wrote {report}")
    common.finish(stream.failures)


def _check_outputs(out: Path | None, report: Path | None, overwrite: bool, resume: bool) -> None:
    if out is not None:
        common.check_writable(out)
    common.check_ending(report, (".html", ".htm"))
    common.check_output(report, overwrite)
    if resume and out is None:
        raise BadInput("--resume needs -o DIR, the output to go on with.")


def _hand_on(result: Any, source: Any, writer: _Writer | None, page: Any, as_json: bool) -> None:
    """One map to wherever it is wanted."""
    if writer is not None:
        writer.write(source, result)
    if page is not None:
        page.add(source, result)
    if as_json:
        print(json.dumps(result.to_dict()), flush=True)


def parse_layers(text: str) -> list[int]:
    """Numbers with commas. Raises BadInput."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--layers must be whole numbers with commas, such as 0,5,-1; got {text!r}.") from None


class _Writer:
    """Layer pictures in a folder, named after their inputs; each says what it was made with, and is whole if there."""

    def __init__(self, folder: Path, layers: list[int], arrays: bool, made_with: str, merged: bool) -> None:
        self.folder, self.layers, self.arrays, self.made_with, self.merged = folder, layers, arrays, made_with, merged
        self.count = 0
        self._stems: dict[str, str] = {}
        self._taken: set[str] = set()

    def todo(self, sources: list[Any], overwrite: bool, resume: bool) -> list[Any]:
        """The sources with a picture that is to be made.

        Raises: BadInput where one is there that may not be replaced, or was made with something else.
        """
        left = []
        for source in sources:
            # Named now, in the order of all inputs, so that a run that goes on gives the same names.
            there = [target for target in self._targets(source) if target.exists()] if hasattr(source, "name") else []
            if there and not overwrite and not resume:
                raise BadInput(f"{str(there[0])!r} exists; pass --overwrite to replace it, or --resume to keep it.")
            for target in there if resume else ():
                self._check(target)
            if not (resume and there and len(there) == len(self._targets(source))):
                left.append(source)
        return left

    def write(self, source: Any, result: Any) -> None:
        """Write the picture of one layer, that of its groups, and its features."""
        from percepta.apps.report.pictures import layer_picture, merge_picture

        target = self._picture(source.name, result.layer)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.merged and source.kind == "picture":
            self._save(merge_picture(result, source, SIDE), self._groups(source, result.layer))
        if self.arrays:
            _save_array(target.with_suffix(".npy"), result.values)
            if result.groups is not None:
                _save_array(target.with_suffix(".groups.npy"), result.groups)
        self._save(layer_picture(result, source, SIDE), target)

    def write_videos(self, sources: Sequence[Any], run: Callable[[Any, int], Any]) -> None:
        """Write the groups of all frames of the videos among the sources, where tokens are merged."""
        for source in sources:
            for layer in self.layers if self.merged and source.kind == "video" else ():
                self.write_video(source, layer, run)

    def write_video(self, source: Any, layer: int, run: Callable[[Any, int], Any]) -> None:
        """Write the groups of every frame of a video after one layer; a group keeps its colour."""
        from percepta.apps.report.pictures import merge_picture
        from percepta.media import Source, VideoReader, write_video
        from percepta.media.groups import GroupColours

        target, colours = self._groups(source, layer), GroupColours()
        with VideoReader(source.thing) as reader:
            pending: dict[str, Any] = {}

            def frames() -> Iterator[Any]:
                for number, frame in enumerate(reader.iterate()):
                    name = f"frame {number}"
                    pending[name] = frame
                    yield Source(name, "picture", data=frame)

            stream = run(frames(), layer)
            stream.total = reader.frames
            watched = stream.watched(common.progress(f"groups of {Path(source.name).name}"))
            painted = (merge_picture(result, pending.pop(result.source), SIDE, colours) for result in watched)
            write_video(target, painted, reader.rate)
        self.count += 1

    def _save(self, picture: Any, target: Path) -> None:
        """A picture that says what it was made with, and is whole if it is there."""
        from PIL.PngImagePlugin import PngInfo

        partial = target.with_name(f".{target.name}.partial")
        notes = PngInfo()
        notes.add_text("made_with", self.made_with)
        picture.save(partial, "PNG", pnginfo=notes)
        partial.replace(target)
        self.count += 1

    def _check(self, target: Path) -> None:
        from PIL import Image

        if target.suffix != ".png":
            return
        try:
            with Image.open(target) as picture:
                before = str(picture.info.get("made_with", "something else"))
        except (OSError, ValueError, SyntaxError):
            before = "something else"
        if before != self.made_with:
            raise BadInput(
                f"{str(target)!r} was made with {before}, and now it is {self.made_with}; resume with the same, or "
                "pass --overwrite."
            )

    def _targets(self, source: Any) -> list[Path]:
        pictures = [self._picture(source.name, layer) for layer in self.layers]
        arrays = [picture.with_suffix(".npy") for picture in pictures] if self.arrays else []
        if not self.merged:
            return pictures + arrays
        if self.arrays:
            arrays += [picture.with_suffix(".groups.npy") for picture in pictures]
        return pictures + [self._groups(source, layer) for layer in self.layers] + arrays

    def _groups(self, source: Any, layer: int) -> Path:
        ending = ".mp4" if source.kind == "video" else ".png"
        return self._picture(source.name, layer).with_suffix(f".merged{ending}")

    def _picture(self, name: str, layer: int) -> Path:
        return self.folder / f"{self._stem(name)}.layer{layer}.png"

    def _stem(self, name: str) -> str:
        """The name of the input's file; a number keeps apart two of the same name in different folders."""
        if name not in self._stems:
            plain = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in Path(name).stem)
            plain = plain.strip(" .")[:120] or "picture"
            number, stem = 1, plain
            while stem in self._taken:
                number += 1
                stem = f"{plain} ({number})"
            self._taken.add(stem)
            self._stems[name] = stem
        return self._stems[name]


def _save_array(target: Path, values: Any) -> None:
    import numpy as np

    partial = target.with_name(f".{target.name}.partial")
    with partial.open("wb") as file:
        np.save(file, values)
    partial.replace(target)


def _made_with(model: Any, size: int | None) -> str:
    """What a picture shows besides its layer, in words."""
    from percepta.running.fingerprint import made_with

    made = made_with(model)
    side = model.config.image_size if size is None else size
    return f"{made['model']} ({made['weights']}, {made['dtype']}), size {side}"


def _page(report: Path | None, model: Any, layers: list[int], inputs: list[str]) -> Any:
    if report is None:
        return None
    from percepta.apps.report import LayerPage

    return LayerPage(model, layers, inputs)
