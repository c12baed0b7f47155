"""Tracks on disk, written frame by frame and read back: run-length parquet, a CSV table, COCO's JSON for videos.

Order of this file: the writer, one sink for each ending, and the readers.
Unusual: one row is one observation, an object in a frame; an empty mask is no observation and leaves no row. A parquet
file carries what belongs to the whole video as JSON under the key "percepta" of its schema, with a schema number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from percepta.errors import BadInput, BadMedia, MissingExtra, one_of, out_of_range
from percepta.results.boxes import Boxes
from percepta.results.formats.table import safe_cell
from percepta.results.masks import Masks
from percepta.results.tracks import Tracks

SCHEMA = 1
KEY = b"percepta"
AT_ONCE = 4096  # rows of a parquet row group, which are held until they are written
ENDINGS = (".parquet", ".csv", ".json")
COLUMNS = ("frame", "time", "object", "name", "left", "top", "right", "bottom", "area", "score")
Row = dict[str, Any]
"""The columns, and "mask": COCO's compressed run lengths, or None where only boxes are known."""


class Sink(Protocol):
    """Where rows go."""

    def write(self, row: Row) -> None:
        """Take one row."""

    def finish(self) -> None:
        """Make the file whole."""


class TrackWriter:
    """A file that grows frame by frame; made by `open_tracks`. A `with` block leaves a whole file when interrupted.

    Attributes:
        path: of the file.
        size: (height, width) of the frames as seen.
        rate: frames a second, or None.
        rows: observations written so far.
    """

    def __init__(self, path: Path, sink: Sink, size: tuple[int, int], rate: float | None) -> None:
        self.path, self.size, self.rate = path, size, rate
        self.rows = 0
        self._sink: Sink | None = sink

    def add(self, frame: int, objects: Sequence[int], found: Masks | Boxes) -> None:
        """One frame's observations.

        Args:
            frame: 0-based number; frames come in any order, each object of a frame once.
            objects: the object of each row of `found`.
            found: masks or boxes with names and scores; empty masks are left out.

        Raises:
            BadInput: another number of objects, one twice, another size, or a closed file.
        """
        numbers = [int(number) for number in objects]
        if self._sink is None:
            raise BadInput(f"{self.path.name} is closed; open_tracks makes another file.")
        if frame < 0:
            raise out_of_range("frame", frame, "0 or more", self.path.name)
        if len(numbers) != len(found) or len(set(numbers)) != len(numbers):
            raise BadInput(
                f"frame {frame} of {self.path.name} needs one object a row, each once; got {numbers} for {len(found)}."
            )
        if found.size is not None and tuple(found.size) != self.size:
            raise BadInput(f"frame {frame} of {self.path.name} must be of the size {self.size}; got {found.size}.")
        time = None if self.rate is None else frame / self.rate
        for row in _observations(numbers, found):
            self._sink.write({"frame": int(frame), "time": time, **row})
            self.rows += 1

    def close(self) -> None:
        """Finish the file; a second call does nothing."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.finish()

    def __enter__(self) -> TrackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_tracks(path: str | Path, source: str, size: tuple[int, int], rate: float | None = None) -> TrackWriter:
    """A new file for the observations of one video; the ending says the format, and what was there is replaced.

    Args:
        path: ".parquet" (masks as run lengths; memory does not grow with the video), ".csv" (boxes alone; each frame
            is on disk at once), ".json" (COCO's form for videos, as of YouTube-VIS; written at the end, its compressed
            masks are held until then).
        source: name of the video.
        size: (height, width) of the frames as seen.
        rate: frames a second, where known.

    Raises:
        BadInput: another ending. MissingExtra: parquet without pyarrow. OSError: the file cannot be written.
    """
    path = Path(path)
    about = {"schema": SCHEMA, "source": source, "size": [int(size[0]), int(size[1])], "rate": rate}
    sinks: Mapping[str, Any] = {".parquet": ParquetSink, ".csv": CsvSink, ".json": VideoJsonSink}
    if path.suffix.lower() not in sinks:
        raise one_of("the ending of a file of tracks", path.suffix, ENDINGS)
    return TrackWriter(path, sinks[path.suffix.lower()](path, about), (int(size[0]), int(size[1])), rate)


def write_tracks(tracks: Tracks, path: str | Path) -> None:
    """All observations of a video into one file. Raises: as `open_tracks`, BadInput for tracks without a size."""
    size = tracks.boxes.size if tracks.masks is None else tracks.masks.size
    if size is None:
        raise BadInput(f"a file of tracks needs the size of the frames; Tracks of {tracks.source!r} have none.")
    with open_tracks(path, tracks.source, size, tracks.rate) as writer:
        for frame in np.unique(tracks.frames).tolist():
            part = tracks.at(frame)
            writer.add(frame, part.identities.tolist(), part.boxes if part.masks is None else part.masks)


def read_tracks(path: str | Path) -> Tracks:
    """The tracks of a file that `open_tracks` made; of a CSV table the boxes, named after the file.

    Raises:
        BadInput: another ending. BadMedia: a file that is not such a table. MissingExtra: parquet without pyarrow.
    """
    path = Path(path)
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".json": _read_video_json}
    if path.suffix.lower() not in readers:
        raise one_of("the ending of a file of tracks", path.suffix, ENDINGS)
    try:
        about, rows = readers[path.suffix.lower()](path)
        return _tracks(about, rows)
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, BadMedia):
            raise
        raise BadMedia(f"{path.name} must be a file of tracks as percepta writes them; {error}.") from error


def _observations(objects: Sequence[int], found: Masks | Boxes) -> Iterator[Row]:
    """The rows of one frame, without its number and time."""
    boxes = found.boxes() if isinstance(found, Masks) else found
    areas, edges = found.area.tolist(), boxes.xyxy.tolist()
    strings = found.to_strings() if isinstance(found, Masks) else [None] * len(objects)
    for row, (number, text) in enumerate(zip(objects, strings, strict=True)):
        if text is not None and not areas[row]:
            continue
        left, top, right, bottom = edges[row]
        place = {"left": left, "top": top, "right": right, "bottom": bottom, "area": areas[row]}
        score = None if found.scores is None else float(found.scores[row])
        yield {"object": number, "name": found.names[row], **place, "score": score, "mask": text}


def _tracks(about: Mapping[str, Any], rows: Sequence[Row]) -> Tracks:
    """The record of rows in any order."""
    size = None if about["size"] is None else (int(about["size"][0]), int(about["size"][1]))
    names = tuple(row["name"] or "" for row in rows)
    scores = [row["score"] for row in rows]
    known = None if not rows or None in scores else np.array(scores, np.float32)
    xyxy = np.array([[row[edge] for edge in COLUMNS[4:8]] for row in rows], np.float32).reshape(-1, 4)
    boxes = Boxes(about["source"], xyxy, names, known, size)
    texts = [row["mask"] for row in rows if row["mask"] is not None]
    masks = None
    if texts and size is not None:
        if len(texts) != len(rows):
            raise ValueError("some observations have masks and others have none")
        plain = Masks.from_strings(about["source"], size, texts, names)
        masks = Masks(plain.source, size, plain.counts, names, known)
    frames, objects = (np.array([row[key] for row in rows], np.int64) for key in ("frame", "object"))
    return Tracks(about["source"], frames, objects, boxes, masks, about["rate"])


class ParquetSink:
    """Rows as parquet, a row group at a time."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._arrow, parquet = _pyarrow(f"Writing {path.name}")
        number, real = self._arrow.int64(), self._arrow.float32()
        kinds = {"time": self._arrow.float64(), "name": self._arrow.string(), "mask": self._arrow.string()}
        kinds |= {"frame": number, "object": number, "area": self._arrow.float64()}
        fields = [(name, kinds.get(name, real)) for name in (*COLUMNS, "mask")]
        self._schema = self._arrow.schema(fields, metadata={KEY: json.dumps(about)})
        self._file = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[Row] = []

    def write(self, row: Row) -> None:
        self._held.append(row)
        if len(self._held) >= AT_ONCE:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(self._arrow.Table.from_pylist(self._held, self._schema))
            self._held = []


