"""Rows of conversations about pictures, videos or nothing but words (Perception Language Model, arXiv 2504.13180).

Order of this file: a row, reading one, the registry of data sets.
One JSON object a line: `conversations`, a list of {"from": "human" or "assistant", "value": text}, or `text`, an answer
to nothing; `image` (a path or several), `video` (a path, with `start_time`, `end_time` and `bbox_map` if wanted), or
neither; `bbox` (boxes x, y, w, h), `width` and `height` where marks such as `<|bbox0|>` stand in the text.
Unusual: what is wrong is said with file, line and field, and a field that is nearly one of these is taken for a slip;
the official code skips such a row, and after a line that is no JSON the whole file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from percepta.errors import BadInput, nearest
from percepta.media.regions import with_regions

FIELDS = (
    "conversations", "text", "image", "video", "start_time", "end_time", "bbox_map", "bbox", "width", "height",
)  # fmt: skip
ROLES = ("human", "assistant")
_CHUNK_FILE = re.compile(r".*chunk\.\d+.*\.jsonl")
_VIDEO_FIELDS = ("start_time", "end_time", "bbox_map")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row of a data set.

    Attributes:
        turns: (role, text) pairs, role "human" or "assistant"; regions stand in words.
        images: files of pictures.
        video: file of a video, or None.
        start, end: of the clip, in seconds of the video; None means its ends.
        boxes: frame number of the video → (left, top, right, bottom), drawn in red.
        place: "FILE, line N", for messages.
        source: the data set's name, or "".
    """

    turns: tuple[tuple[str, str], ...]
    images: tuple[Path, ...] = ()
    video: Path | None = None
    start: float | None = None
    end: float | None = None
    boxes: Mapping[int, tuple[float, float, float, float]] = field(default_factory=dict)
    place: str = ""
    source: str = ""

    @property
    def kind(self) -> str:
        """ "image", "multi_image", "video" or "text"."""
        if self.video is not None:
            return "video"
        return ("text", "image")[len(self.images)] if len(self.images) < 2 else "multi_image"


@dataclass(frozen=True, slots=True)
class ConversationData:
    """A data set as a registry names it.

    Attributes:
        name: as mixtures call it.
        files: the jsonl files, in order.
        root: folder that the paths of pictures and videos are relative to.
    """

    name: str
    files: tuple[Path, ...]
    root: Path


