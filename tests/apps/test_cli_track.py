"""`percepta track`: what it writes, interruptions and going on, and one sentence for what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from percepta import save
from percepta.apps.cli import run
from percepta.media import VideoReader
from percepta.results.formats.tracks import read_tracks
from percepta.running.progress import Progress
from percepta.tasks import tracking_run
from percepta.tasks.track import track
from tests.apps.conftest import Outcome
from tests.tasks import tiny_sam2

BALL = ("--point", "8,20")
COUNT = 17


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_sam2.model(), tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam2.video(tmp_path_factory.mktemp("clips") / "clip.mp4", COUNT)


@pytest.fixture
def follow(capsys: pytest.CaptureFixture[str], tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tracking_run, "SAVED_EVERY", 5)

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run(["track", *map(str, arguments), "--model", str(tiny)])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


def at_frame(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    """Do something when so many frames are done."""
    advance = Progress.advance

    def watched(self: Progress, count: int = 1) -> None:
        advance(self, count)
        if self.done == number:
            act()

    monkeypatch.setattr(Progress, "advance", watched)


def same(one: Path, other: Path) -> None:
    """The results in two folders are the same."""
    for name in ("tracks.csv", "masks.json"):
        assert (one / name).read_text() == (other / name).read_text()
    tables = [read_tracks(folder / "masks.parquet").to_dict() for folder in (one, other)]
    assert tables[0] == tables[1]
    with VideoReader(one / "overlay.mp4") as first, VideoReader(other / "overlay.mp4") as second:
        assert first.frames == second.frames == COUNT
        assert first.timestamps.tolist() == pytest.approx(second.timestamps.tolist(), abs=1e-4)


def test_it_writes_video_masks_and_table(follow: Any, clip: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = follow(clip, *BALL, "--box", "2,14,15,27", "-o", out)
    assert done.code == 0
    for name in ("overlay.mp4", "masks.parquet", "masks.json", "tracks.csv"):
        assert f"wrote {out / name}" in done.err
    assert f"object 1 is seen in {COUNT} of {COUNT} frames" in done.err
    wanted = track(clip, points=[(8, 20)], boxes=[(2, 14, 15, 27)], model=str(tiny))
    found = read_tracks(out / "masks.parquet")
    assert found.masks is not None
    assert found.masks.to_strings() == wanted.masks.to_strings()
    assert found.rate == pytest.approx(10)
    rows = (out / "tracks.csv").read_text().splitlines()
    assert rows[0] == "frame,time,object,name,left,top,right,bottom,area,score"
    assert len(rows) == COUNT + 1
    data = json.loads((out / "masks.json").read_text())
    assert data["videos"][0]["length"] == COUNT
    with VideoReader(out / "overlay.mp4") as reader:
        assert (reader.frames, reader.rate) == (COUNT, pytest.approx(10, rel=0.02))
    again = follow(clip, *BALL, "-o", out)
    assert again.code == 2
    assert "exists; pass --overwrite to replace it, or --resume to go on." in again.err
    assert "nothing is left to do" in follow(clip, "-o", out, "--resume").err
    assert follow(clip, *BALL, "-o", out, "--overwrite", "--limit", 3, "--no-overlay").code == 0
    assert set(read_tracks(out / "masks.parquet").frames.tolist()) == {0, 1, 2}


def test_two_objects_keep_their_numbers(follow: Any, clip: Path) -> None:
    done = follow(clip, *BALL, "--point", "30,6,1,2", "--json", "--until", "00:00.4")
    entries = [json.loads(line) for line in done.lines]
    assert [entry["frame"] for entry in entries] == [0, 1, 2, 3]
    assert [entry["time"] for entry in entries] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert all([row["object"] for row in entry["objects"]] == [1, 2] for entry in entries)
    assert set(entries[0]["objects"][0]) == {"object", "name", "xyxy", "area", "score", "counts"}


def test_an_interrupted_run_leaves_whole_files_and_goes_on_to_the_same(
    follow: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert follow(clip, *BALL, "-o", whole).code == 0
    with monkeypatch.context() as patch:
        at_frame(patch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
        done = follow(clip, *BALL, "-o", cut)
    assert done.code == 130
    assert "goes on in" in done.err
    assert "interrupted; what was written so far is kept." in done.err
    assert set(read_tracks(cut / "masks.parquet").frames.tolist()) == set(range(8))
    with VideoReader(cut / "overlay.mp4") as reader:
        assert reader.frames == 8
    assert len((cut / "tracks.csv").read_text().splitlines()) == 9
    done = follow(clip, "-o", cut, "--resume")
    assert done.code == 0
    same(cut, whole)


def test_a_killed_run_goes_on_to_the_same(
    follow: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    at_frame(monkeypatch, 13, lambda: shutil.copytree(whole, killed, dirs_exist_ok=True))
    follow(clip, *BALL, "-o", whole)
    monkeypatch.undo()
    assert not (killed / "masks.parquet").exists()
    assert follow(clip, "-o", killed, "--resume").code == 0
    same(killed, whole)


def test_from_the_middle_in_both_directions(follow: Any, clip: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert follow(clip, *BALL, "--frame", "00:00.6", "--both", "-o", out).code == 0
    wanted = track(clip, points=[(8, 20)], frame=6, both=True, model=str(tiny))
    assert read_tracks(out / "masks.parquet").masks.to_strings() == wanted.masks.to_strings()
    with VideoReader(out / "overlay.mp4") as reader:
        assert reader.frames == COUNT
    frames = [int(row.split(",")[0]) for row in (out / "tracks.csv").read_text().splitlines()[1:]]
    assert frames == list(range(COUNT))


def test_a_folder_with_a_corrupt_frame(follow: Any, tmp_path: Path) -> None:
    folder = tiny_sam2.folder(tmp_path / "frames", 12)
    (folder / "4.png").write_bytes(b"")
    done = follow(folder, *BALL, "--rate", 5, "-o", tmp_path / "out")
    assert done.code == 1
    assert "frame 4 of" in done.err
    assert "is empty (zero bytes)" in done.err
    found = read_tracks(tmp_path / "out" / "masks.parquet")
    assert sorted(set(found.frames.tolist())) == [0, 1, 2, 3, *range(5, 12)]
    with VideoReader(tmp_path / "out" / "overlay.mp4") as reader:
        assert reader.frames == 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*BALL], "track needs -o DIR for its video, masks and table, or --json"),
        (["--json"], "track needs --text, or --point, --box or --mask"),
        ([*BALL, "--json", "--resume"], "--resume needs -o DIR"),
        ([*BALL, "-o", "out", "--resume"], "leave out what points"),
        (["-o", "out", "--resume"], "'out' holds no session to resume"),
        ([*BALL, "--json", "--frame", "99"], "must be 0 to 16; got 99"),
        ([*BALL, "--json", "--frame", "now"], "a time must be seconds"),
        (["--point", "80,20", "--json"], "a point must lie in frame 0"),
        (["--box", "9,9,9,9", "--json"], "a box must have an area"),
        ([*BALL, "--json", "--limit", "0"], "--limit must be a whole number of 1 or more"),
    ],
)
def test_wrong_usage(
    follow: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = follow(clip, *words)
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video(follow: Any, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    assert "is no video that can be read here" in follow(tmp_path / "x.mp4", *BALL, "--json").err
    assert follow(tmp_path / "none.mp4", *BALL, "--json").code == 2
