"""Pictures for people: thumbnails, contact sheets, feature pictures, boxes and masks painted on; Pillow only.

Order of this file: thumbnails and sheets, feature pictures, boxes and masks, colours and type.
Unusual: the feature picture is the recipe of the Perception Encoder paper (arXiv 2504.13181): half the map plus half
its 3x3 Gaussian blur, three principal components, read as lightness, chroma and hue.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from percepta.errors import BadInput, out_of_range, wrong_shape
from percepta.media.pictures import converting, open_picture, picture_name
from percepta.results.boxes import Boxes
from percepta.results.masks import Masks

Colour = tuple[int, int, int]
PAPER: Colour = (250, 249, 246)
INK: Colour = (38, 38, 42)
# Pillow's own font has no typographic punctuation.
_PLAIN = str.maketrans({"–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "·": "-", "×": "x"})


def to_rgb(thing: Any, background: Colour = (255, 255, 255)) -> Image.Image:
    """Whatever `open_picture` takes as RGB for looking at: transparent parts show the background."""
    picture = open_picture(thing)
    with converting(picture_name(thing)):
        if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
            layer = picture.convert("RGBA")
            sheet = Image.new("RGBA", layer.size, (*background, 255))
            return Image.alpha_composite(sheet, layer).convert("RGB")
        if picture.mode == "LAB":
            from percepta.media.preprocess import from_lab

            return from_lab(picture)
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def thumbnail(thing: Any, side: int = 256) -> Image.Image:
    """An upright RGB copy that fits a square of `side` pixels, aspect kept; small pictures are not enlarged.

    Raises:
        BadMedia, BadInput: as `open_picture`; BadInput for a side below 1.
    """
    if side < 1:
        raise out_of_range("side", side, "1 or more", owner="thumbnail")
    picture = to_rgb(thing)
    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if size == picture.size:
        return picture.copy()
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def contact_sheet(
    pictures: Sequence[Any], captions: Sequence[str] = (), columns: int = 4, side: int = 224, gap: int = 16
) -> Image.Image:
    """A sheet of thumbnails in rows, each in the middle of its cell with its caption (two lines at most) below it.

    Args:
        pictures: at least one, each whatever `open_picture` takes.
        captions: one per picture, or none at all.
        columns, side, gap: cells a row, side of a cell and space between cells in pixels.

    Raises:
        BadInput: no picture, or another number of captions. BadMedia: a picture cannot be read.
    """
    if not len(pictures):
        raise BadInput("a contact sheet needs at least one picture; got none.")
    if captions and len(captions) != len(pictures):
        raise BadInput(f"captions must be one per picture; got {len(captions)} for {len(pictures)} pictures.")
    if columns < 1 or side < 8:
        raise out_of_range("columns and side", (columns, side), "1 or more, and 8 or more", owner="contact_sheet")
    columns = min(columns, len(pictures))
    font = _font(max(11, side // 15))
    line = line_height(font)
    cell_height = side + (2 * line + 8 if captions else 0)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (gap + columns * (side + gap), gap + rows * (cell_height + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, thing in enumerate(pictures):
        left = gap + index % columns * (side + gap)
        top = gap + index // columns * (cell_height + gap)
        small = thumbnail(thing, side)
        sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
        for number, text in enumerate(_wrapped(captions[index], font, side) if captions else ()):
            width = draw.textlength(text, font=font)
            draw.text((left + (side - width) / 2, top + side + 6 + number * line), text, fill=INK, font=font)
    return sheet


def pca_picture(values: Any, size: tuple[int, int] | None = None, seed: int = 0) -> Image.Image:
    """A picture of a feature map: vectors that are alike have the same colour.

    Args:
        values: (h, w, D) features, finite, or a FeatureMap.
        size: (width, height) of the picture; by default one pixel per feature.
        seed: for the solver of the principal components, so that a map always gets the same picture.

    Raises:
        BadInput: another shape, or numbers that are not finite.
    """
    from sklearn.decomposition import PCA

    array = np.asarray(getattr(values, "values", values), dtype=np.float32)
    if array.ndim != 3 or 0 in array.shape:
        raise wrong_shape("values", array.shape, "(h, w, D), no side 0", owner="pca_picture")
    if not np.isfinite(array).all():
        raise BadInput("values of pca_picture must be finite numbers; got NaN or infinity.")
    height, width, channels = array.shape
    smooth = (0.5 * array + 0.5 * _blurred(array)).reshape(-1, channels)
    parts = np.zeros((height * width, 3))
    count = min(3, channels, height * width)
    if smooth.std(axis=0).max() > 0:
        solver = PCA(n_components=count, svd_solver="randomized" if channels > 64 else "full", random_state=seed)
        parts[:, :count] = solver.fit_transform(smooth.astype(np.float64))
    picture = Image.fromarray(_lch_to_rgb(_spread(parts)).reshape(height, width, 3))
    return picture if size is None else picture.resize(size, Image.Resampling.BICUBIC)


def _blurred(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gaussian blur with a 3x3 kernel, sigma 1, edges mirrored without repeating them (repeated on sides of 1)."""
    side = float(np.exp(-0.5))
    weights = np.array([side, 1, side], dtype=np.float32) / np.float32(1 + 2 * side)
    for axis in (0, 1):
        padding = [(1, 1) if number == axis else (0, 0) for number in range(3)]
        padded = np.pad(values, padding, mode="reflect" if values.shape[axis] > 1 else "edge")
        length = values.shape[axis]
        pieces = [np.take(padded, np.arange(start, start + length), axis=axis) for start in range(3)]
        values = weights[0] * pieces[0] + weights[1] * pieces[1] + weights[2] * pieces[2]
    return values


