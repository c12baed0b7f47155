"""The index: one SQLite file with the vectors of pictures and of moments in videos.

Order of this file: the records, the index. The tables are in `schema`, the way to the folder in `places`.
Names are relative to the root, so that folder and index may move. Every commit holds whole files (their row and all
their vectors), so a killed run leaves a valid index of what was committed.
Unusual: a name that is no valid text is kept as bytes.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from percepta import catalog
from percepta.errors import BadInput, UnknownModel
from percepta.media.sniffing import Kind, name_of
from percepta.results import Failure
from percepta.running.fingerprint import weights_hash
from percepta.running.loading import as_device, as_dtype, open_model
from percepta.tasks.encoder import Encoder
from percepta.tasks.indexing import schema
from percepta.tasks.indexing.places import find_root, root_hints
from percepta.tasks.indexing.schema import in_words


@dataclass(frozen=True, slots=True)
class Maker:
    """What made the vectors of an index; vectors of different makers are never mixed.

    Attributes:
        model: name of the model, or of the file that says what it is.
        weights: where that file or other weights lie, or "" for those of the name.
        weights_hash: of `running.fingerprint`.
        preprocess: how pictures are prepared, in words.
        moments: how videos are cut into moments, in words.
        dimension: D of the vectors.
    """

    model: str
    weights: str
    weights_hash: str
    preprocess: str
    moments: str
    dimension: int

    def check_same(self, other: Maker, path: Path | None) -> None:
        """Raises BadInput naming the first thing that differs."""
        for what, words in (
            ("model", "the model"),
            ("weights_hash", "weights with the hash"),
            ("preprocess", "the preprocessing"),
            ("moments", "the rule of moments"),
            ("dimension", "vectors of the length"),
        ):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise BadInput(
                    f"the index {name_of(path or 'in memory')} was made with {words} {mine!r} and now {theirs!r} is "
                    "asked for; vectors of two makers do not compare: use the first, or begin anew with overwrite."
                )

    def load(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> Encoder:
        """The model again. Raises UnknownModel, MissingWeights; BadInput when its weights are others now."""
        name, weights = self._found()
        encoder = Encoder(name, device, dtype, weights)
        self.check_hash(encoder.model)
        return encoder

    def load_words(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> Encoder:
        """The text half of the model alone, of whose file no more is read: enough to search by words.

        Raises: as `load`; BadInput for a model without words.
        """
        whole = open_model(*self._found())
        self.check_hash(whole)
        if not hasattr(whole, "text_half"):
            Encoder(whole).need_words("search by words")
        half = whole.text_half().eval().to(as_device(device or "cpu"), as_dtype(dtype) or torch.float32)
        half.name, half.preprocess = whole.name, whole.preprocess
        return Encoder(half)

    def _found(self) -> tuple[str, str | None]:
        """The name, or the file that says what it is, and the file of the weights."""
        try:
            catalog.describe(self.model)
        except UnknownModel:
            return self.weights or self.model, None
        return self.model, self.weights or None

    def check_hash(self, model: nn.Module) -> None:
        """Raises BadInput for a model with other weights."""
        found = weights_hash(model)
        if found != self.weights_hash:
            raise BadInput(
                f"the index was made with weights of {self.model} of the hash {self.weights_hash}, and those at hand "
                f"have {found}; make the index again with overwrite, or name the old weights."
            )


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file that an index knows.

    Attributes:
        source: path relative to the root with "/", or the name of an input that came in memory.
        kind: "picture" or "video"; None when it is neither.
        size, modified: bytes, and nanoseconds since 1970; None for inputs in memory.
        content: hash of the contents (see `scanning.content_hash`), or None.
        taken: seconds since 1970: when the picture says that it was taken, else when the file was changed.
        failure: why it, or a part of it, could not be used; None when all went well.
    """

    source: str
    kind: Kind | None
    size: int | None = None
    modified: int | None = None
    content: bytes | None = None
    taken: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture, or a moment of a video: what a row of `Index.vectors` belongs to.

    Attributes:
        source: path relative to the root, or the name of an input that came in memory.
        kind: "picture" or "video".
        start, end: seconds of the moment; None for pictures.
        taken: seconds since 1970, see FileRow.
        size, modified: bytes, and nanoseconds since 1970, of the file.
    """

    source: str
    kind: str
    start: float | None = None
    end: float | None = None
    taken: float | None = None
    size: int | None = None
    modified: int | None = None

    def path(self, root: Path) -> Path:
        """Where the file lies below a root."""
        return root / self.source


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A vector to be kept: (D,) of unit length, and the seconds of its moment, None for a picture."""

    vector: NDArray[np.float32]
    start: float | None = None
    end: float | None = None


