"""Small panels of curves side by side, for figures that stand beside their numbers; Pillow only.

Unusual: drawn at three times the size and shrunk, which gives smooth lines without a plotting library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from percepta.errors import BadInput

Colour = tuple[int, int, int]
INK, GREY, RULE, PAPER = (32, 36, 44), (110, 116, 126), (226, 229, 234), (255, 255, 255)
LINE_COLOURS: tuple[Colour, ...] = ((31, 98, 180), (214, 96, 24), (38, 140, 92), (150, 60, 150), (120, 120, 60))
SCALE = 3
PANEL, PLOT, GAP, HEAD = (300, 262), (216, 158), 24, 64  # width and height; of the plot inside; between; above all
LEFT, TOP = 62, 58  # of the plot inside its panel


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes:
        places: x from 0 (left) to 1 (right), as many as values.
        values: y in the panel's unit.
        colour: of the line.
        thin: drawn faintly, without a mark.
        mark: the place in `values` that gets a dot, or None.
    """

    places: Sequence[float]
    values: Sequence[float]
    colour: Colour
    thin: bool = False
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot.

    Attributes:
        title, subtitle: above it.
        lines: the curves, the last on top.
        ticks: words below by place, such as {0.0: "0", 1.0: "11"}.
        level: a dashed line with its name, such as ("colours alone", 0.66), or None; left out where it is far away.
        downwards: smaller values stand higher, so that better is always up.
    """

    title: str
    subtitle: str
    lines: Sequence[Line]
    ticks: dict[float, str]
    level: tuple[str, float] | None = None
    downwards: bool = False


def draw_curves(
    title: str, panels: Sequence[Panel], legend: Sequence[tuple[str, Colour, bool]] = (), columns: int = 3
) -> Image.Image:
    """All panels in rows, with a title and a legend of (name, colour, thin).

    Raises: BadInput for no panels, or a panel without values.
    """
    if not panels or any(not line.values for panel in panels for line in panel.lines):
        raise BadInput("curves need at least one panel, and values in each line.")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width, height = GAP + columns * (PANEL[0] + GAP), HEAD + rows * (PANEL[1] + GAP)
    picture = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    pen = Pen(ImageDraw.Draw(picture))
    pen.text((GAP, 16), title, INK, 19)
    across = float(GAP)
    for name, colour, thin in legend:
        pen.line([(across, 51), (across + 22, 51)], colour, 1.2 if thin else 2.6)
        across += 28 + pen.text((across + 28, 43), name, GREY, 13) + 20
    for number, panel in enumerate(panels):
        corner = GAP + number % columns * (PANEL[0] + GAP), HEAD + 8 + number // columns * (PANEL[1] + GAP)
        _draw_panel(pen, panel, corner)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _draw_panel(pen: Pen, panel: Panel, corner: tuple[int, int]) -> None:
    left, top = corner[0] + LEFT, corner[1] + TOP
    low, high, step = _range(panel)
    pen.text((corner[0], corner[1] + 2), panel.title, INK, 16)
    pen.text((corner[0], corner[1] + 24), panel.subtitle, GREY, 13)

    def place(x: float, y: float) -> tuple[float, float]:
        share = (y - low) / (high - low)
        return left + 8 + x * (PLOT[0] - 16), top + PLOT[1] * (share if panel.downwards else 1 - share)

    value = low
    while value <= high + step / 1000:
        y = place(0, value)[1]
        pen.line([(left, y), (left + PLOT[0], y)], RULE, 1)
        pen.text((left - 8, y), _number(value, step), GREY, 12, "rm")
        value += step
    for x, word in panel.ticks.items():
        pen.text((place(x, low)[0], top + PLOT[1] + 8), word, GREY, 12, "ma")
    if panel.level is not None and low <= panel.level[1] <= high:
        y = place(0, panel.level[1])[1]
        for start in range(left, left + PLOT[0], 9):
            pen.line([(start, y), (start + 5, y)], GREY, 1.2)
        pen.text((left + PLOT[0], y - 2), panel.level[0], GREY, 11, "rs")
    for line in panel.lines:
        points = [place(x, y) for x, y in zip(line.places, line.values, strict=True)]
        pen.line(points, line.colour, 1.2 if line.thin else 2.6)
        if line.mark is not None:
            pen.dot(points[line.mark], line.colour, 4.6)


def _range(panel: Panel) -> tuple[float, float, float]:
    """Lowest and highest value of the axis, and the step of its rules: 1, 2 or 5 times a power of ten."""
    values = [value for line in panel.lines for value in line.values]
    least = max(0.01 * max(abs(value) for value in values), 1e-6)  # of what does not change at all
    spread = max(max(values) - min(values), least)
    if panel.level is not None and min(abs(panel.level[1] - value) for value in values) < spread:
        values.append(panel.level[1])
        spread = max(max(values) - min(values), least)
    power = 10.0 ** len(str(int(1 / spread))) if spread < 1 else 1.0
    step = min((one / power * scale for scale in (1, 10, 100) for one in (1, 2, 5)), key=lambda s: abs(spread / s - 4))
    low, high = min(values) // step * step, -(-max(values) // step) * step
    return low, max(high, low + step), step


def _number(value: float, step: float) -> str:
    decimals = next((count for count in range(6) if abs(round(step, count) - step) < 1e-9), 6)
    return f"{value:.{decimals}f}"


class Pen:
    """Lines, dots, rings and texts in units of the finished picture."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, colour, round(width * SCALE), joint="curve")

    def dot(self, centre: tuple[float, float], colour: Colour, radius: float) -> None:
        for size, fill in ((radius + 1.4, PAPER), (radius, colour)):
            (x, y), r = (centre[0] * SCALE, centre[1] * SCALE), size * SCALE
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill)

    def ring(self, centre: tuple[float, float], colour: Colour, radius: float, width: float) -> None:
        (x, y), r = (centre[0] * SCALE, centre[1] * SCALE), radius * SCALE
        self.draw.ellipse((x - r, y - r, x + r, y + r), None, colour, round(width * SCALE))

    def width(self, words: str, size: int) -> float:
        return float(self.draw.textlength(words, ImageFont.load_default(size * SCALE))) / SCALE

    def text(self, place: tuple[float, float], words: str, colour: Colour, size: int, anchor: str = "la") -> float:
        """Writes; returns the width."""
        font: Any = ImageFont.load_default(size * SCALE)
        self.draw.text((place[0] * SCALE, place[1] * SCALE), words, colour, font, anchor=anchor)
        return float(self.draw.textlength(words, font)) / SCALE
