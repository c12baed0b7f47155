"""PLM-VideoBench as it is published (arXiv 2504.13180, section 5.1): rows of five tasks, and boxes of what is meant.

Order of this file: rows, their files, boxes, the frames that are shown, where videos lie.
Unusual: all numbers of frames and all boxes are at 6 frames a second, whatever the videos have; boxes are found by the
video and a masklet number that is not SA-V's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from PIL import Image

from percepta.errors import BadInput, BadMedia, MissingExtra, one_of, out_of_range
from percepta.media import VideoReader
from percepta.media.clip_frames import frame_indices
from percepta.media.regions import red_box

TASKS = ("fgqa", "sgqa", "rcap", "rtloc", "rdcap")
"""Fine-grained questions, smart-glasses questions, region captions, localisation, dense captions."""
REGION_TASKS = ("rcap", "rtloc", "rdcap")
RATE = 6  # frames a second that all numbers are in
PUBLISHED: dict[tuple[str, str], tuple[int, ...]] = {
    ("fgqa", "test"): (10_976, 11_389),
    ("sgqa", "test"): (665,),
    ("rcap", "test"): (10_060, 9_490),
    ("rcap", "val"): (4_624, 4_283),
    ("rtloc", "test"): (7_910,),
    ("rdcap", "test"): (2_620, 2_470),
    ("rdcap", "val"): (2_551, 2_356),
}
"""Rows of each task and split in the revisions of the data set, the newest first."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happens from one frame to another, both included, at 6 frames a second."""

    start: int
    end: int
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a task; fields that its task does not have are empty.

    Attributes:
        task: one of `TASKS`.
        uid: of the row.
        video: name of the file.
        question, answer: of fgqa and sgqa.
        options: of fgqa, in the order of their letters; `answer` is one of them.
        group: of fgqa, the question whose binary rows belong together.
        masklet: of region tasks, what the boxes are found by, beside the video.
        total_frames: of region tasks, the length of the video at 6 frames a second.
        stretches: of region tasks, what happens when; one, or of rdcap all.
        facts: what scores are broken down by, such as "question type" and "domain".
        clip: of fgqa, start and end in seconds of the source video.
    """

    task: str
    uid: str
    video: str = ""
    question: str = ""
    answer: str = ""
    options: tuple[str, ...] = ()
    group: str = ""
    masklet: int | None = None
    total_frames: int = 0
    stretches: tuple[Stretch, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    clip: tuple[float, float] | None = None

    @property
    def gold(self) -> str:
        """The right option as the scorer compares it: "(B) text"; of other tasks the answer or the only caption."""
        if self.options:
            return f"({ascii_uppercase[self.options.index(self.answer)]}) {self.answer}"
        return self.answer or (self.stretches[0].caption if len(self.stretches) == 1 else "")


def read_rows(place: str | Path, task: str, split: str = "test") -> tuple[Row, ...]:
    """The rows of a task, in the order of their files.

    Args:
        place: a folder as the hub lays it out (a sub-folder a task, jsonl or parquet), or one file of rows.
        split: "test", or "val" of the region tasks.

    Raises:
        BadInput: an unknown task, or no file of it. BadMedia: a row that lacks a field or holds another kind of value,
        by file, row and field; a number twice. MissingExtra: parquet without pyarrow.
    """
    if task not in TASKS:
        raise one_of("task", task, TASKS, owner="PLM-VideoBench")
    rows: list[Row] = []
    for path in _row_files(Path(place).expanduser(), task, split):
        for number, record in records_of(path):
            rows.append(row_of(task, record, f"{path.name} row {number}"))
    seen: set[str] = set()
    for row in rows:
        if row.uid in seen:
            raise BadMedia(f"rows of {task} must have numbers of their own; {row.uid} comes twice.")
        seen.add(row.uid)
    return tuple(rows)


def _row_files(place: Path, task: str, split: str) -> list[Path]:
    if place.is_file():
        return [place]
    near = [*place.glob(f"{task}/**/*"), *place.glob(f"*{task}*")]
    found = [path for path in near if path.suffix in (".jsonl", ".parquet") and path.is_file()]
    fitting = sorted({path for path in found if re.search(rf"(^|[^a-z]){split}([^a-z]|$)", path.stem)})
    lines = [path for path in fitting if path.suffix == ".jsonl"]
    if not fitting:
        raise BadInput(
            f"{str(place)!r} must hold rows of {task}: {task}/...{split}....jsonl or .parquet; "
            f"{f'of the split {split} ' if found else ''}there are none."
        )
    return lines or fitting


def records_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a jsonl or parquet file with their numbers from 1. Raises: BadMedia, MissingExtra."""
    if path.suffix == ".parquet":
        yield from _parquet_records(path)
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # a UnicodeDecodeError is one of the former
                shown = line.decode("utf-8", "replace").strip()[:60]
                raise BadMedia(f"{path.name} line {number} must be JSON; got {shown!r}.") from None
            if not isinstance(record, dict):
                raise BadMedia(f"{path.name} line {number} must be a JSON object; got {type(record).__name__}.")
            yield number, record


