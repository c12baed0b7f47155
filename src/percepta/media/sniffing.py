"""What a file is, told by its first bytes: a picture, a video, or neither.

Unusual: the extension is never looked at. Play lists and other files that only name further files or addresses are
no media here, so that reading a file never opens another one or a connection.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Kind = Literal["picture", "video"]
HEAD_BYTES = 64

_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEIF_BRANDS = _PICTURE_BRANDS[2:]
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PICTURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"qoif", "QOI"),
)
_VIDEOS = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpegvideo"),
    (b"0&\xb2u\x8ef\xcf\x11", "asf"),
    (b"YUV4MPEG2 ", "yuv4mpegpipe"),
)


def name_of(path: str | os.PathLike[str]) -> str:
    """The name of a file as messages show it: on one line, odd characters escaped."""
    return ascii_safe(os.fspath(path))


def ascii_safe(name: str) -> str:
    """`name` in quotes, with newlines and undecodable bytes escaped; readable unicode stays."""
    return repr(name)


def picture_format(head: bytes) -> str | None:
    """Pillow's name of the picture format that starts with `head`, "HEIF" included; None if it is not a common one."""
    for magic, name in _PICTURES:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS:
        return "HEIF" if head[8:12] in _HEIF_BRANDS and b"avif" not in head else "AVIF"
    return None


def video_format(head: bytes) -> str | None:
    """FFmpeg's name of the video container that starts with `head`; None if it is none (animated GIFs apart)."""
    for magic, name in _VIDEOS:
        if head.startswith(magic):
            return name
    if head[4:8] in _QUICKTIME_ATOMS and head[8:12] not in _PICTURE_BRANDS:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"AVIX"):
        return "avi"
    return None


def kind_of(head: bytes) -> Kind | None:
    """What the first bytes of a file say: "picture", "video" or None for anything else.

    An animated GIF says "picture" here; `percepta.media.collect` looks for its second frame. A transport stream is
    known by its sync byte, which needs the first 189 bytes.
    """
    if picture_format(head):
        return "picture"
    if video_format(head) or (len(head) > 188 and head[0] == 0x47 and head[188] == 0x47):
        return "video"
    return None


def read_head(path: str | os.PathLike[str], count: int = 192) -> bytes:
    """The first bytes of a file. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(count)


def is_video(head: bytes) -> bool:
    """Whether a file with these first bytes is given to the video reader (which reads GIFs too)."""
    return kind_of(head) == "video" or picture_format(head) == "GIF"
