"""Pictures in tables: parquet and arrow files, also as the `datasets` library writes them (that library is not needed).

Unusual: class names are read from the notes that `datasets` leaves in parquet files and beside arrow files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from percepta.datasets.captions import CAPTION_FIELDS, captions_in
from percepta.datasets.picture_sets import CaptionedSet, LabelledSet, Pictures, Rows, key_of
from percepta.errors import BadMedia, MissingExtra
from percepta.media import Source
from percepta.results import Failure

PICTURE_COLUMNS = ("image", "img", "picture", "jpg", "png", "photo", "pixels")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "target", "fine_label", "category")
TOGETHER = 64  # rows read at once


def labelled_table(path: Path, files: Sequence[Path]) -> LabelledSet:
    """Pictures with classes from tables; labels are numbers, or texts that are then the class names.

    Raises: BadMedia for no column of pictures or labels, or a missing label. MissingExtra without pyarrow.
    """
    tables = _Tables(path, files)
    column = tables.column("label", LABEL_COLUMNS, "ClassLabel")
    values = tables.values(column)
    missing = next((row for row, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise BadMedia(f"every row of {tables.place} must have a label; row {missing} has none.")
    pictures = tables.pictures()
    if values and isinstance(values[0], str):
        names = sorted(set(values))
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers[value] for value in values], np.int64)
        return LabelledSet(tables.place, pictures, labels, tuple(names), True, tuple(names))
    odd = next((value for value in values if isinstance(value, bool) or not isinstance(value, int)), None)
    if odd is not None:
        raise BadMedia(f"labels of {tables.place} must be whole numbers or texts, one a picture; got {odd!r}.")
    labels = np.array(values, np.int64)
    known = tables.features.get(column, {}).get("names")
    names = known or [str(number) for number in range(int(labels.max(initial=-1)) + 1)]
    return LabelledSet(tables.place, pictures, labels, tuple(map(str, names)), bool(known))


def captioned_table(path: Path, files: Sequence[Path]) -> CaptionedSet:
    """Pictures with captions from tables; a row without one is left out.

    Raises: BadMedia for no column of pictures or captions. MissingExtra without pyarrow.
    """
    tables = _Tables(path, files)
    captions = [captions_in(value) for value in tables.values(tables.column("caption", CAPTION_FIELDS))]
    rows = [row for row, texts in enumerate(captions) if texts]
    return CaptionedSet(tables.place, tables.pictures().subset(rows), tuple(captions[row] for row in rows))


class _Tables:
    """Files of one schema, read in their order; pictures batch by batch."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        try:
            import pyarrow
        except ImportError as error:
            raise MissingExtra("pyarrow", "train", f"Reading {path}") from error
        self.place, self.folder = path.name, files[0].parent
        self.files = _in_order(self.folder, files) if path.is_dir() else list(files)
        try:
            schemas = [self._schema(file) for file in self.files]
            counts = [self._count(file) for file in self.files]
        except (pyarrow.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())[:160]
            raise BadMedia(f"{path} must be readable as parquet or arrow; it is not ({reason}).") from None
        self.columns = list(schemas[0].names)
        for file, schema in zip(self.files, schemas, strict=True):
            if list(schema.names) != self.columns:
                raise BadMedia(
                    f"the files of {path} must have the same columns; {file.name} has {', '.join(schema.names)}."
                )
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.features = _features(schemas[0], self.folder)

    def column(self, what: str, names: Sequence[str], kind: str = "") -> str:
        """The column of a kind that `datasets` noted, else the first of the usual names."""
        noted = [name for name in self.columns if kind and self.features.get(name, {}).get("_type") == kind]
        usual = {name.lower(): name for name in self.columns}
        found = [usual[name] for name in names if name in usual]
        both = [name for name in found if name in noted] or noted or found
        if not both:
            raise BadMedia(
                f"{self.place} must have a column of {what}s, such as {', '.join(names[:3])}; "
                f"it has {', '.join(self.columns)}."
            )
        return both[0]

    def values(self, column: str) -> list[Any]:
        """All values of a small column."""
        return [value for file in self.files for batch in self._batches(file, column) for value in batch.to_pylist()]

    def pictures(self) -> Pictures:
        """The column of pictures: encoded bytes, a struct with `bytes` or `path`, or a path."""
        column = self.column("picture", PICTURE_COLUMNS, "Image")

        def read(rows: Rows) -> Iterator[Source | Failure]:
            for number, file in enumerate(self.files):
                first, last = self.starts[number : number + 2]
                wanted = rows[(rows >= first) & (rows < last)] - first
                if len(wanted):
                    yield from self._read(file, column, wanted)

        return Pictures(int(self.starts[-1]), read, key_of(self.files, column))

    def _read(self, file: Path, column: str, wanted: Rows) -> Iterator[Source | Failure]:
        start = 0
        for batch in self._batches(file, column):
            here = wanted[(wanted >= start) & (wanted < start + len(batch))]
            for row in here.tolist():
                yield self._source(f"{file.name} row {row}", batch[row - start].as_py())
            start += len(batch)
            if start > wanted[-1]:
                return

    def _source(self, name: str, value: Any) -> Source | Failure:
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(content, str):
            content, path = None, content
        if content is not None:
            return Source(name, "picture", data=bytes(content))
        if path:
            return Source(name, "picture", self.folder / path)
        return Failure(name, f"{name} holds no picture.")

    def _schema(self, file: Path) -> Any:
        if file.suffix.lower() == ".arrow":
            return _open_arrow(file).schema
        from pyarrow import parquet

        return parquet.read_schema(file)

    def _count(self, file: Path) -> int:
        if file.suffix.lower() == ".arrow":
            return sum(len(batch) for batch in _arrow_batches(file))
        from pyarrow import parquet

        return int(parquet.read_metadata(file).num_rows)

    def _batches(self, file: Path, column: str) -> Iterator[Any]:
        """One column in batches; arrow files are mapped into memory, parquet is decoded as it goes."""
        if file.suffix.lower() == ".arrow":
            for batch in _arrow_batches(file):
                yield batch.column(column)
            return
        from pyarrow import parquet

        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(TOGETHER, columns=[column], use_threads=False):
                yield batch.column(0)


