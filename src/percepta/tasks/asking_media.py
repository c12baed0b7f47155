"""What a model is shown of pictures and videos: chunks, what the words call them, and the clock of a video.

Order of this file: how to look, what was seen, looking, regions, inputs.
Unusual: a budget of visual tokens decides how many tiles or frames there are, before anything is decoded. A region is
told in words on pictures and drawn as a red box on frames, as the models were trained
(Perception Language Model, arXiv 2504.13180, section 3).
"""

from __future__ import annotations

import glob
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from percepta.errors import BadInput, BadMedia, out_of_range
from percepta.media import Source, VideoReader, collect, open_picture
from percepta.media.chunks import ChunkPreprocess
from percepta.media.regions import LINE_WIDTH, region_text
from percepta.media.sniffing import name_of
from percepta.results import Failure, Tracks
from percepta.tasks.asking_words import Timeline

MARK = "<|bbox0|>"
SMALL_FRAME = 64  # pixels a side for each pixel of a red box's line, up to the line that models were trained with


@dataclass(frozen=True, slots=True)
class Looking:
    """How pictures and videos are looked at.

    Attributes:
        frames: of a video at most; None is as many as the model was trained with (32, a toy 8).
        tiles: of a picture at most, without its thumbnail; 0 is the picture alone; None is likewise (36, a toy 0). More
            see smaller print, and take more time and memory.
        visual_tokens: tokens that one input may take at most; makes tiles and frames fewer.
        chunk_tokens: tokens of each picture, tile or frame; the most similar ones are averaged. None keeps all.
        start, end: seconds of a video between which it is looked at.
        region: left, top, width, height in pixels, that the question is about; of a video also a mapping of frame
            numbers to these, or Tracks of one object.

    Raises: BadInput for a number out of range, or a box without area.
    """

    frames: int | None = None
    tiles: int | None = None
    visual_tokens: int | None = None
    chunk_tokens: int | None = None
    start: float | None = None
    end: float | None = None
    region: Any = None

    def __post_init__(self) -> None:
        for what, least in (("frames", 1), ("tiles", 0), ("visual_tokens", 1), ("chunk_tokens", 1)):
            value = getattr(self, what)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise out_of_range(what, value, f"a whole number of {least} or more")
        for what in ("start", "end"):
            value = getattr(self, what)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise out_of_range(what, value, "seconds, 0 or more")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise BadInput(f"start must lie before end; got {self.start:g} s to {self.end:g} s, which is no clip.")
        if self.region is not None and not isinstance(self.region, Tracks | Mapping):
            check_box(self.region)
        if isinstance(self.region, Mapping):
            for box in self.region.values():
                check_box(box)

    def preprocess(self, given: ChunkPreprocess, tokens_per_chunk: int, owner: str) -> ChunkPreprocess:
        """A model's own preprocessing, changed by what is asked for. Raises BadInput for a budget below one chunk, or
        more tokens of a chunk than there are."""
        if self.chunk_tokens is not None and self.chunk_tokens > tokens_per_chunk:
            raise out_of_range("chunk_tokens", self.chunk_tokens, f"1 to {tokens_per_chunk}", owner=owner)
        tokens_per_chunk = self.chunk_tokens or tokens_per_chunk
        tiles = 0 if given.mode == "vanilla" else given.tiles
        tiles, frames = tiles if self.tiles is None else self.tiles, self.frames or given.frames
        if self.visual_tokens is not None:
            most = self.visual_tokens // tokens_per_chunk
            if most < 1:
                raise BadInput(
                    f"visual_tokens must be {tokens_per_chunk} or more, which is one picture or frame of {owner}; got "
                    f"{self.visual_tokens}."
                )
            tiles, frames = min(tiles, most - 1), min(frames, most)
        return replace(given, tiles=max(1, tiles), frames=frames, mode="thumb+tile" if tiles else "vanilla")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one question can be about.

    Attributes:
        source: its name; "" for words alone.
        kind: "image", "multi_image", "video" or "text".
        chunks: pictures, tiles or frames C.
        size: (height, width) of the picture or the frames; None for words and for several pictures.
        timeline: the clock of a video's frames, or None.
        region: left, top, width, height in pixels that are told in words, or None; on frames it is drawn instead.
        chunk_tokens: tokens of each chunk where similar ones are averaged, or None where all are kept.
    """

    source: str
    kind: str
    chunks: int = 0
    size: tuple[int, int] | None = None
    timeline: Timeline | None = None
    region: tuple[float, float, float, float] | None = None
    chunk_tokens: int | None = None

    def worded(self, question: str) -> str:
        """The question, with its region in words where there is one."""
        if self.region is None or self.size is None:
            return question
        told = region_text(self.region, self.size[1], self.size[0])
        return question.replace(MARK, told) if MARK in question else f"In the region {told}: {question}"


NOTHING = Seen("", "text")


def look(source: Source, looking: Looking, preprocess: ChunkPreprocess) -> tuple[Seen, Tensor]:
    """One picture or video; returns what was seen, and its chunks (C, 3, S, S).

    Raises: BadMedia, BadInput in one sentence, also for a clip or a region that does not lie in it.
    """
    if source.kind == "video":
        return _look_at_video(source, looking, preprocess)
    for what in ("start", "end"):
        if getattr(looking, what) is not None:
            raise BadInput(f"{what} is for videos; {name_of(source.name)} is a picture.")
    if isinstance(looking.region, Tracks | Mapping):
        raise BadInput(f"{name_of(source.name)} is a picture, whose region must be left, top, width, height.")
    picture = open_picture(source.thing)
    found = preprocess.image(picture)
    region = None
    if looking.region is not None:
        _check_inside(looking.region, found.size, name_of(source.name))
        left, top, width, height = (float(number) for number in looking.region)
        region = left, top, width, height
    size = found.size[1], found.size[0]
    seen = Seen(source.name, "image", len(found.pixels), size, None, region, looking.chunk_tokens)
    return seen, found.pixels


def look_at_several(sources: Sequence[Source], looking: Looking, preprocess: ChunkPreprocess) -> tuple[Seen, Tensor]:
    """Several pictures together, one chunk each. Raises as `look`, and BadInput for a video among them."""
    video = next((source for source in sources if source.kind == "video"), None)
    if video is not None:
        raise BadInput(
            f"a question may be about several pictures, or one video; {name_of(video.name)} is a video among "
            f"{len(sources)} inputs."
        )
    for what in ("start", "end", "region"):
        if getattr(looking, what) is not None:
            raise BadInput(f"{what} is for one input; got {len(sources)} pictures.")
    if looking.visual_tokens is not None and len(sources) > preprocess.frames:
        raise BadInput(
            f"visual_tokens={looking.visual_tokens} is enough for {preprocess.frames} pictures; got {len(sources)}."
        )
    pixels = preprocess.images([source.thing for source in sources]).pixels
    names = ", ".join(source.name for source in sources)
    return Seen(names, "multi_image", len(pixels), chunk_tokens=looking.chunk_tokens), pixels


def _look_at_video(source: Source, looking: Looking, preprocess: ChunkPreprocess) -> tuple[Seen, Tensor]:
    reader = source.thing
    if not hasattr(reader, "iterate"):
        with VideoReader(reader) as opened:
            return _frames_of(opened, source.name, looking, preprocess)
    return _frames_of(reader, source.name, looking, preprocess)


def _frames_of(reader: VideoReader, name: str, looking: Looking, preprocess: ChunkPreprocess) -> tuple[Seen, Tensor]:
    duration = reader.duration
    if looking.start is not None and looking.start >= duration:
        raise BadInput(f"{name_of(name)} lasts {duration:.2f} s; a clip cannot begin at {looking.start:g} s.")
    if looking.end is not None and looking.end > duration + 1 / reader.rate:
        warnings.warn(
            f"{name_of(name)} lasts {duration:.2f} s, and is looked at up to there, not to {looking.end:g} s.",
            UserWarning,
            stacklevel=2,
        )
    boxes = _boxes_of(looking.region, reader, name)
    line = LINE_WIDTH if boxes is None else max(1, min(LINE_WIDTH, min(reader.size) // SMALL_FRAME))
    found = preprocess.video(reader, looking.start, looking.end, boxes, line_width=line)
    end = duration if looking.end is None else min(looking.end, duration)
    size, line_of_time = (found.size[1], found.size[0]), Timeline(found.times, end)
    seen = Seen(name, "video", len(found.pixels), size, line_of_time, None, looking.chunk_tokens)
    return seen, found.pixels


def _boxes_of(region: Any, reader: VideoReader, name: str) -> dict[int, tuple[float, float, float, float]] | None:
    """Frame number → left, top, right, bottom. Raises BadInput for one that does not lie in the frames."""
    if region is None:
        return None
    if isinstance(region, Tracks):
        if len(region.ids) != 1:
            raise BadInput(f"the tracks of a region must be of one object; got {len(region.ids)}, take tracks.of(...).")
        rows = zip(region.frames.tolist(), region.boxes.xyxy.tolist(), strict=True)
        return {frame: (left, top, right, bottom) for frame, (left, top, right, bottom) in rows}
    width, height = reader.size
    given = region if isinstance(region, Mapping) else dict.fromkeys(range(reader.frames), region)
    found = {}
    for frame, box in given.items():
        _check_inside(box, (width, height), name_of(name))
        left, top, across, down = box
        found[int(frame)] = (left, top, left + across, top + down)
    return found


def check_box(box: Any) -> None:
    """Raises BadInput for what is no left, top, width and height with an area."""
    try:
        numbers = [float(number) for number in box]
    except (TypeError, ValueError):
        raise BadInput(f"a region must be four numbers: left, top, width, height; got {box!r}.") from None
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise BadInput(f"a region must be four finite numbers: left, top, width, height; got {box!r}.")
    if numbers[2] <= 0 or numbers[3] <= 0:
        raise BadInput(f"a region must have a width and a height above 0; got {numbers[2]:g} and {numbers[3]:g}.")


def _check_inside(box: Sequence[float], size: tuple[int, int], name: str) -> None:
    width, height = size
    left, top, across, down = box
    if left >= width or top >= height or left + across <= 0 or top + down <= 0:
        given = ",".join(f"{number:g}" for number in box)
        raise BadInput(f"a region must lie in {name}, {width}x{height} pixels; got {given}.")


# Inputs


def is_many(media: Any) -> bool:
    """Whether a thing names many inputs: a folder, a pattern, "-" (names on standard input), or a list with such."""
    if isinstance(media, list | tuple):
        return any(is_many(item) for item in media)
    if not isinstance(media, str | os.PathLike):
        return False
    text = os.fsdecode(media)
    try:
        path = Path(text).expanduser()
        return text == "-" or path.is_dir() or (glob.has_magic(text) and not path.exists())
    except (OSError, ValueError, RuntimeError):
        return False  # a name that cannot be; `collect` says why


def sources_in(media: Any) -> list[Source]:
    """The pictures or the video of one question; none for None.

    Raises: BadMedia for an input that cannot be read, BadInput for none at all.
    """
    if media is None:
        return []
    found = list(collect(media))
    for source in found:
        if isinstance(source, Failure):
            raise BadMedia(source.reason)
    return [source for source in found if isinstance(source, Source)]
