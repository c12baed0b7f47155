"""Masklets of SA-V's training part: what was written comes back, and broken files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from percepta.datasets.masklets import open_masklets, read_masklets
from percepta.errors import BadInput, BadMedia
from percepta.results import Masks

SIZE = (24, 31)


def some(count: int = 3, objects: int = 2) -> np.ndarray:
    dense = np.random.default_rng(0).random((count, objects, *SIZE)) < 0.3
    dense[1, 1] = False  # out of sight
    return dense


def write(path: Path, dense: np.ndarray, **changes: Any) -> None:
    rows = [
        [{"size": list(SIZE), "counts": text} for text in Masks.from_dense("x", frame).to_strings()] for frame in dense
    ]
    data = {
        "video_id": path.stem.rsplit("_", 1)[0],
        "video_duration": 1.0,
        "video_frame_count": 12.0,
        "video_height": float(SIZE[0]),
        "video_width": float(SIZE[1]),
        "masklet": rows,
        "masklet_id": list(range(dense.shape[1])),
        "masklet_stability_score": [0.5],
        "masklet_num": dense.shape[1],
    }
    path.write_text(json.dumps(data | changes))


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    dense = some()
    write(tmp_path / "sav_000001_manual.json", dense)
    (tmp_path / "sav_000001.mp4").write_bytes(b"")
    found = read_masklets(tmp_path / "sav_000001_manual.json")
    assert (found.name, found.kind, found.size, found.frames) == ("sav_000001", "manual", SIZE, 12)
    assert found.annotated == (0, 4, 8)
    assert found.facts["masklet_stability_score"] == [0.5]
    assert found.video == tmp_path / "sav_000001.mp4"
    assert all(np.array_equal(found.masks(number).dense(), dense[number]) for number in range(len(found)))
    tracks = found.tracks()
    assert tracks.frames.tolist() == [0, 0, 4, 8, 8]
    assert tracks.identities.tolist() == [0, 1, 0, 0, 1]
    assert tracks.masks is not None
    assert np.array_equal(tracks.masks.dense()[2], dense[1, 0])
    assert tracks.rate == 24


def test_a_folder_is_gone_through_lazily(tmp_path: Path) -> None:
    for number in (2, 1):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number) / f"sav_{number:06}_auto.json", some())
    (tmp_path / "2" / "sav_000003_auto.json").write_text("{")
    found = open_masklets(tmp_path, "auto")
    assert [next(found).name, next(found).name] == ["sav_000001", "sav_000002"]
    with pytest.raises(BadMedia, match=r"sav_000003_auto\.json must be a JSON"):
        next(found)
    with pytest.raises(BadInput, match="there is none"):
        open_masklets(tmp_path, "manual")
    with pytest.raises(BadInput, match="kind of open_masklets must be one of manual, auto"):
        open_masklets(tmp_path, "automatic")


def test_lists_of_runs_and_missing_masks(tmp_path: Path) -> None:
    whole = SIZE[0] * SIZE[1]
    rows = [[{"size": list(SIZE), "counts": [5, 7, whole - 12]}, None]]
    write(tmp_path / "x_manual.json", some(), masklet=rows)
    assert read_masklets(tmp_path / "x_manual.json").masks(0).area.tolist() == [7, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masklet": "x"}, "list of frames"),
        ({"masklet": [[None], [None, None]]}, "a mask for each of its 2 objects"),
        ({"masklet_id": [1, 2, 3]}, "a mask for each of its 3 objects"),
        ({"video_frame_count": 4}, "more than every 4th of 4"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "x_manual.json", some(), **changes)
    with pytest.raises(BadMedia, match=message):
        read_masklets(tmp_path / "x_manual.json")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"size": list(SIZE), "counts": "oo"}, "sum|early"),
        ({"size": [3, 4], "counts": "1"}, "must have the size"),
        ({"size": list(SIZE), "counts": [1, "x"]}, "list of whole numbers"),
        ("text", "run lengths with size and counts"),
    ],
)
def test_broken_masks_are_named_when_asked_for(tmp_path: Path, code: Any, message: str) -> None:
    write(tmp_path / "x_manual.json", some(), masklet=[[code, None]])
    found = read_masklets(tmp_path / "x_manual.json")
    with pytest.raises(BadMedia, match=f"annotation 0 of x cannot be read: .*({message})"):
        found.masks(0)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(BadMedia, match="has no video_id"):
        read_masklets(tmp_path / "a.json")
    with pytest.raises(BadMedia, match="must be a JSON"):
        read_masklets(tmp_path / "nowhere.json")
