"""Which pictures and videos are there more than once. Nothing is ever deleted here.

Order of this file: the verb, what is to be compared, copies, exact and near groups, bursts, which one to keep.
Unusual: no model is needed. Groups never chain: every member was compared with the one to keep itself, so that a row
of pictures that each resemble the next does not end in one group.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, BadMedia, PerceptaError, one_of, out_of_range
from percepta.media import Source, open_picture
from percepta.media.pictures import open_draft
from percepta.media.sniffing import name_of, read_head
from percepta.results import Failure
from percepta.results.duplicates import KINDS, DuplicateGroup, Duplicates
from percepta.running.feed import ON_ERROR
from percepta.running.progress import Progress
from percepta.tasks.encoder import sources_of
from percepta.tasks.indexing.building import facts_of
from percepta.tasks.indexing.looks import Look, alike, likeness, look_of_picture, look_of_video, same_tint
from percepta.tasks.indexing.store import Index

BURST = 0.7  # the least cosine of the rough looks of a burst, where the pictures say when they were taken
UNDATED_BURST = 0.95  # the least correlation of the fine looks, where only the files do: a copied folder has one time
LENGTHS = (0.5, 0.02)  # seconds, and share, by which copies of a video may differ in duration
FEWEST_FRAMES = 3  # of two videos that must show something, for the two to be called copies
MOVED = 0.9  # the least correlation of a frame of copied videos; another frame rate shows another instant
_FOLLOWING = 500  # pictures after the first of a burst that may belong to it: a copied folder has one time for all
_SHARP_SIDE = 512
_READING = 1 << 20


def duplicates(
    inputs: Any,
    kinds: Sequence[str] = KINDS,
    seconds: float = 3.0,
    on_error: str = "collect",
    workers: int = 2,
    progress: Progress | None = None,
) -> Duplicates:
    """Groups of pictures and videos that show the same, and which one of each to keep; deletes nothing.

    Exact groups hold the same bytes or the same pixels. Near ones are copies that were encoded anew, resized, or
    cropped by a few per cent. Bursts are different pictures of one sight, taken within seconds of each other. Kept is
    what has most pixels; then of a burst the sharpest, of exact copies the one that knows its date and is smallest;
    then the largest file, the earliest, the shortest name.

    Args:
        inputs: what `media.collect` takes, an index, or the file of one (its files are read, its vectors are not used).
        kinds: which groups to look for, of "exact", "near" and "burst".
        seconds: from one picture of a burst to the next, at most; above 0.
        on_error: "collect" lists what cannot be read, "raise" raises BadMedia for the first.
        workers: threads that read files.
        progress: told of every input.

    Raises:
        BadInput: nothing to compare, an unknown kind, or a setting out of range.
    """
    chosen = _checked(kinds, seconds, on_error, workers)
    items, failures = _read(_sources(inputs), workers, on_error, progress)
    items.sort(key=_worth)
    pairs = [] if chosen == ["burst"] else _copies_among(items)
    groups: list[DuplicateGroup] = []
    spare: set[str] = set()
    for kind in chosen:
        left = [item for item in items if item.name not in spare]
        if kind == "burst":
            found = _bursts(left, seconds)
        else:
            among = [pair for pair in pairs if not spare.intersection(item.name for item in pair)]
            found = _exact(left, among) if kind == "exact" else _near(among)
        for members in found:
            kept, why = _choose(members, kind)
            others = tuple(sorted(member.name for member in members if member is not kept))
            groups.append(DuplicateGroup(kind, kept.name, why, others, sum(m.size for m in members) - kept.size))
            spare.update(others)
    return Duplicates(_called(inputs), tuple(groups), len(items), tuple(failures))


def _checked(kinds: Sequence[str], seconds: float, on_error: str, workers: int) -> list[str]:
    """The kinds in their order, each once."""
    given = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in given:
        if kind not in KINDS:
            raise one_of("kind", kind, KINDS, "duplicates")
    if not given:
        raise BadInput(f"duplicates needs a kind: {', '.join(KINDS)}; got none.")
    if on_error not in ON_ERROR:
        raise one_of("on_error", on_error, ON_ERROR)
    if not 0 < seconds < float("inf"):
        raise out_of_range("seconds", seconds, "a number above 0", "duplicates")
    if workers < 1:
        raise out_of_range("workers", workers, "1 or more", "duplicates")
    return [kind for kind in KINDS if kind in given]


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """One picture or video with what is compared.

    Attributes:
        size: bytes of its file, 0 for what came in memory.
        taken: seconds since 1970, 0 where unknown.
        dated: whether the picture itself says when it was taken; else its file does.
    """

    source: Source
    look: Look
    size: int
    taken: float
    dated: bool

    @property
    def name(self) -> str:
        return self.source.name


# What is to be compared


def _sources(inputs: Any) -> Iterable[Source | Failure]:
    if isinstance(inputs, Index):
        return _sources_of_index(inputs)
    if isinstance(inputs, str | os.PathLike) and _is_index(place := Path(os.fsdecode(inputs)).expanduser()):
        with Index.open(place) as index:
            return _sources_of_index(index)
    return sources_of(inputs)


def _is_index(path: Path) -> bool:
    try:
        return path.is_file() and read_head(path).startswith(b"SQLite format 3\0")
    except OSError:
        return False


def _sources_of_index(index: Index) -> list[Source]:
    found = []
    for row in index.files().values():
        if row.size is not None and row.kind is not None:
            place = index.root / row.source
            found.append(Source(str(place), "video" if row.kind == "video" else "picture", place))
    if not found:
        raise BadInput("the index holds no picture or video that lies in a file.")
    return found


def _called(inputs: Any) -> str:
    if isinstance(inputs, Index):
        return str(inputs.path or "an index in memory")
    if isinstance(inputs, list | tuple) and len(inputs) == 1:
        inputs = inputs[0]
    return os.fsdecode(inputs) if isinstance(inputs, str | os.PathLike) else "inputs"


def _read(
    sources: Iterable[Source | Failure], workers: int, on_error: str, progress: Progress | None
) -> tuple[list[_Item], list[Failure]]:
    """Every file once, whatever names it has; several are read at a time, few wait."""
    items: list[_Item] = []
    failures: list[Failure] = []
    waiting: deque[Future[_Item | Failure] | Failure] = deque()
    remaining = _single(sources)
    with ThreadPoolExecutor(workers) as pool, progress or Progress("duplicates", shown=False) as told:
        told.start(len(sources) if isinstance(sources, Sequence) else None)
        while True:
            for source in itertools.islice(remaining, 4 * workers - len(waiting)):
                waiting.append(source if isinstance(source, Failure) else pool.submit(_item, source))
            if not waiting:
                return items, failures
            head = waiting.popleft()
            found = head if isinstance(head, Failure) else head.result()
            if not isinstance(found, Failure):
                items.append(found)
                told.advance()
                continue
            if on_error == "raise":
                for other in waiting:
                    if isinstance(other, Future):
                        other.cancel()
                raise BadMedia(found.reason)
            failures.append(found)
            told.fail(found)


def _single(sources: Iterable[Source | Failure]) -> Iterator[Source | Failure]:
    """Without the further names of one file: deleting a link saves nothing, deleting its target would lose the file."""
    seen: set[tuple[int, int]] = set()
    links: list[Source] = []
    for source in sources:
        if isinstance(source, Source) and source.path is not None:
            if source.path.is_symlink():
                links.append(source)
                continue
            if not _is_new(source.path, seen):
                continue
        yield source
    yield from (source for source in links if source.path is not None and _is_new(source.path, seen))


def _is_new(path: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        status = path.stat()
    except OSError:
        return True  # reading it will say why
    key = (status.st_dev, status.st_ino)
    new = key not in seen
    seen.add(key)
    return new


def _item(source: Source) -> _Item | Failure:
    try:
        look = look_of_video(source.thing) if source.kind == "video" else look_of_picture(source.thing)
        if source.path is None:
            return _Item(source, look, 0, 0.0, False)
        status, taken = source.path.stat(), facts_of(source)[1] or 0.0
        return _Item(source, look, status.st_size, taken, taken != status.st_mtime)
    except MemoryError:
        return Failure(source.name, f"{name_of(source.name)} does not fit into memory.")
    except (PerceptaError, OSError) as error:
        return Failure(source.name, str(error))


# Which are copies of each other


def _copies_among(items: Sequence[_Item]) -> list[tuple[_Item, _Item]]:
    """Pairs that are copies, the one that comes first among the items before the other."""
    found: list[tuple[_Item, _Item]] = []
    for kind in ("picture", "video"):
        shown = [item for item in items if item.source.kind == kind and item.look.shows.any()]
        if len(shown) > 1:
            for pairs in alike(np.stack([item.look.rough for item in shown])):
                rows = pairs[_copies(shown, pairs)].tolist()
                found.extend((shown[first], shown[second]) for first, second in rows)
    return found


def _copies(items: Sequence[_Item], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,): which pairs of items are copies; of videos most frames must be."""
    looks = [item.look for item in items]
    first, second = pairs[:, 0], pairs[:, 1]
    lengths = np.array([look.duration for look in looks])
    apart = np.abs(lengths[first] - lengths[second])
    close = apart <= np.maximum(LENGTHS[0], LENGTHS[1] * np.maximum(lengths[first], lengths[second]))
    result = np.zeros(len(pairs), np.bool_)
    for start in range(0, len(pairs), 512):
        rows = np.flatnonzero(close[start : start + 512]) + start
        if len(rows):
            result[rows] = _same_frames([looks[n] for n in first[rows]], [looks[n] for n in second[rows]])
    return result


