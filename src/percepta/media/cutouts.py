"""One object of a picture as a picture of its own, for models that look at whole pictures.

Unusual: around the object there is the mean colour of the rest, not black: a flat, likely backdrop says the least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.errors import out_of_range, wrong_shape
from percepta.media.drawing import to_rgb


def cut_out(picture: Any, mask: NDArray[np.bool_], context: float | None = None) -> Image.Image:
    """A square RGB picture with the object in its middle and everything else in the mean colour of the rest.

    Args:
        picture: whatever `open_picture` takes.
        mask: (H, W) bool of its size, with at least one pixel.
        context: side of the square over the longer side of the object's box, 1 or more; None keeps the frame of the
            whole picture, in which the object has its size and place.

    Raises: BadInput for a mask of another size or without a pixel, or a context below 1.
    """
    pixels = np.asarray(to_rgb(picture))
    inside = np.asarray(mask) != 0
    if inside.shape != pixels.shape[:2] or not inside.any():
        raise wrong_shape("mask", inside.shape, f"{pixels.shape[:2]}, with at least one pixel inside", "cut_out")
    if context is not None and not context >= 1:
        raise out_of_range("context", context, "1 or more, or None", "cut_out")
    rest = pixels[~inside]
    colour = rest.mean(axis=0) if len(rest) else np.full(3, 127.0)
    alone = np.where(inside[..., None], pixels, colour.round().astype(np.uint8))
    if context is None:
        return Image.fromarray(alone)
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(1, round(context * max(bottom - top, right - left)))
    square = Image.new("RGB", (side, side), tuple(int(value) for value in colour.round()))
    square.paste(
        Image.fromarray(alone[top:bottom, left:right]),
        ((side - (right - left)) // 2, (side - (bottom - top)) // 2),
    )
    return square
