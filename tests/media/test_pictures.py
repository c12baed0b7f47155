"""Every picture upright and in its own mode; every bad one a sentence."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percepta.errors import BadInput, BadMedia, MissingExtra
from percepta.media import open_picture
from tests.media.broken import picture_bytes, png_header

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(picture: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format_name, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


# How the stored rows and columns relate to the upright picture, from the EXIF standard, in numpy's terms.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation: int, format_name: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PIXELS)))
    options = {"lossless": True} if format_name == "WEBP" else {}
    path = tmp_path / "turned"
    path.write_bytes(saved(stored, format_name, exif=exif, **options))
    seen = open_picture(path)
    assert np.array_equal(np.asarray(seen), PIXELS)
    assert np.array_equal(np.asarray(open_picture(seen)), PIXELS)  # not turned twice
    again = open_picture(saved(seen, "PNG"))
    assert np.array_equal(np.asarray(again), PIXELS)


def test_exif_orientation_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    big = Image.fromarray(np.kron(PIXELS, np.ones((8, 8, 1), dtype=np.uint8)))
    seen = open_picture(saved(big.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95))
    assert seen.size == big.size
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(big)).mean() < 20


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_are_kept(mode: str) -> None:
    picture = Image.fromarray(PIXELS).convert(mode)
    seen = open_picture(saved(picture, "PNG"))
    assert seen.mode == mode
    assert np.array_equal(np.asarray(seen), np.asarray(picture))


def test_cmyk_and_lab() -> None:
    assert open_picture(saved(Image.fromarray(PIXELS).convert("CMYK"), "TIFF")).mode == "CMYK"
    assert open_picture(saved(Image.new("LAB", (4, 3)), "TIFF")).mode == "LAB"


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(format_name: str) -> None:
    values = np.array([[0, 128, 257, 1000], [32768, 50000, 65534, 65535]], dtype=np.uint16)
    seen = open_picture(saved(Image.fromarray(values), format_name))
    assert seen.mode == "L"
    assert np.array_equal(np.asarray(seen), np.rint(values / 257).astype(np.uint8))


def test_big_endian_sixteen_bits() -> None:
    values = np.array([[0, 256, 65535]], dtype=">u2")
    data = b"P5 3 1 65535\n" + values.tobytes()
    assert np.asarray(open_picture(data)).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0.5, 1.0]], [[0, 128, 255]]),
        ([[0.0, 100.0, 255.0]], [[0, 100, 255]]),
        ([[0.0, 65535.0, 257.0]], [[0, 255, 1]]),
        ([[-10.0, 0.0, 10.0]], [[0, 128, 255]]),
        ([[np.nan, 0.5, 1.0]], [[0, 128, 255]]),
        ([[0.25, 0.25, 0.25]], [[64, 64, 64]]),
    ],
)
def test_float_tiff(values: list[list[float]], expected: list[list[int]]) -> None:
    seen = open_picture(saved(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF"))
    assert np.asarray(seen).tolist() == expected


def test_wrong_ending_and_first_frame(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(picture_bytes("PNG"))
    assert open_picture(tmp_path / "x.jpg").size == (48, 32)
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "green", "blue")]
    for format_name in ("GIF", "WEBP", "PNG", "TIFF"):
        data = saved(frames[0], format_name, save_all=True, append_images=frames[1:])
        assert open_picture(data).convert("RGB").getpixel((1, 1))[0] > 200


def test_rare_formats() -> None:
    for format_name in ("PPM", "TGA", "PCX", "ICO", "JPEG2000", "AVIF", "QOI", "DDS", "SGI"):
        seen = open_picture(picture_bytes(format_name))
        assert seen.size[0] in (32, 48), format_name


def test_heic_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(MissingExtra, match=r"run: pip install pillow-heif \(or, .* pip install \"\.\[heic\]\"\)\.$"):
        open_picture(head)


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    try:
        heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(tmp_path / "x.jpg", quality=90)
    except (RuntimeError, OSError):
        pytest.skip("this libheif does not encode")
    seen = open_picture(tmp_path / "x.jpg")
    assert seen.size == (64, 48)
    assert seen.convert("RGB").getpixel((9, 9))[0] > 200


def test_arrays_and_pil() -> None:
    assert open_picture(PIXELS).mode == "RGB"
    assert open_picture(PIXELS[:, :, 0]).mode == "L"
    assert open_picture(PIXELS[:, :, :1]).mode == "L"
    assert open_picture(np.dstack([PIXELS, PIXELS[:, :, 0]])).mode == "RGBA"
    assert np.array_equal(np.asarray(open_picture(PIXELS / 255.0)), PIXELS)
    assert np.array_equal(np.asarray(open_picture(PIXELS[:, ::-1])), PIXELS[:, ::-1])
    assert np.asarray(open_picture(np.array([[True, False]]))).tolist() == [[255, 0]]
    assert np.asarray(open_picture(np.array([[65535, 257]], dtype=np.uint16))).tolist() == [[255, 1]]
    assert open_picture(io.BytesIO(picture_bytes("PNG"))).size == (48, 32)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4, 3), np.nan),
        np.full((4, 4), 2.0),
        np.full((4, 4), -0.1),
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((3, 4, 4, 3), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros(5, dtype=np.uint8),
        np.zeros((4, 4), dtype=np.int64),
        np.zeros((4, 4), dtype=np.complex64),
    ],
)
def test_bad_arrays(array: np.ndarray) -> None:
    with pytest.raises(BadInput, match=r"\.$"):
        open_picture(array)


@pytest.mark.parametrize("thing", [None, 5, ["a.jpg"], {"a": 1}, object()])
def test_bad_things(thing: object) -> None:
    with pytest.raises(BadInput, match="a picture must be a path"):
        open_picture(thing)


def sentence(thing: object) -> str:
    with pytest.raises(BadMedia) as caught:
        open_picture(thing)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert text.isprintable()
    return text


def test_bad_files(tmp_path: Path) -> None:
    assert "does not exist" in sentence(tmp_path / "none.jpg")
    assert "folder" in sentence(tmp_path)
    assert "empty" in sentence(b"")
    assert "no picture" in sentence(b"just text, much too long for a header " * 9)
    assert "damaged" in sentence(picture_bytes("PNG")[:90])
    assert "video, not a picture" in sentence(b"\x00\x00\x00\x18ftypisom" + bytes(90))
    assert "absurdly large" in sentence(png_header(60_000, 60_000))
    assert "\\n" in sentence(tmp_path / "two\nlines.jpg")
    assert "null" in sentence("a\0b.jpg")
    assert "does not exist" in sentence("照片 \udcff.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "no ordinary file" in sentence(tmp_path / "pipe.jpg")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(picture_bytes("JPEG"))

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert "permission denied" in sentence(path)


def test_no_handle_stays_open(tmp_path: Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    path = tmp_path / "x.png"
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "green")]
    path.write_bytes(saved(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        kept = [open_picture(path) for _ in range(5)]
        (tmp_path / "cut").write_bytes(path.read_bytes()[:70])
        sentence(tmp_path / "cut")
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(kept) == 5
