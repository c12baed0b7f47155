"""What has changed since a folder was indexed: told by size and time, and by contents where those differ.

A file of known name, size and time is unchanged and is not opened. One of known contents under a new name, while the
old name is gone, has moved; its vectors are kept. What is gone from an input is removed, but nothing is ever removed
because a drive is not mounted or a folder cannot be read: a file counts as gone when its place says that it is not
there, or when an input that holds it was walked through without meeting it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from percepta.errors import BadInput
from percepta.media import Source
from percepta.media.inputs import Classify, classify_file
from percepta.media.sniffing import name_of
from percepta.results import Failure
from percepta.tasks.indexing.store import FileRow

PIECE_BYTES = 65_536
WHOLE_BYTES = 4 * PIECE_BYTES  # files up to this size are hashed whole


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A source to be indexed, under its name in the index; its row lacks what only decoding tells."""

    source: Source
    row: FileRow


@dataclass(slots=True, eq=False)
class Changes:
    """What an index has to do to hold what its inputs hold.

    Attributes:
        new: sources without vectors, and those whose contents have changed.
        moved: the known name of each file that has another name or time today, with its row of today.
        gone: names of files that are there no more.
        unchanged: how many files need nothing.
        failures: what cannot be used: known as such and unchanged, or no picture and no video at all.
    """

    new: list[Found] = field(default_factory=list)
    moved: list[tuple[str, FileRow]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    unchanged: int = 0
    failures: list[Failure] = field(default_factory=list)


def classify_known(known: Mapping[str, FileRow], root: Path) -> Classify:
    """What a file is, for `media.collect`: as it is known, where name, size and time are; only others are opened."""
    prefix = os.path.join(os.path.abspath(root), "")

    def classify(path: Path, name: str) -> Source | Failure:
        place = os.path.abspath(path)
        row = known.get(place[len(prefix) :].replace(os.sep, "/")) if place.startswith(prefix) else None
        if row is not None and row.kind is not None:
            try:
                status = path.stat()
            except OSError:
                return classify_file(path, name)
            if (status.st_size, status.st_mtime_ns) == (row.size, row.modified):
                return Source(name, row.kind, path)
        return classify_file(path, name)

    return classify


def changes_of(
    known: Mapping[str, FileRow], found: Iterable[Source | Failure], root: Path, inputs: Sequence[str]
) -> Changes:
    """Compare what is known with what was found.

    Args:
        known: the rows of the index, by name.
        found: what `media.collect` gave for the inputs.
        root: the folder that names are relative to.
        inputs: absolute paths of the inputs; only below the folders among them is anything missed.

    Raises: BadInput for a file outside of the root.
    """
    changes = Changes()
    seen: set[str] = set()
    fresh: list[Found] = []
    for source in found:
        if isinstance(source, Failure):
            changes.failures.append(source)
            continue
        item = _row_of(source, root)
        if item is not None and source.path is None:
            item = _under_another_name(item, seen)
        if item is None or item.row.source in seen:
            continue
        seen.add(item.row.source)
        before = known.get(item.row.source)
        if before is not None and (before.size, before.modified) == (item.row.size, item.row.modified):
            if before.failure is None:
                changes.unchanged += 1
            else:
                changes.failures.append(Failure(str(root / before.source), before.failure))
        elif before is not None and _same_contents(before, item):
            changes.moved.append((before.source, replace(before, modified=item.row.modified, taken=before.taken)))
        else:
            fresh.append(item)
    changes.gone = _gone((name for name in known if name not in seen), root, inputs, changes.failures)
    _match_moves(changes, fresh, known)
    return changes


def content_hash(path: Path) -> bytes:
    """16 bytes that tell files apart: BLAKE2b of size and contents, of large files of their ends and middle alone."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
        if size <= WHOLE_BYTES:
            digest.update(file.read())
        else:
            for start in (0, (size - PIECE_BYTES) // 2, size - PIECE_BYTES):
                file.seek(start)
                digest.update(file.read(PIECE_BYTES))
    return digest.digest()


def _row_of(source: Source, root: Path) -> Found | None:
    """A source with its name in the index; None for a file that has gone in the meantime."""
    if source.path is None:
        return Found(source, FileRow(source.name, source.kind))
    place = Path(os.path.abspath(source.path))
    try:
        name = place.relative_to(os.path.abspath(root)).as_posix()
    except ValueError as error:
        raise BadInput(
            f"{name_of(place)} lies outside of {name_of(root)}, the folder of the index; make another index for it."
        ) from error
    try:
        status = place.stat()
    except OSError:
        return None
    return Found(source, FileRow(name, source.kind, status.st_size, status.st_mtime_ns))


def _under_another_name(item: Found, seen: Set[str]) -> Found:
    """An input in memory whose name is not taken by another; files of one name are one file."""
    number, name = 1, item.row.source
    while name in seen:
        number += 1
        name = f"{item.row.source} ({number})"
    return Found(replace(item.source, name=name), replace(item.row, source=name))


def _same_contents(before: FileRow, item: Found) -> bool:
    same_size = before.failure is None and before.content is not None and before.size == item.row.size
    return same_size and _hash_of(item.source) == before.content


def _hash_of(source: Source) -> bytes | None:
    if source.path is None:
        return None
    try:
        return content_hash(source.path)
    except OSError:
        return None


def _gone(missing: Iterable[str], root: Path, inputs: Sequence[str], failures: Sequence[Failure]) -> list[str]:
    """Those of the known files that were not met which are there no more, or are excluded now."""
    walked = [folder for folder in inputs if os.path.isdir(folder)]
    # A folder that could not be read, or that is empty all of a sudden as where a drive is missing, tells nothing.
    silent = [os.path.abspath(failure.source) for failure in failures if os.path.isdir(failure.source)]

    def gone(place: Path) -> bool:
        below = any(place.is_relative_to(folder) for folder in walked)
        if not (below or str(place) in inputs) or any(place.is_relative_to(folder) for folder in silent):
            return False
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return below or os.path.isdir(place.parent)
        except OSError:
            return False
        return below and os.access(place, os.R_OK)

    return [name for name in missing if gone(root / name)]


def _match_moves(changes: Changes, fresh: list[Found], known: Mapping[str, FileRow]) -> None:
    """Take out of `fresh` and `gone` what is the same file under two names; the rest of `fresh` is new."""
    left: dict[tuple[int | None, bytes | None], list[str]] = {}
    for name in reversed(changes.gone):
        if known[name].content is not None and known[name].failure is None:
            left.setdefault((known[name].size, known[name].content), []).append(name)
    sizes = {size for size, _ in left}
    matched = set()
    for item in fresh:
        same = left.get((item.row.size, _hash_of(item.source))) if item.row.size in sizes else None
        if not same:
            changes.new.append(item)
            continue
        match = same.pop()
        matched.add(match)
        changes.moved.append((match, replace(known[match], source=item.row.source, modified=item.row.modified)))
    changes.gone = [name for name in changes.gone if name not in matched]
