"""What a picture or video looks like in a kilobyte a frame, and whether two looks are copies of each other.

Order of this file: the look, how looks are made, pairs that may be alike (blockwise), how two frames lie on each other.
No model is needed: a copy has the same brightness everywhere, up to its encoding, a little crop and a change of size.
The rough look (the low frequencies of a cosine transform) finds pairs; the fine one (32 x 32 brightnesses) decides,
after the one frame was laid onto a window of the other (Baker and Matthews 2004, inverse compositional), and colours
must be the same.
Unusual: frames without contrast, such as black ones, never count, so that videos that begin black are not alike.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from torch import Tensor

from percepta.media import VideoReader
from percepta.media.pictures import open_draft

SIDE = 32
COLOUR_SIDE = 4
FREQUENCIES = 8
FRAMES = 8  # of a video, in the middle of as many equal parts
CONTRAST = 4.0  # standard deviation of brightness, 0 to 255, below which a frame shows nothing
ROUGH = 0.8  # the least cosine of the rough looks of a pair that is compared closely
CLOSE = 0.975  # the least correlation of the fine looks of copies
SPOT = 0.7  # the largest difference of copies in any spot, in standard deviations of brightness
TINT = 5.0  # the largest mean difference of colour of copies, 0 to 255
SMALLEST_WINDOW = 0.8  # of a side: what a crop may leave
_SPOT_SIDE = 4  # of 32
_STEPS, _FIRST_STEPS, _HOPELESS = 12, 4, 0.8
_BLOCK = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a picture or video looks like.

    Attributes:
        fine: (T, 32, 32) uint8 brightness; T is 1 for a picture.
        colour: (T, 4, 4, 2) uint8, the differences of blue and of red from brightness (Cb, Cr).
        pixels: of the whole picture, or of a frame.
        duration: seconds of a video, 0 of a picture.
    """

    fine: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    pixels: int
    duration: float = 0.0

    @property
    def shows(self) -> NDArray[np.bool_]:
        """(T,): whether there is anything to be seen."""
        return np.asarray(self.fine.std(axis=(1, 2)) >= CONTRAST)

    @property
    def rough(self) -> NDArray[np.float32]:
        """(T x 63,) of unit length: low frequencies of each frame that shows anything; 0 where none does."""
        waves = dctn(self.fine.astype(np.float32), axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
        waves = waves.reshape(len(waves), -1)[:, 1:]
        waves /= np.maximum(np.linalg.norm(waves, axis=1, keepdims=True), 1e-6)
        waves[~self.shows] = 0
        return np.asarray(waves.ravel() / np.sqrt(max(int(self.shows.sum()), 1)), np.float32)


def look_of_picture(thing: Any) -> Look:
    """Raises BadMedia, BadInput, MissingExtra: as `open_picture`."""
    seen = open_draft(thing, (4 * SIDE, 4 * SIDE))
    fine, colour = _small(seen)
    return Look(fine[None], colour[None], _pixels(thing, seen))


def look_of_video(thing: Any) -> Look:
    """Eight frames of a path, bytes or an open VideoReader. Raises BadMedia."""
    reader = thing if isinstance(thing, VideoReader) else VideoReader(thing)
    try:
        pictures = reader.read([int((number + 0.5) * reader.frames / FRAMES) for number in range(FRAMES)])
        fine, colour = zip(*map(_small, pictures), strict=True)
        width, height = pictures[0].size
        return Look(np.stack(fine), np.stack(colour), width * height, reader.duration)
    finally:
        if reader is not thing:
            reader.close()


def _small(picture: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Brightness (32, 32) and colour (4, 4, 2) of a picture."""
    if picture.mode in ("P", "PA", "LA"):
        picture = picture.convert("RGBA")
    seen = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX if min(picture.size) >= SIDE else None)
    parts = np.asarray(seen.convert("YCbCr"))
    colour = parts[:, :, 1:].reshape(COLOUR_SIDE, SIDE // COLOUR_SIDE, COLOUR_SIDE, SIDE // COLOUR_SIDE, 2)
    return np.ascontiguousarray(parts[:, :, 0]), colour.mean(axis=(1, 3)).round().astype(np.uint8)


def _pixels(thing: Any, seen: Image.Image) -> int:
    """Of the whole picture, which may have been decoded at a part of its size."""
    if isinstance(thing, Image.Image | np.ndarray) or hasattr(thing, "read"):
        return seen.width * seen.height
    with Image.open(io.BytesIO(thing) if isinstance(thing, bytes) else thing) as header:
        return header.width * header.height


def alike(rough: NDArray[np.float32], least: float = ROUGH, most: int = 64) -> Iterator[NDArray[np.int64]]:
    """(P, 2) pairs of rows with a cosine of at least `least`, the first number below the second, block by block.

    Of each row at most the `most` nearest later ones. Memory is one block of products, whatever the number of rows.

    Args:
        rough: (N, D) rows of unit length or 0.
    """
    vectors = torch.from_numpy(rough)
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK]
        found: list[Tensor] = []
        for other in range(start, len(vectors), _BLOCK):
            product = rows @ vectors[other : other + _BLOCK].T
            if other == start:
                product = product.triu(1)
            first, second = torch.nonzero(product >= least, as_tuple=True)
            found.append(torch.stack([first + start, second + other, (-product[first, second] * 1e6).long()], dim=1))
        yield _nearest(torch.cat(found).numpy(), most)


def _nearest(pairs: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    pairs = pairs[np.lexsort((pairs[:, 2], pairs[:, 0]))]
    _, starts, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(pairs)) - np.repeat(starts, counts)
    return pairs[place < most, :2]


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """How like each other the frames of pairs are, the one laid onto the best window of the other.

    Attributes:
        correlation: (P,) of brightness.
        spot: (P,) root mean square difference in the spot where it is largest, in standard deviations.
    """

    correlation: NDArray[np.float64]
    spot: NDArray[np.float64]

    @property
    def copies(self) -> NDArray[np.bool_]:
        """(P,): whether the two are copies, up to encoding, size and a little crop."""
        return (self.correlation >= CLOSE) & (self.spot <= SPOT)


def likeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Likeness:
    """Of pairs of frames (P, 32, 32): either may be a crop of the other."""
    found = [[np.full(len(first), -1.0), np.full(len(first), np.inf)] for _ in range(2)]
    for table, (whole, part) in zip(found, ((first, second), (second, first)), strict=True):
        for start in range(0, len(whole), _BLOCK):
            block = slice(start, start + _BLOCK)
            table[0][block], table[1][block] = _lay(whole[block], part[block])
    forth, back = found
    better = forth[0] >= back[0]
    return Likeness(np.where(better, forth[0], back[0]), np.where(better, forth[1], back[1]))


def same_tint(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(P,): whether the colours (P, 4, 4, 2) of pairs of frames are those of copies."""
    apart = np.abs(first.astype(np.int16) - second.astype(np.int16))
    return np.asarray(apart.mean(axis=(1, 2, 3)) <= TINT)


def _lay(whole: NDArray[np.uint8], part: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation and largest spot of each part with the window of its whole that fits it best."""
    pictures, template = _smooth(whole), _standard(_smooth(part))
    jacobian = _jacobian(template)
    inverse = torch.linalg.inv(jacobian @ jacobian.mT + SIDE * torch.eye(4))
    windows = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(len(pictures), 1)
    best, spots = torch.full((len(pictures),), -1.0), torch.full((len(pictures),), torch.inf)
    rows = torch.arange(len(pictures))
    for step in range(_STEPS):
        if step == _FIRST_STEPS:
            rows = rows[best[rows] >= _HOPELESS]
        seen = _standard(_window(pictures[rows], windows[rows]))
        rest = template[rows] - seen
        value = (seen * template[rows]).mean(dim=(1, 2))
        better = value > best[rows]
        best[rows[better]] = value[better]
        spots[rows[better]] = F.avg_pool2d(rest[better, None].square(), _SPOT_SIDE).amax(dim=(1, 2, 3)).sqrt()
        change = (inverse[rows] @ (jacobian[rows] @ rest.flatten(1)[:, :, None]))[:, :, 0].clamp(-0.1, 0.1)
        windows[rows] = _compose(windows[rows], change)
    return best.double().numpy(), spots.double().numpy()


def _smooth(pictures: NDArray[np.uint8]) -> Tensor:
    """(P, 32, 32) float32, a little blurred: what two scalings of one picture differ in goes."""
    weights = torch.tensor([0.25, 0.5, 0.25])
    padded = F.pad(torch.tensor(pictures, dtype=torch.float32)[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, (weights[:, None] * weights)[None, None])[:, 0]


def _standard(pictures: Tensor) -> Tensor:
    centred = pictures - pictures.mean(dim=(1, 2), keepdim=True)
    return centred / centred.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-3)


def _jacobian(template: Tensor) -> Tensor:
    """(P, 4, 1024): how the template changes with the scale of x and y, and the shift of x and y, of its window."""
    across = F.pad((template[:, :, 2:] - template[:, :, :-2]) / 2, (1, 1, 0, 0)) * (SIDE / 2)
    down = F.pad((template[:, 2:] - template[:, :-2]) / 2, (0, 0, 1, 1)) * (SIDE / 2)
    place = _places()
    return torch.stack([across * place, down * place[:, None], across, down], dim=1).flatten(2)


def _places() -> Tensor:
    return (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1


def _window(pictures: Tensor, windows: Tensor) -> Tensor:
    """(P, 32, 32) of the windows (P, 4): scale of x and y, middle x and y, where the picture spans -1 to 1."""
    x, y = (_places() * windows[:, axis, None] + windows[:, 2 + axis, None] for axis in (0, 1))
    grid = torch.stack([x[:, None, :].expand(-1, SIDE, -1), y[:, :, None].expand(-1, -1, SIDE)], dim=-1)
    return F.grid_sample(pictures[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


def _compose(windows: Tensor, change: Tensor) -> Tensor:
    """The windows after a step, inside their pictures: to first order the inverse of what would move the template."""
    scale = (windows[:, :2] * (1 + change[:, :2])).clamp(SMALLEST_WINDOW, 1.0)
    shift = windows[:, 2:] + windows[:, :2] * change[:, 2:]
    return torch.cat([scale, torch.minimum(torch.maximum(shift, scale - 1), 1 - scale)], dim=1)
