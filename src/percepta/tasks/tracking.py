"""What tracking leaves behind: the result of one frame, all results on disk, and the files that people take away.

Order of this file: one frame, the spool, the files.
Unusual: every result goes to disk at once, one line of JSON a frame, whatever else is written; memory does not grow
with the video, and whatever was interrupted can be finished from there.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from percepta.errors import MissingExtra
from percepta.media import Frames, VideoParts, draw_objects
from percepta.results import Boxes, Masks, Tracks
from percepta.results.formats.tracks import SCHEMA as TRACKS_SCHEMA
from percepta.results.formats.tracks import CsvSink, ParquetSink, TrackWriter, VideoJsonSink

SCORE_KIND = "probability that the object is seen (sigmoid of the model's logit, not calibrated)"
RATE = 25.0  # of the overlay of frames that have no times
TABLE, PARQUET, COCO, OVERLAY = "tracks.csv", "masks.parquet", "masks.json", "overlay.mp4"
SESSION = "session"  # the folder for going on, inside of the folder of results


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """The objects that are seen in one frame.

    Attributes:
        source: name of the video.
        frame: its number, from 0.
        time: in seconds after the first one, or None.
        objects: M numbers.
        masks: M masks, none of them empty; the scores are probabilities that the object is seen, not calibrated.
        failure: why the frame could not be read, or "".
    """

    source: str
    frame: int
    time: float | None
    objects: tuple[int, ...]
    masks: Masks
    failure: str = ""

    @property
    def boxes(self) -> Boxes:
        """The tight box of each object."""
        return self.masks.boxes()

    def mask_of(self, number: int) -> Masks:
        """The mask of one object as Masks of one row, or of none where it is not seen."""
        return self.masks.select([row for row, other in enumerate(self.objects) if other == number])

    def only(self, numbers: Container[int]) -> TrackedFrame:
        """The same with some of the objects alone."""
        if all(number in numbers for number in self.objects):
            return self
        rows = [row for row, number in enumerate(self.objects) if number in numbers]
        return replace(self, objects=tuple(self.objects[row] for row in rows), masks=self.masks.select(rows))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, frame, time, size, objects (number, name, xyxy, area, score, counts), failure."""
        rows, boxes, areas = self.masks.to_dict()["masks"], self.boxes.xyxy.tolist(), self.masks.area.tolist()
        objects = [
            {"object": number, "name": row["name"], "xyxy": box, "area": area, "score": row.get("score")}
            | {"counts": row["counts"]}
            for number, row, box, area in zip(self.objects, rows, boxes, areas, strict=True)
        ]
        found = {"source": self.source, "frame": self.frame, "time": self.time, "size": list(self.masks.size)}
        return found | {"objects": objects, "score_kind": SCORE_KIND, "failure": self.failure}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> TrackedFrame:
        """The inverse of `to_dict`."""
        rows, (height, width) = entry["objects"], entry["size"]
        plain = Masks.from_strings(entry["source"], (height, width), [row["counts"] for row in rows])
        scores = np.array([row["score"] for row in rows], np.float32)
        masks = Masks(plain.source, plain.size, plain.counts, tuple(row["name"] for row in rows), scores)
        numbers = tuple(int(row["object"]) for row in rows)
        return cls(entry["source"], int(entry["frame"]), entry["time"], numbers, masks, entry["failure"])

    def __len__(self) -> int:
        return len(self.objects)

    def __repr__(self) -> str:
        when = "" if self.time is None else f" ({self.time:.2f} s)"
        return f"TrackedFrame({self.source!r}: frame {self.frame}{when}, objects {list(self.objects)})"


class Spool:
    """Results by frame in one file that only grows; a later result of a frame replaces the earlier one.

    Args:
        path: the file; what whole lines it holds are taken up.
        length: take up so many bytes of it at most; the rest is cut off.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._places = array("q")
        self._file = path.open("a+b")
        self._take_up(length)

    def put(self, result: TrackedFrame) -> None:
        """Add a result."""
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(result.to_dict()).encode() + b"\n")
        self._note(result.frame, place)

    def get(self, frame: int) -> TrackedFrame | None:
        """The latest result of a frame, or None."""
        if not 0 <= frame < len(self._places) or self._places[frame] < 0:
            return None
        self._file.seek(self._places[frame])
        return TrackedFrame.from_dict(json.loads(self._file.readline()))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[TrackedFrame]:
        """The results of the frames from `start` to below `stop`, in order."""
        for frame in range(start, len(self._places) if stop is None else min(stop, len(self._places))):
            result = self.get(frame)
            if result is not None:
                yield result

    def flush(self) -> None:
        """Make sure that all of it is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return self._file.seek(0, os.SEEK_END)

    def move(self, path: Path) -> None:
        """Go on in another file, which gets all that was there; the old one stays as it is."""
        if path.resolve() == self.path.resolve():
            return
        self._file.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path, path)
        self.path, self._file = path, path.open("a+b")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return sum(place >= 0 for place in self._places)

    def _take_up(self, length: int | None) -> None:
        self._file.seek(0)
        place = 0
        for line in iter(self._file.readline, b""):
            if length is not None and place + len(line) > length:
                break
            try:
                frame = int(json.loads(line if line.endswith(b"\n") else b"")["frame"])
            except (ValueError, KeyError, TypeError):
                break  # cut off in the middle
            self._note(frame, place)
            place += len(line)
        self._file.truncate(place)

    def _note(self, frame: int, place: int) -> None:
        while len(self._places) <= frame:
            self._places.append(-1)
        self._places[frame] = place


