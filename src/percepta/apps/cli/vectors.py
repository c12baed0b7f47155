"""Vectors to disk as they are made, and the finished file: npy, parquet or safetensors, with the names beside them.

Unusual: while the work goes on, vectors stand in FILE.partial and names in FILE.partial.ids, so that memory stays flat
and an interrupted run can go on; the file itself appears when it is complete.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from percepta.errors import BadInput, MissingExtra

ENDINGS = (".npy", ".parquet", ".safetensors")
SCHEMA = 1
_ROWS = 65_536  # copied at once


class VectorFile:
    """One output of embed.

    Args:
        path: the file to be.
        model: name of the model; a run that is resumed must have the same.
        resume: go on with what an interrupted run left.
        settings: JSON-ready, what else the vectors depend on, such as the weights.

    Attributes:
        names: what it holds.

    Raises: BadInput where there is nothing to resume with this model.
    """

    def __init__(self, path: Path, model: str, resume: bool = False, settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.model, self.settings = path, model, dict(settings or {})
        self.rows = path.with_name(path.name + ".partial")
        self.ids = path.with_name(path.name + ".partial.ids")
        self.names: list[str] = []
        self.width = 0
        if resume and self.ids.exists():
            self._read_back()
        self._rows = self.rows.open("ab" if self.names else "wb")
        self._ids = self.ids.open("a" if self.names else "w", encoding="utf-8")

    def write(self, name: str, vector: np.ndarray) -> None:
        """Add one vector, (D,) float32."""
        if not self.names:
            self.width = len(vector)
            self._ids.write(json.dumps(self._header() | {"width": self.width}) + "\n")
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
        {".npy": self._npy, ".parquet": self._parquet, ".safetensors": self._safetensors}[self.path.suffix.lower()](
            vectors
        )
        del vectors
        self.rows.unlink()
        self.ids.unlink()

    @property
    def ids_path(self) -> Path:
        """The table of names beside an npy or safetensors file."""
        return self.path.with_name(self.path.stem + ".ids.csv")

    def _npy(self, vectors: np.ndarray) -> None:
        target = self.path.with_name("." + self.path.name + ".tmp.npy")
        copy = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=vectors.shape)
        for start in range(0, len(vectors), _ROWS):
            copy[start : start + _ROWS] = vectors[start : start + _ROWS]
        copy.flush()
        del copy
        target.replace(self.path)
        self._write_ids()

    def _safetensors(self, vectors: np.ndarray) -> None:
        from safetensors.numpy import save_file

        save_file({"vectors": np.array(vectors)}, self.path, {"model": self.model, "schema": str(SCHEMA)})
        self._write_ids()

    def _parquet(self, vectors: np.ndarray) -> None:
        pyarrow, parquet = need_parquet()
        vector_type = pyarrow.list_(pyarrow.float32(), vectors.shape[1] if len(vectors) else -1)
        schema = pyarrow.schema(
            [("source", pyarrow.string()), ("vector", vector_type)],
            metadata={"model": self.model, "schema": str(SCHEMA)},
        )
        with parquet.ParquetWriter(self.path, schema) as writer:
            for start in range(0, len(vectors), _ROWS):
                names = [_writable(name) for name in self.names[start : start + _ROWS]]
                flat = pyarrow.array(np.array(vectors[start : start + _ROWS]).reshape(-1))
                lists = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
                writer.write_table(pyarrow.table([pyarrow.array(names), lists], schema=schema))

    def _write_ids(self) -> None:
        with self.ids_path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "source"])
            writer.writerows([number, _writable(name)] for number, name in enumerate(self.names))

    def _header(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "model": self.model, **self.settings}

    def _read_back(self) -> None:
        lines = self.ids.read_text(encoding="utf-8").split("\n")[:-1]
        if len(lines) < 2:
            return
        header = json.loads(lines[0])
        for name, value in self._header().items():
            if header.get(name) != value:
                raise BadInput(
                    f"{str(self.ids)!r} was begun with {name} {header.get(name)!r} and now it is {value!r}; resume "
                    "with the same, or pass --overwrite."
                )
        size = self.rows.stat().st_size if self.rows.exists() else 0
        self.width = int(header["width"])
        self.names = [json.loads(line) for line in lines[1:]][: size // 4 // self.width]
        with self.rows.open("r+b") as file:  # a vector is written before its name, so there may be one too many
            file.truncate(len(self.names) * self.width * 4)
        self.ids.write_text("".join(line + "\n" for line in lines[: 1 + len(self.names)]), encoding="utf-8")

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._ids.close()


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
