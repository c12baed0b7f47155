"""Frames on demand: every kind of source, in any order, with what is damaged, and times in words."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from percepta.errors import BadInput, BadMedia
from percepta.media import Frames, VideoReader, open_frames
from percepta.media import frames as module
from percepta.media.frames import natural_key, pictures_in, seconds_of
from tests.media import clips


def shade(value: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    return Image.new("L", size, value)


def value_of(picture: Image.Image) -> int:
    assert picture.mode == "RGB"
    return picture.getpixel((2, 2))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        shade(number * 10).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    return tmp_path


def test_a_folder_in_natural_order(folder: Path) -> None:
    with open_frames(folder, rate=4) as frames:
        assert (frames.length, frames.size, frames.rate) == (12, (8, 12), 4)
        assert [value_of(picture) for picture in frames] == [number * 10 for number in range(12)]
        assert value_of(frames[3]) == 30
        assert frames.time(6) == 1.5
        assert frames.name == str(folder)
    names = ["b10", "a2", "B9", "a10", "a02", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a02", "a2", "a10", "B9", "b10"]
    (folder / "last.data").write_bytes((folder / "frame3.png").read_bytes())  # a picture by its content
    assert [path.name for path in pictures_in(folder)][-1] == "last.data"


def test_arrays_lists_and_streams_are_the_same(folder: Path) -> None:
    pictures = [shade(number * 10) for number in range(5)]
    array = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    for source in (pictures, array, iter(pictures), [folder / f"frame{number}.png" for number in range(5)]):
        with open_frames(source) as frames:
            assert [value_of(picture) for picture in frames] == [0, 10, 20, 30, 40]
            assert (frames.length, frames.rate, frames.time(2)) == (5, None, None)


@pytest.mark.parametrize("name", ["h264 with B-frames", "mpeg4 avi", "h264 without B-frames"])
def test_a_video_file_in_any_order(tmp_path: Path, name: str) -> None:
    path = clips.make(tmp_path, name, 30)
    with VideoReader(path) as reader:
        wanted = [np.asarray(picture) for picture in reader.read(range(30))]
    with open_frames(path) as frames:
        for index in [0, 1, 2, 2, 10, 11, 5, 6, 29, *range(28, 2, -1), 3, 4, 20]:
            assert (np.asarray(frames[index]) == wanted[index]).all(), index
    with VideoReader(path) as reader:
        assert (np.asarray(open_frames(reader)[7]) == wanted[7]).all()
        reader.read([0])  # a reader in hand stays open
    with open_frames(path.read_bytes()) as frames:
        assert (np.asarray(frames[3]) == wanted[3]).all()


def test_going_backwards_decodes_each_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.make(tmp_path, "h264 with B-frames", 40)
    reads: list[int] = []
    read = VideoReader.read
    monkeypatch.setattr(VideoReader, "read", lambda self, indices: reads.append(1) or read(self, indices))
    with open_frames(path) as frames:
        for index in range(39, -1, -1):
            assert frames[index].size == (clips.WIDTH, clips.HEIGHT)
    assert len(reads) <= 40 / module.BACKWARDS + 1


def test_few_pictures_are_held(tmp_path: Path) -> None:
    held: list[Any] = []

    def endless() -> Any:
        for number in itertools.count():
            held.append(number)
            yield shade(number % 250)

    with open_frames(endless()) as frames:
        assert frames.length is None
        for number, picture in enumerate(frames):
            assert value_of(picture) == number % 250
            assert len(frames._held) <= module.HELD
            assert len(held) == number + 1  # nothing is taken before it is asked for
            if number == 300:
                break
        assert value_of(frames[299]) == 299 % 250
        with pytest.raises(BadInput, match="frame 5 of the stream has passed; only frames from 301 on can be had"):
            frames[5]
        assert value_of(frames[310]) == 310 % 250


def test_what_is_damaged_is_named_and_stood_in_for(folder: Path) -> None:
    (folder / "frame0.png").write_bytes(b"")
    data = (folder / "frame5.png").read_bytes()
    (folder / "frame5.png").write_bytes(data[: len(data) // 2])
    shade(99, (20, 20)).save(folder / "frame7.png")
    with open_frames(folder) as frames:
        values = [value_of(picture) for picture in frames]
        assert values == [10, 10, 20, 30, 40, 40, 60, 60, 80, 90, 100, 110]
        assert sorted(frames.failures) == [0, 5, 7]
        assert "is empty (zero bytes)" in frames.failures[0]
        assert "damaged" in frames.failures[5]
        assert f"frame 7 of {folder} is 20x20, and the others are 12x8; it is left out." == frames.failures[7]
    stream = open_frames(iter([b"broken", shade(50), b"broken", shade(70)]))
    assert [value_of(picture) for picture in stream] == [50, 50, 50, 70]
    assert sorted(stream.failures) == [0, 2]


def test_a_damaged_video_is_read_to_its_end(tmp_path: Path) -> None:
    path = clips.make(tmp_path, "mpeg4 dense", 30)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 700] = bytes(700)
    path.write_bytes(bytes(data))
    with open_frames(path) as frames:
        assert len(list(frames)) == frames.length
        assert frames.length + frames.lost == 30


def test_times(tmp_path: Path) -> None:
    path = clips.make(tmp_path, "h264 without B-frames", 9, variable=True)
    with open_frames(path) as frames:
        assert [frames.time(number) for number in (0, 1, 2, 3)] == pytest.approx([0, 0.02, 0.09, 0.123])
        assert [frames.frame_at(place) for place in (4, 0.0, 0.02, 0.05, "0:00.1", "00:05")] == [4, 0, 1, 2, 3, 9]
    even = open_frames([shade(1)] * 20, rate=10)
    assert [even.frame_at(place) for place in (0.5, "00:01", 0.55, 7)] == [5, 10, 6, 7]
    assert [seconds_of(place) for place in (3, "5", "00:05", "1:02:03.5")] == [3, 5, 5, 3723.5]
    for wrong in ("", "soon", "1:2:3:4", -1.0, None, "-5"):
        with pytest.raises(BadInput, match="a time must be seconds"):
            seconds_of(wrong)
    with pytest.raises(BadInput, match="must be 0 or more; got -3"):
        even.frame_at(-3)


def test_what_cannot_be_used(tmp_path: Path) -> None:
    frames = open_frames([shade(1)] * 3)
    assert isinstance(frames, Frames)
    for index in (3, -1, 1.5, True):
        with pytest.raises(BadInput, match="must be"):
            frames[index]
        with pytest.raises(IndexError):
            frames[index]
    for source, sentence in (
        ([], "the list of pictures holds no frame; a video needs at least one"),
        (np.zeros((0, 4, 4, 3), np.uint8), "the array holds no frame"),
        (iter([]), "the stream holds no frame"),
        (tmp_path, "holds no picture; give a video file, or a folder of its frames"),
        (np.zeros((4, 4, 3), np.uint8), "a video array must have the shape"),
        (7, "a video must be a file, a folder of pictures"),
        (shade(1), "a video must be a file"),
    ):
        with pytest.raises(BadInput, match=sentence):
            open_frames(source)
    for rate in (0, -1, 1e9):
        with pytest.raises(BadInput, match="rate of open_frames must be above 0"):
            open_frames([shade(1)], rate)
    with pytest.raises(BadMedia, match="no frame of the list of pictures can be read"):
        open_frames([b"x"] * 3)
    with pytest.raises(BadMedia, match="does not exist"):
        open_frames(tmp_path / "none.mp4")
