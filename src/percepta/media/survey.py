"""One pass over a video: pictures of some frames, and where between two of them the picture changes most.

Unusual: to reach the wanted frames of a common video the decoder goes through all of them anyway, so every frame is
looked at, as a sketch of 16 x 16 brightnesses, for less than a tenth of what its decoding costs.
A hard cut is thereby known to the frame although only a few frames a second are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.media.videos import VideoReader, as_picture, converting_frame

SIDE = 16
STANDS_OUT = 3.0  # times the usual change between frames: a cut
_FINE = 4  # samples a side in each cell of a sketch: enough to look past noise and fine texture
_PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray")


@dataclass(frozen=True, slots=True, eq=False)
class Surveyed:
    """A wanted frame.

    Attributes:
        frame: its number.
        picture: RGB, upright.
        border: of the frames after the previous wanted one, up to this one, that which differs most in brightness from
            the frame before it, if that stands out; else (nothing moves, or all does, as in a dissolve) the one in the
            middle. For the first wanted frame its own number.
    """

    frame: int
    picture: Image.Image
    border: int


def survey(reader: VideoReader, wanted: Sequence[int]) -> Iterator[Surveyed]:
    """The wanted frames, in increasing order, held one at a time; every frame up to the last of them is decoded.

    Raises:
        BadMedia: nothing can be decoded.
    """
    if not wanted:
        return
    targets = set(wanted)
    before: NDArray[np.float32] | None = None
    changes: list[float] = []
    for number, frame in reader.walk(range(min(targets), max(targets) + 1)):
        with converting_frame(frame, reader.name):
            now = sketch(frame)
        changes.append(0.0 if before is None else float(np.abs(now - before).mean()))
        before = now
        if number in targets:
            yield Surveyed(number, as_picture(frame, reader.name), number + 1 - len(changes) + _place_of_cut(changes))
            changes.clear()


def _place_of_cut(changes: list[float]) -> int:
    """Which change stands out; the middle one if none does."""
    largest = int(np.argmax(changes))
    usual = float(np.median(changes[:largest] + changes[largest + 1 :])) if len(changes) > 1 else 0.0
    return largest if changes[largest] > STANDS_OUT * usual else len(changes) // 2


def sketch(frame: Any) -> NDArray[np.float32]:
    """(16, 16) mean brightness, 0 to 255, of the parts of PyAV's frame."""
    if frame.format.name in _PLANAR:
        plane = frame.planes[0]
        whole = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
    else:  # packed, palettes, more than 8 bits
        whole = frame.to_ndarray(format="gray")
    rows, columns = ((np.arange(SIDE * _FINE) + 0.5) * side / (SIDE * _FINE) for side in whole.shape)
    fine = whole[np.ix_(rows.astype(np.intp), columns.astype(np.intp))]
    return fine.reshape(SIDE, _FINE, SIDE, _FINE).mean(axis=(1, 3), dtype=np.float32)
