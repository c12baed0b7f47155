"""A picture of what speed costs: how much faster across, what is lost up, one dot a setting; Pillow only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from percepta.media.drawing import Colour

WIDTH, HEIGHT = 960, 640
LEFT, RIGHT, TOP, FOOT = 96, 30, 96, 120
INK, GREY, LIGHT, BOUND = (32, 36, 44), (120, 126, 136), (234, 237, 241), (200, 60, 50)
COLOURS: tuple[Colour, ...] = ((120, 126, 136), (52, 120, 198), (214, 110, 28), (60, 150, 90), (150, 80, 170))
Place = Callable[[float, float], tuple[float, float]]
HIGHEST = 3.0  # times the bound; what loses more is drawn at the upper edge


@dataclass(frozen=True, slots=True)
class Point:
    """One setting: times as fast, loss (0..1), what it is coloured by, and what it is called."""

    speedup: float
    loss: float
    group: str
    name: str


def tradeoff_picture(
    points: Sequence[Point], chosen: int, bound: float, measure: str, title: str, foot: str = ""
) -> Image.Image:
    """Dots in the colour of their group, the line of those that none beats, the bound, the chosen one ringed.

    Args:
        chosen: number of the chosen point.
        bound: the loss that is allowed.
        measure: what a loss is, in words.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    losses = sorted(point.loss for point in points)
    high = max(min(losses[-1], HIGHEST * bound) if bound else losses[-1], 1.2 * bound, 1e-4) * 1.08
    least = min(1.0, *(point.speedup for point in points)) * 0.92
    most = max(point.speedup for point in points) * 1.08

    def place(speedup: float, loss: float) -> tuple[float, float]:
        across = (speedup - least) / (most - least)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (HEIGHT - TOP - FOOT) * (1 - min(loss, high) / high)

    draw.text((24, 14), title, INK, _font(20))
    draw.text((24, 44), f"{measure} (up) against times as fast as plain (across)", GREY, _font(14))
    _axes(draw, place, (least, most), high)
    _bound(draw, place, (least, most), bound)
    front = [place(point.speedup, point.loss) for point in pareto(points)]
    draw.line(front, GREY, 2)
    groups = list(dict.fromkeys(point.group for point in points))
    for point in points:
        x, y = place(point.speedup, point.loss)
        colour = COLOURS[groups.index(point.group) % len(COLOURS)]
        if point.loss > high:  # beyond the edge: an arrow up
            draw.polygon(((x - 6, y + 6), (x + 6, y + 6), (x, y - 5)), colour)
        else:
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), colour, "white")
    x, y = place(points[chosen].speedup, points[chosen].loss)
    draw.ellipse((x - 11, y - 11, x + 11, y + 11), None, INK, 3)
    text = f"chosen: {points[chosen].speedup:.2f} x, {points[chosen].name}"
    _labelled(draw, x, y, text)
    left = 24.0
    for number, group in enumerate(groups):
        draw.ellipse((left, HEIGHT - 56, left + 10, HEIGHT - 46), COLOURS[number % len(COLOURS)])
        draw.text((left + 16, HEIGHT - 51), group, INK, _font(14), anchor="lm")
        left += 40 + draw.textlength(group, _font(14))
    draw.text((24, HEIGHT - 26), foot[:130], GREY, _font(12))
    return picture


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both speed and loss, from the slowest to the fastest."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.speedup, point.loss)):
        if not found or point.loss < found[-1].loss:
            found.append(point)
    return found[::-1]


def _axes(draw: ImageDraw.ImageDraw, place: Place, reach: tuple[float, float], high: float) -> None:
    bottom = place(reach[0], 0)[1]
    step = round_step(high)
    for number in itertools.takewhile(lambda number: number * step <= high, itertools.count()):
        y = place(reach[0], number * step)[1]
        draw.line((LEFT, y, WIDTH - RIGHT, y), LIGHT, 1)
        draw.text((LEFT - 10, y), f"{100 * number * step:.3g} %", GREY, _font(14), anchor="rm")
    step = round_step(reach[1] - reach[0])
    first = int(reach[0] / step) + 1
    for number in itertools.takewhile(lambda number: number * step <= reach[1], itertools.count(first)):
        x = place(number * step, 0)[0]
        draw.line((x, TOP, x, bottom), LIGHT, 1)
        draw.text((x, bottom + 8), f"{number * step:.3g} x", GREY, _font(14), anchor="ma")


def _bound(draw: ImageDraw.ImageDraw, place: Place, reach: tuple[float, float], bound: float) -> None:
    y = place(reach[0], bound)[1]
    for left in range(LEFT, WIDTH - RIGHT, 16):
        draw.line((left, y, left + 8, y), BOUND, 2)
    draw.text((LEFT + 6, y - 5), f"allowed: {100 * bound:.3g} %", BOUND, _font(14), anchor="ls")


def _labelled(draw: ImageDraw.ImageDraw, x: float, y: float, text: str) -> None:
    """A text beside a point, inside the picture."""
    width = draw.textlength(text, _font(15))
    left = min(max(LEFT + 4, x - width / 2), WIDTH - RIGHT - width)
    top = y - 34 if y - 34 > TOP else y + 16
    draw.rectangle((left - 3, top - 2, left + width + 3, top + 18), "white")
    draw.text((left, top), text, INK, _font(15))


def round_step(reach: float) -> float:
    """A round distance of which about five fit."""
    sizes = (base * 10.0**power for power in range(-8, 4) for base in (1, 2, 5))
    return next(size for size in sizes if reach / size <= 7)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
