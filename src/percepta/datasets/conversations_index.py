"""The rows of a data set by number, in its own order or a shuffled one, without holding any file in memory.

Unusual: the files are gone through once, and only where every 64th row begins is remembered. An order is a permutation
of these blocks and, within each stretch of 64 blocks, of their rows: a function of the seed and the epoch, from which
any place can be found again without going through those before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.conversations import Conversation, ConversationData, parse_row
from percepta.errors import BadInput

BLOCK = 64  # rows from one remembered place to the next
STRETCH = 64  # blocks whose rows are shuffled among each other
KEPT = 4  # orders and draws that stay at hand

Value = TypeVar("Value")


@dataclass(frozen=True)
class _Blocks:
    """Where every block begins: file number, byte, line number from 1, rows in it."""

    file: NDArray[np.int64]
    byte: NDArray[np.int64]
    line: NDArray[np.int64]
    rows: NDArray[np.int64]


class ConversationIndex:
    """A data set whose rows can be read by number.

    Args:
        data: the data set.
        seed: of the shuffled orders; None keeps the order of the files.

    Raises: BadInput for a file that cannot be read, or a data set without rows.
    """

    def __init__(self, data: ConversationData, seed: int | None = None) -> None:
        self.data, self.seed = data, seed
        self._blocks = _find_blocks(data)
        self._ends = np.cumsum(self._blocks.rows)
        self._orders: dict[tuple[int, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._stretches: dict[tuple[int, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def row(self, number: int) -> Conversation:
        """Row `number` of an endless stream: each epoch gives every row once, in an order of its own.

        Raises: BadInput for a row that is wrong, with file, line and field, and for a file that has changed since.
        """
        epoch, place = divmod(number, len(self))
        if self.seed is None:
            block = int(np.searchsorted(self._ends, place, side="right"))
            return self._read(block, place - int(self._ends[block] - self._blocks.rows[block]))
        _, starts = recent(self._orders, self._blocks_of, epoch)
        stretch = int(np.searchsorted(starts, place, side="right")) - 1
        blocks, inside = recent(self._stretches, self._rows_of, epoch, stretch)
        chosen = int(place - starts[stretch])
        return self._read(int(blocks[chosen]), int(inside[chosen]))

    def _blocks_of(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The blocks in the order of an epoch, and the number of the first row of each stretch of them."""
        order = self._generator(epoch).permutation(len(self._blocks.rows))
        before = np.concatenate([[0], np.cumsum(self._blocks.rows[order])[:-1]])
        return order, before[::STRETCH]

    def _rows_of(self, epoch: int, stretch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of a stretch in their order: block, and place in the block."""
        blocks = recent(self._orders, self._blocks_of, epoch)[0][stretch * STRETCH : (stretch + 1) * STRETCH]
        counts = self._blocks.rows[blocks]
        inside = np.concatenate([np.arange(count) for count in counts])
        order = self._generator(epoch, stretch).permutation(len(inside))
        return np.repeat(blocks, counts)[order], inside[order]

    def _generator(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed or 0, zlib.crc32(self.data.name.encode()), *numbers])

    def _read(self, block: int, inside: int) -> Conversation:
        file = self.data.files[self._blocks.file[block]]
        number = int(self._blocks.line[block]) - 1
        try:
            with file.open("rb") as opened:
                opened.seek(int(self._blocks.byte[block]))
                while line := opened.readline():
                    number += 1
                    if line.strip():
                        inside -= 1
                        if inside < 0:
                            return parse_row(line, self.data.root, f"{file}, line {number}", self.data.name)
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror or error}.") from None
        raise BadInput(f"{file} has changed since it was opened: line {number + 1} is gone.")


def recent(kept: dict[tuple[int, ...], Value], make: Callable[..., Value], *key: int) -> Value:
    """What `make` gives for some numbers, the last few kept."""
    if key not in kept:
        while len(kept) >= KEPT:
            del kept[next(iter(kept))]
        kept[key] = make(*key)
    return kept[key]


def _find_blocks(data: ConversationData) -> _Blocks:
    found: list[tuple[int, int, int, int]] = []
    for number, file in enumerate(data.files):
        found += _blocks_in(number, file)
    if not found:
        raise BadInput(f"the data set {data.name} must have rows; its files are empty.")
    columns = np.array(found, np.int64).T
    return _Blocks(columns[0], columns[1], columns[2], columns[3])


def _blocks_in(number: int, file: Path) -> list[tuple[int, int, int, int]]:
    blocks: list[tuple[int, int, int, int]] = []
    byte, begun, rows = 0, (0, 1), 0
    try:
        with file.open("rb") as opened:
            for count, line in enumerate(opened, 1):
                if count == 1 and line.startswith(b"\xef\xbb\xbf"):
                    begun = (3, 1)
                if line.strip():
                    if rows == BLOCK:
                        blocks.append((number, *begun, rows))
                        begun, rows = (byte, count), 0
                    rows += 1
                byte += len(line)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}.") from None
    return [*blocks, (number, *begun, rows)] if rows else blocks
