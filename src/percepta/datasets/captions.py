"""A folder of pictures with their captions: beside each picture, or in one file for all.

Unusual: a file of captions is understood by what it holds, in the layouts that people have: COCO's json, records as
json, jsonl, csv or tsv, or {file name: caption or captions}.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from percepta.datasets.folders import PICTURE_SUFFIXES
from percepta.datasets.picture_sets import CaptionedSet, file_pictures
from percepta.errors import BadMedia

FILE_FIELDS = ("file_name", "filename", "file", "filepath", "path", "image", "img", "picture", "name")
CAPTION_FIELDS = (
    "caption", "captions", "text", "texts", "sentence", "sentences", "txt", "raw", "description", "alt_text", "comment",
)  # fmt: skip
ONE_FILE = ("captions", "metadata")


def captioned_folder(path: Path) -> CaptionedSet:
    """Pictures below a folder, or those that one json, jsonl, csv or tsv file names, with their captions.

    Raises: BadMedia for no such place, an unreadable file of captions, or no caption at all.
    """
    if not path.exists():
        raise BadMedia(f"{path} does not exist; name a folder of pictures with captions, tar files, or a table.")
    folder = path if path.is_dir() else path.parent
    file = _file_of_all(path) if path.is_dir() else path
    if file is not None:
        found = {place_of(folder, name): texts for name, texts in read_captions(file).items()}
    else:
        pictures = sorted(
            entry for entry in folder.rglob("*") if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()
        )
        found = {picture: texts for picture in pictures if (texts := _beside(picture))}
    if not found:
        raise BadMedia(
            f"{path} must hold pictures with captions: a.txt beside a.jpg, or one captions.json, .jsonl, .csv or .tsv; "
            "no caption was found."
        )
    return CaptionedSet(path.name, file_pictures(list(found)), tuple(found.values()))


def read_captions(file: Path) -> dict[str, tuple[str, ...]]:
    """File names to captions from one file. Raises BadMedia where it is none of the known layouts."""
    ending = file.suffix.lower()
    try:
        text = file.read_text(encoding="utf-8-sig")
        if ending == ".json":
            pairs = _of_json(json.loads(text))
        elif ending == ".jsonl":
            pairs = _of_records([json.loads(line) for line in text.splitlines() if line.strip()])
        else:
            pairs = _of_records(list(csv.DictReader(text.splitlines(), delimiter="\t" if ending == ".tsv" else ",")))
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error, OSError) as error:
        raise BadMedia(
            f"{file} must hold captions as COCO does, as records of a file name and a caption, or as "
            f"{{file name: captions}}; it cannot be read so ({' '.join(str(error).split())})."
        ) from None
    found: dict[str, list[str]] = {}
    for name, captions in pairs:
        found.setdefault(str(name), []).extend(captions)
    return {name: tuple(captions) for name, captions in found.items() if captions}


def captions_in(value: Any) -> tuple[str, ...]:
    """Captions of a text, a list of texts, or records with one in them; empty ones left out, spaces made plain."""
    if isinstance(value, Mapping):
        field = next((name for name in CAPTION_FIELDS if name in value), None)
        return () if field is None else captions_in(value[field])
    if isinstance(value, str):
        text = " ".join(value.split())
        return (text,) if text else ()
    if isinstance(value, Sequence):
        return tuple(caption for entry in value for caption in captions_in(entry))
    return ()


def captions_of_text(text: str) -> tuple[str, ...]:
    """One caption a line."""
    return captions_in(text.splitlines())


def _of_json(content: Any) -> Iterable[tuple[str, tuple[str, ...]]]:
    if isinstance(content, Mapping) and {"images", "annotations"} <= set(content):
        names = {image["id"]: image["file_name"] for image in content["images"]}
        return [(names[entry["image_id"]], captions_in(entry)) for entry in content["annotations"]]
    if isinstance(content, Mapping):
        return [(str(name), captions_in(value)) for name, value in content.items()]
    return _of_records(content)


def _of_records(records: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, tuple[str, ...]]]:
    if not records:
        return []
    fields = {str(name).lower().strip(): name for name in records[0]}
    file = next((fields[name] for name in FILE_FIELDS if name in fields), None)
    caption = next((fields[name] for name in CAPTION_FIELDS if name in fields), None)
    if file is None or caption is None:
        raise KeyError(f"fields {', '.join(map(str, records[0]))} name no file or no caption")
    return [(str(record[file]), captions_in(record[caption])) for record in records]


def _file_of_all(folder: Path) -> Path | None:
    for stem in ONE_FILE:
        for ending in (".json", ".jsonl", ".csv", ".tsv"):
            if (folder / f"{stem}{ending}").is_file():
                return folder / f"{stem}{ending}"
    return None


def place_of(folder: Path, name: str) -> Path:
    """Where a named picture lies: beside the file of captions, or in a folder of pictures there."""
    for home in (folder, folder / "images", folder / "Images"):
        if (home / name).is_file():
            return home / name
    return folder / name


def _beside(picture: Path) -> tuple[str, ...]:
    text, record = picture.with_suffix(".txt"), picture.with_suffix(".json")
    try:
        if text.is_file():
            return captions_of_text(text.read_text(encoding="utf-8-sig", errors="replace"))
        if record.is_file():
            return captions_in(json.loads(record.read_text(encoding="utf-8-sig", errors="replace")))
    except (ValueError, OSError) as error:
        raise BadMedia(f"the captions of {picture} cannot be read: {' '.join(str(error).split())}.") from None
    return ()
