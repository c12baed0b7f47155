"""The SQLite file of an index: its tables, how an older file becomes new, what goes wrong with it in words.

Unusual: pages of 64 KiB, so that 31 vectors of 1,024 half floats share one (2.6 % is lost; with pages of 4 KiB half
would be). A rollback journal, not a write-ahead log: at rest there is one file, and it can be read where nothing can be
written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from percepta.errors import BadInput
from percepta.media.sniffing import name_of

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


def is_index(path: str | Path) -> bool:
    """Whether a file says of itself that it is an index, whatever its schema and state."""
    try:
        with Path(path).expanduser().open("rb") as file:
            head = file.read(72)
    except (OSError, ValueError, RuntimeError):
        return False
    return head.startswith(b"SQLite format 3\0") and head[68:72] == APPLICATION.to_bytes(4, "big")


def connect(path: Path | None, create: bool = False, wait: float | None = None) -> sqlite3.Connection:
    """A connection to a file, or to memory; to a file that cannot be written, one that reads."""
    # Also to read, a file is opened for writing where it can be: what a killed run left half done is rolled back then.
    place = (
        ":memory:" if path is None else f"file:{quote(os.fsencode(path.absolute()))}?mode={'rwc' if create else 'rw'}"
    )
    # Results may be drawn from another thread than the one that began; they are never drawn from two at once.
    connection = sqlite3.connect(
        place,
        WAIT_SECONDS if wait is None else wait,
        uri=path is not None,
        check_same_thread=False,
        isolation_level="IMMEDIATE",
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def create(path: Path | None, about: Mapping[str, str]) -> sqlite3.Connection:
    """A new file with empty tables, in one transaction: a killed run leaves an empty file or an index."""
    if path is not None:
        with suppress(OSError):  # SQLite will say that it cannot be
            path.parent.mkdir(parents=True, exist_ok=True)
    connection = connect(path, create=True)
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        run(connection, TABLES + QUERY_TABLES, SCHEMA)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
    return connection


def delete(path: Path) -> None:
    """Remove an index. Raises BadInput for a file that is none."""
    if not is_index(path):
        raise foreign(path)
    path.unlink()
    # Second, since SQLite throws away a journal that has lost its file, and would apply it to the next file there.
    path.with_name(path.name + "-journal").unlink(missing_ok=True)


def migrate(path: Path) -> None:
    """Bring an older file to the schema of today, in one transaction. Raises BadInput for what is no such file."""
    with closing(connect(path)) as connection:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION:
            raise foreign(path)
        if schema > SCHEMA:
            raise BadInput(
                f"the index {name_of(path)} has schema {schema} and this version reads up to {SCHEMA}: update percepta."
            )
        if schema == SCHEMA:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                (schema,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been faster
                run(connection, "".join(MIGRATIONS[number] for number in range(schema, SCHEMA)), SCHEMA)
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
            raise BadInput(
                f"the index {name_of(path)} has the old schema {schema} and cannot be written; copy it to where it can."
            ) from error


def run(connection: sqlite3.Connection, statements: str, schema: int) -> None:
    """Run statements that lead to a schema, within the transaction that is open."""
    for statement in statements.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {schema}")


def foreign(path: Path) -> BadInput:
    """The error for a file that is something else."""
    return BadInput(f"{name_of(path)} is no index of Percepta.")


def damaged(path: Path | None) -> BadInput:
    """The error for a file whose contents contradict each other."""
    return BadInput(f"the index {name_of(path or 'in memory')} is damaged; make it again with overwrite.")


@contextmanager
def in_words(path: Path | None) -> Iterator[None]:
    """Errors of SQLite as one sentence each."""
    try:
        yield
    except sqlite3.Error as error:
        raise _sentence(path, str(error)) from error


def _sentence(path: Path | None, reason: str) -> BadInput:
    name = name_of(path or "in memory")
    if path is not None and "not a database" in reason:
        return foreign(path)
    for part, sentence in (
        ("locked", "is locked by another program that writes to it; try again later."),
        ("full", "has no room left on its disk; what was indexed is kept: free some and run it again."),
        ("readonly", "cannot be written; check its permissions, or name another with to."),
        (
            "unable to open",
            "cannot be opened or made there; check that its folder can be written, or name another with to.",
        ),
        ("disk I/O", "cannot be read or written: its disk fails or is gone."),
    ):
        if part in reason:
            return BadInput(f"the index {name} {sentence}")
    return damaged(path)
