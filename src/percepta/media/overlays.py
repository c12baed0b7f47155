"""Objects painted on pictures and videos: a veil and an outline in the object's own colour, a tag with what it is.

Order of this file: one picture, tags, a video that grows in parts.
Unusual: an object keeps its colour through all frames, whatever else appears. A video is written in short parts, each
complete on disk, and joined without encoding anything again: an interruption costs at most one part, and times of the
frames are those of the video that was painted on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from percepta.errors import BadInput, BadMedia, out_of_range
from percepta.media.drawing import Colour, colour_of, line_height, tag_font, to_rgb
from percepta.media.pictures import one_line
from percepta.media.sniffing import name_of
from percepta.results.masks import Masks

LEAST = 240  # pixels of the shorter side below which a picture is enlarged, so that tags can be read
TICKS = 90_000  # of a second, in which parts of a video count
_ENCODERS = ("libx264", "mpeg4")


def draw_objects(
    thing: Any,
    masks: Masks,
    objects: Sequence[int] = (),
    opacity: float = 0.45,
    tags: Sequence[str] | None = None,
    clicks: Sequence[tuple[float, float, int]] = (),
    frames: Sequence[Sequence[float]] = (),
) -> Image.Image:
    """A copy of the picture with each object veiled, outlined and tagged.

    Args:
        thing: whatever `open_picture` takes.
        masks: of the size of the picture.
        objects: a number for each mask, which gives its colour; by default 1, 2, ... in order.
        opacity: of the veil, 0 to 1.
        tags: a text for each mask; by default its number, its name where that says more, and its score.
        clicks: (x, y, label) of points to show: a green dot inside (1), a red one outside (0).
        frames: (left, top, right, bottom) of boxes to show.

    Returns: an RGB picture; one with a side below 240 pixels is enlarged by a whole factor.

    Raises: BadInput for masks of another size, another number of objects or tags, an opacity outside 0 to 1.
    """
    picture = to_rgb(thing)
    if (picture.height, picture.width) != masks.size:
        raise BadInput(f"masks must have the size of the picture, {(picture.height, picture.width)}; got {masks.size}.")
    if not 0 <= opacity <= 1:
        raise out_of_range("opacity", opacity, "0 to 1", owner="draw_objects")
    numbers = list(objects) if len(objects) else list(range(1, len(masks) + 1))
    if len(numbers) != len(masks) or (tags is not None and len(tags) != len(masks)):
        given = f"{len(numbers)} objects" + ("" if tags is None else f" and {len(tags)} tags")
        raise BadInput(f"objects and tags must be one for each of {len(masks)} masks; got {given}.")
    texts = list(tags) if tags is not None else [_text(masks, row, numbers[row]) for row in range(len(numbers))]
    factor = -(-LEAST // min(picture.size)) if min(picture.size) < LEAST else 1
    canvas = np.asarray(picture).repeat(factor, 0).repeat(factor, 1) if factor > 1 else np.array(picture)
    stroke = max(1, round(min(canvas.shape[:2]) / 300))
    boxes = masks.boxes().xyxy.astype(int)
    order = np.argsort(-masks.area)  # the smaller an object, the later: what lies inside of another stays visible
    for row in order.tolist():
        if masks.counts[row][1::2].any():
            _veil(canvas, masks, row, boxes[row], factor, colour_of(numbers[row]), opacity, stroke)
    painted = Image.fromarray(canvas)
    draw = ImageDraw.Draw(painted)
    for edges in frames:
        left, top, right, bottom = (edge * factor for edge in edges)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=(255, 255, 255), width=stroke)
    for x, y, label in clicks:
        _dot(draw, (x + 0.5) * factor, (y + 0.5) * factor, 3 * stroke + 2, label)
    seen = [row for row in order.tolist()[::-1] if boxes[row][2:].any()]
    _tags(draw, painted.size, seen, boxes * factor, texts, numbers)
    return painted


def _text(masks: Masks, row: int, number: int) -> str:
    name, score = masks.names[row], "" if masks.scores is None else f" {masks.scores[row]:.2f}"
    return f"#{number}{'' if name in ('', 'object') else ' ' + name}{score}"


def _veil(
    canvas: NDArray[np.uint8],
    masks: Masks,
    row: int,
    box: NDArray[np.int64],
    factor: int,
    colour: Colour,
    opacity: float,
    stroke: int,
) -> None:
    """Paint one object, looking at no more of the canvas than its box."""
    left, top, right, bottom = box.tolist()
    inside = window_of(masks.counts[row], masks.size, (left, top, right, bottom))
    if factor > 1:
        inside = inside.repeat(factor, 0).repeat(factor, 1)
    part = canvas[top * factor : bottom * factor, left * factor : right * factor]
    inner = _shrunk(inside, stroke)
    ink = np.array(colour, dtype=np.float32)
    veiled = part[inner] * (1 - opacity) + ink * opacity
    part[inner] = np.rint(veiled).astype(np.uint8)
    rim = inside & ~inner
    part[rim] = np.rint(0.85 * ink + 0.15 * 255).astype(np.uint8)
    halo = _grown_edge(inside)
    part[halo] = (part[halo] * 0.45).astype(np.uint8)


def window_of(counts: NDArray[np.int64], size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The part of a mask in a box, without the rest of it: (bottom - top, right - left) bool."""
    height = size[0]
    left, top, right, bottom = box
    ends = np.cumsum(counts)
    first, last = np.searchsorted(ends, (left * height, right * height), side="right")
    runs = counts[first : last + 1].copy()
    if not len(runs):
        return np.zeros((bottom - top, right - left), dtype=np.bool_)
    runs[0] = ends[first] - left * height
    values = (np.arange(first, first + len(runs)) % 2).astype(np.bool_)
    columns = np.repeat(values, runs)[: (right - left) * height]
    return columns.reshape(right - left, height).T[top:bottom]