def parse_row(line: str | bytes, root: Path = Path(), place: str = "a row", source: str = "") -> Conversation:
    """A row from its line.

    Args:
        root: folder that paths are relative to.
        place: what messages call the row, such as "train.jsonl, line 3".
        source: the data set's name.

    Raises: BadInput with the place and the field.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is one of the former
        raise BadInput(f"{place}: must be a JSON object; {error}.") from None
    if not isinstance(row, dict):
        raise BadInput(f"{place}: must be a JSON object; got {type(row).__name__}.")
    reader = _Row(row, place)
    reader.check_names()
    turns = reader.turns()
    images, video = reader.paths(root)
    start, end, boxes = reader.clip()
    return Conversation(turns, images, video, start, end, boxes, place, source)


class _Row:
    """One row, field by field."""

    def __init__(self, row: Mapping[str, Any], place: str) -> None:
        self.row, self.place = row, place

    def wrong(self, name: str, allowed: str, given: Any = ...) -> BadInput:
        came = "" if given is ... else f"; got {_short(given)}"
        return BadInput(f"{self.place}, field {name}: must be {allowed}{came}.")

    def check_names(self) -> None:
        """Other fields are let through, unless they look like a slip of the pen."""
        for name in self.row:
            if name in FIELDS:
                continue
            close = nearest(name, [known for known in FIELDS if known not in self.row], count=1)
            if close and (name.lower() == close[0] or _alike(name.lower(), close[0])):
                raise BadInput(f"{self.place}, field {name}: is not known; did you mean {close[0]!r}?")
        if "image" in self.row and "video" in self.row:
            raise BadInput(f"{self.place}, field video: must not stand beside image; a row shows one or the other.")

    def turns(self) -> tuple[tuple[str, str], ...]:
        if "conversations" not in self.row:
            if not isinstance(self.row.get("text"), str):
                raise self.wrong("conversations", "there, or else text, a string", self.row.get("text"))
            found = [("human", ""), ("assistant", self._whole("text", self.row["text"]))]
        else:
            given = self.row["conversations"]
            if not isinstance(given, list) or not given:
                raise self.wrong("conversations", "a list of turns, at least one", given)
            found = [self._turn(turn, number) for number, turn in enumerate(given)]
        boxes = self._regions()
        if boxes is None:
            return tuple(found)
        try:
            return tuple((role, with_regions(text, *boxes)) for role, text in found)
        except BadInput as error:
            raise BadInput(f"{self.place}, field bbox: {error}") from None

    def _turn(self, turn: Any, number: int) -> tuple[str, str]:
        name = f"conversations[{number}]"
        if not isinstance(turn, dict):
            raise self.wrong(name, 'an object with "from" and "value"', turn)
        role, text = turn.get("from"), turn.get("value")
        if role not in ROLES:
            raise self.wrong(f"{name}.from", f"one of {', '.join(ROLES)}", role)
        if not isinstance(text, str):
            raise self.wrong(f"{name}.value", "a string", text)
        return role, self._whole(f"{name}.value", text)

    def _whole(self, name: str, text: str) -> str:
        """A text that can be written down: JSON may hold halves of letters, which no tokenizer takes."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.wrong(name, "whole letters", text[error.start : error.end]) from None
        return text

    def _regions(self) -> tuple[list[list[float]], float, float] | None:
        if "bbox" not in self.row:
            return None
        for name in ("width", "height"):
            value: Any = self.row.get(name)
            if not _is_number(value) or value <= 0:
                raise self.wrong(name, "the picture's size in pixels, as bbox is given", value)
        boxes = self.row["bbox"]
        if not isinstance(boxes, list) or not all(_are_numbers(box, 4) for box in boxes):
            raise self.wrong("bbox", "a list of boxes, each [x, y, w, h]", boxes)
        return boxes, float(self.row["width"]), float(self.row["height"])

    def paths(self, root: Path) -> tuple[tuple[Path, ...], Path | None]:
        if "video" in self.row:
            video = self.row["video"]
            if not isinstance(video, str) or not video:
                raise self.wrong("video", "the path of a file", video)
            return (), root / video
        if "image" not in self.row:
            return (), None
        images = self.row["image"]
        images = [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not images or not all(isinstance(path, str) and path for path in images):
            raise self.wrong("image", "the path of a file, or a list of them", self.row["image"])
        return tuple(root / path for path in images), None

    def clip(self) -> tuple[float | None, float | None, dict[int, tuple[float, float, float, float]]]:
        if "video" not in self.row:
            stray = next((name for name in _VIDEO_FIELDS if self.row.get(name) is not None), None)
            if stray is not None:
                raise BadInput(f"{self.place}, field {stray}: needs a video in the same row; there is none.")
            return None, None, {}
        for name in ("start_time", "end_time"):
            value: Any = self.row.get(name)
            if value is not None and (not _is_number(value) or value < 0):
                raise self.wrong(name, "seconds, 0 or more", value)
        return self.row.get("start_time"), self.row.get("end_time"), self._boxes()

    def _boxes(self) -> dict[int, tuple[float, float, float, float]]:
        given = self.row.get("bbox_map") or {}
        if not isinstance(given, dict):
            raise self.wrong("bbox_map", "an object from frame numbers to boxes", given)
        boxes: dict[int, tuple[float, float, float, float]] = {}
        for frame, box in given.items():
            if not frame.isdecimal():
                raise self.wrong("bbox_map", "an object whose names are frame numbers", frame)
            if box is not None and not _are_numbers(box, 4):
                raise self.wrong(f"bbox_map.{frame}", "[x1, y1, x2, y2] or null", box)
            if box is not None:
                boxes[int(frame)] = (box[0], box[1], box[2], box[3])
        return boxes


def read_conversations(path: str | Path, root: str | Path | None = None) -> Iterator[Conversation]:
    """The rows of a jsonl file in order, each checked as it is reached; empty lines are passed over.

    Args:
        root: folder that paths in it are relative to; by default the file's own.

    Raises: BadInput.
    """
    path = Path(path).expanduser()
    folder = path.parent if root is None else Path(root).expanduser()
    for number, line in numbered_lines(path):
        yield parse_row(line, folder, f"{path}, line {number}")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers from 1. Raises: BadInput for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from None


def read_registry(path: str | Path) -> dict[str, ConversationData]:
    """The data sets of a YAML file: name → {annotation: a jsonl file, or a folder of `*chunk.N*.jsonl`; root_dir}.

    Relative paths start at the registry's own folder. A `root_dir` that is left out is the annotation's folder.

    Raises: BadInput with the file, the name and the field.
    """
    path = Path(path).expanduser()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{path} must be a readable YAML of data sets; {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path} must name data sets, each with an annotation; it holds none.")
    return {str(name): _data_set(path, str(name), entry) for name, entry in content.items()}


def _data_set(path: Path, name: str, entry: Any) -> ConversationData:
    if not isinstance(entry, dict) or not isinstance(entry.get("annotation"), str):
        raise BadInput(f"{path}, data set {name}, field annotation: must be a jsonl file or a folder of them.")
    for key, value in entry.items():
        if key not in ("annotation", "root_dir"):
            close = nearest(str(key), ("annotation", "root_dir"), count=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; annotation and root_dir are."
            raise BadInput(f"{path}, data set {name}, field {key}: is not known{hint}")
        if value is not None and not isinstance(value, str):
            raise BadInput(f"{path}, data set {name}, field {key}: must be a path; got {_short(value)}.")
    annotation = path.parent / Path(entry["annotation"]).expanduser()
    root = path.parent / Path(entry["root_dir"]).expanduser() if entry.get("root_dir") else None
    return conversation_data(annotation, name, root)


def conversation_data(annotation: str | Path, name: str = "", root: str | Path | None = None) -> ConversationData:
    """A data set from its jsonl file, or its folder of `*chunk.N*.jsonl` files. Raises: BadInput for neither."""
    annotation = Path(annotation).expanduser()
    folder = annotation.parent
    files: Sequence[Path] = (annotation,)
    if annotation.is_dir():
        folder = annotation
        files = sorted(file for file in annotation.iterdir() if _CHUNK_FILE.fullmatch(file.name))
        if not files:
            raise BadInput(f"the folder {annotation} must hold files such as train.chunk.00.jsonl; it has none.")
    elif not annotation.is_file():
        raise BadInput(f"the annotation {annotation} does not exist; name a jsonl file or a folder of them.")
    return ConversationData(name or annotation.stem, tuple(files), Path(root).expanduser() if root else folder)


def _alike(given: str, known: str) -> bool:
    """Whether two names differ by a letter or two: one more or less, or two in the wrong order."""
    if abs(len(given) - len(known)) > 1 or min(len(given), len(known)) < 4:
        return False
    if len(given) == len(known):
        apart = [place for place, (one, other) in enumerate(zip(given, known, strict=True)) if one != other]
        return len(apart) < 2 or (len(apart) == 2 and sorted(given) == sorted(known))
    longer, shorter = sorted((given, known), key=len, reverse=True)
    return any(longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(_is_number(value) for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
