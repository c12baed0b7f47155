"""`percepta segment`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common, pointing
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
    Resume,
    Settings,
    Weights,
)
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta segment truck.jpg --point 500,375 -o cut/
  percepta segment truck.jpg --point 500,375 --point 620,400,0 -o cut/
  percepta segment cars.jpg --box 75,275,1725,850 --box 1375,550,1650,800 -o cut/
  percepta segment photos/ --text "the red cup" -o cups/
  percepta segment photos/ --everything -o cut/
  percepta segment truck.jpg --mask rough.png --json
"""
LINES, COCO, CLASSES = "masks.jsonl", "coco.json", "classes.txt"

Folder = Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for what is cut out.")]
Everything = Annotated[bool, typer.Option("--everything", help="Cut out all that there is, without prompts.")]
Multimask = Annotated[
    bool | None, typer.Option("--multimask/--single-mask", help="All three answers to a prompt, or the single one.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("segment", epilog=EXAMPLES)(segment)


def segment(  # noqa: PLR0913 (the options of a command)
    inputs: Inputs,
    point: pointing.Points = None,
    box: pointing.Boxes = None,
    mask: pointing.MaskFiles = None,
    text: pointing.Text = None,
    encoder: pointing.EncoderName = pointing.ENCODER,
    everything: Everything = False,
    multimask: Multimask = None,
    out: Folder = None,
    model: Model = pointing.NANO,
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
    """Cut objects out of pictures, by clicks, boxes, rough masks or words.

    With -o a folder gets overlays, masks as PNG, and COCO and YOLO files. A score is the IoU that the model predicts
    for its own mask, from 0 to 1, not calibrated; with --text the probability that it is what was asked for."""
    from percepta.tasks.segment import segment as run

    if resume and out is None:
        raise BadInput("--resume needs -o DIR, the output to go on with.")
    given = pointing.prompts(point, box, mask)
    sources = common.gather(inputs, limit)
    if not any(given.values()) and not everything and text is None:
        raise BadInput("segment needs --point, --box, --mask, --text or --everything.")
    loaded = Settings(model, weights, device, dtype, batch_size).load()
    writer = None if out is None else CutFolder(out, given, _made_with(loaded, given, text, everything, multimask))
    todo = sources if writer is None else writer.todo(sources, overwrite, resume)
    if common.say_resumed(sources, todo):
        return
    asked: dict[str, Any] = {"text": text, "everything": everything, "multimask": multimask, "encoder": encoder}
    stream: Any = run(todo, **given, **asked, model=loaded, batch_size=batch_size)
    places = common.by_name(todo)
    try:
        for result in stream.watched(common.progress("segment")):
            if writer is not None:
                writer.write(places[result.source], result, stream.score_kind)
            if as_json:
                print(json.dumps(entry_of(result, stream.score_kind)), flush=True)
            elif writer is None:
                print(line_of(result), flush=True)
    finally:
        if writer is not None:
            writer.finish()
    common.finish(stream.failures)


def entry_of(result: Any, score_kind: str) -> dict[str, Any]:
    """One result as JSON: masks with box, area and score."""
    entry = result.to_dict()
    for row, box, area in zip(entry["masks"], result.boxes().xyxy.tolist(), result.area.tolist(), strict=True):
        row |= {"xyxy": box, "area": area}
    return entry | {"score_kind": score_kind}


def line_of(result: Any, count: int = 3) -> str:
    """One result for people: the largest masks with their share of the picture and score."""
    pixels = max(1, result.size[0] * result.size[1])
    rows = sorted(range(len(result)), key=lambda row: -result.area[row])
    told = [f"{100 * result.area[row] / pixels:.1f} % (score {result.scores[row]:.2f})" for row in rows[:count]]
    more = f" and {len(rows) - count} more" if len(rows) > count else ""
    return f"{common.shown(result.source)}: {common.counted(len(rows), 'mask')}: {', '.join(told) or 'none'}{more}"


class CutFolder:
    """A folder with what was cut out of many pictures.

    `masks.jsonl` grows with each picture and is what a run that goes on looks at; COCO and YOLO files are made of it.

    Args:
        folder: is made where it is not there.
        given: the prompts, which are painted on the overlays.
        made_with: in words on one line, what the masks depend on.
    """

    def __init__(self, folder: Path, given: dict[str, Any], made_with: str) -> None:
        self.folder, self.made_with = folder, made_with
        self._clicks, self._frames = pointing.clicks_of(given), given["boxes"] or []
        self._taken: dict[str, str] = {}
        self._count = 0
        common.check_writable(folder)

    def todo(self, sources: list[Any], overwrite: bool, resume: bool) -> list[Any]:
        """The sources that are not done; the rest of the folder is emptied of what would be replaced.

        Raises: BadInput where there is something that may not be replaced, or was made with something else."""
        lines = self.folder / LINES
        if lines.exists() and not overwrite and not resume:
            raise BadInput(f"{str(lines)!r} exists; pass --overwrite to replace it, or --resume to go on.")
        for source in sources:  # named now, in the order of all inputs, so that a run that goes on gives the same names
            self._stem(getattr(source, "name", ""))
        if not resume:
            lines.unlink(missing_ok=True)
            return sources
        done = []
        for entry in self._entries():
            if entry.get("made_with") != self.made_with:
                raise BadInput(
                    f"{str(lines)!r} was made with {entry.get('made_with')}, and now it is {self.made_with}; resume "
                    "with the same, or pass --overwrite."
                )
            done.append(entry["source"])
        return common.left_of(sources, done)

    def write(self, source: Any, result: Any, score_kind: str) -> None:
        """Write overlay, masks and labels of one picture."""
        from PIL import Image

        from percepta.media import draw_objects

        stem = self._stem(result.source)
        for part in ("overlays", "masks"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        draw_objects(source.thing, result, clicks=self._clicks, frames=self._frames).save(
            self.folder / "overlays" / f"{stem}.png"
        )
        for number, mask in enumerate(result, start=1):
            Image.fromarray(mask).save(self.folder / "masks" / f"{stem}.{number}.png")
        with (self.folder / LINES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry_of(result, score_kind) | {"made_with": self.made_with}) + "\n")
        self._count += 1

    def finish(self) -> None:
        """Write the COCO and YOLO files of all that is there."""
        from percepta.results.formats.coco import to_coco
        from percepta.results.formats.yolo import to_yolo

        found = [_masks_of(entry) for entry in self._entries()]
        if not found:
            return
        names = list(dict.fromkeys(name for masks in found for name in masks.names))
        labels = self.folder / "labels"
        labels.mkdir(exist_ok=True)
        for masks in found:
            (labels / f"{self._stem(masks.source)}.txt").write_text(to_yolo(masks.boxes(), names), encoding="utf-8")
        (self.folder / CLASSES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        (self.folder / COCO).write_text(json.dumps(to_coco(found)) + "\n", encoding="utf-8")
        count = common.counted(self._count, "picture")
        common.say(f"wrote overlays, masks, {COCO} and YOLO labels of {count} to {self.folder}")

    def _entries(self) -> Iterator[dict[str, Any]]:
        """What the lines say; a last one that was cut off is dropped from the file."""
        lines = self.folder / LINES
        if not lines.exists():
            return
        with lines.open("r+b") as file:
            whole = 0
            for line in iter(file.readline, b""):
                try:
                    entry = json.loads(line if line.endswith(b"\n") else b"")
                except ValueError:
                    file.truncate(whole)
                    return
                whole += len(line)
                yield entry

    def _stem(self, name: str) -> str:
        """The name of the input's file; a number keeps apart two of the same name in different folders."""
        if name not in self._taken:
            plain = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in Path(name).stem)
            plain = plain.strip(" .")[:120] or "picture"
            number, stem = 1, plain
            while stem in self._taken.values():
                number += 1
                stem = f"{plain} ({number})"
            self._taken[name] = stem
        return self._taken[name]


def _masks_of(entry: dict[str, Any]) -> Any:
    from percepta.results import Masks

    rows, (height, width) = entry["masks"], entry["size"]
    plain = Masks.from_strings(entry["source"], (height, width), [row["counts"] for row in rows])
    scores: Any = [row["score"] for row in rows]
    return Masks(plain.source, plain.size, plain.counts, tuple(row["name"] for row in rows), scores)


def _made_with(model: Any, given: dict[str, Any], text: str | None, everything: bool, multimask: bool | None) -> str:
    """What masks depend on, in words on one line."""
    from percepta.running.fingerprint import made_with

    made = made_with(model)
    asked = (
        "everything"
        if everything
        else f"text {text!r}"
        if text
        else json.dumps({key: value for key, value in given.items() if value})
    )
    answers = {None: "", True: ", all three answers", False: ", the single answer"}[multimask]
    return f"{made['model']} ({made['weights']}, {made['dtype']}), {asked}{answers}"