def _spread(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each component in 0..1, its outer 1 % on either side cut off."""
    low, high = np.quantile(parts, [0.01, 0.99], axis=0)
    return np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)


def _lch_to_rgb(parts: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(n, 3) in 0..1 → (n, 3) uint8: the first as hue angle over most of the circle, then lightness, then chroma."""
    hue = (0.08 + 0.8 * parts[:, 0]) * 2 * np.pi
    lightness, chroma = 42 + 40 * parts[:, 1], 28 + 34 * parts[:, 2]
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    y = (lightness + 16) / 116
    xyz = np.stack([y + a / 500, y, y - b / 200], axis=1)
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * np.array([0.95047, 1.0, 1.08883])
    to_linear = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    linear = np.clip(xyz @ to_linear.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def draw_boxes(thing: Any, boxes: Boxes, width: int | None = None) -> Image.Image:
    """A copy of the picture with boxes and their names; every name has its own colour (every box, without names)."""
    picture = to_rgb(thing).copy()
    draw = ImageDraw.Draw(picture)
    stroke = width or max(2, round(min(picture.size) / 200))
    font = tag_font(picture.size)
    for row, (left, top, right, bottom) in enumerate(boxes.xyxy.tolist()):
        name = boxes.names[row]
        colour = _named_colour(name) if name else colour_of(row)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=stroke)
        score = "" if boxes.scores is None else f" {boxes.scores[row]:.2f}"
        if name or score:
            _tag(draw, (left, top), (name + score).strip(), colour, font)
    return picture


def draw_masks(thing: Any, masks: Masks, opacity: float = 0.5) -> Image.Image:
    """A copy of the picture with each mask as a veil of its own colour and a clear outline.

    Raises:
        BadInput: masks of another size than the picture, or an opacity outside 0..1.
    """
    picture = to_rgb(thing).copy()
    if (picture.height, picture.width) != masks.size:
        raise BadInput(f"masks must have the size of the picture, {(picture.height, picture.width)}; got {masks.size}.")
    if not 0 <= opacity <= 1:
        raise out_of_range("opacity", opacity, "0 to 1", owner="draw_masks")
    for row, mask in enumerate(masks):
        colour = colour_of(row)
        veil = Image.fromarray(mask.astype(np.uint8) * 255)
        picture.paste(Image.new("RGB", picture.size, colour), mask=veil.point(lambda value: round(value * opacity)))
        inner = veil.filter(ImageFilter.MinFilter(3))
        edge = Image.fromarray(np.asarray(veil) & ~np.asarray(inner))
        picture.paste(Image.new("RGB", picture.size, colour), mask=edge)
    return picture


def colour_of(number: int) -> Colour:
    """The colour of the object with this number: bright, and far from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + number * 0.61803398875) % 1, 0.72, (0.95, 0.78)[number % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def _named_colour(name: str) -> Colour:
    return colour_of(sum(ord(letter) * (place + 1) for place, letter in enumerate(name)) % 997)


def _tag(draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: Colour, font: Any) -> None:
    """A name on a plate of its colour, above the box where there is room, inside it where not."""
    width, height = draw.textlength(text, font=font) + 8, line_height(font) + 4
    left = max(0.0, min(corner[0], draw.im.size[0] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    draw.text((left + 4, top + 1), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def tag_font(size: tuple[int, int]) -> Any:
    """The font of names on a picture of this size: readable, and no larger than it must be."""
    return _font(max(11, round(min(size) / 32)))


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def line_height(font: Any) -> int:
    """Pixels from one line of text to the next."""
    _, top, _, bottom = font.getbbox("Agjy")
    return round(bottom - min(0, top)) + 2


def _wrapped(text: str, font: Any, width: int, lines: int = 2) -> list[str]:
    """At most `lines` lines that fit `width` pixels; what does not fit ends in dots."""
    words, result = " ".join(str(text).translate(_PLAIN).split()).split(" "), [""]
    for word in words:
        longer = f"{result[-1]} {word}".strip()
        if font.getlength(longer) <= width or not result[-1]:
            result[-1] = longer
        else:
            result.append(word)
    kept = result[:lines]
    if len(result) > lines:
        kept[-1] += " ..."
    return [_cut(line, font, width) for line in kept]


def _cut(line: str, font: Any, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    stem = line.removesuffix(" ...")
    while stem and font.getlength(stem + "...") > width:
        stem = stem[:-1]
    return stem + "..."