def tracks_of(results: Iterator[TrackedFrame], source: str, size: tuple[int, int], rate: float | None) -> Tracks:
    """All results as one record in memory."""
    frames: list[int] = []
    objects: list[int] = []
    counts: list[Any] = []
    names: list[str] = []
    scores: list[float] = []
    for result in results:
        frames += [result.frame] * len(result)
        objects += result.objects
        counts += result.masks.counts
        names += result.masks.names
        scores += [] if result.masks.scores is None else result.masks.scores.tolist()
    masks = Masks(source, size, tuple(counts), tuple(names), np.array(scores, np.float32))
    numbers = np.array(frames, np.int64), np.array(objects, np.int64)
    return Tracks(source, *numbers, masks.boxes(), masks, rate)


class TrackFiles:
    """A folder with a table, masks and an overlay video, which grows frame by frame in order.

    The table grows at once and the overlay part by part; `finish` writes the masks from the spool.

    Args:
        folder: is made where it is not there.
        frames: of the video; damaged frames show the picture that stands in for them.
        overlay: whether to paint a video.

    Attributes:
        missing: why the masks are not written as parquet, or "".
    """

    def __init__(self, folder: Path, frames: Frames, overlay: bool = True) -> None:
        self.folder, self._frames, self.missing = folder, frames, ""
        folder.mkdir(parents=True, exist_ok=True)
        self._table = self._open(TABLE)
        rate = frames.rate or RATE
        self._parts = VideoParts(folder / SESSION / "overlay", min(rate, 1000.0)) if overlay else None

    def begin(self, before: Iterator[TrackedFrame], painted: int) -> None:
        """Take up results that are there; those below the number `painted` are on the overlay already."""
        if self._parts is not None:
            self._parts.drop_from(painted)
        for result in before:
            self.add(result, paint=result.frame >= painted)

    def add(self, result: TrackedFrame, paint: bool = True) -> None:
        """Add the next frame."""
        self._table.add(result.frame, result.objects, result.masks)
        if paint and self._parts is not None:
            picture = draw_objects(self._frames[result.frame], result.masks, result.objects)
            self._parts.add(picture, result.frame, result.time)

    def painted(self, start: int, exact: bool) -> int:
        """The number below which the overlay can stay as it is, where a run goes on at `start`; `exact` says that the
        last part ends there."""
        if self._parts is None:
            return start
        begins = [number for number in self._parts.begins if number < start]
        return 0 if not begins else start if exact else begins[-1]

    def cut(self) -> None:
        """Make sure that what was added is complete on disk."""
        if self._parts is not None:
            self._parts.cut()

    def finish(self, results: Iterator[TrackedFrame], complete: bool) -> list[Path]:
        """Write the masks and join the overlay; returns the files. Once `complete`, its parts are thrown away."""
        self._table.close()
        written = [self.folder / TABLE]
        writers = [self._open(COCO)]
        try:
            writers.append(self._open(PARQUET))
        except MissingExtra as error:
            self.missing = str(error)
        for result in results:
            for writer in writers:
                writer.add(result.frame, result.objects, result.masks)
        for writer in writers:
            writer.close()
            written.append(writer.path)
        if self._parts is not None:
            self._parts.cut()
            if self._parts.parts:
                written.append(self._parts.join(self.folder / OVERLAY))
            if complete:
                shutil.rmtree(self._parts.folder, ignore_errors=True)
        return written

    def _open(self, name: str) -> TrackWriter:
        frames, path = self._frames, self.folder / name
        about = {"schema": TRACKS_SCHEMA, "source": frames.name, "size": list(frames.size), "rate": frames.rate}
        return TrackWriter(path, _Timed(_SINKS[name](path, about), frames), frames.size, frames.rate)


class _Timed:
    """Rows with the times that the video itself says, which need not be even."""

    def __init__(self, sink: Any, frames: Frames) -> None:
        self._sink, self._frames = sink, frames

    def write(self, row: Any) -> None:
        self._sink.write({**row, "time": self._frames.time(row["frame"])})

    def finish(self) -> None:
        self._sink.finish()


_SINKS: dict[str, Any] = {TABLE: CsvSink, PARQUET: ParquetSink, COCO: VideoJsonSink}
