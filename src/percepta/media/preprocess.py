"""From any picture or video to the float tensor that an encoder takes.

The official order (Perception Encoder, arXiv 2504.13181): resize in the picture's own mode with PIL's antialiased
bilinear filter, crop, only then convert to RGB, divide by 255, normalise.
The order of SAM 2's image predictor (arXiv 2408.00714): RGB, divide by 255, resize the floats, normalise.
Unusual: bit-exact with the torchvision pipeline and faster, because on a free core large JPEGs are
resized while they are decoded, and bytes become normalised floats by one table look-up.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from percepta.errors import BadInput, BadMedia, one_of, out_of_range
from percepta.media.overlapping import open_and_resize
from percepta.media.pictures import converting, one_line, open_draft, open_picture, picture_name
from percepta.media.resizing import resize_bilinear

RESIZES = ("squash", "shorter_side_center_crop", "none")
FILTERS = ("bilinear", "bicubic")
ARITHMETICS = ("bytes", "floats")
Size = int | tuple[int, int]
_UNSET: Any = object()
_MAX_RESIZED_PIXELS = 100_000_000


@dataclass(frozen=True)
class Preprocess:
    """How one encoder wants its pictures; calling it gives a float32 tensor (3, H, W).

    Attributes:
        image_size: side S of the square input, or (height, width).
        resize: "squash" (to the size, aspect lost), "shorter_side_center_crop" (shorter side to S, the longer to
            int(S * long / short), then the middle S x S), or "none" (the picture keeps its own size).
        mean, std: of each RGB channel, on the scale 0..1.
        fast: let the JPEG decoder halve the picture while at least twice the wanted size is left; about twice as
            fast, but pixels change (by 0.002 on average). Off, results are bit-exact.
        filter: "bilinear" or "bicubic" (as SAM 2's videos are loaded); antialiased, both.
        arithmetic: "bytes" (PIL resizes the picture in its own mode and rounds to bytes) or "floats" (the RGB
            picture is divided by 255 and resized by torch, unrounded, as torchvision resizes tensors).
        kept: with "shorter_side_center_crop", how much of the shorter side the crop keeps: it is resized to
            int(S / kept). Hiera's classifiers were scored with 0.875 (256 before a crop of 224).
    """

    image_size: Size
    resize: str = "squash"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fast: bool = False
    filter: str = "bilinear"
    arithmetic: str = "bytes"
    kept: float = 1.0

    def __post_init__(self) -> None:
        _check_size(self.image_size)
        for what, allowed in (("resize", RESIZES), ("filter", FILTERS), ("arithmetic", ARITHMETICS)):
            if getattr(self, what) not in allowed:
                raise one_of(what, getattr(self, what), allowed, owner="Preprocess")
        if not 0.1 <= self.kept <= 1:
            raise out_of_range("kept", self.kept, "between 0.1 and 1", owner="Preprocess")
        for what in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, what))
            if len(values) != 3 or not np.isfinite(values).all() or (what == "std" and min(values) <= 0):
                wanted = "three numbers above 0" if what == "std" else "three finite numbers"
                raise out_of_range(what, getattr(self, what), wanted, owner="Preprocess")
            object.__setattr__(self, what, values)
        if not isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", tuple(int(side) for side in self.image_size))

    def __call__(self, thing: Any, size: Size | None = _UNSET) -> torch.Tensor:
        """(3, H, W) float32 of whatever `open_picture` takes.

        Args:
            thing: path, bytes, PIL picture or array.
            size: another size for this one call; None keeps the picture's own size.

        Raises:
            BadMedia, BadInput: as `open_picture`; BadInput also for a size below 1.
        """
        picture = self.picture(thing, size)
        with converting(picture_name(thing)):
            return self.tensor(picture, size)

    def picture(self, thing: Any, size: Size | None = _UNSET) -> Image.Image:
        """The picture after resize and crop, still in its own mode where that mode can be resized.

        With the arithmetic "floats" it is the whole picture: `tensor` resizes it.
        """
        height, width = self._target(size)
        name = picture_name(thing)
        if height is None or width is None:
            opened = open_picture(thing)
            with converting(name):
                return _resizable(opened)
        least = (2 * width, 2 * height)
        if self.arithmetic == "floats":
            opened = open_draft(thing, least) if self.fast else open_picture(thing)
            with converting(name):
                return _resizable(opened)

        def size_for(seen: tuple[int, int]) -> tuple[int, int]:
            return self._before_crop(seen, height, width)

        plain = self.filter == "bilinear"
        resized = open_and_resize(thing, size_for) if plain and not self.fast else None
        if resized is None:
            opened = open_draft(thing, least) if self.fast else open_picture(thing)
            with converting(name):
                whole, wanted = _resizable(opened), size_for(opened.size)
                resized = resize_bilinear(whole, wanted) if plain else whole.resize(wanted, Image.Resampling.BICUBIC)
        return resized if self.resize == "squash" else _center_crop(resized, height, width)

    def tensor(self, picture: Image.Image, size: Size | None = _UNSET) -> torch.Tensor:
        """(3, H, W) float32: a picture as `picture` gives it, converted to RGB and normalised.

        Args:
            size: as in the call; with the arithmetic "bytes" the picture has its size already.
        """
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        height, width = self._target(size)
        if self.arithmetic == "bytes" or height is None or width is None:
            return torch.from_numpy(_normalised(np.asarray(picture), self.mean, self.std))
        columns, rows = self._before_crop(picture.size, height, width)
        resized = _resized_floats(np.asarray(picture), rows, columns, self.filter)
        if self.resize != "squash":
            left, top = round((columns - width) / 2), round((rows - height) / 2)
            resized = resized[:, top : top + height, left : left + width]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return resized.sub(mean).div_(std)

    def video(self, path: Any, count: int = 8, rule: str = "ends", size: Size | None = _UNSET) -> torch.Tensor:
        """(count, 3, H, W) float32: frames of a video, chosen by `sample_frames`.

        Args:
            path: a video file, an open VideoReader, or a list of frames (whatever `open_picture` takes).
            count: frames, 1 or more; they repeat in a shorter video.
            rule: "ends" or "even", see `sample_frames`.

        Raises:
            BadMedia: the video cannot be read. BadInput: a bad count, rule or size.
        """
        from percepta.media.sampling import sample_frames
        from percepta.media.videos import VideoReader

        if isinstance(path, VideoReader):
            frames: list[Any] = path.read(sample_frames(path.frames, count, rule))
        elif isinstance(path, str | os.PathLike | bytes):
            with VideoReader(path) as reader:
                frames = reader.read(sample_frames(reader.frames, count, rule))
        elif isinstance(path, list | tuple | np.ndarray) and len(path):
            frames = [path[index] for index in sample_frames(len(path), count, rule)]
        else:
            raise BadInput(f"a video must be a path, a VideoReader or a list of frames; got {type(path).__name__}.")
        tensors: dict[int, torch.Tensor] = {}
        for frame in frames:  # a repeated frame is the same object, and is prepared once
            if id(frame) not in tensors:
                tensors[id(frame)] = self(frame, size)
        return torch.stack([tensors[id(frame)] for frame in frames])

    def _target(self, size: Size | None) -> tuple[int | None, int | None]:
        if size is None:
            return None, None
        if size is _UNSET:
            size = self.image_size
        height, width = _check_size(size)
        return (None, None) if self.resize == "none" else (height, width)

    def _before_crop(self, seen: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """(width, height) that a picture of the size `seen` is resized to."""
        if self.resize == "squash":
            return width, height
        return _around(seen, int(max(height, width) / self.kept))


def _check_size(size: Size) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise out_of_range("size", size, "a side or (height, width), each a whole number of 1 or more", "Preprocess")
    if sides[0] * sides[1] > _MAX_RESIZED_PIXELS:
        raise out_of_range("size", size, f"at most {_MAX_RESIZED_PIXELS:,} pixels", "Preprocess")
    return sides[0], sides[1]


def _resizable(picture: Image.Image) -> Image.Image:
    """The picture in a mode that PIL can filter and convert to RGB; L, LA, RGB, RGBA and CMYK stay."""
    mode = picture.mode
    if mode in ("RGB", "L", "RGBA", "LA", "CMYK", "YCbCr", "RGBX"):
        return picture
    if mode in ("P", "PA"):  # PIL would resize the indices of a palette with nearest neighbours
        return picture.convert("RGBA" if mode == "PA" or "transparency" in picture.info else "RGB")
    if mode == "1":
        return picture.convert("L")
    if mode == "LAB":
        return from_lab(picture)
    if mode in ("La", "RGBa"):
        return picture.convert("LA" if mode == "La" else "RGBA")
    return picture.convert("RGB")


def from_lab(picture: Image.Image) -> Image.Image:
    """A Lab picture as RGB; Pillow needs colour management for that, which not every build of it has.

    Raises: ValueError, as conversions between other modes do.
    """
    from PIL import ImageCms

    try:
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.applyTransform(picture, ImageCms.buildTransform(lab, rgb, "LAB", "RGB"))
    except (ImportError, ImageCms.PyCMSError) as error:
        raise ValueError(f"Lab colours: {one_line(error)}") from error
    assert converted is not None  # as it was not asked to work in place
    return converted


def _around(seen: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) with the shorter side at `side` and the longer at int(side * long / short)."""
    old_width, old_height = seen
    if old_width <= old_height:
        size = side, int(side * old_height / old_width)
    else:
        size = int(side * old_width / old_height), side
    if size[0] * size[1] > _MAX_RESIZED_PIXELS:
        raise BadMedia(
            f"a picture of {old_width}x{old_height} pixels is too narrow for shorter_side_center_crop to {side}; "
            "use resize='squash'."
        )
    return size


def _center_crop(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The middle, with offset round((side - S) / 2). Where height and width differ, the longer one was the S before."""
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def _resized_floats(pixels: np.ndarray, rows: int, columns: int, how: str) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, rows, columns) float32 in 0..1, as torchvision resizes float tensors with antialiasing."""
    with warnings.catch_warnings():  # PIL's memory is read-only, and only read here
        warnings.simplefilter("ignore", UserWarning)
        bytes_ = torch.from_numpy(pixels)
    # The channels stay last in memory: bits are the same and a copy of the whole picture is saved.
    floats = bytes_.to(torch.float32).div_(255).permute(2, 0, 1)[None]
    if floats.shape[2:] != (rows, columns):
        floats = interpolate(floats, (rows, columns), mode=how, align_corners=False, antialias=True)
    return floats[0].contiguous()


def _normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(H, W, 3) uint8 → (3, H, W) float32 by table."""
    height, width = pixels.shape[:2]
    result = np.empty((3, height, width), dtype=np.float32)
    for channel, table in enumerate(_tables(mean, std)):
        np.take(table, pixels[:, :, channel], out=result[channel], mode="clip")
    return result


@lru_cache(maxsize=32)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(3, 256) float32: (v / 255 - mean) / std, rounded step by step as the float32 tensors of torchvision are."""
    values = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
    return torch.stack([(values - torch.tensor(m)) / torch.tensor(s) for m, s in zip(mean, std, strict=True)]).numpy()
