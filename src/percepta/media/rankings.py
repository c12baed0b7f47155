"""Pictures of a ranking: each candidate's score with its interval, against parameters or over layers; Pillow only."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from percepta.errors import BadInput
from percepta.media.curves import GREY, INK, LINE_COLOURS, PAPER, RULE, SCALE, Colour, Pen
from percepta.media.tradeoff import round_step

SIZE = (1000, 620)
LEFT, RIGHT, TOP, FOOT = 84, 36, 112, 84
ACROSS, UP = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - FOOT
BEST: Colour = (31, 98, 180)
LABELS = 14  # names beside dots, of the best
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """One candidate.

    Attributes:
        name: beside its dot.
        place: parameters, or the number of a layer; None for the output behind the last layer.
        score: up; `low` and `high` the ends of its interval, NaN for none.
        votes: scores by estimator, each on a scale of its own.
    """

    name: str
    place: float | None
    score: float
    low: float
    high: float
    votes: Mapping[str, float]


def model_picture(marks: Sequence[Mark], tied: Collection[str], title: str, answer: str, measure: str) -> Image.Image:
    """Scores against parameters, these on a logarithmic scale.

    Args:
        marks: the best first.
        tied: names that cannot be told from the best, which are blue.
        answer: what is written beside the best.
        measure: what the score is, in words.

    Raises: BadInput for no mark.
    """
    _need(marks)
    logs = [math.log10(max(mark.place or 1.0, 1.0)) for mark in marks]
    margin = max(0.12 * (max(logs) - min(logs)), 0.12)
    low, high = min(logs) - margin, max(logs) + 2.2 * margin  # names stand to the right of dots
    board = _Board(marks, (low, high))
    board.title(title, f"{measure}, in deviations between models (up) against parameters (across)")
    for value in _parameters(low, high):
        board.upright(math.log10(value), _spelled(value))
    for mark, log in reversed(list(zip(marks, logs, strict=True))):
        board.whisker(log, mark, BEST if mark.name in tied else GREY)
    board.ring(logs[0], marks[0].score)
    board.names([(log, mark) for log, mark in zip(logs, marks, strict=True)][:LABELS], answer)
    return board.done(tied, ())


def layer_picture(marks: Sequence[Mark], tied: Collection[str], title: str, answer: str, measure: str) -> Image.Image:
    """Scores over the layers, with a thin line for each vote, and the output behind the last; arguments as above."""
    _need(marks)
    last = max((mark.place for mark in marks if mark.place is not None), default=0)
    behind = last + max(1.0, 0.04 * last)

    def across(mark: Mark) -> float:
        return behind if mark.place is None else float(mark.place)

    ordered = sorted(marks, key=across)
    board = _Board(marks, (-0.5, behind + 0.5))
    board.title(title, f"{measure}, in deviations between layers (up) over the layers (across)")
    step = max(1, round(round_step(max(last, 1)))) if last > 12 else 1
    for number in range(0, int(last) + 1, step):
        board.upright(number, str(number))
    if any(mark.place is None for mark in marks):
        board.upright(behind, "output")
    names = list(marks[0].votes)
    for name, colour in zip(names, itertools.cycle(LINE_COLOURS[1:])):
        board.line(
            [(across(mark), vote) for mark, vote in zip(ordered, _deviations(ordered, name), strict=True)], colour
        )
    board.line([(across(mark), mark.score) for mark in ordered if mark.place is not None], BEST, 2.6)
    for mark in ordered:
        board.whisker(across(mark), mark, BEST if mark.name in tied else GREY)
    board.ring(across(marks[0]), marks[0].score)
    board.names([(across(marks[0]), marks[0])], answer)
    return board.done(tied, list(zip(names, itertools.cycle(LINE_COLOURS[1:]))))


def _deviations(marks: Sequence[Mark], name: str) -> list[float]:
    """The votes of one estimator, in deviations from their mean."""
    values = [mark.votes[name] for mark in marks]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return [(value - statistics.fmean(values)) / (spread or 1.0) for value in values]


class _Board:
    """The sheet with its axes; x as given, y the scores."""

    def __init__(self, marks: Sequence[Mark], reach: tuple[float, float]) -> None:
        self.sheet = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE), PAPER)
        self.pen = Pen(ImageDraw.Draw(self.sheet))
        values = [end for mark in marks for end in (mark.score, mark.low, mark.high) if math.isfinite(end)]
        votes = [vote for name in marks[0].votes for vote in _deviations(marks, name)]
        low, high = min(values), max(values)
        if all(mark.place is None or mark.place < 10_000 for mark in marks):  # layers, with a line for each vote
            low, high = min([low, *votes]), max([high, *votes])
        self.drawn: list[tuple[float, Mark]] = []
        margin = 0.06 * max(high - low, 0.1)
        self.low, self.high, self.reach = low - margin, high + 2 * margin, reach
        step = round_step(self.high - self.low)
        value = math.ceil(self.low / step) * step
        while value <= self.high:
            y = self.at(reach[0], value)[1]
            self.pen.line([(LEFT, y), (SIZE[0] - RIGHT, y)], RULE, 1)
            self.pen.text((LEFT - 10, y), f"{round(value, 6):+g}".replace("+0", "0", value == 0), GREY, 13, "rm")
            value = round(value + step, 9)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.reach[0]) / (self.reach[1] - self.reach[0])
        return LEFT + across * ACROSS, TOP + UP * (1 - (y - self.low) / (self.high - self.low))

    def title(self, words: str, under: str) -> None:
        self.pen.text((24, 16), words, INK, 21)
        self.pen.text((24, 48), under, GREY, 14)

    def upright(self, x: float, word: str) -> None:
        left = self.at(x, self.low)[0]
        self.pen.line([(left, TOP), (left, TOP + UP)], RULE, 1)
        self.pen.text((left, TOP + UP + 8), word, GREY, 13, "ma")

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float = 1.0) -> None:
        if len(points) > 1:
            self.pen.line([self.at(x, y) for x, y in points], colour, width)

    def whisker(self, x: float, mark: Mark, colour: Colour) -> None:
        self.drawn.append((x, mark))
        if math.isfinite(mark.low):
            ends = [self.at(x, mark.low), self.at(x, mark.high)]
            self.pen.line(ends, colour, 1.6)
            for left, y in ends:
                self.pen.line([(left - 4, y), (left + 4, y)], colour, 1.6)
        self.pen.dot(self.at(x, mark.score), colour, 5.2)

    def ring(self, x: float, y: float) -> None:
        self.pen.ring(self.at(x, y), INK, 10, 2.2)

    def names(self, places: Sequence[tuple[float, Mark]], answer: str) -> None:
        """Names beside their dots, where they cover neither a dot nor a name, nor, if that can be, an interval."""
        dots = [self._box(x, mark, False) for x, mark in self.drawn]
        lines = [self._box(x, mark, True) for x, mark in self.drawn]
        taken: list[Box] = []
        for number, (x, mark) in enumerate(places):
            words, size = (answer, 17) if number == 0 else (mark.name, 13)
            boxes = self._beside(self.at(x, mark.score), self.pen.width(words, size), size)
            free = [box for box in boxes if not _covers(box, dots + taken)]
            clear = [box for box in free if not _covers(box, lines)]
            for left, top, _, _ in (clear or free or boxes[: number == 0])[:1]:
                self.pen.text((left, top), words, INK if number == 0 else GREY, size)
                taken += [box for box in boxes if box[:2] == (left, top)]

    def _beside(self, dot: tuple[float, float], width: float, size: int) -> list[Box]:
        """Where a name may stand: right of its dot, left of it, a line higher and lower; inside the sheet."""
        (x, y), downs = dot, (-0.6 * size, -1.5 * size, 0.3 * size, -2.4 * size, 1.2 * size)
        places = [(left, y + down) for down in downs for left in (x + 14, x - 14 - width)]
        found = [(left, top, left + width, top + 1.3 * size) for left, top in places]
        return [box for box in found if box[0] > LEFT and box[2] < SIZE[0] - 4] or found[:1]

    def _box(self, x: float, mark: Mark, whole: bool) -> Box:
        """Of a dot, or of its whole interval."""
        ends = (mark.low, mark.high) if whole and math.isfinite(mark.low) else (mark.score, mark.score)
        (left, bottom), (_, top) = self.at(x, ends[0]), self.at(x, ends[1])
        reach = 4 if whole else 8
        return left - reach, top - reach, left + reach, bottom + reach

    def done(self, tied: Collection[str], votes: Sequence[tuple[str, Colour]]) -> Image.Image:
        """The legend, and the sheet at its size."""
        across, y = 24.0, SIZE[1] - 24.0
        words = "cannot be told from the best" if len(tied) > 1 else "the best"
        for colour, name in ((BEST, words), (GREY, "others")):
            self.pen.dot((across + 6, y), colour, 5.2)
            across += 18 + self.pen.text((across + 18, y), name, GREY, 13, "lm") + 20
        self.pen.line([(across + 5, y - 8), (across + 5, y + 8)], GREY, 1.6)
        across += 16 + self.pen.text((across + 16, y), "95 % over draws of the probe", GREY, 13, "lm") + 20
        for name, colour in votes:
            self.pen.line([(across, y), (across + 20, y)], colour, 1.0)
            across += 26 + self.pen.text((across + 26, y), name, GREY, 13, "lm") + 18
        return self.sheet.resize(SIZE, Image.Resampling.LANCZOS)


def _need(marks: Sequence[Mark]) -> None:
    if not marks:
        raise BadInput("a picture of a ranking needs at least one candidate; got none.")


def _covers(box: Box, others: Sequence[Box]) -> bool:
    return any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in others)


def _parameters(low: float, high: float) -> list[float]:
    """Round numbers of parameters between two logarithms: 1, 2, 5 times powers of ten; fewer over a wide range."""
    bases = (1, 2, 5) if high - low < 2.2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [base * 10.0**power for power in powers for base in bases if low <= math.log10(base * 10.0**power) <= high]


def _spelled(value: float) -> str:
    for size, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {word}"
    return f"{value:g}"
