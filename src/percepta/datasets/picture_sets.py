"""Pictures with class labels or captions, wherever they lie: folders, webdataset shards, parquet and arrow tables.

Order of this file: the sets, opening one by what lies there, its parts for training and testing, class names.
Unusual: labels and captions are read at once, since they are small, pictures only when their turn comes; what cannot
be read comes out as a `Failure` in its place, and the rest goes on.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, BadMedia
from percepta.media import Source
from percepta.results import Failure

Rows = NDArray[np.int64]
TRAIN, TEST = ("train", "training"), ("test", "val", "validation", "valid", "dev")
"""What the parts of divided data are called."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """A row of pictures that are read on demand.

    Attributes:
        count: how many there are.
        read: ascending row numbers to one Source (or Failure) each, lazily; every name comes once.
        key: the same for the same pictures and for no others while a program runs.
    """

    count: int
    read: Callable[[Rows], Iterator[Source | Failure]]
    key: str

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Source | Failure]:
        return self.read(np.arange(self.count))

    def subset(self, rows: Sequence[int] | Rows) -> Pictures:
        """The pictures of ascending row numbers."""
        chosen = np.asarray(rows, np.int64)
        key = hashlib.sha256(self.key.encode() + chosen.tobytes()).hexdigest()
        return Pictures(len(chosen), lambda wanted: self.read(chosen[wanted]), key)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSet:
    """Pictures with one class each.

    Attributes:
        place: the name of the file or folder.
        pictures: the pictures.
        labels: (N,) int64, indices into `names`.
        names: class names; numbers as texts where the data have none.
        named: whether the names are words of the data, so that a model may be asked with them.
        keys: what stands for each class in the data (the folder's name, the number); by them a classes file names it.
    """

    place: str
    pictures: Pictures
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    named: bool = True
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Source | Failure, int]]:
        return zip(self.pictures, self.labels.tolist(), strict=True)

    def subset(self, rows: Sequence[int] | Rows) -> LabelledSet:
        """The pictures of ascending row numbers, with the same class names."""
        chosen = np.asarray(rows, np.int64)
        return replace(self, pictures=self.pictures.subset(chosen), labels=self.labels[chosen])

    def renamed(self, names: Sequence[str]) -> LabelledSet:
        """With other class names: one for each class in its order, or "key<TAB>name" lines in any order.

        Raises:
            BadInput: fewer names than labels, or keys without a name.
        """
        pairs = dict(name.split("\t", 1) for name in names if "\t" in name)
        if pairs:
            keys = self.keys or self.names
            missing = [key for key in keys if key not in pairs]
            if missing:
                raise BadInput(f"classes must name every class of {self.place}; {missing[0]!r} has no line.")
            return replace(self, names=tuple(pairs[key].strip() for key in keys), named=True)
        if self.keys and len(names) != len(self.keys):
            raise BadInput(f"classes must be {len(self.keys)} names for the classes of {self.place}; got {len(names)}.")
        _check_range(self.labels, len(names), self.place)
        return replace(self, names=tuple(names), named=True)


@dataclass(frozen=True, slots=True, eq=False)
class CaptionedSet:
    """Pictures with one or more captions each; attributes as of `LabelledSet`, `captions` one tuple a picture."""

    place: str
    pictures: Pictures
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.captions)

    def __iter__(self) -> Iterator[tuple[Source | Failure, tuple[str, ...]]]:
        return zip(self.pictures, self.captions, strict=True)


def open_labelled(place: str | Path) -> LabelledSet:
    """Pictures with classes.

    Args:
        place: a folder with one sub-folder a class; tar files (one, a folder or a glob of them) of pictures beside .cls
            files; a parquet or arrow file, or a folder of them such as `datasets` saves, with a column of pictures and
            one of labels.

    Raises:
        BadMedia: nothing of the kind, a class without a picture, labels that are missing or out of range.
        MissingExtra: parquet or arrow without pyarrow.
    """
    from percepta.datasets import shard_sets, tables

    path = Path(place).expanduser()
    if files := shard_files(path):
        found = shard_sets.labelled_shards(path, files)
    elif files := table_files(path):
        found = tables.labelled_table(path, files)
    else:
        found = _labelled_folder(path)
    if not len(found):
        raise BadMedia(f"{found.place} must hold labelled pictures; it holds none.")
    _check_range(found.labels, len(found.names), found.place)
    return found


def open_captioned(place: str | Path) -> CaptionedSet:
    """Pictures with captions.

    Args:
        place: a folder of pictures with captions beside them (a.txt or a.json for a.jpg; one captions or metadata file
            in json, jsonl, csv or tsv; COCO's json); tar files of pictures beside .txt or .json files; parquet or arrow
            with a column of pictures and one of captions. Lines of a .txt and entries of a list are captions each.

    Raises:
        BadMedia: nothing of the kind, or no captions. MissingExtra: parquet or arrow without pyarrow.
    """
    from percepta.datasets import captions, shard_sets, tables

    path = Path(place).expanduser()
    if files := shard_files(path):
        found = shard_sets.captioned_shards(path, files)
    elif files := table_files(path):
        found = tables.captioned_table(path, files)
    else:
        found = captions.captioned_folder(path)
    if not len(found):
        raise BadMedia(f"{found.place} must hold pictures with captions; no caption was found.")
    return found


def parts_of(place: str | Path) -> tuple[Path, Path] | None:
    """The training and the test part where the data are divided: sub-folders, or parquet files told by their names.

    A glob is returned for files such as data/train-00000-of-00002.parquet.
    """
    path = Path(place).expanduser()
    for folder in (path, path / "data"):
        found = [_part(folder, names) for names in (TRAIN, TEST)]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def _part(folder: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
        for ending in ("parquet", "tar"):
            for pattern in (f"{name}.{ending}", f"{name}-*.{ending}"):
                if folder.is_dir() and any(folder.glob(pattern)):
                    return folder / pattern
    return None


def shard_files(path: Path) -> list[Path]:
    """The tar files that a file, folder or glob means; empty for other things."""
    return _files(path, (".tar",))


def table_files(path: Path) -> list[Path]:
    """The parquet or arrow files that a file, folder or glob means; empty for other things."""
    return _files(path, (".parquet",)) or _files(path, (".arrow",))


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if path.is_dir():
        # `datasets` keeps what it computed beside its files as cache-*.arrow.
        files = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith((".", "cache-"))]
    elif path.is_file():
        files = [path]
    else:
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    return [file for file in files if file.suffix.lower() in endings and file.is_file()]


def key_of(files: Sequence[Path], more: str = "") -> str:
    """The key of pictures by the files that hold them."""
    return hashlib.sha256("\0".join([*(str(file.absolute()) for file in files), more]).encode()).hexdigest()


def file_pictures(paths: Sequence[Path]) -> Pictures:
    """Pictures that are files of their own."""

    def read(rows: Rows) -> Iterator[Source | Failure]:
        for row in rows.tolist():
            yield Source(str(paths[row]), "picture", paths[row])

    return Pictures(len(paths), read, key_of(paths))


def _labelled_folder(path: Path) -> LabelledSet:
    from percepta.datasets.folders import list_picture_folder

    if not path.exists():
        raise BadMedia(f"{path} does not exist; name a folder of classes, tar files, or a parquet or arrow file.")
    found = list_picture_folder(path)
    held = {file.relative_to(path).parts[0] for file in found.paths}
    folders = [entry.name for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    empty = [name for name in folders if name not in held]
    if empty:
        raise BadMedia(f"every class of {path} must hold a picture; {empty[0]!r} holds none.")
    return LabelledSet(path.name, file_pictures(found.paths), found.labels, found.names, True, tuple(folders))


def _check_range(labels: NDArray[np.int64], count: int, place: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise BadMedia(
            f"labels of {place} must be 0 to {count - 1}, one for each of {count} class names; "
            f"row {wrong[0]} has {labels[wrong[0]]}."
        )


def are_synsets(keys: Sequence[str]) -> bool:
    """Whether the classes are the 1,000 of ImageNet under their WordNet numbers, whose order is that of the labels."""
    return len(keys) == 1000 and all(re.fullmatch(r"n\d{8}", key) for key in keys)
