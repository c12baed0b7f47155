"""Point, follow for a while, add another object later, follow to the end, take the files away; nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import percepta
from percepta.media import VideoReader
from percepta.results.formats.tracks import read_tracks
from tests.tasks import tiny_sam2

RATE, COUNT = 4, 40


@pytest.fixture(scope="module")
def match(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam2.video(tmp_path_factory.mktemp("clips") / "match.mp4", COUNT, RATE)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_sam2.model()


def test_an_object_is_added_later(match: Path, model: Any, tmp_path: Path) -> None:
    keeper = (20, 10, 38, 30)
    seen = []
    with percepta.track(match, model=model) as video:
        ball = video.add_point(frame=0, xy=(8, 20))
        for result in video.run(until="00:05"):
            seen += [result]
        other = video.add_box(frame=30, box=keeper)  # new object, old ids untouched
        video.run().save(tmp_path / "match_tracks")
    assert [result.frame for result in seen] == list(range(5 * RATE))
    assert all(result.objects == (ball,) for result in seen)
    assert seen[-1].time == pytest.approx(4.75, abs=0.01)
    found = read_tracks(tmp_path / "match_tracks" / "masks.parquet")
    alone = percepta.track(match, points=[(8, 20)], model=model)
    assert found.of(ball).masks.to_strings() == alone.masks.to_strings()
    assert found.of(other).frames.tolist() == list(range(30, COUNT))
    assert found.of(ball).frames.tolist() == list(range(COUNT))
    with VideoReader(tmp_path / "match_tracks" / "overlay.mp4") as reader:
        assert (reader.frames, reader.duration) == (COUNT, pytest.approx(COUNT / RATE, abs=0.3))


def test_a_click_corrects_what_went_wrong_earlier_and_another_day(match: Path, model: Any, tmp_path: Path) -> None:
    with percepta.track(match, model=model) as video:
        video.add_point(frame=0, xy=(8, 20))
        video.run().save(tmp_path / "tracks")
        before = video.tracks()
    with percepta.track(match, model=model, resume=tmp_path / "tracks") as video:
        wrong = video.at(22)
        assert wrong is not None
        y, x = np.argwhere(wrong.masks.dense()[0])[0].tolist()
        video.add_point(frame=22, xy=(x, y), label=0, object=1)
        corrected = video.at(22)
        assert corrected is not None
        assert corrected.masks.to_strings() != wrong.masks.to_strings()
        video.run().save(tmp_path / "tracks")
        after = read_tracks(tmp_path / "tracks" / "masks.parquet")
        stays = video.at(22)
    assert stays is not None
    assert stays.masks.to_strings() == corrected.masks.to_strings()
    same = [after.at(frame).masks.to_strings() == before.at(frame).masks.to_strings() for frame in range(COUNT)]
    assert all(same[:22])
    assert not same[22]
    assert sum(same[22:]) < (COUNT - 22) / 2
