"""Folders and questions with known answers: what a calibration is fitted on and what it is tested on.

A `World` is a stock of pictures and texts of which is known what shows what. From it come `Case`s: a folder, one
question, and the entries that are right. Half of the questions have an answer in the folder.
Unusual: what an absent question asks for is taken out of the folder and other pictures take its place, so that a
folder of a given size holds no trace of it; in some cases only the right pictures go and the near misses stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, out_of_range, wrong_shape

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
OWNERLESS = -1


@dataclass(frozen=True, eq=False)
class World:
    """Pictures and texts of which is known what shows what.

    Attributes:
        name: such as "scenes".
        pictures: (N, H, W, 3) uint8; (0, ...) for texts that no picture shows.
        texts: T texts, such as captions or "a photo of a cat."; the same text may stand for several wordings.
        kinds: of each text, such as "caption".
        right: (T, N) bool, which pictures show what a text says.
        near: (T, N) bool, which show some part of it, the right ones among them; by default the right ones.
        owner: (T,) the number of the picture that a text was written for, or -1.
        groups: (N,) numbers by which folders are made up, such as classes; None for pictures that stand alone.
        asking: (T, H, W, 3) uint8, pictures that ask in place of the texts, which then are their names; None for words.
    """

    name: str
    pictures: NDArray[np.uint8]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    right: Flags
    near: Flags | None = None
    owner: Numbers | None = None
    groups: Numbers | None = None
    asking: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.pictures))
        for what, table in (("right", self.right), ("near", self.near)):
            if table is not None and (table.shape != shape or table.dtype != np.bool_):
                raise wrong_shape(f"{what} of the world {self.name}", table.shape, f"{shape} of bool")
        for what, row, length in (
            ("kinds", self.kinds, shape[0]),
            ("owner", self.owner, shape[0]),
            ("groups", self.groups, shape[1]),
            ("asking", self.asking, shape[0]),
        ):
            if row is not None and len(row) != length:
                raise BadInput(f"{what} of the world {self.name} must be {length}; got {len(row)}.")


def texts_alone(name: str, texts: Sequence[str]) -> World:
    """A world of texts that no picture of any world shows; its name is also their kind."""
    return World(
        name, np.zeros((0, 1, 1, 3), np.uint8), tuple(texts), (name,) * len(texts), np.zeros((len(texts), 0), np.bool_)
    )


@dataclass(frozen=True, slots=True)
class Mix:
    """How folders and questions are drawn.

    Attributes:
        sizes: smallest and largest folder; sizes between are drawn evenly by their logarithm.
        questions: of each folder.
        present: the share of questions with an answer in the folder.
        thorough: the share of absent questions for which near misses are taken out as well.
        elsewhere: the share of absent questions about another world than the folder's.
        mixed: the share of folders that hold pictures of two worlds.
        kinds: weights of the kinds of texts within their world; 1 for one that is not named, 0 leaves it out.
        groups: at most so many groups in a folder; None for any number.
    """

    sizes: tuple[int, int] = (1, 2000)
    questions: int = 12
    present: float = 0.5
    thorough: float = 0.7
    elsewhere: float = 0.2
    mixed: float = 0.2
    kinds: Mapping[str, float] = field(default_factory=dict)
    groups: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.sizes[0] <= self.sizes[1]:
            raise out_of_range("sizes", self.sizes, "a smallest of 1 or more and a largest not below it", "Mix")
        if self.questions < 1:
            raise out_of_range("questions", self.questions, "1 or more", "Mix")
        for name in ("present", "thorough", "elsewhere", "mixed"):
            if not 0 <= getattr(self, name) <= 1:
                raise out_of_range(name, getattr(self, name), "0 to 1", "Mix")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question about one folder.

    Attributes:
        kind: "WORLD/KIND" of the text.
        text: (world, number of the text).
        entries: for each world its pictures in the folder, in the order of the worlds.
        right: (n,) bool over the entries, one world after the other; none for an absent question.
        thorough: of an absent question, whether near misses were taken out too.
        folder: number of the folder; questions about one folder are not independent.
    """

    kind: str
    text: tuple[int, int]
    entries: tuple[Numbers, ...]
    right: Flags
    thorough: bool
    folder: int

    @property
    def present(self) -> bool:
        """Whether the folder holds an answer."""
        return bool(self.right.any())


