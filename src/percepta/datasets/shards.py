"""Webdataset shards (tar files of a.jpg or a.mp4 beside a.txt) as one long, shuffled, randomly accessible list.

Unusual: the usual readers stream, so that a resumed run must replay or repeat data. Here the tar headers are indexed
once, so that sample number i of a seed is always the same sample, whoever asks and whenever.
"""

from __future__ import annotations

import functools
import glob
import json
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from percepta.errors import BadMedia, out_of_range

PICTURE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
VIDEO_SUFFIXES = frozenset({"mp4", "mov", "webm", "mkv", "avi", "gif"})
KINDS = {**dict.fromkeys(PICTURE_SUFFIXES, "picture"), **dict.fromkeys(VIDEO_SUFFIXES, "video")}
OPEN_INDEXES = 64
"""Indexes of that many shards are kept in memory."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture or video, still encoded, and its caption."""

    key: str
    media: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where the samples of one tar file lie: (key, media offset, media size, text offset, text size)."""

    path: Path
    entries: tuple[tuple[str, int, int, int, int], ...]

    def read(self, number: int) -> Sample:
        """Sample `number` of this shard."""
        key, media_offset, media_size, text_offset, text_size = self.entries[number]
        with self.path.open("rb") as file:
            file.seek(media_offset)
            media = file.read(media_size)
            file.seek(text_offset)
            caption = file.read(text_size).decode("utf-8", "replace").strip()
        return Sample(key, media, caption)


def members_of(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Sample keys to suffixes to (offset, size) of a tar file, from its headers.

    Every suffix of a picture is "picture" and of a video "video"; the others are in small letters.

    Raises:
        BadMedia: not a readable tar file.
    """
    places: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                kind = KINDS.get(suffix.lower(), suffix.lower())
                if member.isfile():
                    places.setdefault(f"{folder}/{stem}", {})[kind] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise BadMedia(f"{path} must be a tar file of pictures or videos and texts; {error}.") from error
    return places


def index_shard(path: Path, kind: str = "picture") -> ShardIndex:
    """Index of a tar file from its headers; `kind` is "picture" or "video", members without a partner are left out.

    Raises:
        BadMedia: not a readable tar file.
    """
    entries = tuple(
        (key, *kinds[kind], *kinds["txt"]) for key, kinds in members_of(path).items() if {kind, "txt"} <= set(kinds)
    )
    return ShardIndex(path, entries)


class Shards:
    """All samples of the shards that match a glob.

    The order of one pass: shards are shuffled, `mix` at a time are put together and their samples are shuffled.
    The number of samples of each shard comes from a `sizes.json` ({file name: count}) beside them, or from indexing.

    Args:
        pattern: a glob such as "/data/shards/*.tar".
        mix: number of shards shuffled together; more mixes better and seeks more.
        kind: "picture" or "video".

    Raises:
        BadMedia: nothing matches, or no sample is found. BadInput: `mix` below 1.
    """

    def __init__(self, pattern: str, mix: int = 8, kind: str = "picture") -> None:
        if mix < 1:
            raise out_of_range("mix", mix, "1 or more", "Shards")
        self.mix, self.kind = mix, kind
        self.paths = [Path(path) for path in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]
        if not self.paths:
            raise BadMedia(f"shards must be given as a glob of tar files; nothing matches {pattern}.")
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()
        known: dict[Path, dict[str, int]] = {path.parent: _read_sizes(path.parent) for path in self.paths}
        self.sizes = [
            known[path.parent].get(path.name) or len(self._index(number).entries)
            for number, path in enumerate(self.paths)
        ]
        if not sum(self.sizes):
            ending = "jpg" if kind == "picture" else "mp4"
            raise BadMedia(f"shards {pattern} must hold pairs such as a.{ending} and a.txt; none was found.")

    def __len__(self) -> int:
        return sum(self.sizes)

    def sample(self, position: int, seed: int = 0) -> Sample:
        """Sample at `position` of the endless shuffled list of `seed`; each pass over the data has another order."""
        epoch, rest = divmod(position, len(self))
        for group, (starts, count) in enumerate(self._groups(seed, epoch)):
            if rest < count:
                order = _permutation(count, seed, epoch, group + 1)
                return self._read(starts, int(order[rest]))
            rest -= count
        raise AssertionError("a position below the length lies in a group")

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a reader lives as long as its run)
    def _groups(self, seed: int, epoch: int) -> list[tuple[list[tuple[int, int]], int]]:
        """For each group of `mix` shards: (shard, first number within the group), and the group's size."""
        order = _permutation(len(self.paths), seed, epoch, 0)
        groups = []
        for start in range(0, len(order), self.mix):
            members, count = [], 0
            for shard in order[start : start + self.mix]:
                members.append((int(shard), count))
                count += self.sizes[shard]
            groups.append((members, count))
        return groups

    def _read(self, starts: list[tuple[int, int]], number: int) -> Sample:
        shard, first = max((start for start in starts if start[1] <= number), key=lambda start: start[1])
        # An empty shard shares its start with the next one; the last of equals is the one that holds samples.
        shard, first = [start for start in starts if start[1] == first and self.sizes[start[0]]][-1]
        index = self._index(shard)
        if number - first >= len(index.entries):
            raise BadMedia(f"{index.path} has {len(index.entries)} samples, fewer than sizes.json says; remove it.")
        return index.read(number - first)

    def _index(self, shard: int) -> ShardIndex:
        if shard in self._indexes:
            self._indexes.move_to_end(shard)
        else:
            self._indexes[shard] = index_shard(self.paths[shard], self.kind)
            while len(self._indexes) > OPEN_INDEXES:
                self._indexes.popitem(last=False)
        return self._indexes[shard]


@functools.lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int, group: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, group)).permutation(count)


def _read_sizes(folder: Path) -> dict[str, int]:
    path = folder / "sizes.json"
    return {str(name): int(size) for name, size in json.loads(path.read_text()).items()} if path.is_file() else {}
