"""Vectors to disk as they are made, and the finished file: npy, parquet or safetensors, with the names beside them.

Unusual: while the work goes on, vectors stand in FILE.partial and names in FILE.partial.ids, so that memory stays flat
and an interrupted run can go on; the file itself appears when it is complete.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from percepta.apps.cli.common import left_of
from percepta.errors import BadInput, MissingExtra

ENDINGS = (".npy", ".parquet", ".safetensors")
SCHEMA = 1
_ROWS = 65_536  # copied at once


class VectorFile:
    """One output of embed; nothing is changed before it is entered as a context.

    Args:
        path: the file to be.
        made_with: JSON-ready, what the vectors depend on: "model" and more; a run that is resumed must have the same.
        resume: go on with what an interrupted run left.

    Attributes:
        names: what it holds.

    Raises: BadInput where what is to be resumed was made with something else.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any], resume: bool = False) -> None:
        self.path, self.header = path, {"schema": SCHEMA, **made_with}
        self.rows = path.with_name(path.name + ".partial")
        self.ids = path.with_name(path.name + ".partial.ids")
        self.names: list[str] = []
        self.width = 0
        self._kept = self._kept_ids = 0  # bytes
        if resume and self.ids.exists():
            self._read_back()

    def write(self, name: str, vector: np.ndarray) -> None:
        """Add one vector, (D,) float32."""
        if not self.names:
            self.width = len(vector)
            self._ids.write(json.dumps(self.header | {"width": self.width}) + "\n")
        self._rows.write(np.ascontiguousarray(vector, dtype="<f4").tobytes())
        self._rows.flush()
        self._ids.write(json.dumps(name) + "\n")
        self._ids.flush()
        self.names.append(name)

    def complete(self) -> None:
        """Write the finished file and the names beside it, and drop the partial ones."""
        self._rows.close()
        self._ids.close()
        if self.names:
            shape = (len(self.names), self.width)
            vectors: Any = np.memmap(self.rows, dtype="<f4", mode="r", shape=shape)
        else:
            vectors = np.zeros((0, 0), dtype=np.float32)
        write = {".npy": self._npy, ".parquet": self._parquet, ".safetensors": self._safetensors}
        target = self.path.with_name(f".{self.path.name}.tmp{self.path.suffix}")
        try:
            write[self.path.suffix.lower()](target, vectors)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        if (names := names_beside(self.path)) is not None:
            self._write_names(names)
        target.replace(self.path)  # last: a file that is there is complete, its names included
        del vectors
        self.rows.unlink()
        self.ids.unlink()

    def todo(self, sources: Sequence[Any]) -> list[Any]:
        """The sources without those that are held."""
        return left_of(sources, self.names)

    def _npy(self, target: Path, vectors: np.ndarray) -> None:
        copy = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=vectors.shape)
        for start in range(0, len(vectors), _ROWS):
            copy[start : start + _ROWS] = vectors[start : start + _ROWS]
        copy.flush()

    def _safetensors(self, target: Path, vectors: np.ndarray) -> None:
        from safetensors.numpy import save_file

        save_file({"vectors": np.array(vectors)}, target, self._metadata())

    def _parquet(self, target: Path, vectors: np.ndarray) -> None:
        pyarrow, parquet = need_parquet()
        vector_type = pyarrow.list_(pyarrow.float32(), vectors.shape[1] if len(vectors) else -1)
        schema = pyarrow.schema(
            [("source", pyarrow.string()), ("vector", vector_type)],
            metadata=self._metadata(),
        )
        with parquet.ParquetWriter(target, schema) as writer:
            for start in range(0, len(vectors), _ROWS):
                names = [_writable(name) for name in self.names[start : start + _ROWS]]
                flat = pyarrow.array(np.array(vectors[start : start + _ROWS]).reshape(-1))
                lists = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
                writer.write_table(pyarrow.table([pyarrow.array(names), lists], schema=schema))

    def _metadata(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.header.items()}

    def _write_names(self, target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "source"])
            writer.writerows([number, _writable(name)] for number, name in enumerate(self.names))

    def _read_back(self) -> None:
        lines = self.ids.read_bytes().split(b"\n")[:-1]
        if len(lines) < 2:
            return
        try:
            header, *names = [json.loads(line) for line in lines]
        except ValueError:
            raise BadInput(f"{str(self.ids)!r} is damaged; pass --overwrite to begin anew.") from None
        for name, value in self.header.items():
            if header.get(name) != value:
                raise BadInput(
                    f"{str(self.ids)!r} was begun with {name} {header.get(name)!r} and now it is {value!r}; resume "
                    "with the same, or pass --overwrite."
                )
        size = self.rows.stat().st_size if self.rows.exists() else 0
        self.width = int(header["width"])
        self.names = names[: size // 4 // self.width]
        # A vector is written before its name, so there may be one too many, and half of another.
        self._kept = len(self.names) * self.width * 4
        self._kept_ids = sum(len(line) + 1 for line in lines[: 1 + len(self.names)])

    def __enter__(self) -> VectorFile:
        self._rows = self.rows.open("ab" if self.names else "wb")
        self._ids = self.ids.open("a" if self.names else "w", encoding="utf-8")
        if self.names:
            self._rows.truncate(self._kept)
            self._ids.truncate(self._kept_ids)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._ids.close()
        if not self.names:  # nothing to go on with
            self.rows.unlink(missing_ok=True)
            self.ids.unlink(missing_ok=True)


def names_beside(path: Path) -> Path | None:
    """The table of names beside a file of vectors; None for parquet, which holds them."""
    return None if path.suffix.lower() == ".parquet" else path.with_name(path.stem + ".ids.csv")


def check_vectors(path: Path, overwrite: bool, resume: bool) -> None:
    """Refuse to replace what lies beside a file of vectors. Raises BadInput."""
    if overwrite or resume:
        return
    partial, names = path.with_name(path.name + ".partial"), names_beside(path)
    if partial.exists():
        raise BadInput(
            f"{str(partial)!r} is left of a run that was interrupted; pass --resume to go on with it, or --overwrite."
        )
    if names is not None and names.exists():
        raise BadInput(f"{str(names)!r} exists, the names of other vectors; pass --overwrite, or another name.")


def need_parquet() -> tuple[Any, Any]:
    """pyarrow and its parquet module. Raises MissingExtra."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train", "a parquet file") from error
    return pyarrow, parquet


def _writable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