def _same_frames(first: Sequence[Look], second: Sequence[Look]) -> NDArray[np.bool_]:
    found = likeness(*(np.concatenate([look.fine for look in looks]) for looks in (first, second)))
    tint = same_tint(*(np.concatenate([look.colour for look in looks]) for looks in (first, second)))
    shape = len(first), len(first[0].fine)
    if shape[1] == 1:
        return found.copies & tint
    shows, shows_too = (np.stack([look.shows for look in looks]) for looks in (first, second))
    both, either = shows & shows_too, shows | shows_too
    fits = both & (tint & (found.correlation >= MOVED)).reshape(shape)
    copies = both & found.copies.reshape(shape)
    enough = fits.sum(axis=1) >= np.maximum(FEWEST_FRAMES, either.sum(axis=1) - 1)
    return np.asarray(enough & (2 * copies.sum(axis=1) >= either.sum(axis=1)))


# Exact and near groups


def _exact(items: Sequence[_Item], pairs: Sequence[tuple[_Item, _Item]]) -> Iterator[list[_Item]]:
    """Groups of the same bytes or the same decoded pixels; only what looks the same is read again."""
    by_look: dict[Any, list[_Item]] = defaultdict(list)
    for item in items:
        by_look[item.source.kind, item.look.pixels, item.look.fine.tobytes()].append(item)
    same_size = [pair for pair in pairs if pair[0].look.pixels == pair[1].look.pixels]
    suspects = {item.name: item for group in (*by_look.values(), *same_size) if len(group) > 1 for item in group}
    same: dict[Any, list[_Item]] = defaultdict(list)
    for item in suspects.values():  # pictures of the same bytes have the same pixels; of videos the bytes decide
        digest = _pixel_hash(item) if item.source.kind == "picture" else _byte_hash(item)
        if digest is not None:
            same[item.source.kind, digest].append(item)
    yield from (group for group in same.values() if len(group) > 1)


