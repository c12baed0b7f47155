"""Pictures for a page: small, upright, inside the file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from percepta.media import Source, VideoReader, open_picture, pca_picture, thumbnail
from percepta.media.drawing import to_rgb
from percepta.media.groups import GroupColours, paint_groups
from percepta.results import FeatureMap

SIDE = 320


STRIP = 4  # frames of a moment that are shown in a row


def moment_pictures(path: Path, start: float, end: float, side: int = SIDE) -> tuple[Image.Image, Image.Image]:
    """The middle frame of a moment, and a row of frames from its first to its last.

    Args:
        start, end: seconds.

    Raises: BadMedia.
    """
    with VideoReader(path) as reader:
        last = int(np.searchsorted(reader.timestamps, end - 1e-6)) - 1
        first = min(int(np.searchsorted(reader.timestamps, start - 1e-6)), max(last, 0))
        wanted = [int(number) for number in np.linspace(first, max(first, last), STRIP).round()]
        *frames, middle = reader.read([*wanted, (first + max(first, last)) // 2])
    row = [thumbnail(frame, side // STRIP) for frame in frames]
    strip = Image.new("RGB", (sum(frame.width for frame in row), max(frame.height for frame in row)))
    left = 0
    for frame in row:
        strip.paste(frame, (left, 0))
        left += frame.width
    return thumbnail(middle, side), strip


def small(source: Source | Path | Any, side: int = SIDE) -> tuple[Image.Image, str]:
    """A small upright RGB picture of a source, and a badge for a video (its middle frame stands for it).

    Raises: BadMedia.
    """
    if isinstance(source, Source) and source.kind == "video":
        if isinstance(source.data, VideoReader):
            return _middle(source.data, side)
        with VideoReader(source.thing) as reader:
            return _middle(reader, side)
    return thumbnail(source.thing if isinstance(source, Source) else source, side), ""


def _middle(reader: VideoReader, side: int) -> tuple[Image.Image, str]:
    frame = reader.read([reader.frames // 2])[0]
    return thumbnail(frame, side), f"▶ {reader.duration:.1f} s"


def data_uri(picture: Image.Image, lossless: bool = False) -> str:
    """The picture as the `src` of an image, JPEG or PNG."""
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.convert("RGB").save(buffer, format="JPEG", quality=86, optimize=True)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def layer_picture(result: FeatureMap, source: Source, side: int = SIDE) -> Image.Image:
    """The feature picture in the shape of its input."""
    seen = _seen_size(source)
    scale = side / max(seen)
    return pca_picture(result, size=(max(1, round(seen[0] * scale)), max(1, round(seen[1] * scale))))


def merge_picture(result: FeatureMap, thing: Any, side: int = SIDE, colours: GroupColours | None = None) -> Image.Image:
    """The groups of a map in the shape of its input; hand over the same `colours` for the frames of a video.

    Args:
        thing: the input, or the frame: a Source, or whatever `open_picture` takes.

    Raises: BadMedia.
    """
    if isinstance(thing, Source) and thing.kind == "video":
        with VideoReader(thing.thing) as reader:
            thing = reader.read([reader.frames // 2])[0]
    picture = to_rgb(thing.thing if isinstance(thing, Source) else thing)
    assert result.groups is not None, "asked of merged maps alone"
    rows, columns = result.groups.shape
    scale = side / max(picture.size)
    size = (max(columns, round(picture.width * scale)), max(rows, round(picture.height * scale)))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    given = (colours or GroupColours()).of(result.groups, result.values)
    return Image.fromarray(paint_groups(pixels, result.groups, given, max(1, round(side / 384))))


def _seen_size(source: Source) -> tuple[int, int]:
    if source.kind == "picture":
        return open_picture(source.thing).size
    if isinstance(source.data, VideoReader):
        return source.data.size
    with VideoReader(source.thing) as reader:
        return reader.size
