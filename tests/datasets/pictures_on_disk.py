"""Small labelled and captioned pictures in every layout that is read: folders, tar files, parquet and arrow."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "hot dog")
COLOURS = ((220, 40, 40), (40, 160, 70), (40, 80, 220))


def encoded(number: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """A PNG of the colour of class `number` modulo 3, with a mark that makes it its own."""
    pixels = np.full((*size, 3), COLOURS[number % 3], np.uint8)
    pixels[number % size[0], number % size[1]] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def class_folder(folder: Path, count: int = 4, names: Sequence[str] = ("cat", "dog", "hot_dog")) -> Path:
    """`count` pictures a class, one sub-folder each."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for copy in range(count):
            (folder / name / f"{copy}.png").write_bytes(encoded(3 * copy + number))
    return folder


def tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """A tar file of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, columns: Mapping[str, Sequence[Any]], features: Mapping[str, Any] | None = None) -> Path:
    """A parquet file, with the notes of the `datasets` library where given."""
    import pyarrow
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(dict(columns))
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    write_table(table, path)
    return path


def saved_dataset(folder: Path, columns: Mapping[str, Sequence[Any]], features: Mapping[str, Any]) -> Path:
    """A folder as `Dataset.save_to_disk` leaves it: two arrow streams, state.json, dataset_info.json."""
    import pyarrow

    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(dict(columns))
    half = len(table) // 2
    names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (table.slice(0, half), table.slice(half)), strict=True):
        with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    (folder / "cache-0123.arrow").write_bytes(b"what was computed")
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "f"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder
