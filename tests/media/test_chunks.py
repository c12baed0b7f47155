"""Pictures, several pictures and videos as chunks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from percepta.errors import BadInput, BadMedia
from percepta.media import VideoReader
from percepta.media.chunks import ChunkPreprocess
from tests.media import clips

PREPARE = ChunkPreprocess(28, tiles=6, frames=5)


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def test_a_picture_is_a_thumbnail_and_tiles() -> None:
    chunks = PREPARE(noise(60, 40))
    assert (chunks.kind, chunks.size, chunks.grid) == ("image", (60, 40), (3, 2))
    assert chunks.pixels.shape == (7, 3, 28, 28)
    assert chunks.pixels.dtype == torch.float32
    assert chunks.pixels.min() >= -1
    assert chunks.pixels.max() <= 1
    assert replace(PREPARE, mode="vanilla")(noise(60, 40)).pixels.shape == (1, 3, 28, 28)


def test_colours_come_before_resizing(tmp_path: Path) -> None:
    """The official code converts to RGB first; a transparent picture would otherwise be filtered with its alpha."""
    see_through = noise(60, 40).copy()
    see_through.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (40, 30))))
    see_through.save(tmp_path / "alpha.png")
    assert torch.equal(PREPARE(tmp_path / "alpha.png").pixels, PREPARE(see_through.convert("RGB")).pixels)


def test_several_pictures_are_never_tiled() -> None:
    chunks = PREPARE([noise(60, 40), noise(500, 30), noise(9, 9, "L")])
    assert (chunks.kind, chunks.grid) == ("multi_image", (1, 1))
    assert chunks.pixels.shape == (3, 3, 28, 28)
    assert torch.equal(chunks.pixels[1], PREPARE(noise(500, 30)).pixels[0])
    assert PREPARE([noise(60, 40)]).kind == "image"
    with pytest.raises(BadInput, match="at least one"):
        PREPARE.images([])


class Counting:
    """Counts the frames that a reader makes pictures of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        from percepta.media import videos

        plain = videos.as_picture

        def counted(frame: Any, name: str) -> Image.Image:
            self.made += 1
            return plain(frame, name)

        monkeypatch.setattr(videos, "as_picture", counted)


def test_of_a_video_only_the_sampled_frames_are_decoded_to_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips.make(tmp_path, "mpeg4 dense", 100)
    counting = Counting(monkeypatch)
    chunks = PREPARE(path)
    assert (chunks.kind, chunks.frames, chunks.size) == ("video", (0, 25, 50, 74, 99), (clips.WIDTH, clips.HEIGHT))
    assert counting.made == 5
    assert chunks.times == pytest.approx([0, 1, 2, 2.96, 3.96], abs=1e-3)
    with VideoReader(path) as reader:
        again = PREPARE(reader)
        listed = PREPARE.video(list(reader), rate=reader.rate)
    assert torch.equal(again.pixels, chunks.pixels)
    assert torch.equal(listed.pixels, chunks.pixels)
    assert torch.equal(PREPARE(path.read_bytes()).pixels, chunks.pixels)


def test_boxes_are_drawn_on_the_frames_that_they_name() -> None:
    frames = np.full((9, 40, 60, 3), 128, np.uint8)
    chunks = PREPARE.video(frames, boxes={"2": [5, 5, 50, 30], "3": [0, 0, 59, 39], 4: None})
    assert chunks.frames == (0, 2, 4, 6, 8)
    red = (chunks.pixels[:, 0] > 0.5).flatten(1).any(1)
    assert red.tolist() == [False, True, False, False, False]  # 3 was not sampled


def test_a_clip_of_a_video_in_seconds() -> None:
    frames = np.zeros((100, 20, 20, 3), np.uint8)
    assert PREPARE.video(frames, 1.0, 3.0, rate=10.0).frames == (10, 15, 20, 25, 30)
    with pytest.raises(BadInput, match="must begin before the last frame"):
        PREPARE.video(frames, 12.0, rate=10.0)


def test_what_is_no_picture_and_no_video(tmp_path: Path) -> None:
    with pytest.raises(BadMedia, match="at least one frame"):
        PREPARE.video([])
    with pytest.raises(BadMedia, match="does not exist"):
        PREPARE(tmp_path / "none.mp4")
    with pytest.raises(BadMedia, match="one size; frame 1"):
        PREPARE.video([noise(9, 9), noise(8, 9)])
    with pytest.raises(BadInput, match="one of them is a video"):
        PREPARE([noise(9, 9), clips.make(tmp_path, "mpeg4 dense", 5)])
    with pytest.raises(BadInput, match="boxes by frame are drawn on videos"):
        PREPARE(noise(9, 9), boxes={0: [1, 1, 2, 2]})
    with pytest.raises(BadInput, match="a video must be a file"):
        PREPARE.video(7)
    (tmp_path / "cut.mp4").write_bytes(clips.make(tmp_path, "mpeg4 dense", 5).read_bytes()[:40])
    with pytest.raises(BadMedia, match=r"cut\.mp4"):
        PREPARE(tmp_path / "cut.mp4")


def test_a_huge_picture_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(90, 90).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadMedia, match=r"huge.png' is absurdly large"):
        PREPARE(tmp_path / "huge.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tiles": 0}, "tiles of ChunkPreprocess must be 1 or more"),
        ({"frames": 0}, "frames of ChunkPreprocess must be 1 or more"),
        ({"mode": "tiles"}, "mode of ChunkPreprocess must be one of"),
        ({"rule": "port"}, "rule of ChunkPreprocess must be one of"),
        ({"std": (0.0, 1.0, 1.0)}, "std of Preprocess"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        replace(PREPARE, **changes)