def _parquet_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train", f"Reading {path.name}") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as opened:
            for batch in opened.iter_batches(256, use_threads=False):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise BadMedia(
            f"{path.name} must be readable as parquet; it is not ({' '.join(str(error).split())[:120]})."
        ) from None


def row_of(task: str, record: Mapping[str, Any], where: str = "a row") -> Row:
    """A record of the hub as a row. Raises BadMedia for a missing field or another kind of value."""
    fields = _Fields(record, where)
    uid = fields.text("uid")
    if task in REGION_TASKS:
        total = fields.number("total_frames", least=1)
        many = fields.of("dense_captions", list) if task == "rdcap" else [record]
        if not many:
            raise BadMedia(f"{where}: dense_captions must not be empty.")
        stretches = []
        for number, part in enumerate(many):
            if not isinstance(part, Mapping):
                raise BadMedia(f"{where}: dense_captions must hold objects; number {number} is {type(part).__name__}.")
            inner = _Fields(part, f"{where}, caption {number}" if task == "rdcap" else where)
            start, end = inner.number("start_frame"), inner.number("end_frame")
            if end < start:
                raise BadMedia(f"{inner.where}: end_frame must not lie before start_frame; got {start} to {end}.")
            if end > total:
                raise BadMedia(f"{inner.where}: end_frame must be at most total_frames, {total}; got {end}.")
            stretches.append(Stretch(start, end, inner.text("caption")))
        masklet = fields.number("masklet_id")
        return Row(task, uid, fields.text("video"), masklet=masklet, total_frames=total, stretches=tuple(stretches))
    question, answer, video = fields.text("question"), fields.text("answer"), fields.text("video")
    if task == "sgqa":
        domain = record.get("domain")
        return Row(task, uid, video, question, answer, facts={"domain": str(domain)} if domain else {})
    options = _options(fields)
    if answer not in options:
        raise BadMedia(f"{where}: answer must be one of the options; got {answer!r}.")
    facts, clip = _noted(record.get("metadata"))
    return Row(task, uid, video, question, answer, options, fields.text("qa_uid"), facts=facts, clip=clip)


def _options(fields: _Fields) -> tuple[str, ...]:
    given = fields.record.get("options")
    if isinstance(given, Mapping):
        numbers = {key: key.rpartition("_")[2] for key, value in given.items() if value is not None}
        if strange := [key for key, number in numbers.items() if not number.isdecimal()]:
            raise BadMedia(f"{fields.where}: options must be named option_0, option_1 ...; got {strange[0]!r}.")
        given = [given[key] for key in sorted(numbers, key=lambda key: int(numbers[key]))]
    if not isinstance(given, list) or not 2 <= len(given) <= len(ascii_uppercase):
        raise BadMedia(f"{fields.where}: options must be 2 to {len(ascii_uppercase)} texts; got {str(given)[:60]}.")
    return tuple(map(str, given))


def _noted(metadata: Any) -> tuple[dict[str, str], tuple[float, float] | None]:
    """What scores are broken down by, and the clip's times in its source video."""
    if not isinstance(metadata, Mapping):
        return {}, None
    names = {"question type": "question_type", "domain": "source_domain", "data set": "source_dataset"}
    facts = {name: str(metadata[key]) for name, key in names.items() if metadata.get(key)}
    ends = metadata.get("source_start_time"), metadata.get("source_end_time")
    if any(not isinstance(end, int | float) for end in ends):
        return facts, None
    return facts, (float(ends[0]), float(ends[1]))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Fields:
    """A record whose fields are checked as they are read."""

    record: Mapping[str, Any]
    where: str

    def of(self, name: str, kind: type) -> Any:
        value = self.record.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            what = "missing" if value is None else f"{type(value).__name__}, {str(value)[:40]!r}"
            raise BadMedia(f"{self.where}: {name} must be {kind.__name__}; it is {what}.")
        return value

    def text(self, name: str) -> str:
        """Texts, and numbers of rows, which some tasks write as numbers."""
        value = self.record.get(name)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else str(self.of(name, str))

    def number(self, name: str, least: int = 0) -> int:
        value = int(self.of(name, int))
        if value < least:
            raise BadMedia(f"{self.where}: {name} must be {least} or more; got {value}.")
        return value


Box = tuple[float, float, float, float]
Boxes = dict[int, Box]
"""Left, top, right, bottom in pixels by frame at 6 frames a second; frames that do not show it are not there."""


