"""Webdataset shards in their own order, for evaluation: a.jpg beside a.cls, a.txt or a.json.

Class names come from a classnames.txt or classes.txt beside the shards or one folder up (the layout of public
evaluation sets), captions from a.txt (one a line) or a.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from percepta.datasets.captions import captions_in, captions_of_text
from percepta.datasets.picture_sets import CaptionedSet, LabelledSet, Pictures, Rows, key_of
from percepta.datasets.shards import members_of
from percepta.errors import BadMedia
from percepta.media import Source

NAME_FILES = ("classnames.txt", "classes.txt")
LABEL_FIELDS = ("label", "cls", "class", "target")
Place = tuple[Path, str, int, int]
"""Tar file, key, offset and size of a picture."""


def labelled_shards(path: Path, files: Sequence[Path]) -> LabelledSet:
    """Pictures with the class number, or name, of their .cls or .json.

    Raises: BadMedia for an unreadable shard, a label that is missing, or names and numbers mixed.
    """
    places: list[Place] = []
    values: list[Any] = []
    for file, key, kinds in _samples(files):
        value = _label(file, kinds)
        if value is None:
            raise BadMedia(f"every picture of {path} must have a label in a .cls or .json file; {key} has none.")
        places.append((file, key, *kinds["picture"]))
        values.append(value)
    pictures = _pictures(places)
    if values and all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers[value] for value in values], np.int64)
        return LabelledSet(path.name, pictures, labels, tuple(names), True, tuple(names))
    if any(isinstance(value, str) for value in values):
        raise BadMedia(f"labels of {path} must be all numbers or all names; both were found.")
    labels = np.array(values, np.int64)
    named = _names_beside(files[0].parent)
    names = named or [str(number) for number in range(int(labels.max(initial=-1)) + 1)]
    return LabelledSet(path.name, pictures, labels, tuple(names), bool(named))


def captioned_shards(path: Path, files: Sequence[Path]) -> CaptionedSet:
    """Pictures with captions; a picture without one is left out. Raises BadMedia for an unreadable shard."""
    places: list[Place] = []
    captions: list[tuple[str, ...]] = []
    for file, key, kinds in _samples(files):
        texts: tuple[str, ...] = ()
        if "txt" in kinds:
            texts = captions_of_text(_content(file, kinds["txt"]))
        elif "json" in kinds:
            texts = captions_in(_json(file, kinds["json"]))
        if texts:
            places.append((file, key, *kinds["picture"]))
            captions.append(texts)
    return CaptionedSet(path.name, _pictures(places), tuple(captions))


def _samples(files: Sequence[Path]) -> Iterator[tuple[Path, str, dict[str, tuple[int, int]]]]:
    for file in files:
        for key, kinds in members_of(file).items():
            if "picture" in kinds:
                yield file, key.lstrip("/"), kinds


def _pictures(places: Sequence[Place]) -> Pictures:
    def read(rows: Rows) -> Iterator[Source]:
        for row in rows.tolist():
            file, key, offset, size = places[row]
            with file.open("rb") as opened:
                opened.seek(offset)
                yield Source(f"{file}/{key}", "picture", data=opened.read(size))

    files = list(dict.fromkeys(place[0] for place in places))
    return Pictures(len(places), read, key_of(files, " ".join(str(place[2]) for place in places)))


def _label(file: Path, kinds: dict[str, tuple[int, int]]) -> int | str | None:
    if "cls" in kinds:
        found: Any = _content(file, kinds["cls"]).strip()
    elif "json" in kinds:
        record = _json(file, kinds["json"])
        found = next((record[name] for name in LABEL_FIELDS if name in record), None)
    else:
        return None
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        return None
    try:
        return int(found)
    except ValueError:
        return found


def _content(file: Path, place: tuple[int, int]) -> str:
    with file.open("rb") as opened:
        opened.seek(place[0])
        return opened.read(place[1]).decode("utf-8", "replace")


def _json(file: Path, place: tuple[int, int]) -> dict[str, Any]:
    try:
        found = json.loads(_content(file, place))
    except ValueError:
        raise BadMedia(f"{file} must hold readable .json files beside its pictures; one is none.") from None
    return found if isinstance(found, dict) else {"captions": found}


def _names_beside(folder: Path) -> list[str]:
    for home in (folder, folder.parent):
        for name in NAME_FILES:
            if (home / name).is_file():
                lines = (home / name).read_text(encoding="utf-8-sig").splitlines()
                return [line.strip() for line in lines if line.strip()]
    return []