def _arrow_batches(file: Path) -> Iterator[Any]:
    reader = _open_arrow(file)
    if hasattr(reader, "num_record_batches"):
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from reader


def _open_arrow(file: Path) -> Any:
    """The stream format, as `datasets` writes it, or the file format."""
    import pyarrow

    with file.open("rb") as opened:
        is_file = opened.read(6) == b"ARROW1"
    mapped = pyarrow.memory_map(str(file))
    return pyarrow.ipc.open_file(mapped) if is_file else pyarrow.ipc.open_stream(mapped)


def _features(schema: Any, folder: Path) -> dict[str, Any]:
    """The notes of `datasets` on each column: {"_type": "ClassLabel", "names": [...]} and the like."""
    noted = (schema.metadata or {}).get(b"huggingface")
    beside = folder / "dataset_info.json"
    try:
        found = json.loads(noted)["info"] if noted else json.loads(beside.read_text()) if beside.is_file() else {}
        features = found.get("features") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: note for name, note in features.items() if isinstance(note, dict)}


def _in_order(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The files that a saved dataset consists of, in its own order. Raises BadMedia for one that reorders its rows."""
    state = folder / "state.json"
    if not state.is_file():
        return list(files)
    try:
        content = json.loads(state.read_text())
        named = [folder / entry["filename"] for entry in content["_data_files"]]
    except (ValueError, KeyError, TypeError):
        raise BadMedia(f"{state} must list the files of a saved dataset; it cannot be read.") from None
    if content.get("_indices_data_files"):
        raise BadMedia(f"{folder} holds a dataset whose rows are reordered; save it again after flatten_indices().")
    return named
