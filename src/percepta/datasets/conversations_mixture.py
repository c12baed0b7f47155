"""Data sets of conversations mixed by weight, for training.

Order of this file: the mixture, draws, what is lost on the way.
Unusual: sample g of a run is a function of (seed, g) alone, whatever the number of readers; reader r of R looks at g =
r, r + R, ... A resumed run asks the same function again, also with other readers. A small data set repeats, and nothing
waits for it. The order of the official code stands in `conversations_official`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.conversations import Conversation, ConversationData
from percepta.datasets.conversations_index import ConversationIndex, recent
from percepta.errors import BadInput, BadMedia, PerceptaError, nearest, out_of_range

SCHEMA = 1
DRAWS = 4096  # draws that come from one generator
_log = logging.getLogger(__name__)


def parse_mix(text: str, known: Iterable[str]) -> dict[str, float | None]:
    """Weights by name from "name:weight, name:weight"; a name alone weighs as many as its rows.

    Raises: BadInput for an unknown name (with the nearest), a name twice, or a weight that is no number above 0.
    """
    names, weights = list(known), dict[str, float | None]()
    for part in "".join(text.split()).split(","):
        name, colon, weight = part.partition(":")
        _check_known(name, names)
        if name in weights:
            raise BadInput(f"a mix must name each data set once; {name} stands there twice.")
        weights[name] = _weight(name, weight) if colon else None
    return weights


def _check_known(name: str, names: Collection[str]) -> None:
    if name not in names:
        close = nearest(name, names, count=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}."
        raise BadInput(f"the mix names a data set {name!r} that is not in the registry; {hint}")


def _weight(name: str, given: Any) -> float:
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise out_of_range(f"weight of {name}", given, "a number above 0", owner="a mix")
    return weight


class ConversationMixture:
    """An endless stream of rows of several data sets.

    Args:
        data: the data sets by name.
        weights: by name, of those that are used; None weighs as many as its rows. By default all, so.
        seed: decides draws and orders.
        shuffle: False goes through every data set in the order of its files.

    Raises: BadInput for an unknown name, a weight that is not above 0, or a data set without rows.
    """

    def __init__(
        self,
        data: Mapping[str, ConversationData],
        weights: Mapping[str, float | None] | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        chosen = dict.fromkeys(data, None) if weights is None else dict(weights)
        if not chosen:
            raise BadInput("a mixture must have at least one data set; got none.")
        for name in chosen:
            _check_known(name, data)
        self.seed = seed
        self.names = tuple(chosen)
        self.indices = tuple(ConversationIndex(data[name], seed if shuffle else None) for name in chosen)
        raw = np.array(
            [
                float(len(index)) if weight is None else _weight(name, weight)
                for (name, weight), index in zip(chosen.items(), self.indices, strict=True)
            ]
        )
        self.shares: NDArray[np.float64] = raw / raw.sum()
        self._before: list[NDArray[np.int64]] = [np.zeros(len(raw), np.int64)]
        self._kept: dict[tuple[int, ...], NDArray[np.int64]] = {}

    def source(self, sample: int) -> str:
        """Which data set sample number `sample` comes from."""
        return self.names[self._draws(sample // DRAWS)[sample % DRAWS]]

    def row(self, sample: int) -> Conversation:
        """Sample number `sample`, 0 or more.

        Raises: BadInput for a row that is wrong, with file, line and field.
        """
        if sample < 0:
            raise out_of_range("sample", sample, "0 or more", owner="a mixture")
        number = int(self._draws(sample // DRAWS)[sample % DRAWS])
        return self.indices[number].row(int(self.counts(sample)[number]))

    def counts(self, samples: int) -> NDArray[np.int64]:
        """How many of the first `samples` come from each data set, in the order of `names`."""
        block, rest = divmod(samples, DRAWS)
        while len(self._before) <= block:
            drawn = np.bincount(self._draws_of(len(self._before) - 1), minlength=len(self.names))
            self._before.append(self._before[-1] + drawn)
        if rest == 0:
            return self._before[block].copy()
        return self._before[block] + np.bincount(self._draws(block)[:rest], minlength=len(self.names))

    def report(self, samples: int) -> dict[str, dict[str, float]]:
        """Of each data set, after some samples: rows drawn, their share, the share asked for, and epochs."""
        counts = self.counts(samples)
        return {
            name: {
                "rows": int(count),
                "share": float(count / max(samples, 1)),
                "wanted": float(wanted),
                "epochs": float(count / len(index)),
            }
            for name, count, wanted, index in zip(self.names, counts, self.shares, self.indices, strict=True)
        }

    def _draws(self, block: int) -> NDArray[np.int64]:
        return recent(self._kept, self._draws_of, block)

    def _draws_of(self, block: int) -> NDArray[np.int64]:
        draws = np.random.default_rng([self.seed, 1, block]).random(DRAWS)
        edges = np.cumsum(self.shares)
        return np.minimum(np.searchsorted(edges, draws, side="right"), len(edges) - 1)


class Shown(NamedTuple):
    """A row, and what it shows: `percepta.media.chunks.Chunks`, or None for words alone."""

    row: Conversation
    chunks: Any


class ConversationReader:
    """One reader's part of a mixture, as an endless iterator whose state can be saved.

    Args:
        mixture: what is read.
        reader, readers: which of how many; together they see every sample once.
        prepare: a `ChunkPreprocess` that opens pictures and videos; None leaves them closed.
        losses: where rows that are wrong, or whose media cannot be read, are counted; by default the first one ends
            the reading.
        start: samples that all readers together have seen before; after those of a run that had others, for instance.

    Raises: BadInput for a reader out of range.
    """

    def __init__(
        self,
        mixture: ConversationMixture,
        reader: int = 0,
        readers: int = 1,
        prepare: Any = None,
        losses: Losses | None = None,
        start: int = 0,
    ) -> None:
        if readers < 1 or not 0 <= reader < readers:
            raise out_of_range("reader", reader, f"0 to {max(readers, 1) - 1}", owner="a mixture")
        if start < 0:
            raise out_of_range("start", start, "0 or more", owner="a mixture")
        self.mixture, self.reader, self.readers = mixture, reader, readers
        self.prepare, self.losses = prepare, losses
        self.sample = start + reader

    def __iter__(self) -> Iterator[Shown]:
        return self

    def __next__(self) -> Shown:
        while True:
            sample, self.sample = self.sample, self.sample + self.readers
            try:
                row = self.mixture.row(sample)
                shown = Shown(row, None if self.prepare is None else chunks_of(row, self.prepare))
            except (BadInput, BadMedia) as error:
                if self.losses is None:
                    raise
                self.losses.lost(self.mixture.source(sample), str(error))
            else:
                if self.losses is not None:
                    self.losses.seen += 1
                return shown

    def state_dict(self) -> dict[str, Any]:
        """Where the reading stands; JSON-ready."""
        return {
            "schema": SCHEMA,
            "sample": self.sample,
            "reader": [self.reader, self.readers],
            "seed": self.mixture.seed,
            "rows": {name: len(index) for name, index in zip(self.mixture.names, self.mixture.indices, strict=True)},
            "shares": self.mixture.shares.tolist(),
            "losses": None if self.losses is None else self.losses.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a reading stood. Raises: BadInput where the mixture or the readers are others."""
        own = self.state_dict()
        if state.get("schema") != SCHEMA:
            raise BadInput(f"the state of a mixture must have schema {SCHEMA}; got {state.get('schema')!r}.")
        for what in ("reader", "seed", "rows", "shares"):
            if state[what] != own[what]:
                raise BadInput(
                    f"a mixture can be resumed only as it was: {what} was {state[what]!r} and is now {own[what]!r}."
                )
        self.sample = int(state["sample"])
        if self.losses is not None and state["losses"] is not None:
            self.losses.load_state_dict(state["losses"])


