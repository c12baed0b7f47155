"""Resizing while decoding: the same bits as resizing after it, and nothing at all where it does not fit."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percepta.errors import BadMedia
from percepta.media import Preprocess, overlapping, resizing
from percepta.media.overlapping import open_and_resize

SIZE = (97, 61)


@pytest.fixture(autouse=True)
def a_free_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlapping, "free_cores", lambda: 1)


def jpeg(mode: str = "RGB", size: tuple[int, int] = (1100, 800), dark: str = "", **options: object) -> bytes:
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    small = np.random.default_rng(0).integers(0, 256, (size[1] // 10, size[0] // 10, channels), dtype=np.uint8)
    array = np.asarray(Image.frombytes(mode, small.shape[1::-1], small.tobytes()).resize(size)).copy()
    if dark == "all":
        array[:] = 0
    elif dark:
        array[slice(0, size[1] // 2) if dark == "top" else slice(size[1] // 2, None)] = 0
    buffer = io.BytesIO()
    Image.frombytes(mode, size, array.tobytes()).save(buffer, "JPEG", **({"quality": 90} | options))  # type: ignore[arg-type]
    return buffer.getvalue()


def plain(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).resize(SIZE, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("dark", ["", "top", "bottom", "all"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_same_bits(mode: str, dark: str, subsampling: int, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[int] = []
    narrow = overlapping._Bands._narrowed
    monkeypatch.setattr(overlapping._Bands, "_narrowed", lambda self, band: handed.append(band) or narrow(self, band))
    data = jpeg(mode, dark=dark, subsampling=subsampling, restart_marker_rows=3 if dark == "top" else 0)
    for _ in range(3):  # threads may come in any order
        got = open_and_resize(data, lambda seen: SIZE)
        assert got is not None
        assert np.array_equal(np.asarray(got), plain(data))
    assert sorted(handed) == sorted(3 * list(range(5)))


def test_bands_are_handed_out_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    finish = overlapping._Bands.finish
    monkeypatch.setattr(overlapping._Bands, "finish", lambda self: waiting.append(len(self.waiting)) or finish(self))
    monkeypatch.setattr(overlapping, "_PIECE", 4096)
    open_and_resize(jpeg(), lambda seen: SIZE)
    open_and_resize(jpeg(dark="all"), lambda seen: SIZE)
    assert waiting == [4, 0]


def test_preprocess_gives_the_same_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(jpeg())
    prepares = [Preprocess(64), Preprocess(64, "shorter_side_center_crop"), Preprocess((40, 90))]
    with_overlap = [prepare(path) for prepare in prepares]
    monkeypatch.setattr(overlapping, "free_cores", lambda: 0)
    monkeypatch.setattr(resizing, "free_cores", lambda: 0)
    without = [prepare(path) for prepare in prepares]
    assert all(bool((a == b).all()) for a, b in zip(with_overlap, without, strict=True))


def test_what_does_not_fit() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        jpeg(progressive=True),
        jpeg(exif=exif),
        jpeg(size=(300, 200)),
        jpeg()[:-2000],
        jpeg()[:300],
        b"\xff\xd8\xff" + bytes(900),
        b"",
        b"text",
    ):
        assert open_and_resize(data, lambda seen: SIZE) is None
    assert open_and_resize(jpeg(), lambda seen: (2000, 61)) is None  # wider: PIL may start with the columns
    for thing in (None, 5, Path("none.jpg"), "none.jpg", np.zeros((900, 900), np.uint8), Image.new("L", (900, 900))):
        assert open_and_resize(thing, lambda seen: SIZE) is None
    with pytest.raises(BadMedia, match="damaged"):
        Preprocess(64)(jpeg()[:-2000])


def test_no_threads_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing.os, "getloadavg", lambda: (64.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(resizing, "_cores", lambda: 8)
    assert resizing.free_cores() == 0
    monkeypatch.setattr(resizing.os, "getloadavg", lambda: (0.1, 0.0, 0.0), raising=False)
    assert resizing.free_cores() == 7
