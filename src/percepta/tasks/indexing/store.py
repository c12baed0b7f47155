"""The index: one SQLite file with the vectors of pictures and of moments in videos.

Order of this file: the records, the index, schema and migration, where the folder lies, errors in words.
The file holds no absolute path but one hint: names are relative to the root, so that folder and index may move. Every
commit holds whole files (their row and all their vectors), so a killed run leaves a valid index of what was committed.

Unusual: pages of 64 KiB, so that 31 vectors of 1,024 half floats share one (2.6 % is lost; with pages of 4 KiB a third
would be). A rollback journal, not a write-ahead log: at rest there is one file, and it can be read where nothing can be
written. A name that is no valid text is kept as bytes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.errors import BadInput
from percepta.media.sniffing import name_of
from percepta.results import Failure
from percepta.running.fingerprint import weights_hash
from percepta.tasks.encoder import Encoder

SCHEMA = 2
APPLICATION = 0x50455243  # "PERC"; tells an index from other SQLite files
PAGE_BYTES = 65_536
WAIT_SECONDS = 5.0  # for another process that is writing

TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    source PRIMARY KEY, id INTEGER NOT NULL, kind TEXT, size INTEGER, modified INTEGER, content BLOB, taken REAL,
    failure TEXT
) WITHOUT ROWID;
CREATE TABLE moments (id INTEGER PRIMARY KEY, file INTEGER NOT NULL, start REAL, stop REAL, vector BLOB NOT NULL);
CREATE INDEX moments_of_file ON moments (file);
"""
QUERY_TABLES = """
CREATE TABLE bank (id INTEGER PRIMARY KEY, text TEXT NOT NULL, vector BLOB NOT NULL);
CREATE TABLE queries (text TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
"""
MIGRATIONS: Mapping[int, str] = {1: QUERY_TABLES}
"""From each older schema to the next: 2 brought the vectors of neutral texts and of words searched for before."""


