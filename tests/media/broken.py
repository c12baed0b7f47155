"""A corpus of 300 broken, odd and hostile media files, made the same way every time.

`build(folder)` writes it and returns the paths, sorted. Every file must give a picture, a video, or one sentence.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from percepta.media import write_video

COUNT = 300
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
VIDEO_ENDINGS = (".mp4", ".webm", ".avi")
TRUNCATIONS = (0.002, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.995)


def build(folder: Path) -> list[Path]:
    """Write the corpus under `folder` and return its 300 files and links."""
    folder.mkdir(parents=True, exist_ok=True)
    good = _good_files(folder)
    before = sum(1 for _ in _names(folder))
    assert before == 0
    _truncated(folder, good)
    _flipped(folder, good)
    _zeroed(folder, good)
    _wrongly_named(folder, good)
    _odd_names(folder, good)
    _bombs(folder)
    (folder / "palette.png").write_bytes(png_of_long_transparency())
    _text_and_noise(folder, good)
    _links(folder, good)
    _fill_with_noise(folder, good, COUNT)
    return sorted(_names(folder))


def _names(folder: Path) -> list[Path]:
    return [Path(top) / name for top, _, names in os.walk(folder) for name in names]


def picture_bytes(format_name: str, size: tuple[int, int] = (48, 32), mode: str = "RGB") -> bytes:
    """A small seeded picture as a file of one format."""
    rng = np.random.default_rng(len(format_name))
    ramp = np.linspace(0, 200, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    array = np.clip(ramp + rng.integers(0, 55, ramp.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, format=format_name)
    return buffer.getvalue()


def _good_files(folder: Path) -> dict[str, bytes]:
    good = {"." + name.lower(): picture_bytes(name) for name in PICTURE_FORMATS}
    rng = np.random.default_rng(3)
    frames = [
        np.roll(np.kron(rng.integers(0, 255, (4, 6, 3)), np.ones((8, 8, 1))), t, 1).astype(np.uint8) for t in range(9)
    ]
    for ending in VIDEO_ENDINGS:
        path = folder.parent / f"good{ending}"
        good[ending] = write_video(path, frames, 10).read_bytes()
        path.unlink()
    return good


def _truncated(folder: Path, good: dict[str, bytes]) -> None:
    for ending, data in good.items():
        for share in TRUNCATIONS:
            (folder / f"cut_{share}{ending}").write_bytes(data[: max(1, int(len(data) * share))])


def _flipped(folder: Path, good: dict[str, bytes]) -> None:
    for ending, data in good.items():
        for seed in range(8):
            rng = np.random.default_rng(seed)
            changed = np.frombuffer(data, dtype=np.uint8).copy()
            places = rng.integers(0 if seed % 2 else min(64, len(data) - 1), len(data), 1 + 3 * seed)
            changed[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
            (folder / f"flipped_{seed}{ending}").write_bytes(changed.tobytes())


def _zeroed(folder: Path, good: dict[str, bytes]) -> None:
    for ending, data in good.items():
        (folder / f"empty{ending}").write_bytes(b"")
        middle = len(data) // 3
        (folder / f"hole{ending}").write_bytes(data[:middle] + bytes(len(data) - 2 * middle) + data[-middle:])


def _wrongly_named(folder: Path, good: dict[str, bytes]) -> None:
    endings = list(good)
    for number, ending in enumerate(endings):
        other = endings[(number + 4) % len(endings)]
        (folder / f"really_{ending[1:]}{other}").write_bytes(good[ending])


def _odd_names(folder: Path, good: dict[str, bytes]) -> None:
    names = (
        "two words",
        "Größe 照片 🐄",
        "line\nbreak",
        "tab\there",
        "quote'\"",
        "-dash",
        "100%d",
        "a:b",
        "c#d?e=f",
        "[x]*",
    )
    for number, name in enumerate(names):
        ending = list(good)[number % len(good)]
        data = good[ending] if number % 2 else good[ending][: len(good[ending]) // 3]
        (folder / f"{name}{ending}").write_bytes(data)
    with contextlib.suppress(OSError, UnicodeError):
        Path(os.fsdecode(os.fsencode(folder) + b"/not\xff\xfeunicode.jpeg")).write_bytes(good[".jpeg"][:200])


def _bombs(folder: Path) -> None:
    (folder / "bomb.png").write_bytes(png_header(60_000, 60_000) + b"IDAT")
    (folder / "wide.png").write_bytes(png_header(2_000_000_000, 1))
    (folder / "bomb.bmp").write_bytes(
        b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHH", 40, 90_000, 90_000, 1, 24) + bytes(24)
    )
    (folder / "bomb.gif").write_bytes(
        b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\x00\x00" + bytes(6) + b";"
    )


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG file that claims a size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    chunk = b"IDAT" + data
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )  # fmt: skip


def png_of_long_transparency() -> bytes:
    """A PNG file that decodes, but whose palette has more transparencies than colours."""
    buffer = io.BytesIO()
    picture = Image.new("P", (20, 20))
    picture.putpalette([200, 40, 40, 40, 200, 40])
    picture.save(buffer, "PNG")
    data, body = buffer.getvalue(), b"tRNS" + b"\x80" * 300
    place = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:place] + chunk + data[place:]


def _text_and_noise(folder: Path, good: dict[str, bytes]) -> None:
    playlist = "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/never.ts\n"
    texts: dict[str, bytes] = {
        "essay.jpg": b"This is no picture.\n" * 40,
        "page.png": b"<!doctype html><title>404</title>",
        "drawing.webp": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "list.mp4": playlist.encode(),
        "concat.avi": b"ffconcat version 1.0\nfile /etc/hostname\n",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "archive.png": b"PK\x03\x04" + bytes(60),
        "song.mp4": b"ID3\x03" + bytes(60),
        "program.bin": b"\x7fELF" + bytes(60),
    }
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    for number, magic in enumerate(
        (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBP", b"RIFF\x40\0\0\0AVI ")
    ):
        noise = np.random.default_rng(number).bytes(400)
        (folder / f"magic_{number}.dat").write_bytes(magic + noise)


def _links(folder: Path, good: dict[str, bytes]) -> None:
    inner = folder / "inner folder" / "deeper"
    inner.mkdir(parents=True)
    (inner / "cut.jpeg").write_bytes(good[".jpeg"][:150])
    (inner / "back to the top").symlink_to(folder, target_is_directory=True)
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "nowhere.png").symlink_to("does-not-exist.png")


def _fill_with_noise(folder: Path, good: dict[str, bytes], count: int) -> None:
    makers: list[Callable[[np.random.Generator], bytes]] = [
        lambda rng: rng.bytes(int(rng.integers(1, 3000))),
        lambda rng: good[".png"][:40] + rng.bytes(500),
        lambda rng: good[".mp4"][:48] + rng.bytes(700),
    ]
    number = 0
    while len(_names(folder)) < count:
        rng = np.random.default_rng(1000 + number)
        (folder / f"noise_{number}{list(good)[number % len(good)]}").write_bytes(makers[number % 3](rng))
        number += 1