def _shrunk(mask: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """The mask without its outermost pixels; where it is cut by the window, that is no edge of the picture's."""
    inner = np.pad(mask, 1)
    for _ in range(times):
        eroded = inner.copy()
        eroded[1:] &= inner[:-1]
        eroded[:-1] &= inner[1:]
        eroded[:, 1:] &= inner[:, :-1]
        eroded[:, :-1] &= inner[:, 1:]
        inner = eroded
    return inner[1:-1, 1:-1]


def _grown_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels just outside of the mask, which are darkened so that the outline stands out on any background."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown & ~mask


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, label: int) -> None:
    colour = (40, 200, 80) if label else (230, 50, 50)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(255, 255, 255), width=2)


def _tags(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    rows: Sequence[int],
    boxes: NDArray[np.int64],
    texts: Sequence[str],
    numbers: Sequence[int],
) -> None:
    """A plate for each object above its box; one that would cover another moves on, or stays away where all is full."""
    font = tag_font(size)
    high = line_height(font) + 4
    taken: list[tuple[float, float, float, float]] = []
    for row in rows:
        if not texts[row]:
            continue
        wide = draw.textlength(texts[row], font=font) + 8
        left, top, right, bottom = boxes[row].tolist()
        beside = ((x, y) for x in (left, right, left - wide) for y in (top - high, top, bottom - high, bottom))
        plates = [_within((x, y, x + wide, y + high), size) for x, y in beside]
        plate = next((plate for plate in plates if not any(_cover(plate, other) for other in taken)), None)
        if plate is None:
            continue
        taken.append(plate)
        colour = colour_of(numbers[row])
        draw.rectangle(plate, fill=colour)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        draw.text((plate[0] + 4, plate[1] + 1), texts[row], fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def _within(plate: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The plate, moved into the picture."""
    left = max(0.0, min(plate[0], size[0] - (plate[2] - plate[0])))
    top = max(0.0, min(plate[1], size[1] - (plate[3] - plate[1])))
    return left, top, left + plate[2] - plate[0], top + plate[3] - plate[1]


def _cover(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class VideoParts:
    """A video that grows picture by picture, in parts that are complete on disk; `join` makes one file of them.

    Args:
        folder: for the parts; those that are there stay, so that a run can go on.
        rate: frames a second, for frames that come without a time.
        quality: 0 (best) to 51 (smallest).

    Raises: BadInput for a rate or quality out of range.
    """

    def __init__(self, folder: Path, rate: float = 25.0, quality: int = 23) -> None:
        if not 0 < rate <= 1000:
            raise out_of_range("rate", rate, "above 0 and at most 1000", owner="VideoParts")
        if not 0 <= quality <= 51:
            raise out_of_range("quality", quality, "0 to 51", owner="VideoParts")
        self.folder, self.rate, self.quality = folder, rate, quality
        folder.mkdir(parents=True, exist_ok=True)
        for rest in folder.glob("*.partial"):
            rest.unlink()
        self._container: Any = None
        self._stream: Any = None
        self._start = self._last = -1
        self._path = folder

    @property
    def parts(self) -> list[Path]:
        """The parts that are complete, in order."""
        return sorted(self.folder.glob("part-*.mp4"))

    @property
    def begins(self) -> list[int]:
        """The numbers of the frames with which the complete parts begin."""
        return [_numbers(part)[0] for part in self.parts]

    def add(self, picture: Image.Image, number: int, time: float | None = None) -> None:
        """Add a frame.

        Args:
            picture: RGB, all of one size; an odd row or column is repeated once.
            number: of the frame.
            time: in seconds; by default number / rate. A frame that is not later than the one before is shown right
                after it.
        """
        array = np.asarray(picture)
        array = np.pad(array, ((0, array.shape[0] % 2), (0, array.shape[1] % 2), (0, 0)), mode="edge")
        tick = max(self._last + 1, round((number / self.rate if time is None else time) * TICKS))
        try:
            if self._container is None:
                self._open(array, number, tick)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts, frame.time_base = tick - self._start, Fraction(1, TICKS)
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise _unwritable(self._path, error) from None
        self._last = tick

    def cut(self) -> None:
        """Complete the part that is being written, if there is one."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            container.mux(self._stream.encode(None))
            container.close()
            os.replace(self._path.with_name(self._path.name + ".partial"), self._path)
        except (av.error.FFmpegError, OSError) as error:
            raise _unwritable(self._path, error) from None

    def drop_from(self, number: int) -> None:
        """Forget the parts that begin at this frame or later."""
        for part in self.parts:
            if _numbers(part)[0] >= number:
                part.unlink()

    def join(self, path: Path) -> Path:
        """All complete parts as one MP4 file, nothing encoded again; replaces what is there. Raises BadMedia."""
        partial = path.with_name(f".{path.name}.partial")
        try:
            _join(self.parts, partial)
            os.replace(partial, path)
        except (av.error.FFmpegError, OSError) as error:
            raise _unwritable(path, error) from None
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _open(self, array: NDArray[np.uint8], number: int, tick: int) -> None:
        encoder = next((name for name in _ENCODERS if name in av.codec.codecs_available), None)
        if encoder is None:
            raise BadMedia(f"no video can be written: this FFmpeg has none of {', '.join(_ENCODERS)}.")
        self._start, self._path = tick, self.folder / f"part-{number:09d}-{tick:012d}.mp4"
        partial = self._path.with_name(self._path.name + ".partial")
        self._container = av.open("file:" + os.path.abspath(partial), "w", format="mp4")
        self._stream = self._container.add_stream(encoder, rate=Fraction(self.rate).limit_denominator(1001))
        self._stream.height, self._stream.width = array.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.max_b_frames = 0  # so that frames are stored in the order in which they are shown, and parts can follow
        if encoder == "mpeg4":
            self._stream.bit_rate = max(400_000, array.shape[0] * array.shape[1] * 4)
        else:
            self._stream.options = {"crf": str(self.quality), "preset": "veryfast"}

    def __enter__(self) -> VideoParts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()


def _join(parts: Sequence[Path], path: Path) -> None:
    if not parts:
        raise BadInput("a video needs at least one frame; got none.")
    first = _numbers(parts[0])[1]
    with av.open("file:" + os.path.abspath(path), "w", format="mp4", options={"movflags": "faststart"}) as joined:
        stream: Any = None
        last = -1
        for part in parts:
            with av.open("file:" + os.path.abspath(part)) as opened:
                source = opened.streams.video[0]
                if stream is None:
                    stream = joined.add_stream_from_template(source)
                    stream.time_base = Fraction(1, TICKS)
                shift = _numbers(part)[1] - first
                for packet in opened.demux(source):
                    if packet.pts is None or packet.dts is None or packet.size == 0:
                        continue
                    scale = (packet.time_base or Fraction(1, TICKS)) * TICKS
                    tick = max(last + 1, round(packet.pts * scale) + shift)
                    packet.pts = packet.dts = last = tick
                    packet.time_base, packet.stream = Fraction(1, TICKS), stream
                    joined.mux(packet)


def _numbers(part: Path) -> tuple[int, int]:
    """The number and the tick of a part's first frame."""
    _, number, tick = part.stem.split("-")
    return int(number), int(tick)


def _unwritable(path: Path, error: Exception) -> BadMedia:
    reason = getattr(error, "strerror", None) or one_line(error)
    return BadMedia(f"{name_of(path)} cannot be written: {reason}.")
