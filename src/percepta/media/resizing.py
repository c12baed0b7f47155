"""PIL's antialiased bilinear resize, to the last bit, on more than one core.

PIL filters along the rows first and along the columns second, rounding to bytes in between, so the first step can be
done in bands of rows by several threads (PIL lets go of the interpreter meanwhile) and the second on the small result.
Since version 13 it takes the other order where the height shrinks by more than twice as many pixels as the width; such
pictures are left to PIL as a whole, and a small trial on first use makes sure that this version does as it is thought.
Unusual: most of the time of preparing a large picture is spent here and in the JPEG decoder; the rest is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
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
        bands: threads to use; by default one per free core, at most 4, and 1 for small pictures.
    """
    count = _bands_for(picture) if bands is None else bands
    if count < 2 or picture.height < count or not can_be_banded(picture, size):
        return picture.resize(size, Image.Resampling.BILINEAR)
    return _banded(picture, size, count)


def _banded(picture: Image.Image, size: tuple[int, int], count: int) -> Image.Image:
    edges = [picture.height * band // count for band in range(count + 1)]
    jobs = [(edges[band], edges[band + 1]) for band in range(count)]
    waiting = [pool().submit(narrowed, picture, size[0], top, bottom) for top, bottom in jobs[1:]]
    first = narrowed(picture, size[0], *jobs[0])
    bands = [(0, first), *((top, band.result()) for (top, _), band in zip(jobs[1:], waiting, strict=True))]
    return join_bands(picture.mode, (size[0], picture.height), bands).resize(size, Image.Resampling.BILINEAR)


def join_bands(mode: str, size: tuple[int, int], bands: Sequence[tuple[int, Image.Image]]) -> Image.Image:
    """Bands, given with their top rows, as one picture."""
    tall = Image.new(mode, size)
    for top, band in bands:
        tall.paste(band, (0, top))
    return tall


def narrowed(picture: Image.Image, width: int, top: int, bottom: int) -> Image.Image:
    """Rows top to bottom, filtered to the new width only."""
    box = (0, top, picture.width, bottom)
    return picture.resize((width, bottom - top), Image.Resampling.BILINEAR, box=box)


def _bands_for(picture: Image.Image) -> int:
    if picture.width * picture.height < LEAST_PIXELS:
        return 1
    return min(1 + free_cores(), _MOST_BANDS)


def free_cores() -> int:
    """Cores that this process may use and that nobody keeps busy, this thread's own not counted.

    On a machine at work (a training run, or workers that prepare many pictures at once) bands would only wait.
    """
    try:
        busy = os.getloadavg()[0]
    except OSError:
        busy = 0.0
    # The helper's own work shows in the load too: about half a core on a machine that does nothing else.
    return max(0, round(_cores() + 0.25 - max(1.0, busy)))


def can_be_banded(picture: Image.Image, size: tuple[int, int]) -> bool:
    """Whether PIL would filter this picture along its rows first, which is what bands need."""
    narrower, lower = picture.width - size[0], picture.height - size[1]
    rows_first = narrower > 0 and lower <= 2 * narrower
    return rows_first and picture.mode in _BANDED_MODES and bands_are_exact()


@lru_cache(maxsize=1)
def bands_are_exact(trials: Sequence[tuple[int, int]] = ((60, 31), (60, 60), (40, 80), (32, 64), (40, 20))) -> bool:
    """Whether this version of PIL filters in the order that bands need; tried once on small noise (a millisecond)."""
    noise = np.random.default_rng(0)
    for width, height in trials:
        picture = Image.fromarray(noise.integers(0, 256, (height, width), dtype=np.uint8))
        size = (width // 4, height // 4)
        whole = picture.resize(size, Image.Resampling.BILINEAR)
        if not np.array_equal(np.asarray(_banded(picture, size, 2)), np.asarray(whole)):
            return False
    return True


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def pool() -> ThreadPoolExecutor:
    """The threads that narrow bands; one pool per process: the threads of a pool do not survive a fork."""
    process = os.getpid()
    if process not in _pools:
        _pools.clear()
        _pools[process] = ThreadPoolExecutor(max_workers=max(_cores() - 1, 1), thread_name_prefix="percepta-resize")
    return _pools[process]