def data_rank(replica: int, shard: int, shards: int) -> int:
    """The reader of a process of a run that is replicated over groups of `shards` processes: every process its own.

    The official code multiplies by the number of replicas instead, so that with several shards some read the same.
    """
    if not 0 <= shard < shards or replica < 0:
        raise out_of_range("shard", shard, f"0 to {shards - 1}, and the replica 0 or more", owner="data_rank")
    return replica * shards + shard


class Losses:
    """What was left out and why; too much of it ends the run.

    Args:
        limit: share of all rows that may be lost, 0..1.
        least: losses that are let pass in any case.
    """

    def __init__(self, limit: float = 0.05, least: int = 20) -> None:
        if not 0 <= limit <= 1:
            raise out_of_range("limit", limit, "0 to 1", owner="Losses")
        self.limit, self.least = limit, least
        self.seen = 0
        self.by_source: dict[str, int] = {}
        self.first = ""

    @property
    def count(self) -> int:
        return sum(self.by_source.values())

    def lost(self, source: str, reason: str) -> None:
        """One row of a data set that is left out; logged.

        Raises: BadMedia above the limit, with the first reason.
        """
        self.seen += 1
        self.by_source[source] = self.by_source.get(source, 0) + 1
        self.first = self.first or reason
        _log.warning("a row of %s is left out: %s", source or "a data set", reason)
        if self.count > self.least and self.count > self.limit * self.seen:
            told = ", ".join(f"{count} of {name}" for name, count in self.by_source.items())
            raise BadMedia(
                f"{self.count} of {self.seen} rows ({told}) had to be left out, more than the {self.limit:.0%} "
                f"that are allowed; the first because: {self.first}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "by_source": dict(self.by_source), "first": self.first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen, self.by_source, self.first = state["seen"], dict(state["by_source"]), state["first"]


def joined_losses(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of `Losses` of several readers as one that has seen what they have together."""
    by_source: dict[str, int] = {}
    for state in states:
        for name, count in state["by_source"].items():
            by_source[name] = by_source.get(name, 0) + count
    first = next((state["first"] for state in states if state["first"]), "")
    return {"seen": sum(state["seen"] for state in states), "by_source": by_source, "first": first}


def share_of_losses(state: Mapping[str, Any], reader: int, readers: int) -> dict[str, Any]:
    """What one of several readers goes on from; the shares of all have seen what the state has, each about as much."""

    def share(count: int) -> int:
        return count // readers + (reader < count % readers)

    by_source = {name: share(count) for name, count in state["by_source"].items()}
    return {"seen": share(state["seen"]), "by_source": by_source, "first": state["first"]}


def chunks_of(row: Conversation, prepare: Any) -> Any:
    """What a row shows, as `percepta.media.chunks.Chunks`; None for a row of words alone.

    Args:
        prepare: a `ChunkPreprocess`.

    Raises: BadMedia naming the row, for a file that is missing, damaged or too short.
    """
    if row.kind == "text":
        return None
    try:
        if row.video is not None:
            return prepare.video(row.video, row.start, row.end, row.boxes)
        return prepare.image(row.images[0]) if len(row.images) == 1 else prepare.images(row.images)
    except PerceptaError as error:
        raise BadMedia(f"{row.place}: {error}") from None
