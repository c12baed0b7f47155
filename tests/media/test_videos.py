"""The video reader against plain decoding from the start: exact frames, order, times, rotation, damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from percepta.errors import BadInput, BadMedia
from percepta.media import VideoReader, write_video
from percepta.media.videos import as_picture
from tests.media import clips

TIMED = [name for name in clips.CODECS if not name.endswith(("avi", "stream"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def same(picture: object, array: np.ndarray) -> bool:
    return np.array_equal(np.asarray(picture), array)


def check_against_decoding(path: Path) -> None:
    expected = clips.decode_all(path)
    rng = np.random.default_rng(1)
    with VideoReader(path) as reader:
        assert reader.frames == len(reader) == len(expected)
        orders = [list(range(len(expected))), rng.integers(0, len(expected), 15).tolist(), [25, 12, 25], [3], [-1]]
        for order in orders:
            assert all(same(got, expected[index]) for got, index in zip(reader.read(order), order, strict=True))
        walked = list(reader.iterate(5, None, 7))
        assert len(walked) == len(range(5, len(expected), 7))
        assert all(same(got, expected[5 + 7 * number]) for number, got in enumerate(walked))
        assert not reader.damaged


@pytest.mark.parametrize("name", clips.CODECS)
def test_every_frame_equals_plain_decoding(name: str, folder: Path) -> None:
    if not clips.has_encoder(name):
        pytest.skip(f"this FFmpeg does not encode {name}")
    check_against_decoding(clips.make(folder, name))


@pytest.mark.parametrize("name", TIMED)
def test_variable_frame_rate(name: str, folder: Path) -> None:
    if not clips.has_encoder(name):
        pytest.skip(f"this FFmpeg does not encode {name}")
    path = clips.make(folder, name, variable=True)
    check_against_decoding(path)
    with VideoReader(path) as reader:
        wanted = np.cumsum([0] + [(0.020, 0.070, 0.033)[number % 3] for number in range(reader.frames - 1)])
        step = 0.011 if name in ("gif", "mpeg4 with B-frames", "mpeg4 dense") else 0.0011
        assert np.abs(reader.timestamps - wanted).max() < max(step, 1.1 / 1000)
        assert reader.duration > reader.timestamps[-1]


def counted_decodes(monkeypatch: pytest.MonkeyPatch, reader: VideoReader) -> Callable[[], int]:
    decode, count = reader._decode, [0]

    def counting() -> object:
        for frame in decode():
            count[0] += 1
            yield frame

    monkeypatch.setattr(reader, "_decode", counting)
    return lambda: count[0]


def test_only_the_groups_of_wanted_frames_are_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.make(folder, "mpeg4 dense", count=120)
    with VideoReader(path) as reader:
        counted = counted_decodes(monkeypatch, reader)
        reader.read([1, 60, 119])
        assert counted() <= 2 + 3 + 6 + 3  # at most a group each, and one frame to look ahead


def test_never_more_decoded_than_from_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.make(folder, "h264 with B-frames", count=60)
    with VideoReader(path) as reader:
        counted = counted_decodes(monkeypatch, reader)
        reader.read(range(60))
        assert counted() == 60


def test_repeated_frames_are_one_object(folder: Path) -> None:
    with VideoReader(clips.make(folder, "mpeg4 dense")) as reader:
        first, second, third = reader.read([7, 7, 8])
        assert first is second
        assert first is not third


def test_iteration_is_lazy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoReader(clips.make(folder, "h264 with B-frames", count=60)) as reader:
        counted = counted_decodes(monkeypatch, reader)
        walk = reader.iterate()
        next(walk)
        assert counted() == 1
        for _ in range(5):
            next(walk)
        assert counted() == 6


@pytest.mark.parametrize(("clockwise", "quarter_turns"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_rotation_flags(clockwise: int, quarter_turns: int, folder: Path) -> None:
    plain = clips.make(folder, "h264 with B-frames", count=3)
    turned = folder / f"turned_{clockwise}.mp4"
    turned.write_bytes(clips.rotate_flag(plain.read_bytes(), clockwise))
    stored = clips.decode_all(plain)
    with VideoReader(turned) as reader:
        assert reader.size == ((clips.WIDTH, clips.HEIGHT) if clockwise % 180 == 0 else (clips.HEIGHT, clips.WIDTH))
        for picture, array in zip(reader.iterate(), stored, strict=True):
            assert same(picture, np.rot90(array, quarter_turns))  # numpy turns counter-clockwise


def test_bytes_and_odd_names(folder: Path) -> None:
    path = clips.make(folder, "mpeg4 dense")
    expected = clips.decode_all(path)
    with VideoReader(path.read_bytes()) as reader:
        assert same(reader.read([9])[0], expected[9])
    for name in ("http:--x.mp4", "a:b %03d.mp4", "line\nbreak.jpg", "Größe 照片.txt", "-"):
        odd = folder / name
        odd.write_bytes(path.read_bytes())
        with VideoReader(odd) as reader:
            assert reader.frames == len(expected)


def test_a_cut_file_gives_what_is_left(folder: Path) -> None:
    whole = clips.make(folder, "h264 with B-frames", count=60)
    movable = folder / "front.mp4"
    write_video(movable, clips.arrays(60), 25)
    cut = folder / "cut.mp4"
    cut.write_bytes(movable.read_bytes()[: int(movable.stat().st_size * 0.7)])
    expected = clips.decode_all(movable)
    with VideoReader(cut) as reader:
        assert 10 < reader.frames < 60
        assert same(reader.read([5])[0], expected[5])
        assert len(reader.read(range(reader.frames))) == reader.frames
        assert not reader.damaged
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])  # its index was at the end
    with pytest.raises(BadMedia, match=r"is damaged.*\.$"):
        VideoReader(cut)


def test_damage_in_the_middle_is_reported(folder: Path) -> None:
    path = clips.make(folder, "mpeg4 dense", count=60)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[18:24]:
        data[position : position + size] = bytes(size)
    broken = folder / "broken.mp4"
    broken.write_bytes(bytes(data))
    with VideoReader(broken) as reader:
        pictures = reader.read([2, 20, 50])
        assert reader.damaged == {20}
        assert all(picture.size == (clips.WIDTH, clips.HEIGHT) for picture in pictures)
        assert same(pictures[2], clips.decode_all(path)[50])


def test_no_handle_stays_open(folder: Path) -> None:
    path = clips.make(folder, "mpeg4 dense")
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with VideoReader(path) as reader:
            reader.read([1])
        with pytest.raises(BadMedia):
            VideoReader(folder)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_bad_arguments(folder: Path) -> None:
    with VideoReader(clips.make(folder, "mpeg4 dense")) as reader:
        with pytest.raises(BadInput, match=r"0 to 39 or -40 to -1; got 40\."):
            reader.read([40])
        with pytest.raises(BadInput, match=r"got 1\.5"):
            reader.read([1.5])  # type: ignore[list-item]
        with pytest.raises(BadInput):
            list(reader.iterate(step=0))
        assert reader.read([]) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "zero bytes"), (b"#EXTM3U\nhttp://127.0.0.1:9/x.ts", "no video"), (b"\x1aE\xdf\xa3" + bytes(90), "damaged")],
)
def test_what_is_no_video(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(BadMedia, match=words):
        VideoReader(path)
    with pytest.raises(BadMedia, match="does not exist"):
        VideoReader(tmp_path / "none.mp4")


def test_a_video_is_a_path_or_bytes() -> None:
    with pytest.raises(BadInput, match="a video must be a path or bytes; got int"):
        VideoReader(123)  # type: ignore[arg-type]


def test_frames_that_cannot_be_converted_name_their_video() -> None:
    class Frame:
        format = SimpleNamespace(name="bayer_rggb8")

        def to_image(self) -> None:
            raise ValueError("Conversion to RGB is not supported.")

    with pytest.raises(BadMedia) as caught:
        as_picture(Frame(), "'x.mp4'")
    assert str(caught.value) == (
        "'x.mp4' holds frames (bayer_rggb8) that cannot be converted: Conversion to RGB is not supported."
    )
