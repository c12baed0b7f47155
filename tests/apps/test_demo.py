"""The demonstration, whole but small, and without photographs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from percepta.apps import demo, demo_answers, demo_objects
from percepta.apps.report import Page
from percepta.media import VideoReader
from percepta.results.formats.tracks import read_tracks
from tests.apps.test_report import read, words
from tests.tasks import tiny_sam2


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SCENES", 5)
    monkeypatch.setattr(demo, "CLIPS", 3)
    monkeypatch.setattr(demo, "FRAMES", 6)
    monkeypatch.setattr(demo, "SIDE", 64)
    monkeypatch.setattr(demo, "ABSENT", 2)
    monkeypatch.setattr(demo_objects, "SCENES", 2)
    monkeypatch.setattr(demo_objects, "CLIPS", 1)
    monkeypatch.setattr(demo_objects, "FRAMES", 6)
    monkeypatch.setattr(demo_answers, "SCENES", 1)
    monkeypatch.setattr(demo_answers, "CLIPS", 1)


@pytest.mark.usefixtures("small")
def test_the_demo_ends_with_the_path_of_a_whole_report(percepta: Any, tmp_path: Path) -> None:
    done = percepta("demo", "-o", tmp_path / "demo")
    assert done.code == 0
    last = done.lines[-1]
    assert last == f"Report: {(tmp_path / 'demo' / 'report.html').resolve()}"
    assert "is a toy" in done.out
    assert "pass --model pe-core-l14-336" in done.out
    reader = read(tmp_path / "demo" / "report.html")
    text = words(reader)
    found = ("Search by words", "Nothing here", "A moment of a film", "Search by picture", "scenes labelled right")
    for said in (*found, "What the layers see", "Asked about pictures", "Asked about clips", "The model"):
        assert said in text
    assert "is a toy" in text
    photographs = len(list((tmp_path / "demo" / "media" / "photographs").iterdir()))
    assert photographs == (6 if importlib.util.find_spec("skimage") else 0)
    assert f"5 generated pictures, 3 clips, a film and {photographs} photographs" in text
    assert len(reader.pictures) > 40
    again = percepta("demo", "-o", tmp_path / "demo")
    assert again.code == 2
    assert "pass --overwrite" in again.err


@pytest.mark.usefixtures("small")
def test_the_demo_runs_without_scikit_image(percepta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = {"skimage"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest))
    done = percepta("demo", "-o", tmp_path / "demo")
    assert done.code == 0
    assert "photographs are left out; for them: pip install scikit-image (or, " in done.err
    assert "0 photographs" in done.out


@pytest.mark.usefixtures("small")
def test_the_media_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = demo.make_media(tmp_path / "a"), demo.make_media(tmp_path / "b")
    assert first.captions == second.captions
    for name in first.things:
        assert first.path(name).read_bytes() == second.path(name).read_bytes()


@pytest.mark.usefixtures("small")
def test_the_chapter_that_points_at_things(tmp_path: Path) -> None:
    page = Page("x")
    said = demo_objects.point_and_follow(page, tmp_path, tiny_sam2.model())
    assert said.startswith("One click cut out the things of 2 scenes with an IoU of ")
    page.write(tmp_path / "report.html")
    reader = read(tmp_path / "report.html")
    assert "Cut out by one click" in words(reader)
    assert "Followed through a video" in words(reader)
    assert len(reader.pictures) == 2 * 2 + demo_objects.STRIP
    with VideoReader(tmp_path / "tracks" / "clip-01" / "overlay.mp4") as video:
        assert (video.frames, min(video.size)) == (6, 288)
    assert len(read_tracks(tmp_path / "tracks" / "clip-01" / "masks.parquet").ids) >= 2


def test_who_points_points_inside() -> None:
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    x, y = demo_objects.middle_of(ring)
    assert ring[y, x]
    square = np.zeros((9, 12), bool)
    square[2:7, 4:9] = True
    assert demo_objects.middle_of(square) == (6, 4)
