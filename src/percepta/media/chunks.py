"""From a picture, several pictures or a video to the chunks that a vision-language model reads.

The rules of the Perception Language Model (arXiv 2504.13180, section 3): one picture is a thumbnail and tiles, several
are never tiled, a video is frames. Unusual: pictures are resized by PIL and frames as tensors of bytes, as the models
were trained; of a video only the frames that are kept are decoded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from percepta.errors import BadInput, BadMedia, one_of, out_of_range
from percepta.media.clip_frames import frame_indices
from percepta.media.pictures import converting, open_picture, picture_name, unreadable
from percepta.media.preprocess import Preprocess, from_lab
from percepta.media.regions import LINE_WIDTH, RED, boxes_by_frame, red_box
from percepta.media.sniffing import kind_of, name_of, read_head
from percepta.media.tiling import MODES, RULES, picture_chunks, resize_bytes


@dataclass(frozen=True, slots=True)
class Chunks:
    """What a model is shown.

    Attributes:
        pixels: (C, 3, S, S) float32, normalised.
        kind: "image", "multi_image" or "video".
        size: (width, height) of the picture as seen, of the first of several, or of the frames.
        grid: (tiles across, tiles down) of "image"; (1, 1) where it is not tiled.
        frames: of "video" the number of each chunk's frame in the video; else empty.
        times: of "video" when each frame is shown, in seconds; else empty.
    """

    pixels: Tensor
    kind: str
    size: tuple[int, int]
    grid: tuple[int, int] = (1, 1)
    frames: tuple[int, ...] = ()
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class ChunkPreprocess:
    """How a vision-language model wants its pictures and videos.

    Attributes:
        image_size: side S of a chunk, pixels.
        tiles: most tiles of a picture, without its thumbnail.
        frames: most frames of a video.
        mode: "thumb+tile" or "vanilla" (every picture is one chunk).
        upscale: False does not blow small pictures up to fill all tiles; see `tile_grid`.
        rule: "official", or "transformers": frames and pictures as that port samples and resizes them (several
            pictures stay untiled).
        mean, std: of each RGB channel, on the scale 0..1.
    """

    image_size: int
    tiles: int = 36
    frames: int = 32
    mode: str = "thumb+tile"
    upscale: bool = True
    rule: str = "official"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    _normalise: Preprocess = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what in ("tiles", "frames"):
            if getattr(self, what) < 1:
                raise out_of_range(what, getattr(self, what), "1 or more", owner="ChunkPreprocess")
        for what, allowed in (("mode", MODES), ("rule", RULES)):
            if getattr(self, what) not in allowed:
                raise one_of(what, getattr(self, what), allowed, owner="ChunkPreprocess")
        object.__setattr__(self, "_normalise", Preprocess(self.image_size, mean=self.mean, std=self.std))
        object.__setattr__(self, "mean", self._normalise.mean)
        object.__setattr__(self, "std", self._normalise.std)

    def __call__(self, thing: Any, boxes: Mapping[Any, Any] | None = None) -> Chunks:
        """The chunks of whatever is given.

        Args:
            thing: a picture (see `open_picture`), a video (a path, bytes, a VideoReader, or an array (T, H, W, 3)), or
                a list of two or more pictures.
            boxes: of a video, as `video`.

        Raises: BadInput, BadMedia: one sentence.
        """
        if isinstance(thing, list | tuple):
            return self.image(thing[0]) if len(thing) == 1 else self.images(thing)
        if _is_video(thing):
            return self.video(thing, boxes=boxes)
        if boxes:
            raise BadInput("boxes by frame are drawn on videos; this is a picture.")
        return self.image(thing)

    def image(self, thing: Any) -> Chunks:
        """One picture: a thumbnail and tiles, or one chunk."""
        picture = rgb_picture(thing)
        with converting(picture_name(thing)):
            cut, grid = picture_chunks(picture, self.image_size, self.tiles, self.mode, self.upscale, self.rule)
        return Chunks(self._stacked(cut), "image", picture.size, (grid.columns, grid.rows) if len(cut) > 1 else (1, 1))

    def images(self, things: Sequence[Any]) -> Chunks:
        """Several pictures, one chunk each; one alone is still "multi_image". Raises: BadInput for none."""
        if not len(things):
            raise BadInput("a list of pictures must hold at least one; got none.")
        pictures, sizes = [], []
        for thing in things:
            if _is_video(thing):
                raise BadInput("several inputs to one question must be pictures; one of them is a video.")
            picture = rgb_picture(thing)
            sizes.append(picture.size)
            pictures.append(picture_chunks(picture, self.image_size, 1, "vanilla", rule=self.rule)[0][0])
        return Chunks(self._stacked(pictures), "multi_image", sizes[0])

    def video(
        self,
        source: Any,
        start: float | None = None,
        end: float | None = None,
        boxes: Mapping[Any, Any] | None = None,
        rate: float | None = None,
        colour: tuple[int, int, int] = RED,
        line_width: int = LINE_WIDTH,
    ) -> Chunks:
        """Frames of a video, by `frame_indices`.

        Args:
            source: a video file, its bytes, an open VideoReader, an array (T, H, W, 3), or a list of frames (whatever
                `open_picture` takes).
            start, end: of the clip, in seconds of the video.
            boxes: frame number (also as text) → [left, top, right, bottom] in pixels, or None; drawn before resizing,
                on those of the sampled frames that are named.
            rate: frames a second of an array or list; 1 by default. A file knows its own.
            colour, line_width: of the boxes.

        Raises: BadInput, BadMedia: a video without frames, or that cannot be read; a clip beyond its end.
        """
        from percepta.media.videos import VideoReader

        drawn = boxes_by_frame(boxes or {})
        if isinstance(source, VideoReader):
            return self._frames_of(source, source.rate, start, end, drawn, (colour, line_width))
        if isinstance(source, str | os.PathLike | bytes):
            with VideoReader(source) as reader:
                return self._frames_of(reader, reader.rate, start, end, drawn, (colour, line_width))
        if isinstance(source, list | tuple | np.ndarray):
            if not len(source):
                raise BadMedia("a video must have at least one frame; got none.")
            return self._frames_of(source, rate or 1.0, start, end, drawn, (colour, line_width))
        raise BadInput(f"a video must be a file, a VideoReader or a list of frames; got {type(source).__name__}.")

    def _frames_of(
        self,
        source: Any,
        rate: float,
        start: float | None,
        end: float | None,
        boxes: Mapping[int, Sequence[float]],
        pen: tuple[tuple[int, int, int], int],
    ) -> Chunks:
        from percepta.media.videos import VideoReader

        numbers = frame_indices(len(source), rate, self.frames, start, end, self.rule)
        if isinstance(source, VideoReader):
            pictures, times = source.read(numbers), tuple(source.timestamps[numbers].tolist())
        else:
            pictures, times = [source[number] for number in numbers], tuple(number / rate for number in numbers)
        chunks, size = [], (0, 0)
        for number, thing in zip(numbers, pictures, strict=True):  # one frame of the source's size at a time
            picture = rgb_picture(thing)
            if size not in ((0, 0), picture.size):
                raise BadMedia(f"frames of a video must have one size; frame {number} has {picture.size}, not {size}.")
            size = picture.size
            if number in boxes:
                picture = red_box(picture, boxes[number], *pen)
            chunks.append(self._frame(picture))
        return Chunks(torch.stack(chunks), "video", size, (1, 1), tuple(numbers), times)

    def _frame(self, picture: Image.Image) -> Tensor:
        """(3, S, S) float32 of one frame, resized as bytes."""
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        small = resize_bytes(pixels, self.image_size, self.image_size, self.rule)[0].permute(1, 2, 0)
        return self._normalise.tensor(Image.fromarray(small.contiguous().numpy()))

    def _stacked(self, pictures: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self._normalise.tensor(picture) for picture in pictures])


def rgb_picture(thing: Any) -> Image.Image:
    """The picture in `thing`, upright, as RGB before anything else, which is the order of the official code.

    Raises: BadMedia, BadInput, as `open_picture`.
    """
    picture = open_picture(thing)
    with converting(picture_name(thing)):
        if picture.mode == "LAB":
            return from_lab(picture)
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def _is_video(thing: Any) -> bool:
    """By content. A path that cannot be opened is left to the reader of pictures, which says why."""
    if isinstance(thing, np.ndarray):
        return thing.ndim == 4
    if isinstance(thing, bytes):
        return kind_of(thing[:192]) == "video"
    if isinstance(thing, str | os.PathLike):
        try:
            return kind_of(read_head(Path(os.fspath(thing)).expanduser())) == "video"
        except (OSError, ValueError) as error:
            raise unreadable(name_of(os.fspath(thing)), error) from None
    from percepta.media.videos import VideoReader

    return isinstance(thing, VideoReader)
