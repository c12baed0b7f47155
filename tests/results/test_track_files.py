"""Files of tracks: written frame by frame, read back, in each format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from percepta.errors import BadInput, BadMedia, MissingExtra
from percepta.results import Boxes, Masks, Tracks
from percepta.results.formats import tracks as formats
from percepta.results.formats.tracks import COLUMNS, open_tracks, read_tracks, write_tracks

SIZE = (12, 17)


def some_tracks(rate: float | None = 24.0) -> Tracks:
    """Two objects in five frames, the second hidden in frame 2."""
    random = np.random.default_rng(0)
    frames = np.repeat(np.arange(5), 2)
    objects = np.tile([3, 8], 5)
    seen = ~((frames == 2) & (objects == 8))
    dense = random.random((10, *SIZE)) < 0.4
    names = ["a cat" if number == 3 else "=dog" for number in objects]
    scores = random.random(10).astype(np.float32)
    masks = Masks.from_dense("field.mp4", dense, names, scores).select(seen)
    return Tracks("field.mp4", frames[seen], objects[seen], masks.boxes(), masks, rate)


def same(got: Tracks, wanted: Tracks, masks: bool = True) -> None:
    assert got.frames.tolist() == wanted.frames.tolist()
    assert got.identities.tolist() == wanted.identities.tolist()
    assert got.boxes.names == wanted.boxes.names
    np.testing.assert_allclose(got.boxes.xyxy, wanted.boxes.xyxy)
    np.testing.assert_allclose(got.boxes.scores, wanted.boxes.scores, rtol=1e-5)
    assert got.rate == wanted.rate
    if masks:
        assert got.source == wanted.source
        assert got.masks is not None
        assert np.array_equal(got.masks.dense(), wanted.masks.dense())  # type: ignore[union-attr]


@pytest.mark.parametrize("ending", [".parquet", ".json", ".csv"])
@pytest.mark.parametrize("rate", [24.0, None])
def test_there_and_back(tmp_path: Path, ending: str, rate: float | None) -> None:
    wanted = some_tracks(rate)
    write_tracks(wanted, tmp_path / f"field{ending}")
    same(read_tracks(tmp_path / f"field{ending}"), wanted, masks=ending != ".csv")


@pytest.mark.parametrize("ending", [".parquet", ".json", ".csv"])
def test_an_interruption_leaves_a_whole_file(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "AT_ONCE", 2)
    wanted = some_tracks()
    writer = open_tracks(tmp_path / f"x{ending}", "x", SIZE, 24)

    def work() -> None:
        with writer:
            for frame in (1, 0):  # any order
                part = wanted.at(frame)
                writer.add(frame, part.identities.tolist(), part.masks)  # type: ignore[arg-type]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert writer.rows == 4
    assert read_tracks(tmp_path / f"x{ending}").frames.tolist() == [0, 0, 1, 1]
    with pytest.raises(BadInput, match="is closed"):
        writer.add(2, [], Masks("x", SIZE, ()))


def test_what_was_written_is_on_disk_before_the_end(tmp_path: Path) -> None:
    writer = open_tracks(tmp_path / "x.csv", "x", SIZE)
    for frame in range(3):
        writer.add(frame, [1], Boxes("x", [[0, 0, 2, 2]]))
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3  # the header and two whole frames
    writer.close()
    writer.close()


def test_hidden_objects_leave_no_row_and_boxes_need_no_masks(tmp_path: Path) -> None:
    dense = np.zeros((2, *SIZE), bool)
    dense[1, 3:5, 4:9] = True
    with open_tracks(tmp_path / "x.parquet", "x", SIZE) as writer:
        writer.add(0, [1, 2], Masks.from_dense("x", dense))
    found = read_tracks(tmp_path / "x.parquet")
    assert found.identities.tolist() == [2]
    assert found.boxes.xyxy.tolist() == [[4, 3, 9, 5]]
    assert found.boxes.scores is None
    with open_tracks(tmp_path / "y.parquet", "y", SIZE) as writer:
        writer.add(4, [5], Boxes("y", [[0, 1, 2, 3]], ("x",), [0.5], SIZE))
    found = read_tracks(tmp_path / "y.parquet")
    assert found.masks is None
    assert found.boxes.size == SIZE
    with open_tracks(tmp_path / "z.parquet", "z", SIZE) as writer:
        pass
    assert len(read_tracks(tmp_path / "z.parquet")) == 0


def test_the_video_form_of_coco(tmp_path: Path) -> None:
    wanted = some_tracks()
    write_tracks(wanted, tmp_path / "x.json")
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["videos"] == [{"id": 1, "file_name": "field.mp4", "height": 12, "width": 17, "length": 5}]
    assert [one["name"] for one in data["categories"]] == ["a cat", "=dog"]
    hidden = data["annotations"][1]
    assert hidden["id"] == 8
    assert [row is None for row in hidden["segmentations"]] == [False, False, True, False, False]
    assert hidden["areas"][0] == wanted.masks.area[1]  # type: ignore[union-attr]
    assert hidden["score"] == pytest.approx(wanted.of(8).boxes.scores.mean())  # type: ignore[union-attr]


def test_the_csv_table(tmp_path: Path) -> None:
    write_tracks(some_tracks(), tmp_path / "x.csv")
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[3]["frame"], rows[3]["object"], rows[3]["name"]) == ("1", "8", "'=dog")
    assert float(rows[3]["time"]) == pytest.approx(1 / 24, rel=1e-5)


def test_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"ending .* must be one of \.parquet, \.csv, \.json"):
        open_tracks(tmp_path / "x.txt", "x", SIZE)
    with pytest.raises(BadInput, match="needs the size"):
        write_tracks(Tracks("x", [0], [1], Boxes("x", [[0, 0, 1, 1]])), tmp_path / "x.csv")  # type: ignore[arg-type]
    with open_tracks(tmp_path / "x.csv", "x", SIZE) as writer:
        with pytest.raises(BadInput, match="one object a row, each once"):
            writer.add(0, [1, 1], Boxes("x", [[0, 0, 1, 1]] * 2))
        with pytest.raises(BadInput, match=r"size \(12, 17\); got \(4, 5\)"):
            writer.add(0, [], Masks("x", (4, 5), ()))
        with pytest.raises(BadInput, match="frame"):
            writer.add(-1, [], Masks("x", SIZE, ()))
    for name, content in (("a.parquet", b"nothing"), ("a.csv", b"a,b\n1,2\n"), ("a.json", b"{}"), ("b.json", b"\xff")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadMedia, match=name):
            read_tracks(tmp_path / name)
    for ending in (".parquet", ".csv", ".json"):
        with pytest.raises(BadMedia, match=f"nowhere{ending} must be"):
            read_tracks(tmp_path / f"nowhere{ending}")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="pyarrow"):
        open_tracks(tmp_path / "x.parquet", "x", SIZE)
