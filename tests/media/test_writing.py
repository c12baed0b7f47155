"""Videos are written whole, in the asked format, and read back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from percepta.errors import BadInput, BadMedia
from percepta.media import VideoReader, write_gif, write_video
from tests.media.clips import arrays


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif"])
def test_round_trip(ending: str, tmp_path: Path) -> None:
    frames = [np.full((32, 48, 3), 10 + 20 * number, dtype=np.uint8) for number in range(10)]
    path = write_video(tmp_path / f"x y{ending}", iter(frames), rate=20)
    with VideoReader(path) as reader:
        assert reader.frames == 10
        assert reader.size == (48, 32)
        assert reader.rate == pytest.approx(20, rel=0.02)
        assert reader.duration == pytest.approx(0.5, abs=0.02)
        for got, wanted in zip(reader.iterate(), frames, strict=True):
            assert np.abs(np.asarray(got).astype(int) - wanted).mean() < 6
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_odd_sides_grow_by_one(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "x.mp4", [np.zeros((31, 47, 3), np.uint8)])) as reader:
        assert reader.size == (48, 32)


def test_bad_arguments(tmp_path: Path) -> None:
    frames = arrays(2)
    for arguments in (
        {"path": tmp_path / "x.mp4", "frames": []},
        {"path": tmp_path / "x.mp4", "frames": [frames[0], frames[1][:8]]},
        {"path": tmp_path / "x.doc", "frames": frames},
        {"path": tmp_path / "x.mp4", "frames": frames, "rate": 0},
        {"path": tmp_path / "x.mp4", "frames": frames, "quality": 99},
    ):
        with pytest.raises(BadInput, match=r"\.$"):
            write_video(**arguments)  # type: ignore[arg-type]
    for name in ("none/x.mp4", "none/x.gif"):
        with pytest.raises(BadMedia, match="cannot be written"):
            write_video(tmp_path / name, frames)
    assert not list(tmp_path.iterdir())
    assert write_gif(tmp_path / "x.gif", frames).stat().st_size > 100