def _near(pairs: Iterable[tuple[_Item, _Item]]) -> Iterator[list[_Item]]:
    """Groups around the best: it takes all its copies, then the best of the rest does, and so on."""
    neighbours: dict[str, list[_Item]] = defaultdict(list)
    centres: dict[str, _Item] = {}
    for first, second in pairs:
        neighbours[first.name].append(second)
        centres[first.name] = first
    taken: set[str] = set()
    for name, centre in sorted(centres.items(), key=lambda entry: _worth(entry[1])):
        members = [other for other in neighbours[name] if other.name not in taken]
        if name not in taken and members:
            taken.update((name, *(other.name for other in members)))
            yield [centre, *members]


def _pixel_hash(item: _Item) -> bytes | None:
    try:
        picture = open_picture(item.source.thing)
    except (PerceptaError, OSError):  # it could be read a moment ago
        return None
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")
    if picture.mode in ("L", "1"):
        picture = picture.convert("RGB")
    if picture.mode == "RGBA" and picture.getextrema()[-1] == (255, 255):
        picture = picture.convert("RGB")
    digest = hashlib.blake2b(f"{picture.mode} {picture.size}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.digest()


def _byte_hash(item: _Item) -> bytes | None:
    thing = item.source.thing
    if isinstance(thing, bytes):
        return hashlib.blake2b(thing, digest_size=16).digest()
    if item.source.path is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    try:
        with item.source.path.open("rb") as file:
            while block := file.read(_READING):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


# Bursts


def _bursts(items: Sequence[_Item], seconds: float) -> Iterator[list[_Item]]:
    """Pictures taken one after the other, each like the first of its group."""
    shown = [item for item in items if item.source.kind == "picture" and item.taken and item.look.shows.any()]
    if not shown:
        return
    rows = sorted(shown, key=lambda item: (item.taken, item.name))
    rough = np.stack([item.look.rough for item in rows])
    used: set[int] = set()
    for number, first in enumerate(rows):
        if number in used:
            continue
        members, latest = [first], first.taken
        following = range(number + 1, min(number + 1 + _FOLLOWING, len(rows)))
        cosines = (rough[following.start : following.stop] @ rough[number]).tolist()
        for other, cosine in zip(following, cosines, strict=True):
            if rows[other].taken - latest > seconds:
                break
            if other not in used and _one_sight(first, rows[other], cosine):
                members.append(rows[other])
                used.add(other)
                latest = rows[other].taken
        if len(members) > 1:
            yield members


def _one_sight(first: _Item, second: _Item, cosine: float) -> bool:
    if cosine < BURST or first.dated != second.dated:
        return False
    if first.dated:
        return True
    found = likeness(first.look.fine, second.look.fine)
    return bool(found.correlation[0] >= UNDATED_BURST and same_tint(first.look.colour, second.look.colour)[0])


# Which one to keep


def _worth(item: _Item) -> tuple[Any, ...]:
    """Sorts the best first."""
    return (-item.look.pixels, -item.size, item.taken, len(item.name), item.name)


def _choose(members: Sequence[_Item], kind: str) -> tuple[_Item, str]:
    """The one to keep, and the first rule by which it is better than the others."""
    most = max(item.look.pixels for item in members)
    rules: dict[str, Callable[[_Item], float]] = {
        f"most pixels: {most:,}": lambda item: -item.look.pixels,
        "sharpest": lambda item: -_sharpness(item) if kind == "burst" else 0.0,
        # What has the same pixels in fewer bytes has lost nothing; what is not the same has lost less in more bytes.
        "knows its date": lambda item: -item.dated if kind == "exact" else 0.0,
        "smallest file of the same pixels": lambda item: item.size if kind == "exact" else 0.0,
        "largest file": lambda item: -item.size,
        "earliest": lambda item: item.taken,
        "shortest name": lambda item: len(item.name),
    }
    rest = list(members)
    for why, rule in rules.items():
        values = [rule(item) for item in rest]
        rest = [item for item, value in zip(rest, values, strict=True) if value == min(values)]
        if len(rest) == 1:
            return rest[0], why
    return min(rest, key=lambda item: item.name), "first by name"


def _sharpness(item: _Item) -> float:
    """The mean size of the differences between neighbouring brightnesses, at one size for all."""
    try:
        picture = open_draft(item.source.thing, (_SHARP_SIDE, _SHARP_SIDE)).convert("L")
    except (PerceptaError, OSError):
        return 0.0
    picture.thumbnail((_SHARP_SIDE, _SHARP_SIDE))
    grey = np.asarray(picture, np.float32)
    return (
        float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) if min(grey.shape) else 0.0
    )
