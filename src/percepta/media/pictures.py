"""One picture from anything that holds one, upright, and with one sentence for everything that cannot be read.

Order of this file: open_picture, files and bytes, arrays, orientation, deep modes.
Unusual: 16-bit, 32-bit and float pictures come out as 8-bit greyscale (scaled, not clipped), all other modes stay as
they are stored, because resizing has to happen before the conversion to RGB (see preprocess.py).
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from percepta.errors import BadInput, BadMedia, MissingExtra, PerceptaError, wrong_shape
from percepta.media.sniffing import name_of, picture_format, video_format

# What decoders raise on damaged files, as found by feeding them thousands of these.
DECODER_ERRORS = (
    Image.DecompressionBombWarning,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    AssertionError,
    MemoryError,
    BufferError,
    struct.error,
    zlib.error,
)
# Formats whose plug-in starts another program, only recognises a header, or takes anything for a picture.
_UNUSABLE = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC", "XVTHUMB"})
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def open_picture(thing: Any) -> Image.Image:
    """The picture in `thing`: upright, first frame of an animation, decoded, no file left open.

    Args:
        thing: a path, the bytes of a file, an open binary file, a PIL picture (EXIF orientation is applied), or a numpy
            array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or float in 0..1.

    Returns:
        A PIL picture in its own mode (L, LA, RGB, RGBA, P, CMYK, 1, ...); 16-bit and float modes as 8-bit L.

    Raises:
        BadMedia: the file is missing, unreadable, damaged, absurdly large, or no picture.
        BadInput: `thing` is no such object, or an array of the wrong shape, type or range.
        MissingExtra: a HEIC picture, and pillow-heif is not installed.
    """
    if isinstance(thing, str | os.PathLike):
        return _from_path(os.fspath(thing))
    if isinstance(thing, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(thing), picture_name(thing))
    if isinstance(thing, Image.Image):
        return _from_pil(thing)
    if isinstance(thing, np.ndarray):
        return _from_array(thing)
    if hasattr(thing, "read") and hasattr(thing, "seek"):
        return _decode(thing, picture_name(thing))
    raise BadInput(
        "a picture must be a path, bytes, an open file, a PIL picture or a numpy array; "
        f"got {type(thing).__module__}.{type(thing).__qualname__}."
    )


def open_draft(thing: Any, least: tuple[int, int]) -> Image.Image:
    """As `open_picture`, but a JPEG file may come out at a half, a quarter or an eighth of its size.

    Args:
        thing: as `open_picture`.
        least: (width, height) below which the decoder must not go. Pixels differ from those of the whole picture.
    """
    if isinstance(thing, str | os.PathLike):
        return _from_path(os.fspath(thing), least)
    if isinstance(thing, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(thing), picture_name(thing), least)
    return open_picture(thing)


def picture_name(thing: Any) -> str:
    """What messages call the picture in `thing`: the quoted name of its file where it has one."""
    if isinstance(thing, str | os.PathLike):
        return name_of(os.fsdecode(thing))
    if isinstance(thing, bytes | bytearray | memoryview):
        return f"the picture of {len(thing)} bytes"
    if isinstance(thing, Image.Image):
        return "the PIL picture"
    return f"the picture in {type(thing).__name__}"


@contextmanager
def converting(name: str) -> Iterator[None]:
    """Around what is done with pixels after decoding: a palette, profile or mode that is damaged shows only there.

    Raises: BadMedia naming the picture.
    """
    try:
        yield
    except PerceptaError:
        raise
    except MemoryError:
        raise BadMedia(f"{name} does not fit into memory.") from None
    except DECODER_ERRORS as error:
        reason = one_line(error) or type(error).__name__
        raise BadMedia(f"{name} is damaged: it cannot be converted ({reason}).") from None


def identify(path: str | os.PathLike[str]) -> bool:
    """Whether some usable picture format recognises the header of a file; nothing is decoded."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(64)
            file.seek(0)
            formats = _formats(head, name_of(path))
            with Image.open(file, formats=formats) as picture:
                return 0 not in picture.size
    except Image.DecompressionBombError:
        return True
    except (MissingExtra, *DECODER_ERRORS):
        return False


