"""Frames to a video file: H.264 where the encoder is there, MPEG-4 where it is not, GIF by Pillow.

Unusual: odd sides are padded by one repeated row or column, because 4:2:0 colour needs even ones; a file appears under
its name only when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from percepta.errors import BadInput, BadMedia, one_of, out_of_range
from percepta.media.pictures import one_line, open_picture
from percepta.media.sniffing import name_of

# For each ending, the container and the encoders to try, best first.
_ENCODERS = {
    ".mp4": ("mp4", ("libx264", "mpeg4")),
    ".mov": ("mov", ("libx264", "mpeg4")),
    ".mkv": ("matroska", ("libx264", "mpeg4")),
    ".webm": ("webm", ("libvpx-vp9", "libvpx")),
    ".avi": ("avi", ("mpeg4",)),
}


def write_video(path: str | os.PathLike[str], frames: Iterable[Any], rate: float = 25.0, quality: int = 20) -> Path:
    """Write frames to an MP4, MOV, MKV, WebM, AVI or GIF file, told by the ending of `path`; memory stays flat.

    Args:
        path: where to; an existing file is replaced once the new one is complete.
        frames: pictures of one size, each whatever `open_picture` takes; at least one.
        rate: frames a second, above 0.
        quality: 0 (best) to 51 (smallest), for H.264 and VP9.

    Returns:
        The path.

    Raises:
        BadInput: no frame, frames of different sizes, an unknown ending, a rate or quality out of range.
        BadMedia: the file cannot be written.
    """
    target = Path(path).expanduser()
    if not rate > 0 or rate > 1000:
        raise out_of_range("rate", rate, "above 0 and at most 1000", owner="write_video")
    if not 0 <= quality <= 51:
        raise out_of_range("quality", quality, "0 to 51", owner="write_video")
    if target.suffix.lower() == ".gif":
        return write_gif(target, frames, rate)
    if target.suffix.lower() not in _ENCODERS:
        raise one_of("the ending", target.suffix, [*_ENCODERS, ".gif"], owner="write_video")
    container_format, encoders = _ENCODERS[target.suffix.lower()]
    arrays = _even(_arrays(frames))
    encoder = next((name for name in encoders if name in av.codec.codecs_available), None)
    if encoder is None:
        raise BadMedia(f"{name_of(target)} cannot be written: this FFmpeg has none of {', '.join(encoders)}.")
    partial = target.with_name(target.name + ".partial")
    try:
        _encode(partial, container_format, encoder, arrays, Fraction(rate).limit_denominator(1001), quality)
        os.replace(partial, target)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise BadMedia(f"{name_of(target)} cannot be written: {reason}.") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def write_gif(path: str | os.PathLike[str], frames: Iterable[Any], rate: float = 10.0) -> Path:
    """Write frames to a GIF that repeats for ever. All frames are held in memory.

    Raises:
        BadInput: no frame, or frames of different sizes. BadMedia: the file cannot be written.
    """
    from PIL import Image

    target = Path(path).expanduser()
    pictures = [Image.fromarray(array) for array in _arrays(frames)]
    duration = max(20, round(100 / rate) * 10)  # milliseconds; GIF counts hundredths, and viewers slow down below two
    try:
        pictures[0].save(
            target, format="GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=False
        )
    except OSError as error:
        raise BadMedia(f"{name_of(target)} cannot be written: {error.strerror or one_line(error)}.") from None
    return target


def _encode(
    path: Path, container_format: str, encoder: str, arrays: Iterator[np.ndarray], rate: Fraction, quality: int
) -> None:
    first = next(arrays)
    # The index goes to the front, so that a file that is cut or still loading can be played.
    options = {"movflags": "faststart"} if container_format in ("mp4", "mov") else {}
    with av.open("file:" + os.path.abspath(path), "w", format=container_format, options=options) as container:
        stream: Any = container.add_stream(encoder, rate=rate)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        if encoder == "mpeg4":
            stream.bit_rate = max(400_000, first.shape[0] * first.shape[1] * 4)
        else:
            stream.options = {"crf": str(quality), **({"b": "0"} if encoder == "libvpx-vp9" else {})}
        for array in chain([first], arrays):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


def _arrays(frames: Iterable[Any]) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 arrays of one size, at least one; the first is read now, so that an empty input fails early."""

    def read() -> Iterator[np.ndarray]:
        size = None
        for number, frame in enumerate(frames):
            picture = open_picture(frame)
            size = size or picture.size
            if picture.size != size:
                raise BadInput(
                    f"frames of a video must have one size; frame 0 is {size[0]}x{size[1]}, "
                    f"frame {number} is {picture.width}x{picture.height}."
                )
            yield np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))

    arrays = read()
    first = next(arrays, None)
    if first is None:
        raise BadInput("a video needs at least one frame; got none.")
    return chain([first], arrays)


def _even(arrays: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for array in arrays:
        height, width = array.shape[:2]
        padded = (
            np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else array
        )
        yield np.ascontiguousarray(padded)