@dataclass(eq=False)
class Index:
    """Pictures and moments of videos by their vectors, in a file or in memory; a context manager.

    Made by `percepta.index`, opened by `Index.open`. Entries are sorted by name and time, whatever the order in which
    they were indexed.

    Attributes:
        path: the file, or None in memory.
        root: the folder that names are relative to.
        maker: what made the vectors.
        loaded, reader: its model, and what reads words alone, once they are loaded.
    """

    path: Path | None
    root: Path
    maker: Maker
    connection: sqlite3.Connection = field(repr=False)
    loaded: Encoder | None = field(default=None, repr=False)
    reader: Encoder | None = field(default=None, repr=False)
    _contents: tuple[tuple[Entry, ...], Tensor] | None = field(default=None, repr=False)
    _asked: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def create(cls, path: str | Path | None, root: Path, maker: Maker) -> Index:
        """A new, empty index. Raises BadInput when there is a file already, or none can be written there."""
        place = None if path is None else Path(path).expanduser()
        if place is not None and place.exists() and place.stat().st_size:
            raise BadInput(f"{name_of(place)} exists already.")
        about = {
            "model": maker.model,
            "weights": maker.weights,
            "weights hash": maker.weights_hash,
            "preprocess": maker.preprocess,
            "moments": maker.moments,
            "dimension": str(maker.dimension),
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
            **({} if place is None else root_hints(root, place)),
        }
        with in_words(place):
            return cls(place, root, maker, schema.create(place, about))

    @classmethod
    def open(cls, path: str | Path, root: str | Path | None = None) -> Index:
        """The index in a file.

        Args:
            path: the file.
            root: where its folder lies now; found by itself where index and folder moved together.

        Raises: BadInput in one sentence for a missing, foreign, damaged or locked file, or one of a newer schema.
        """
        place = Path(path).expanduser()
        if not place.is_file():
            raise BadInput(f"there is no index {name_of(place)}; make one: percepta index FOLDER --to {place}")
        with in_words(place):
            schema.migrate(place)
            connection = schema.connect(place)
            about = dict(connection.execute("SELECT key, value FROM about"))
        try:
            maker = Maker(
                about["model"],
                about["weights"],
                about["weights hash"],
                about["preprocess"],
                about["moments"],
                int(about["dimension"]),
            )
            found = Path(root).expanduser() if root is not None else find_root(about, place)
        except (KeyError, ValueError) as error:
            raise schema.damaged(place) from error
        return cls(place, found, maker, connection)

    @property
    def model(self) -> str:
        """Name of the model that made the vectors."""
        return self.maker.model

    @property
    def encoder(self) -> Encoder:
        """The model that made the vectors, loaded on first use. Raises BadInput when its weights have changed."""
        if self.loaded is None:
            self.loaded = self.maker.load()
        return self.loaded

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What each row of `vectors` belongs to, sorted by source and time."""
        return self._read()[0]

    @property
    def vectors(self) -> Tensor:
        """(N, D) float16, rows of unit length before they were rounded."""
        return self._read()[1]

    @property
    def failures(self) -> list[Failure]:
        """Files that could not be used, or only in part, sorted by name."""
        with in_words(self.path):
            rows = self.connection.execute("SELECT source, failure FROM files WHERE failure IS NOT NULL").fetchall()
        return sorted((Failure(_named(source), reason) for source, reason in rows), key=lambda item: item.source)

    def files(self) -> dict[str, FileRow]:
        """Every file that is known, by source."""
        with in_words(self.path):
            rows = self.connection.execute(
                "SELECT source, kind, size, modified, content, taken, failure FROM files"
            ).fetchall()
        return {_named(source): FileRow(_named(source), *rest) for source, *rest in rows}

    def add(self, files: Iterable[tuple[FileRow, Sequence[Part]]]) -> None:
        """Put files in, each with its vectors, in place of what was known of them; all or nothing."""
        with self._writing() as connection:
            (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM files").fetchone()
            for number, (row, parts) in enumerate(files, start=last + 1):
                _forget(connection, _stored(row.source))
                _insert(connection, number, row)
                connection.executemany(
                    "INSERT INTO moments (file, start, stop, vector) VALUES (?, ?, ?, ?)",
                    [(number, part.start, part.end, packed(part.vector)) for part in parts],
                )

    def rename(self, renamed: Iterable[tuple[str, FileRow]]) -> None:
        """Files whose contents are known under an old name, each with its row of today; all or nothing."""
        pairs = [(_stored(old), row) for old, row in renamed]
        with self._writing() as connection:
            # In two steps, since names may have been swapped.
            numbers = [
                connection.execute("SELECT id FROM files WHERE source = ?", (old,)).fetchone() for old, _ in pairs
            ]
            connection.executemany("DELETE FROM files WHERE source = ?", [(old,) for old, _ in pairs])
            for number, (_, row) in zip(numbers, pairs, strict=True):
                if number is not None:  # another run may have removed it
                    _forget(connection, _stored(row.source))
                    _insert(connection, number[0], row)

    def remove(self, sources: Iterable[str]) -> None:
        """Forget files and their vectors; all or nothing."""
        with self._writing() as connection:
            for source in sources:
                _forget(connection, _stored(source))

    def settle(self, root: Path, weights: str) -> None:
        """Remember where folder and weights lie now; names stay relative to the root, which may be a wider one."""
        about = {"weights": weights, **({} if self.path is None else root_hints(root, self.path))}
        wider = self.root.absolute().is_relative_to(root.absolute()) and self.root.absolute() != root.absolute()
        prefix = self.root.absolute().relative_to(root.absolute()).as_posix() + "/" if wider else ""
        if about.items() <= self._about().items() and not prefix:
            return
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
            if prefix:
                # The longest first: what a name becomes may be the name of another, which is longer and gone by then.
                names = sorted(self.files(), key=len, reverse=True)
                pairs = [(_stored(prefix + name), _stored(name)) for name in names]
                connection.executemany("UPDATE files SET source = ? WHERE source = ?", pairs)
        self.root, self.maker = root, replace(self.maker, weights=weights)

    @property
    def bank(self) -> Tensor | None:
        """(K, D) float32: the vectors of the neutral texts in their order, or None where there are none."""
        with in_words(self.path):
            found = self.connection.execute("SELECT vector FROM bank ORDER BY id").fetchall()
        return torch.from_numpy(np.stack([np.frombuffer(row[0], "<f4") for row in found])) if found else None

    @property
    def bank_texts(self) -> tuple[str, ...]:
        """The neutral texts."""
        with in_words(self.path):
            return tuple(text for (text,) in self.connection.execute("SELECT text FROM bank ORDER BY id"))

    def keep_bank(self, texts: Sequence[str], vectors: Tensor) -> None:
        """Keep the vectors (K, D) of the neutral texts."""
        with self._writing() as connection:
            connection.execute("DELETE FROM bank")
            rows = [(text, row.numpy().astype("<f4").tobytes()) for text, row in zip(texts, vectors, strict=True)]
            connection.executemany("INSERT INTO bank (text, vector) VALUES (?, ?)", rows)

    def cached_query(self, text: str) -> Tensor | None:
        """(D,) float32 of words that were searched for before, or None."""
        if text not in self._asked:
            with in_words(self.path):
                found = self.connection.execute("SELECT vector FROM queries WHERE text = ?", (text,)).fetchone()
            if found is None or len(found[0]) != 4 * self.maker.dimension:
                return None
            self._asked[text] = torch.from_numpy(np.frombuffer(found[0], "<f4").copy())
        return self._asked[text]

    def cache_query(self, text: str, vector: Tensor) -> None:
        """Remember the vector (D,) of words: in the file where that can be written, else in memory."""
        self._asked[text] = vector.float().cpu()
        try:
            if self.path is None:
                self._keep_query(self.connection, text)
            else:
                with closing(schema.connect(self.path, wait=0)) as connection:
                    self._keep_query(connection, text)
        except sqlite3.Error:  # a cache: what cannot be kept is computed again
            return

    def _keep_query(self, connection: sqlite3.Connection, text: str) -> None:
        with connection:
            value = self._asked[text].numpy().astype("<f4").tobytes()
            connection.execute("INSERT OR REPLACE INTO queries VALUES (?, ?)", (text, value))

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def _about(self) -> dict[str, str]:
        with in_words(self.path):
            return dict(self.connection.execute("SELECT key, value FROM about"))

    def _read(self) -> tuple[tuple[Entry, ...], Tensor]:
        if self._contents is None:
            with in_words(self.path), self._reading() as connection:
                files = {
                    number: (_named(source), *rest)
                    for source, number, *rest in connection.execute(
                        "SELECT source, id, kind, taken, size, modified FROM files"
                    )
                }
                rows = connection.execute("SELECT file, start, stop, vector FROM moments ORDER BY id").fetchall()
            width = 2 * self.maker.dimension
            if any(number not in files or len(vector) != width for number, _, _, vector in rows):
                raise schema.damaged(self.path)
            order = sorted(range(len(rows)), key=lambda row: (files[rows[row][0]][0], rows[row][1] or 0.0))
            entries = []
            for row in order:
                number, start, stop, _ = rows[row]
                source, kind, taken, size, modified = files[number]
                entries.append(Entry(source, kind, start, stop, taken, size, modified))
            joined = bytearray().join(rows[row][3] for row in order)
            table = np.frombuffer(joined, "<f2").reshape(len(rows), self.maker.dimension)
            self._contents = tuple(entries), torch.from_numpy(table)
        return self._contents

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Several statements that see the same state, whatever another process commits meanwhile."""
        self.connection.execute("BEGIN")
        with self.connection:
            yield self.connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._contents = None
        with in_words(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            with self.connection:
                yield self.connection

    def __len__(self) -> int:
        if self._contents is not None:
            return len(self._contents[0])
        with in_words(self.path):
            (count,) = self.connection.execute("SELECT count(*) FROM moments").fetchone()
        return int(count)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else repr(str(self.path))
        return f"Index({where}: {len(self)} pictures and moments, {self.model}, root {str(self.root)!r})"


def packed(vector: NDArray[np.float32]) -> bytes:
    """A vector as it is kept: little-endian half floats."""
    return np.asarray(vector).astype("<f2").tobytes()


def _insert(connection: sqlite3.Connection, number: int, row: FileRow) -> None:
    connection.execute(
        "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (_stored(row.source), number, row.kind, row.size, row.modified, row.content, row.taken, row.failure),
    )


def _forget(connection: sqlite3.Connection, source: str | bytes) -> None:
    connection.execute("DELETE FROM moments WHERE file = (SELECT id FROM files WHERE source = ?)", (source,))
    connection.execute("DELETE FROM files WHERE source = ?", (source,))


def _stored(source: str) -> str | bytes:
    """A name as SQLite takes it: text, or the bytes of a file name that is no valid text."""
    try:
        source.encode()
    except UnicodeEncodeError:
        return os.fsencode(source)
    return source


def _named(source: str | bytes) -> str:
    return source if isinstance(source, str) else os.fsdecode(source)
