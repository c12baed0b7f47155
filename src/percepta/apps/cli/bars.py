"""Scores as a picture of bars: value, interval, chance and baselines of each headline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, ROW, TOP, LEFT, RIGHT = 960, 58, 92, 330, 90
INK, GREY, LIGHT = (32, 36, 44), (120, 126, 136), (234, 237, 241)
BAR, WHISKER, ORACLE = (52, 120, 198), (16, 52, 98), (214, 110, 28)


def bar_picture(results: Sequence[Any]) -> Image.Image:
    """One bar from 0 to 100 % for each headline of the evaluations; errors in a unit have no place on that scale.

    Grey ticks are chance, orange ones the baseline of the measure, the thin line is the 95 % interval.
    """
    entries = [
        (result, measure) for result in results for measure in result.measures if measure.headline and not measure.unit
    ]
    picture = Image.new("RGB", (WIDTH, TOP + ROW * len(entries) + 44), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((24, 18), str(results[0].model.get("name", "")) if results else "", INK, _font(24))
    draw.text((24, 52), "% right, with 95 % interval", GREY, _font(15))
    draw.line((WIDTH - 330, 61, WIDTH - 330, 73), GREY, 3)
    draw.text((WIDTH - 320, 57), "chance", GREY, _font(15))
    draw.line((WIDTH - 240, 61, WIDTH - 240, 73), ORACLE, 3)
    draw.text((WIDTH - 230, 57), "baseline", ORACLE, _font(15))
    for row, (result, measure) in enumerate(entries):
        _bar(draw, TOP + row * ROW, result, measure)
    bottom = TOP + ROW * len(entries)
    for percent in (0, 25, 50, 75, 100):
        draw.text((_across(percent / 100), bottom + 8), f"{percent}", GREY, _font(14), anchor="ma")
    return picture


def _bar(draw: ImageDraw.ImageDraw, top: int, result: Any, measure: Any) -> None:
    draw.text((24, top + 8), result.protocol.name, INK, _font(17))
    draw.text((24, top + 30), f"{measure.name}, n = {measure.count:,}", GREY, _font(14))
    low, high = top + 12, top + 42
    draw.rectangle((LEFT, low, WIDTH - RIGHT, high), LIGHT)
    draw.rectangle((LEFT, low, _across(measure.value), high), BAR)
    middle = (low + high) // 2
    draw.line((_across(measure.low), middle, _across(measure.high), middle), WHISKER, 3)
    for end in (measure.low, measure.high):
        draw.line((_across(end), middle - 6, _across(end), middle + 6), WHISKER, 2)
    marks = [(one.value, ORACLE) for one in result.baselines if one.measure == measure.name and one.name != "blind"]
    for value, colour in ((measure.chance, GREY), *marks):
        if value is not None:
            draw.line((_across(value), low - 4, _across(value), high + 4), colour, 3)
    draw.text((WIDTH - RIGHT + 12, middle), f"{100 * measure.value:.1f}", INK, _font(20), anchor="lm")


def _across(value: float) -> int:
    return round(LEFT + value * (WIDTH - RIGHT - LEFT))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
