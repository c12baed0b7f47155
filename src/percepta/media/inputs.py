"""From whatever people hand over to a stream of pictures and videos: files, folders, globs, lists, names on stdin.

Unusual: nothing is decoded here and nothing stops the stream. What cannot be used comes out as a `Failure` in its
place, with one sentence; the rest goes on.
"""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from percepta.errors import BadInput
from percepta.media.pictures import DECODER_ERRORS, identify, unreadable
from percepta.media.sniffing import Kind, kind_of, name_of, picture_format, read_head
from percepta.results.failures import Failure

# Files of these kinds lie beside pictures everywhere; in a folder they are passed over without a word.
COMPANIONS = frozenset(
    [
        ".txt",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".md",
        ".xml",
        ".ini",
        ".db",
        ".html",
        ".htm",
        ".py",
        ".yaml",
        ".yml",
        ".toml",
        ".log",
        ".npy",
        ".npz",
        ".parquet",
        ".safetensors",
        ".pdf",
        ".zip",
        ".aae",
        ".xmp",
        ".thm",
        ".index",
        ".lnk",
        ".url",
        ".srt",
        ".vtt",
        ".css",
        ".js",
    ]
)


# What programs leave in folders of pictures: thumbnails, packages, what was thrown away. Passed over like hidden files.
LEFTOVERS = frozenset(["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "node_modules", "__pycache__", "Thumbs.db"])


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One picture or video to be read.

    Attributes:
        name: how messages and results call it; the path for files.
        kind: "picture" or "video", told by content.
        path: where it lies, or None for data that came in memory.
        data: PIL picture, array, bytes or video reader, or None for files.
    """

    name: str
    kind: Kind
    path: Path | None = None
    data: Any = None

    @property
    def thing(self) -> Any:
        """What `open_picture` or `VideoReader` takes: the path, else the data."""
        return self.data if self.path is None else self.path


Classify = Callable[[Path, str], Source | Failure]


def collect(inputs: Any, exclude: Sequence[str] = (), classify: Classify | None = None) -> Iterator[Source | Failure]:
    """Every picture and video in `inputs`, lazily and in a stable order.

    Args:
        inputs: a file; a folder (searched with its sub-folders, sorted by name, hidden files skipped, links followed
            but every folder visited once); a glob such as "photos/**/*.jpg"; "-" for names on standard input, one a
            line or NUL-separated; bytes, a PIL picture, an array (H, W, C) or a stack (N, H, W, C); or an iterable of
            these. "~" is expanded.
        exclude: shell patterns; files and folders with such a name, or such a path (below the folder that was given),
            are passed over. Inside folders LEFTOVERS always are.
        classify: what a file is, from its path and name; by default `classify_file`, which reads its first bytes.

    Yields:
        Source for what looks like a picture or video by its first bytes, Failure for what does not or cannot be read.
        Inside folders, files with a well-known other extension (.txt, .json ...) are passed over.

    Raises:
        BadInput: the whole input is empty, or is of a type that holds no pictures.
    """
    if isinstance(inputs, dict | int | float | bool) or inputs is None or not (_is_item(inputs) or _iterable(inputs)):
        raise BadInput(
            "inputs must be a file, folder, glob, '-', picture, array or an iterable of these; "
            f"got {type(inputs).__name__}."
        )
    return _collect(inputs, _Rules(exclude, classify or classify_file))


def _collect(inputs: Any, rules: _Rules) -> Iterator[Source | Failure]:
    if _is_item(inputs):
        found = 0
        for source in _expand(inputs, 1, rules):
            found += 1
            yield source
        if not found:
            raise BadInput(_nothing_in(inputs))
        return
    count = 0
    for item in inputs:
        count += 1
        before = False
        for source in _expand(item, count, rules):
            before = True
            yield source
        if not before and not rules.exclude_item(item):
            yield Failure(_label(item, count), _nothing_in(item))
    if count == 0:
        raise BadInput("inputs must hold at least one picture or video; got an empty list.")


def _is_item(thing: Any) -> bool:
    memory = (str, bytes, bytearray, os.PathLike, Image.Image, np.ndarray)
    return isinstance(thing, memory) or (hasattr(thing, "read") and hasattr(thing, "frames"))


def _iterable(thing: Any) -> bool:
    return isinstance(thing, Iterable)


def _label(item: Any, number: int) -> str:
    return os.fsdecode(item) if isinstance(item, str | os.PathLike) else f"input {number}"


def _nothing_in(item: Any) -> str:
    if isinstance(item, str) and item == "-":
        return "standard input holds no file names."
    if not isinstance(item, str | os.PathLike):
        return "the input holds no picture or video."
    path = Path(os.fspath(item)).expanduser()
    if path.is_dir():
        return f"the folder {name_of(path)} holds no picture or video."
    return f"no file matches {name_of(path)}."


def _expand(item: Any, number: int, rules: _Rules) -> Iterator[Source | Failure]:
    """The sources of one input that is not a list."""
    if isinstance(item, Source | Failure):
        yield item
    elif isinstance(item, str) and item == "-":
        for name in _names_on_stdin():
            yield from _expand_path(name, rules)
    elif isinstance(item, str | os.PathLike):
        yield from _expand_path(os.fsdecode(item), rules)
    elif isinstance(item, np.ndarray) and item.ndim == 4:
        for index, array in enumerate(item):
            yield Source(f"picture {number + index}", "picture", data=array)
    elif isinstance(item, np.ndarray):
        yield Source(f"picture {number}", "picture", data=item)
    elif isinstance(item, Image.Image):
        yield Source(getattr(item, "filename", "") or f"picture {number}", "picture", data=item)
    elif isinstance(item, bytes | bytearray):
        kind = kind_of(bytes(item[:192]))
        if kind is None:
            yield Failure(f"input {number}", f"input {number} ({len(item)} bytes) is no picture or video.")
        else:
            yield Source(f"{kind} {number}", kind, data=bytes(item))
    elif hasattr(item, "read") and hasattr(item, "frames"):
        yield Source(str(getattr(item, "source", f"video {number}")), "video", data=item)
    else:
        yield Failure(f"input {number}", f"input {number} is a {type(item).__name__}, not a file, picture or array.")


def _names_on_stdin() -> list[str]:
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(name) for name in names if name.strip()]


def _expand_path(text: str, rules: _Rules) -> Iterator[Source | Failure]:
    try:
        path = Path(text).expanduser()
        mode = os.stat(path).st_mode
    except RuntimeError:
        yield Failure(text, f"{name_of(text)} names a home folder that does not exist.")
    except FileNotFoundError:
        yield from _expand_pattern(text, rules)
    except (OSError, ValueError) as error:
        yield Failure(text, str(unreadable(name_of(text), error)))
    else:
        if stat.S_ISDIR(mode):
            yield from _Walk(path, rules).sources(path)
        elif not rules.exclude_item(text):
            yield rules.classify(path, text)


def _expand_pattern(text: str, rules: _Rules) -> Iterator[Source | Failure]:
    """A name without a file: a glob, an address, or a mistake."""
    pattern = os.path.expanduser(text)
    if "://" in text:
        yield Failure(text, f"{name_of(text)} is an address; save it to a file first, only local files are read.")
    elif not glob.has_magic(pattern):
        yield Failure(text, f"{name_of(text)} does not exist.")
    else:
        for name in _matches(pattern):
            if not rules.exclude_item(name):
                yield rules.classify(Path(name), name)


def _matches(pattern: str) -> list[str]:
    """The files of a glob, sorted; one that is reached by several links between folders by its shortest name only."""
    shortest: dict[str, str] = {}
    for name in sorted(glob.glob(pattern, recursive=True), key=lambda name: (name.count(os.sep), name)):
        if not os.path.isdir(name):
            home = os.path.realpath(os.path.dirname(name) or ".")
            shortest.setdefault(os.path.join(home, os.path.basename(name)), name)
    return sorted(shortest.values())


class _Rules:
    """What is passed over, and how it is told what a file is."""

    def __init__(self, exclude: Sequence[str], classify: Classify) -> None:
        # "raw/", "/raw" and "**/raw" say what "raw" says.
        self.patterns = [pattern.removeprefix("**/").strip("/") for pattern in exclude]
        self.classify = classify

    def exclude_path(self, name: str, path: str) -> bool:
        """Whether a pattern is that of a name, or of a path with "/" between its parts."""
        return any(fnmatchcase(name, pattern) or fnmatchcase(path, pattern) for pattern in self.patterns)

    def exclude_item(self, item: Any) -> bool:
        """Whether an input is the name of a file that a pattern excludes."""
        return isinstance(item, str | os.PathLike) and self.exclude_path(Path(item).name, os.fspath(item))


class _Walk:
    """A folder and what is below it; each folder once, by whatever links it is reached."""

    def __init__(self, root: Path, rules: _Rules) -> None:
        self.root, self.rules = root, rules
        self.visited: set[tuple[int, int]] = set()

    def sources(self, folder: Path) -> Iterator[Source | Failure]:
        """Sources in a folder and below it, sorted by name."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self.visited:
                return
            self.visited.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield Failure(str(folder), str(unreadable(name_of(folder), error)))
            return
        for entry in entries:
            path = folder / entry.name
            if self._passed_over(path):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                yield Failure(str(path), str(unreadable(name_of(path), error)))
                continue
            if is_folder:
                yield from self.sources(path)
                continue
            found = self.rules.classify(path, str(path))
            if isinstance(found, Source) or path.suffix.lower() not in COMPANIONS:
                yield found

    def _passed_over(self, path: Path) -> bool:
        """Whether a name is hidden, left over or excluded."""
        if path.name.startswith(".") or path.name in LEFTOVERS:
            return True
        return bool(self.rules.patterns) and self.rules.exclude_path(path.name, path.relative_to(self.root).as_posix())


def classify_file(path: Path, name: str) -> Source | Failure:
    """What one file is, by its first bytes; a Failure for no media, and for what cannot be opened."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            return Failure(name, f"{name_of(path)} is no ordinary file.")
        head = read_head(path)
    except (OSError, ValueError) as error:
        return Failure(name, str(unreadable(name_of(path), error)))
    if not head:
        return Failure(name, f"{name_of(path)} is empty (zero bytes).")
    kind = kind_of(head)
    if kind is None and identify(path):
        kind = "picture"
    if kind is None:
        return Failure(name, f"{name_of(path)} is no picture or video that can be read here.")
    if picture_format(head) == "GIF" and _is_animated(path):
        kind = "video"
    return Source(name, kind, path)


def _is_animated(path: Path) -> bool:
    try:
        with path.open("rb") as file, Image.open(file, formats=["GIF"]) as picture:
            return bool(getattr(picture, "is_animated", False))
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return False