class CsvSink:
    """Rows as text, without masks; an unknown value is an empty cell."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._table = csv.DictWriter(self._file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        self._table.writeheader()
        self._frame = -1

    def write(self, row: Row) -> None:
        if row["frame"] != self._frame:  # the frame before is complete
            self._frame = row["frame"]
            self._file.flush()
        self._table.writerow({name: safe_cell(row[name]) for name in COLUMNS})

    def finish(self) -> None:
        self._file.close()


class VideoJsonSink:
    """COCO for videos: an annotation is an object, with a mask, a box and an area, or null, for each frame.

    The annotation's "id" is the object; per-frame "scores" stand beside their mean "score".
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        path.write_bytes(b"")  # what cannot be written is known at once
        self._path, self._about = path, about
        self._rows: dict[int, list[Row]] = {}

    def write(self, row: Row) -> None:
        self._rows.setdefault(row["object"], []).append(row)

    def finish(self) -> None:
        (height, width), rate = self._about["size"], self._about["rate"]
        length = 1 + max((row["frame"] for rows in self._rows.values() for row in rows), default=-1)
        names = list(dict.fromkeys(rows[0]["name"] for rows in self._rows.values()))
        video = {"id": 1, "file_name": self._about["source"], "height": height, "width": width, "length": length}
        data = {
            "info": {"schema": SCHEMA, "rate": rate},
            "videos": [video],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
            "annotations": [
                _annotation(number, 1 + names.index(rows[0]["name"]), rows, length, (height, width))
                for number, rows in self._rows.items()
            ],
        }
        self._path.write_text(json.dumps(data) + "\n", encoding="utf-8")


