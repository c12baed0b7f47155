"""The order in which the official data loader of the Perception Language Model gives its rows (arXiv 2504.13180).

Every reader (a rank's worker) draws a data set from a generator of its own and takes that data set's next row of those
whose line number is its own modulo the readers; files loop in their order. Where we differ: a data set that has no row
for some reader is refused (the official reader looks for one for ever), and a row that is wrong is an error with file,
line and field (there the rest of the file is lost).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from percepta.datasets.conversations import Conversation, ConversationData, parse_row
from percepta.errors import BadInput, out_of_range

SCHEMA = 1


class OfficialMixture:
    """One reader's endless stream of rows, whose state is byte positions and a generator's.

    Args:
        data: the data sets in the order of the mix.
        weights: one for each, above 0.
        seed: of the draws.
        rank, world: of the process, of how many.
        worker, workers: of the process's loader, of how many.

    Raises: BadInput, also for a data set with fewer rows than readers.
    """

    def __init__(
        self,
        data: Sequence[ConversationData],
        weights: Sequence[float],
        seed: int,
        rank: int = 0,
        world: int = 1,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        if not data or len(data) != len(weights) or min(weights) <= 0:
            raise BadInput("a mixture must have data sets with a weight above 0 each.")
        for what, value, count in (("rank", rank, world), ("worker", worker, workers)):
            if not 0 <= value < count:
                raise out_of_range(what, value, f"0 to {count - 1}", owner="OfficialMixture")
        self.reader, self.readers = rank * workers + worker, world * workers
        self.names = tuple(one.name for one in data)
        self.totals = [0] * len(data)
        self._shares = [weight / sum(weights) for weight in weights]
        self._sources = [_Source(one, self.reader, self.readers) for one in data]
        self._draws = np.random.RandomState((self.reader, self.readers, seed))

    def __iter__(self) -> Iterator[Conversation]:
        return self

    def __next__(self) -> Conversation:
        number = int(self._draws.choice(len(self._shares), p=self._shares))
        row = self._sources[number].next()
        self.totals[number] += 1
        return row

    def report(self) -> dict[str, dict[str, float]]:
        """Rows given of each data set, their share, and the share asked for."""
        whole = max(sum(self.totals), 1)
        return {
            name: {"rows": total, "share": total / whole, "wanted": share}
            for name, total, share in zip(self.names, self.totals, self._shares, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Byte positions, the generator and counts; JSON-ready."""
        kind, keys, *rest = self._draws.get_state()
        return {
            "schema": SCHEMA,
            "reader": [self.reader, self.readers],
            "sources": {name: source.position() for name, source in zip(self.names, self._sources, strict=True)},
            "draws": [kind, np.asarray(keys).tolist(), *rest],
            "totals": list(self.totals),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a reader stood. Raises: BadInput where the readers or the data sets are others."""
        if state.get("schema") != SCHEMA or state["reader"] != [self.reader, self.readers]:
            raise BadInput(
                f"the state of a mixture must be of reader {self.reader} of {self.readers}; it is of "
                f"{state.get('reader')}, and readers cannot change on the way."
            )
        if list(state["sources"]) != list(self.names):
            raise BadInput(f"the state is of the data sets {', '.join(state['sources'])}; got {', '.join(self.names)}.")
        kind, keys, *rest = state["draws"]
        self._draws.set_state((kind, np.array(keys, np.uint32), *rest))
        self.totals = list(state["totals"])
        for source, position in zip(self._sources, state["sources"].values(), strict=True):
            source.seek(position)


class _Source:
    """The rows of one data set that belong to one reader, for ever."""

    def __init__(self, data: ConversationData, reader: int, readers: int) -> None:
        self.data, self.reader, self.readers = data, reader, readers
        most = max(_rows_up_to(file, readers) for file in data.files)
        if most < readers:
            raise BadInput(
                f"the data set {data.name} has {most} rows for {readers} readers; each needs one, so use fewer workers "
                "or leave it out."
            )
        self.file, self.byte, self.line = 0, 0, 0

    def next(self) -> Conversation:
        for _ in range(len(self.data.files) + 1):  # one whole round finds a row, or there is none
            path = self.data.files[self.file]
            with path.open("rb") as opened:
                opened.seek(self.byte)
                while line := opened.readline():
                    self.line += 1
                    self.byte = opened.tell()
                    if (self.line - 1) % self.readers == self.reader and line.strip():
                        return parse_row(line, self.data.root, f"{path}, line {self.line}", self.data.name)
            self.file, self.byte, self.line = (self.file + 1) % len(self.data.files), 0, 0
        raise BadInput(
            f"the data set {self.data.name} has only empty lines for reader {self.reader} of {self.readers}."
        )

    def position(self) -> dict[str, int]:
        return {"file": self.file, "byte": self.byte, "line": self.line}

    def seek(self, position: Mapping[str, int]) -> None:
        self.file, self.byte, self.line = position["file"], position["byte"], position["line"]


def _rows_up_to(file: Path, count: int) -> int:
    try:
        with file.open("rb") as opened:
            return sum(1 for _ in islice(opened, count))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}.") from None