def _from_path(path: str | bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    text = os.fsdecode(path)
    name = name_of(text)
    try:
        location = Path(text).expanduser()
        if not stat.S_ISREG(location.stat().st_mode) and not location.is_dir():
            raise BadMedia(f"{name} is no ordinary file.")
        with location.open("rb") as file:
            return _decode(file, name, draft)
    except BadMedia:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise unreadable(name, error) from None


def unreadable(name: str, error: Exception) -> BadMedia:
    """The sentence for a file that cannot even be opened."""
    if isinstance(error, FileNotFoundError):
        return BadMedia(f"{name} does not exist.")
    if isinstance(error, IsADirectoryError):
        return BadMedia(f"{name} is a folder, not a file.")
    if isinstance(error, PermissionError):
        return BadMedia(f"{name} may not be read: permission denied.")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return BadMedia(f"{name} cannot be opened: {one_line(reason)}.")


def one_line(text: object) -> str:
    """A library's message on one line, without its final full stop, at most 160 characters."""
    line = " ".join(str(text).split()).rstrip(".")
    return line if len(line) <= 160 else line[:157] + "..."


def _decode(file: BinaryIO, name: str, draft: tuple[int, int] | None = None) -> Image.Image:
    try:
        head = file.read(64)
        file.seek(0)
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from None
    if not isinstance(head, bytes):
        raise BadInput(f"{name} must be opened in binary mode.")
    if not head:
        raise BadMedia(f"{name} is empty (zero bytes).")
    try:
        picture = Image.open(file, formats=_formats(head, name))
        if draft is not None:
            picture.draft(None, draft)
        picture.load()
        return _eight_bit(_upright(picture), name)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BadMedia(
            f"{name} is absurdly large: it has more than {limit:,} pixels, the limit against decompression bombs; "
            "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from None
    except UnidentifiedImageError:
        raise _unidentified(head, name) from None
    except BadMedia:
        raise
    except MemoryError:
        raise BadMedia(f"{name} does not fit into memory, or is damaged and claims to be that large.") from None
    except DECODER_ERRORS as error:
        raise BadMedia(f"{name} is damaged: {one_line(error) or type(error).__name__}.") from None


def _unidentified(head: bytes, name: str) -> BadMedia:
    if video_format(head):
        return BadMedia(f"{name} is a video, not a picture.")
    known = picture_format(head)
    if known:
        return BadMedia(f"{name} is damaged: it starts like a {known} picture but cannot be read as one.")
    return BadMedia(f"{name} is no picture that can be read here.")


def _formats(head: bytes, name: str) -> list[str]:
    """The Pillow formats to try: the one that the first bytes name, else every usable one."""
    known = picture_format(head)
    if known == "HEIF":
        _register_heif(name)
    if known:
        return [known]
    Image.init()
    return [format_name for format_name in Image.ID if format_name not in _UNUSABLE]


def _register_heif(name: str) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise MissingExtra("pillow-heif", "heic", f"Reading {name}, a HEIC picture,") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()


def _from_pil(picture: Image.Image) -> Image.Image:
    try:
        picture.load()
    except Image.DecompressionBombError:
        raise BadMedia("the PIL picture is absurdly large.") from None
    except DECODER_ERRORS as error:
        raise BadMedia(f"the PIL picture cannot be loaded: {one_line(error) or type(error).__name__}.") from None
    if 0 in picture.size:
        raise BadInput(f"a PIL picture must have at least one pixel; got the size {picture.size}.")
    return _eight_bit(_upright(picture), "the PIL picture")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise wrong_shape("a picture array", array.shape, "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4), no side 0")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise BadInput("a picture array of floats must be finite numbers in 0..1; got NaN or infinity.")
        if array.min() < 0 or array.max() > 1:
            raise BadInput(
                f"a picture array of floats must lie in 0..1; got {array.min():.4g} to {array.max():.4g}, "
                "so divide it by 255 or give uint8."
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = _scaled(array, 0, 65535)
    elif array.dtype != np.uint8:
        raise BadInput(f"a picture array must be uint8, uint16, bool or float in 0..1; got {array.dtype}.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def is_upright(picture: Image.Image) -> bool:
    """Whether the picture is stored as it is seen. An EXIF block that cannot be read counts as upright."""
    return _turn(picture) is None


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    except DECODER_ERRORS:
        return None


def _upright(picture: Image.Image) -> Image.Image:
    """EXIF orientation applied."""
    operation = _turn(picture)
    if operation is None:
        return picture
    turned = picture.transpose(operation)
    # The tag must not travel on: whoever saves or reopens this picture would turn it again.
    for key in ("exif", "XML:com.adobe.xmp", "xmp", "Raw profile type exif"):
        turned.info.pop(key, None)
    return turned


def _eight_bit(picture: Image.Image, name: str) -> Image.Image:
    """16-bit, 32-bit and float pictures as 8-bit L; other modes as they are."""
    if picture.mode not in _DEEP_MODES:
        return picture
    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        return Image.fromarray(_scaled(values.astype(np.uint16), 0, 65535))
    finite = np.isfinite(values)
    if not finite.any():
        raise BadMedia(f"{name} has no finite value in it.")
    lowest, highest = float(values[finite].min()), float(values[finite].max())
    top = next((limit for limit in _tops(picture.mode) if lowest >= 0 and highest <= limit), None)
    if top is None:
        return Image.fromarray(_scaled(np.where(finite, values, lowest), lowest, max(highest, lowest + 1e-6)))
    return Image.fromarray(_scaled(np.where(finite, values, 0), 0, top))


def _tops(mode: str) -> tuple[float, ...]:
    """The usual full scales: floats in 0..1, bytes, 16-bit numbers; beyond them the range of the picture is used."""
    return (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)


def _scaled(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    scaled = (values.astype(np.float64) - lowest) * (255.0 / (highest - lowest))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