def _annotation(number: int, category: int, rows: Sequence[Row], length: int, size: tuple[int, int]) -> Row:
    """One object of COCO's form for videos."""
    masks, boxes, areas, scores = ([None] * length for _ in range(4))
    columns: dict[str, list[Any]] = {"segmentations": masks, "bboxes": boxes, "areas": areas, "scores": scores}
    for row in rows:
        place, left, top = row["frame"], row["left"], row["top"]
        if row["mask"] is not None:
            columns["segmentations"][place] = {"size": list(size), "counts": row["mask"]}
        columns["bboxes"][place] = [left, top, row["right"] - left, row["bottom"] - top]
        columns["areas"][place], columns["scores"][place] = row["area"], row["score"]
    known = [row["score"] for row in rows if row["score"] is not None]
    mean = {"score": float(np.mean(known))} if known else {}
    about = {"id": number, "video_id": 1, "category_id": category, "iscrowd": 0, **dict(zip(("height", "width"), size))}
    return about | mean | columns


def _pyarrow(purpose: str) -> tuple[Any, Any]:
    """pyarrow and its parquet. Raises MissingExtra."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train", purpose) from error
    return pyarrow, parquet


def _read_parquet(path: Path) -> tuple[Row, list[Row]]:
    arrow, parquet = _pyarrow(f"Reading {path.name}")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowInvalid, OSError) as error:
        raise BadMedia(f"{path.name} must be a parquet file of tracks; {error}.") from error
    about = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
    if about.get("schema") != SCHEMA:
        raise BadMedia(
            f"{path.name} must be tracks of the schema {SCHEMA}; its key {KEY.decode()!r} says {about.get('schema')}."
        )
    return about, table.to_pylist()


def _read_csv(path: Path) -> tuple[Row, list[Row]]:
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise BadMedia(f"{path.name} must have the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing.")
        rows = [_typed(row) for row in table]
    times = [row for row in rows if row["time"] and row["frame"]]
    rate = round(times[-1]["frame"] / times[-1]["time"], 3) if times else None
    return {"source": path.stem, "size": None, "rate": rate}, rows


def _typed(row: Mapping[str, str]) -> Row:
    """A row of text as numbers, None for empty cells."""
    found: Row = {name: float(row[name]) if row[name] else None for name in COLUMNS if name != "name"}
    name = row["name"]
    escaped = name[:1] == "'" and name[1:2] in ("=", "+", "-", "@", "\t", "\r")
    return found | {"frame": int(row["frame"]), "object": int(row["object"]), "name": name[escaped:], "mask": None}


def _read_video_json(path: Path) -> tuple[Row, list[Row]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    (video,) = data["videos"]
    names = {category["id"]: category["name"] for category in data["categories"]}
    rows = []
    for one in data["annotations"]:
        for frame, box in enumerate(one["bboxes"]):
            if box is None:
                continue
            left, top, width, height = box
            mask, scores = one["segmentations"][frame], one.get("scores") or [one.get("score")] * len(one["bboxes"])
            rows.append(
                dict(zip(COLUMNS[4:8], (left, top, left + width, top + height)))
                | {"frame": frame, "object": one["id"], "name": names[one["category_id"]], "area": one["areas"][frame]}
                | {"score": scores[frame], "mask": None if mask is None else mask["counts"]}
            )
    size = (video["height"], video["width"])
    return {"source": video["file_name"], "size": size, "rate": data.get("info", {}).get("rate")}, rows
