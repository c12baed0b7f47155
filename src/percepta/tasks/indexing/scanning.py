"""What has changed since a folder was indexed: told by size and time, and by contents where those differ.

A file of known name, size and time is unchanged and is not opened. One of known contents under a new name, while the
old name is gone, has moved; its vectors are kept. What is gone from an input is removed, but nothing is ever removed
because a drive is not mounted or a folder cannot be read: a file counts as gone when its place says that it is not
there, or when an input that holds it was walked through without meeting it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from percepta.errors import BadInput
from percepta.media import Source
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


def common_root(inputs: Any) -> Path:
    """The deepest folder that holds all inputs that are files, folders or globs; the working directory for others."""
    places = [_folder_of(item) for item in input_paths(inputs)]
    return Path(os.path.commonpath(places)) if places else Path.cwd()


def input_paths(inputs: Any) -> list[str]:
    """The inputs that are names of files, folders or globs, absolute."""
    items = [inputs] if isinstance(inputs, str | os.PathLike) else inputs if isinstance(inputs, Sequence) else []
    names = [item.path if isinstance(item, Source) else item for item in items]
    return [
        os.path.abspath(os.path.expanduser(os.fsdecode(name)))
        for name in names
        if isinstance(name, str | os.PathLike) and os.fspath(name) != "-"
    ]


def _folder_of(place: str) -> str:
    while not os.path.isdir(place):  # a file, or a glob: the part before its first pattern
        place = os.path.dirname(place)
    return place


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
        if item is None or item.row.source in seen:
            continue
        seen.add(item.row.source)
        before = known.get(item.row.source)
        if before is not None and (before.size, before.modified) == (item.row.size, item.row.modified):
            if before.failure is None:
                changes.unchanged += 1
            else:
                changes.failures.append(Failure(str(root / before.source), before.failure))
        elif before is not None and before.content is not None and _same_contents(before, source):
            changes.moved.append((before.source, replace(before, modified=item.row.modified, taken=before.taken)))
        else:
            fresh.append(item)
    missing = [name for name in known if name not in seen]
    changes.gone = [name for name in missing if _is_gone(root / name, inputs, changes.failures)]
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


def _same_contents(before: FileRow, source: Source) -> bool:
    if source.path is None or before.failure is not None:
        return False
    try:
        return source.path.stat().st_size == before.size and content_hash(source.path) == before.content
    except OSError:
        return False


def _is_gone(place: Path, inputs: Sequence[str], failures: Sequence[Failure]) -> bool:
    """Whether a known file that was not met is there no more, or is excluded now."""
    walked = [folder for folder in inputs if os.path.isdir(folder) and place.is_relative_to(folder)]
    if not walked and str(place) not in inputs:
        return False
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return any(os.path.isdir(folder) for folder in walked) or os.path.isdir(place.parent)
    except OSError:
        return False
    unreadable = [os.path.abspath(failure.source) for failure in failures if os.path.isdir(failure.source)]
    return bool(walked) and not any(place.is_relative_to(folder) for folder in unreadable)


def _match_moves(changes: Changes, fresh: list[Found], known: Mapping[str, FileRow]) -> None:
    """Take out of `fresh` and `gone` what is the same file under two names; the rest of `fresh` is new."""
    left: dict[int | None, list[str]] = {}
    for name in changes.gone:
        if known[name].content is not None and known[name].failure is None:
            left.setdefault(known[name].size, []).append(name)
    for item in fresh:
        match = next((name for name in left.get(item.row.size, ()) if _same_contents(known[name], item.source)), None)
        if match is None:
            changes.new.append(item)
            continue
        left[item.row.size].remove(match)
        changes.gone.remove(match)
        changes.moved.append((match, replace(known[match], source=item.row.source, modified=item.row.modified)))
