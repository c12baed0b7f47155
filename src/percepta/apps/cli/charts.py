"""Scores as a picture, one panel an evaluation: a curve over layers, a matrix of classes, bars of classes or headlines.

Which panel an evaluation gets, its tables say: several layers a curve, classes a matrix (bars where they are many),
probabilities how well they were kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from percepta.apps.cli.bars import BAR, GREY, INK, LIGHT, WHISKER, WIDTH, bar_picture

MATRIX_SIDE = 40  # classes; more become bars
WEAKEST = 30  # bars of classes
LEFT, TOP, FOOT = 90, 92, 56
LINES = (BAR, (214, 110, 28), (60, 150, 90), (150, 80, 170), (120, 126, 136))


def chart(results: Sequence[Any]) -> Image.Image:
    """The panels of the evaluations, one below the other; those without tables share one panel of bars."""
    panels = []
    plain = []
    for result in results:
        tables = result.tables
        if len(tables.get("layers", {}).get("layers", ())) > 1:
            panels.append(_curve(result))
        elif 0 < len(tables.get("confusion", {}).get("names", ())) <= MATRIX_SIDE:
            panels.append(_matrix(result))
        elif tables.get("classes"):
            panels.append(_classes(result))
        elif tables.get("reliability"):
            panels.append(_reliability(result))
        else:
            plain.append(result)
    if plain or not panels:
        panels.append(bar_picture(plain))
    sheet = Image.new("RGB", (max(panel.width for panel in panels), sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        sheet.paste(panel, (0, top))
        top += panel.height
    return sheet


def _curve(result: Any) -> Image.Image:
    """Each measure over the layers, with 95 % intervals."""
    table, height = result.tables["layers"], 320
    layers, measures = table["layers"], table["measures"]
    shares = not any(measure.unit for measure in result.measures)
    high = 1.0 if shares else 1.1 * max(entry[2] for entries in measures.values() for entry in entries)
    picture, draw = _panel(result, TOP + height + FOOT + 22 * len(measures), "% right" if shares else "error")
    step = (WIDTH - LEFT - 60) / (len(layers) - 1)

    def place(layer: int, value: float) -> tuple[float, float]:
        return LEFT + layer * step, TOP + height * (1 - min(max(value / high, 0), 1))

    for part in range(5):
        value = high * part / 4
        y = place(0, value)[1]
        draw.line((LEFT, y, WIDTH - 60, y), LIGHT, 1)
        draw.text((LEFT - 10, y), f"{100 * value:.0f}" if shares else f"{value:.2g}", GREY, _font(14), anchor="rm")
    every = -(-len(layers) // 16)
    for number, layer in enumerate(layers):
        if number % every == 0 or number == len(layers) - 1:
            name = str(layer).removeprefix("layer ")
            draw.text((LEFT + number * step, TOP + height + 8), name, GREY, _font(14), anchor="ma")
    draw.text((WIDTH / 2, TOP + height + 28), "layer", GREY, _font(14), anchor="ma")
    for line, (name, entries) in reversed(list(enumerate(measures.items()))):  # the first lies on top
        colour = LINES[line % len(LINES)]
        draw.line([place(layer, value) for layer, (value, _, _) in enumerate(entries)], colour, 3)
        for layer, (value, low, above) in enumerate(entries):
            x, y = place(layer, value)
            draw.line((x, place(layer, low)[1], x, place(layer, above)[1]), colour, 2)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
        y = TOP + height + FOOT + 22 * line
        draw.line((LEFT, y, LEFT + 30, y), colour, 3)
        draw.text((LEFT + 40, y), name, INK, _font(14), anchor="lm")
    return picture


def _matrix(result: Any) -> Image.Image:
    """What share of each true class (row) was taken for which class (column)."""
    table = result.tables["confusion"]
    names, counts = table["names"], table["counts"]
    left = 200
    side = min(56, (WIDTH - left - 60) // len(names))
    size = side * len(names)
    picture, draw = _panel(result, TOP + size + 130, "% of each true class (row) taken for each class (column)")
    for row, entries in enumerate(counts):
        total = max(sum(entries), 1)
        draw.text((left - 10, TOP + (row + 0.5) * side), _short(names[row]), INK, _font(14), anchor="rm")
        for column, count in enumerate(entries):
            share = count / total
            x, y = left + column * side, TOP + row * side
            colour = tuple(round(light + (full - light) * share**0.6) for light, full in zip((250, 250, 252), WHISKER))
            draw.rectangle((x, y, x + side - 2, y + side - 2), colour)
            if side >= 30 and count:
                ink = "white" if share > 0.3 else INK
                number = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                draw.text((x + side / 2 - 1, y + side / 2 - 1), number, ink, _font(13), anchor="mm")
    for column, name in enumerate(names):
        _upright(picture, _short(name), left + (column + 0.5) * side, TOP + size + 6)
    return picture


def _classes(result: Any) -> Image.Image:
    """The weakest classes as bars."""
    entries = sorted(result.tables["classes"], key=lambda entry: entry["value"])
    shown, left, row = entries[:WEAKEST], 260, 24
    what = f"% right of the {len(shown)} weakest of {len(entries)} classes" if len(entries) > WEAKEST else "% right"
    picture, draw = _panel(result, TOP + row * len(shown) + 30, what)
    reach = WIDTH - left - 90
    for number, entry in enumerate(shown):
        top, (low, high) = TOP + number * row, entry["interval"]
        middle = top + row // 2
        draw.text((left - 10, middle), _short(entry["name"], 28), INK, _font(14), anchor="rm")
        draw.rectangle((left, top + 4, left + reach, top + row - 4), LIGHT)
        draw.rectangle((left, top + 4, left + reach * entry["value"], top + row - 4), BAR)
        draw.line((left + reach * low, middle, left + reach * high, middle), WHISKER, 2)
        draw.text((left + reach + 10, middle), f"{100 * entry['value']:.0f}", INK, _font(14), anchor="lm")
    return picture


def _reliability(result: Any) -> Image.Image:
    """What was stated (across) against what came true (up); dots on the diagonal are promises kept."""
    table, side, left = result.tables["reliability"], 420, 300
    what = f"share of first hits that are right, by stated probability; n = {sum(table['counts']):,}"
    picture, draw = _panel(result, TOP + side + 70, what, counted=True)

    def place(stated: float, kept: float) -> tuple[float, float]:
        return left + side * stated, TOP + side * (1 - kept)

    for part in range(5):
        share = part / 4
        draw.line((*place(0, share), *place(1, share)), LIGHT, 1)
        draw.text((left - 10, place(0, share)[1]), f"{100 * share:.0f}", GREY, _font(14), anchor="rm")
        draw.text((place(share, 0)[0], TOP + side + 8), f"{100 * share:.0f}", GREY, _font(14), anchor="ma")
    draw.text((left + side / 2, TOP + side + 30), "% stated", GREY, _font(14), anchor="ma")
    draw.line((*place(0, 0), *place(1, 1)), GREY, 2)
    points = [place(stated, kept) for stated, kept in zip(table["stated"], table["kept"], strict=True)]
    draw.line(points, BAR, 2)
    most = max(table["counts"])
    for (x, y), count in zip(points, table["counts"], strict=True):
        radius = 3 + 6 * (count / most) ** 0.5
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), BAR)
    for number, measure in enumerate(one for one in result.measures if one.headline):
        value = f"{measure.value:.3f}" if measure.unit else f"{100 * measure.value:.1f} %"
        draw.text((24, TOP + 20 + 44 * number), _short(measure.name, 32), GREY, _font(13))
        draw.text((24, TOP + 36 + 44 * number), value, INK, _font(17))
    return picture


def _panel(result: Any, height: int, what: str, counted: bool = False) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((24, 16), f"{result.protocol.name} of {result.model.get('name', '')}", INK, _font(22))
    count = f"; n = {result.measures[0].count:,}" if result.measures and not counted else ""
    draw.text((24, 50), f"{what}{count}", GREY, _font(15))
    return picture, draw


def _upright(picture: Image.Image, text: str, centre: float, top: float) -> None:
    """Text from top to bottom, below a column."""
    width, height = round(_font(14).getlength(text)) + 4, 20
    strip = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(strip).text((2, height / 2), text, INK, _font(14), anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_270)
    picture.paste(turned, (round(centre - height / 2), round(top)))


def _short(text: str, length: int = 16) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