@dataclass(frozen=True, slots=True)
class Maker:
    """What made the vectors of an index; vectors of different makers are never mixed.

    Attributes:
        model: name of the model.
        weights: the file they were read from, or "" for those of the name.
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
                    "asked for; vectors of two makers do not compare: use the first, or make another index."
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
    kind: str | None
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
    """

    path: Path | None
    root: Path
    maker: Maker
    connection: sqlite3.Connection = field(repr=False)
    loaded: Encoder | None = field(default=None, repr=False)
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
            **({} if place is None else _root_hints(root, place)),
        }
        with in_words(place):
            connection = _connect(place, "rwc")
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("BEGIN IMMEDIATE")  # one transaction: a killed run leaves an empty file or an index
            with connection:
                _run(connection, TABLES + QUERY_TABLES, SCHEMA)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        return cls(place, root, maker, connection)

    @classmethod
    def open(cls, path: str | Path, root: str | Path | None = None, write: bool = False) -> Index:
        """The index in a file.

        Args:
            path: the file.
            root: where its folder lies now; found by itself where index and folder moved together.
            write: whether more will be indexed.

        Raises: BadInput in one sentence for a missing, foreign, damaged or locked file, or one of a newer schema.
        """
        place = Path(path).expanduser()
        if not place.is_file():
            raise BadInput(f"there is no index {name_of(place)}; make one: percepta index FOLDER --to {place}")
        with in_words(place):
            _migrate(place)
            connection = _connect(place, "rw" if write else _reading(place))
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
        except (KeyError, ValueError) as error:
            raise _damaged(place) from error
        found = Path(root).expanduser() if root is not None else _find_root(about, place)
        return cls(place, found, maker, connection)

    @property
    def model(self) -> str:
        """Name of the model that made the vectors."""
        return self.maker.model

    @property
    def encoder(self) -> Encoder:
        """The model that made the vectors, loaded on first use. Raises BadInput when its weights have changed."""
        if self.loaded is None:
            encoder = Encoder(self.maker.model, weights=self.maker.weights or None)
            found = weights_hash(encoder.model)
            if found != self.maker.weights_hash:
                raise BadInput(
                    f"the index {name_of(self.path or 'in memory')} was made with weights of {self.model} of the hash "
                    f"{self.maker.weights_hash}, and those at hand have {found}; make the index again."
                )
            self.loaded = encoder
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
                source = _stored(row.source)
                _forget(connection, source)
                connection.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (source, number, row.kind, row.size, row.modified, row.content, row.taken, row.failure),
                )
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
                connection.execute("SELECT id FROM files WHERE source = ?", (old,)).fetchone()[0] for old, _ in pairs
            ]
            connection.executemany("DELETE FROM files WHERE source = ?", [(old,) for old, _ in pairs])
            for number, (_, row) in zip(numbers, pairs, strict=True):
                source = _stored(row.source)
                _forget(connection, source)
                connection.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (source, number, row.kind, row.size, row.modified, row.content, row.taken, row.failure),
                )

    def remove(self, sources: Iterable[str]) -> None:
        """Forget files and their vectors; all or nothing."""
        with self._writing() as connection:
            for source in sources:
                _forget(connection, _stored(source))

    @property
    def bank(self) -> Tensor | None:
        """(K, D) float32: the vectors of the neutral texts in their order, or None where there are none."""
        with in_words(self.path):
            found = self.connection.execute("SELECT vector FROM bank ORDER BY id").fetchall()
        return torch.from_numpy(np.stack([np.frombuffer(row[0], "<f4") for row in found])) if found else None

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
                with closing(_connect(self.path, "rw", wait=0)) as connection:
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

    def _read(self) -> tuple[tuple[Entry, ...], Tensor]:
        if self._contents is None:
            with in_words(self.path):
                files = {
                    number: (_named(source), *rest)
                    for source, number, *rest in self.connection.execute(
                        "SELECT source, id, kind, taken, size, modified FROM files"
                    )
                }
                rows = self.connection.execute("SELECT file, start, stop, vector FROM moments ORDER BY id").fetchall()
            width = 2 * self.maker.dimension
            if any(number not in files or len(vector) != width for number, _, _, vector in rows):
                raise _damaged(self.path)
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
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._contents = None
        with in_words(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            with self.connection:
                yield self.connection

    def __len__(self) -> int:
        return len(self.entries)

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


def _forget(connection: sqlite3.Connection, source: str | bytes) -> None:
    connection.execute("DELETE FROM moments WHERE file = (SELECT id FROM files WHERE source = ?)", (source,))
    connection.execute("DELETE FROM files WHERE source = ?", (source,))


def _connect(path: Path | None, mode: str, wait: float = WAIT_SECONDS) -> sqlite3.Connection:
    place = ":memory:" if path is None else f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    # Results may be drawn from another thread than the one that began; they are never drawn from two at once.
    connection = sqlite3.connect(
        place, wait, uri=path is not None, check_same_thread=False, isolation_level="IMMEDIATE"
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _reading(path: Path) -> str:
    """How to open a file to be read: writable where that is possible, since a killed run is rolled back by the next."""
    return "rw" if os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK) else "ro"


def _migrate(path: Path) -> None:
    """Bring an older file to the schema of today, in one transaction. Raises BadInput for what is no such file."""
    with closing(_connect(path, _reading(path))) as connection:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION:
        raise BadInput(f"{name_of(path)} is no index of Percepta.")
    if schema > SCHEMA:
        raise BadInput(
            f"the index {name_of(path)} has schema {schema} and this version reads up to {SCHEMA}: update percepta."
        )
    if schema == SCHEMA:
        return
    if not os.access(path, os.W_OK):
        raise BadInput(
            f"the index {name_of(path)} has the old schema {schema} and cannot be written; copy it to where it can."
        )
    steps = "".join(MIGRATIONS[number] for number in range(schema, SCHEMA))
    with closing(_connect(path, "rw")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            _run(connection, steps, SCHEMA)


def _run(connection: sqlite3.Connection, statements: str, schema: int) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {schema}")


def _root_hints(root: Path, path: Path) -> dict[str, str]:
    root, home = root.absolute(), path.absolute().parent
    try:
        relative = json.dumps(os.path.relpath(root, home))
    except ValueError:  # on another drive
        relative = "null"
    return {"root": json.dumps(str(root)), "root from here": relative}


def _find_root(about: Mapping[str, str], path: Path) -> Path:
    """The root: by its way from the index where the index lies inside of it, else by its old place, else by the way."""
    absolute, relative = Path(json.loads(about["root"])), json.loads(about["root from here"])
    if relative is None:
        return absolute
    near = Path(os.path.normpath(path.absolute().parent / relative))
    inside = set(Path(relative).parts) <= {"..", "."}
    return near if inside or (not absolute.is_dir() and near.is_dir()) else absolute


def _stored(source: str) -> str | bytes:
    """A name as SQLite takes it: text, or the bytes of a file name that is no valid text."""
    try:
        source.encode()
    except UnicodeEncodeError:
        return os.fsencode(source)
    return source


def _named(source: str | bytes) -> str:
    return source if isinstance(source, str) else os.fsdecode(source)


def _damaged(path: Path | None) -> BadInput:
    return BadInput(f"the index {name_of(path or 'in memory')} is damaged; delete it and index again.")


@contextmanager
def in_words(path: Path | None) -> Iterator[None]:
    """Errors of SQLite as one sentence each."""
    try:
        yield
    except sqlite3.Error as error:
        reason, name = str(error), name_of(path or "in memory")
        if "not a database" in reason:
            raise BadInput(f"{name} is no index of Percepta.") from error
        if "locked" in reason or "busy" in reason:
            raise BadInput(
                f"the index {name} is locked by another program that writes to it; try again later."
            ) from error
        if "full" in reason:
            raise BadInput(
                f"there is no room left for the index {name}; what was indexed is kept: free some and run it again."
            ) from error
        if "readonly" in reason:
            raise BadInput(
                f"the index {name} cannot be written; check its permissions, or name another with to=."
            ) from error
        if "unable to open" in reason:
            raise BadInput(
                f"the index {name} cannot be opened or made there; check that its folder can be written."
            ) from error
        raise _damaged(path) from error
