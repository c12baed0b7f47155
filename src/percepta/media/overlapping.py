"""A large JPEG decoded and resized at the same time: while one thread decodes, another narrows the rows that are done.

PIL reads a file in pieces and decodes each before it asks for the next one, so the file's `read` is the moment to look
how far the picture has come. PIL does not say, but a baseline JPEG is written row by row into an empty (black) picture:
any pixel that is not black proves that everything well above it is finished.
Unusual: black pictures only make this slower, never wrong; whatever is out of the ordinary is left to `open_picture`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from PIL import Image

from percepta.media.pictures import DECODER_ERRORS, is_upright
from percepta.media.resizing import LEAST_PIXELS, can_be_banded, free_cores, join_bands, pool

_PIECE = 16_384
_BANDS = 5
_PROOF_ROWS = 32  # rows of coded blocks are at most 32 high, so a touched row proves those so far above it
Pair = tuple[int, int]


def open_and_resize(thing: Any, size_for: Callable[[Pair], Pair]) -> Image.Image | None:
    """The picture of a large upright JPEG at the size `size_for((width, height))`, exactly as PIL resizes it.

    None where this way does not fit: no JPEG file, a small, turned, progressive or damaged one, no free core.
    """
    if free_cores() < 1:
        return None
    data = _jpeg_bytes(thing)
    if data is None:
        return None
    file = _WatchedFile(data)
    try:
        with Image.open(file, formats=["JPEG"]) as picture:
            size = size_for(picture.size) if _fits(picture) else None
            if size is None or not can_be_banded(picture, size):
                return None
            bands = _Bands(picture, size[0])
            file.before_read = bands.hand_out
            picture.decodermaxblock = _PIECE
            try:
                picture.load()
            finally:
                finished = bands.finish()
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return None
    tall = join_bands(picture.mode, (size[0], picture.height), finished)
    return tall.resize(size, Image.Resampling.BILINEAR)


class _WatchedFile(io.BytesIO):
    """Bytes as a file that calls back before it is read."""

    before_read: Callable[[], None] | None = None

    def read(self, size: int | None = -1) -> bytes:
        if self.before_read is not None:
            self.before_read()
        return super().read(size)


class _Bands:
    """The bands of one picture that is being decoded."""

    def __init__(self, picture: Image.Image, width: int) -> None:
        self.picture, self.width = picture, width
        self.edges = [picture.height * band // _BANDS for band in range(_BANDS + 1)]
        self.waiting: list[Future[Image.Image]] = []

    def hand_out(self) -> None:
        """Give the bands that are decoded to the other thread; the last one is kept for this one."""
        while len(self.waiting) < _BANDS - 1 and self._decoded(self.edges[len(self.waiting) + 1]):
            self.waiting.append(pool().submit(self._narrowed, len(self.waiting)))

    def finish(self) -> list[tuple[int, Image.Image]]:
        """(top, band) from top to bottom; waits for the other thread, which must not outlive the decoding."""
        handed = len(self.waiting)
        rest = [self._narrowed(band) for band in range(handed, _BANDS)]
        return list(zip(self.edges, [*(future.result() for future in self.waiting), *rest], strict=False))

    def _decoded(self, bottom: int) -> bool:
        row = bottom + _PROOF_ROWS
        if row + 4 > self.picture.height:
            return False
        return self.picture.im.crop((0, row, self.picture.width, row + 4)).getbbox() is not None

    def _narrowed(self, band: int) -> Image.Image:
        """As `narrowed` in resizing.py, but on the picture's memory: the picture itself would want to be loaded."""
        top, bottom = self.edges[band], self.edges[band + 1]
        box = (0, top, self.picture.width, bottom)
        core = self.picture.im.resize((self.width, bottom - top), Image.Resampling.BILINEAR, box)
        return self.picture._new(core)


def _jpeg_bytes(thing: Any) -> bytes | None:
    """The bytes of a JPEG file, or None for anything else; errors are left to `open_picture` to word."""
    if isinstance(thing, bytes):
        return thing if thing[:3] == b"\xff\xd8\xff" else None
    if not isinstance(thing, str | os.PathLike):
        return None
    try:
        path = Path(os.fsdecode(thing)).expanduser()
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(3)
            return head + file.read() if head == b"\xff\xd8\xff" else None
    except (OSError, ValueError, RuntimeError):
        return None


def _fits(picture: Image.Image) -> bool:
    baseline = not (picture.info.get("progressive") or picture.info.get("progression"))
    large = picture.width * picture.height >= LEAST_PIXELS
    return baseline and large and picture.mode in ("RGB", "L", "CMYK") and is_upright(picture)