def draw_cases(worlds: Sequence[World], folders: int, mix: Mix | None = None, seed: int = 0) -> Iterator[Case]:
    """The cases of `folders` folders, the worlds with pictures taking turns.

    Raises: BadInput for no folders or no world with pictures.
    """
    mix = mix or Mix()
    stocked = [number for number, world in enumerate(worlds) if len(world.pictures)]
    if folders < 1 or not stocked:
        raise BadInput(f"draw_cases needs folders and a world with pictures; got {folders} and {len(stocked)}.")
    random = np.random.default_rng(seed)
    small, large = np.log(mix.sizes[0]), np.log(mix.sizes[1] + 1)
    for number in range(folders):
        size = min(int(np.exp(random.uniform(small, large))), mix.sizes[1])
        main = stocked[number % len(stocked)]
        others = [other for other in stocked if other != main]
        shares = {main: size}
        if others and size > 1 and random.random() < mix.mixed:
            shares = {main: size - size // 2, int(random.choice(others)): size // 2}
        draw = _Folder(worlds, shares, mix, random, number)
        yield from (draw.case() for _ in range(mix.questions))


class _Folder:
    """One folder: of each of its worlds an order of pictures, of which the first are in it."""

    def __init__(
        self, worlds: Sequence[World], shares: Mapping[int, int], mix: Mix, random: np.random.Generator, number: int
    ) -> None:
        self.worlds, self.shares, self.mix, self.random, self.number = worlds, shares, mix, random, number
        self.orders = {world: _order(worlds[world], mix.groups, random) for world in shares}

    def case(self) -> Case:
        """One question."""
        world = self._pick(list(self.shares))
        if self.random.random() < self.mix.present:
            found = self._present(world)
            if found is not None:
                return self._made(world, found, self.orders[world][: self.shares[world]], False)
        elsewhere = [other for other in range(len(self.worlds)) if other not in self.shares]
        if elsewhere and self.random.random() < self.mix.elsewhere:
            other = self._pick(elsewhere)
            return self._made(other, self._any(other), None, True)
        text, thorough = self._any(world), bool(self.random.random() < self.mix.thorough)
        table = self.worlds[world].near if thorough else None
        banned = (self.worlds[world].right if table is None else table)[text]
        order = self.orders[world]
        return self._made(world, text, order[~banned[order]][: self.shares[world]], thorough)

    def _present(self, world: int) -> int | None:
        """A text that is right for a random picture of the folder: its own, if texts of that kind have owners."""
        stock = self.worlds[world]
        picture = self.random.choice(self.orders[world][: self.shares[world]])
        fits = stock.right[:, picture]
        if stock.owner is not None:
            fits = fits & ((stock.owner == picture) | (stock.owner == OWNERLESS))
        texts = np.flatnonzero(fits)
        return self._weighed(world, texts) if len(texts) else None

    def _any(self, world: int) -> int:
        """Any text; one with an owner whose picture is not in the folder, where the stock has such a picture."""
        stock = self.worlds[world]
        texts = np.arange(len(stock.texts))
        if stock.owner is not None and world in self.shares:
            inside = np.zeros(len(stock.pictures) + 1, np.bool_)  # one more for those without an owner
            inside[self.orders[world][: self.shares[world]]] = True
            inside[OWNERLESS] = False
            if not inside[:-1].all():
                texts = texts[~inside[stock.owner]]
        return self._weighed(world, texts)

    def _weighed(self, world: int, texts: Numbers) -> int:
        """A kind by its weight, then a text of it."""
        kinds = np.array(self.worlds[world].kinds)[texts]
        names = sorted(set(kinds.tolist()))
        weights = np.array([self.mix.kinds.get(name, 1.0) for name in names])
        if not weights.sum():
            raise BadInput(f"kinds must leave a text of {', '.join(names)} to ask for; all of them have weight 0.")
        kind = names[self.random.choice(len(names), p=weights / weights.sum())]
        return int(self.random.choice(texts[kinds == kind]))

    def _made(self, world: int, text: int, changed: Numbers | None, thorough: bool) -> Case:
        """The case, with `changed` in place of the folder's pictures of the world."""
        entries, right = [], []
        for number, stock in enumerate(self.worlds):
            inside = self.orders[number][: self.shares[number]] if number in self.shares else np.zeros(0, np.int64)
            if number == world and changed is not None:
                inside = changed
            entries.append(inside)
            right.append(stock.right[text, inside] if number == world else np.zeros(len(inside), np.bool_))
        stock = self.worlds[world]
        return Case(
            f"{stock.name}/{stock.kinds[text]}",
            (world, text),
            tuple(entries),
            np.concatenate(right),
            thorough,
            self.number,
        )

    def _pick(self, numbers: Sequence[int]) -> int:
        return numbers[int(self.random.integers(len(numbers)))]


def _order(world: World, most: int | None, random: np.random.Generator) -> Numbers:
    """All pictures in random order; with groups those of some groups alone, and of each a random share comes early."""
    count = len(world.pictures)
    if world.groups is None:
        return random.permutation(count)
    names = np.unique(world.groups)
    kept = random.permutation(names)[: random.integers(1, min(most or len(names), len(names)) + 1)]
    shares = dict(zip(kept.tolist(), random.dirichlet(np.ones(len(kept))), strict=True))
    rates = np.array([shares.get(group, 0.0) for group in world.groups.tolist()])
    times = np.full(count, np.inf)
    times[rates > 0] = random.exponential(size=int((rates > 0).sum())) / rates[rates > 0]
    return np.argsort(times)[: int((rates > 0).sum())]
