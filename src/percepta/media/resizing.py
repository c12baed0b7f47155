"""PIL's antialiased bilinear resize, to the last bit, on more than one core.

PIL filters rows first and columns second, rounding to bytes in between, so the first step can be done in bands of rows
by several threads (PIL lets go of the interpreter meanwhile) and the second on the small result.
Unusual: most of the time of preparing a large picture is spent here and in the JPEG decoder; the rest is nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

# Below this many pixels handing bands to threads costs more than it saves.
LEAST_PIXELS = 400_000
_MOST_BANDS = 4
# Modes with alpha are multiplied by it first and divided after, which would have to happen once, around the bands.
_BANDED_MODES = ("RGB", "L", "CMYK", "YCbCr", "RGBX")
_pools: dict[int, ThreadPoolExecutor] = {}


def resize_bilinear(picture: Image.Image, size: tuple[int, int], bands: int | None = None) -> Image.Image:
    """`picture.resize(size, BILINEAR)`, bit for bit, faster for large pictures.

    Args:
        picture: any PIL picture.
        size: (width, height).
        bands: threads to use; by default one per core, at most 4, and 1 for small pictures.
    """
    width, height = picture.size
    count = _bands_for(picture, size) if bands is None else bands
    if count < 2 or picture.mode not in _BANDED_MODES or size[0] == width or height < count:
        return picture.resize(size, Image.Resampling.BILINEAR)
    edges = [height * band // count for band in range(count + 1)]
    jobs = [(edges[band], edges[band + 1]) for band in range(count)]
    pool = _pool()
    waiting = [pool.submit(_narrowed, picture, size[0], top, bottom) for top, bottom in jobs[1:]]
    tall = Image.new(picture.mode, (size[0], height))
    tall.paste(_narrowed(picture, size[0], *jobs[0]), (0, 0))
    for (top, _), band in zip(jobs[1:], waiting, strict=True):
        tall.paste(band.result(), (0, top))
    return tall.resize(size, Image.Resampling.BILINEAR)


def _narrowed(picture: Image.Image, width: int, top: int, bottom: int) -> Image.Image:
    """Rows top to bottom, filtered to the new width only."""
    box = (0, top, picture.width, bottom)
    return picture.resize((width, bottom - top), Image.Resampling.BILINEAR, box=box)


def _bands_for(picture: Image.Image, size: tuple[int, int]) -> int:
    width, height = picture.size
    # A picture that is made much taller would be better off column-wise; PIL's order is fixed, so it stays whole.
    if width * height < LEAST_PIXELS or size[0] >= width:
        return 1
    return min(_cores(), _MOST_BANDS)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _pool() -> ThreadPoolExecutor:
    """One pool per process: the threads of a pool do not survive a fork."""
    process = os.getpid()
    if process not in _pools:
        _pools.clear()
        _pools[process] = ThreadPoolExecutor(max_workers=max(_cores() - 1, 1), thread_name_prefix="percepta-resize")
    return _pools[process]