def read_boxes(
    place: str | Path, split: str = "test", wanted: Collection[tuple[str, int]] | None = None
) -> dict[tuple[str, int], Boxes]:
    """The boxes of region tasks by video and masklet.

    Args:
        place: the folder, with metadata/metadata_test.jsonl (or _val), or that file itself.
        wanted: keep only these.

    Raises: BadInput where the file is not there; BadMedia for a record that cannot be used, by line and field.
    """
    place = Path(place).expanduser()
    path = place if place.is_file() else place / "metadata" / f"metadata_{split}.jsonl"
    if not path.is_file():
        raise BadInput(
            f"region tasks need their boxes, {path.parent.name}/{path.name} in {str(place)!r}; it is not there."
        )
    found: dict[tuple[str, int], Boxes] = {}
    for number, record in records_of(path):
        fields = _Fields(record, f"{path.name} line {number}")
        key = fields.text("video"), fields.number("masklet_id")
        if wanted is None or key in wanted:
            found[key] = _boxes(fields)
    return found


def _boxes(fields: _Fields) -> Boxes:
    boxes: Boxes = {}
    for frame, box in fields.of("bbox", dict).items():
        if not box:
            continue
        try:
            left, top, right, bottom = map(float, box)
            if not math.isfinite(left + top + right + bottom):
                raise ValueError
            boxes[int(frame)] = (left, top, right, bottom)
        except (TypeError, ValueError):
            raise BadMedia(
                f"{fields.where}: bbox must hold four numbers by frame; got {frame!r}: {str(box)[:60]}."
            ) from None
    return boxes


def sampled_frames(total: int, count: int = 32, repeat: bool = True) -> list[int]:
    """The numbers of the `count` frames that stand for a video: even steps from first to last, halves to even.

    Args:
        total: frames of the video, 1 or more.
        repeat: give a shorter video's frames several times, so that there are always `count` (region tasks, whose
            answers are numbers of these); False gives each once.

    Raises: BadInput for a number below 1.
    """
    for what, value in (("frames of a video", total), ("count", count)):
        if value < 1:
            raise out_of_range(what, value, "1 or more", owner="sampled_frames")
    if total <= count and not repeat:
        return list(range(total))
    step = (total - 1) / (count - 1) if count > 1 else 0.0
    return [round(number * step) for number in range(count)]


def frames_for(row: Row, reader: VideoReader, count: int = 32) -> dict[int, Image.Image]:
    """The frames that a task shows of a video, by number; only these are decoded. A number may come twice.

    Region tasks: even steps, numbered at 6 frames a second; of a faster video (24) every fourth frame counts. Questions
    of smart glasses: even steps, each once. Fine-grained questions: one a second, thinned to `count`, as the Perception
    Language Model loads videos.

    Raises: BadMedia for frames that cannot be read.
    """
    step = stride_of(reader.rate) if row.task in REGION_TASKS else 1
    if row.task == "fgqa":
        numbers = frame_indices(reader.frames, reader.rate, count)
    else:
        numbers = sampled_frames(-(-reader.frames // step), count, repeat=row.task in REGION_TASKS)
    return dict(zip(numbers, reader.read([number * step for number in numbers]), strict=True))


def shown_frames(
    row: Row, pictures: Mapping[int, Image.Image], boxes: Mapping[int, Box], total: int, count: int = 32
) -> list[Image.Image]:
    """What a model sees: the frames, with a red box of 4 pixels on those that have one, where a region is meant.

    Args:
        pictures: of `frames_for`.
        boxes: by number of the frame at 6 frames a second.
        total: frames of the video at 6 frames a second.
    """
    if row.task not in REGION_TASKS:
        return list(pictures.values())
    return [
        red_box(pictures[number], boxes[number]) if number in boxes else pictures[number]
        for number in sampled_frames(total, count)
    ]


def stride_of(rate: float) -> int:
    """How many frames of a video make one at 6 frames a second; 1 for slower ones."""
    return max(1, round(rate / RATE))


class VideoPlaces:
    """Where videos lie: by the name of a row under a folder, at any depth.

    Args:
        folder: searched once, when a name is not where it is looked for first.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self._known: dict[str, Path] | None = None

    def __call__(self, row: Row) -> Path | None:
        """The file of a row; None where there is none."""
        names = [row.video] if Path(row.video).suffix else [row.video, f"{row.video}.mp4"]
        for name in names:
            for near in (self.folder / name, self.folder / "videos" / name, self.folder / row.task / "videos" / name):
                if near.is_file():
                    return near
        if self._known is None:
            endings = (".mp4", ".webm", ".mkv", ".mov", ".avi")
            self._known = {path.name: path for path in sorted(self.folder.rglob("*")) if path.suffix.lower() in endings}
        return next((self._known[Path(name).name] for name in names if Path(name).name in self._known), None)
