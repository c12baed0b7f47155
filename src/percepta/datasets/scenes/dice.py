"""Seeded draws for one scene, cheap because uniform numbers are fetched in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from percepta.errors import BadInput

Item = TypeVar("Item")


class Dice:
    """Draws of one scene: PCG64 seeded with (seed, stream), so that a scene never depends on its batch."""

    def __init__(self, seed: int, stream: int) -> None:
        if seed < 0:
            raise BadInput(f"the seed of a scene must be 0 or more; got {seed}.")
        self._generator = np.random.Generator(np.random.PCG64([int(seed), stream]))
        self._numbers: list[float] = []

    def number(self) -> float:
        """A uniform number in [0, 1)."""
        if not self._numbers:
            self._numbers = self._generator.random(64).tolist()
        return self._numbers.pop()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.number()

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(self.number() * count)

    def chance(self, probability: float) -> bool:
        return self.number() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self.number() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All items in random order."""
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = int(self.number() * (last + 1))
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed
