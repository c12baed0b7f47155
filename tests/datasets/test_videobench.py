"""PLM-VideoBench on disk: rows of jsonl and parquet, boxes, videos, and the frames that are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from percepta.datasets.videobench import (
    Row,
    VideoPlaces,
    frames_for,
    read_boxes,
    read_rows,
    sampled_frames,
    shown_frames,
    stride_of,
)
from percepta.errors import BadInput, BadMedia
from percepta.media import VideoReader
from tests.datasets.videobench_on_disk import BOX, RECORDS, write_bench


def test_rows_of_all_tasks(tmp_path: Path) -> None:
    write_bench(tmp_path)
    rows = {task: read_rows(tmp_path, task) for task in RECORDS}
    assert {task: len(found) for task, found in rows.items()} == {t: len(found) for t, found in RECORDS.items()}
    first = rows["fgqa"][0]
    assert first.options == ("left", "right")
    assert (first.gold, first.group, first.clip) == ("(B) right", "q1", (1.5, 4.0))
    assert first.facts == {"question type": "direction", "domain": "cooking", "data set": "COIN"}
    assert rows["sgqa"][0].facts == {"domain": "kitchen"}
    assert [(part.start, part.end) for part in rows["rdcap"][0].stretches] == [(0, 20), (21, 39)]
    assert rows["rtloc"][0].uid == "5"
    assert rows["rtloc"][0].masklet == 2


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    write_bench(tmp_path / "lines")
    for task, records in RECORDS.items():
        (tmp_path / "tables" / task).mkdir(parents=True)
        path = tmp_path / "tables" / task / "plm_test-00000-of-00001.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
        assert read_rows(tmp_path / "tables", task) == read_rows(tmp_path / "lines", task)


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("fgqa", {"answer": "up"}, "row 1: answer must be one of the options; got 'up'"),
        ("fgqa", {"options": {"option_0": "left"}}, "options must be 2 to 26 texts"),
        ("sgqa", {"question": None}, "row 1: question must be str; it is missing"),
        ("rtloc", {"total_frames": 0}, "total_frames must be 1 or more; got 0"),
        ("rtloc", {"end_frame": 1}, "end_frame must not lie before start_frame; got 10 to 1"),
        ("rtloc", {"end_frame": 41}, "row 1: end_frame must be at most total_frames, 40; got 41"),
        (
            "rdcap",
            {"dense_captions": [{"start_frame": 0, "end_frame": 90, "caption": "runs"}]},
            "row 1, caption 0: end_frame must be at most total_frames, 40; got 90",
        ),
        ("rcap", {"start_frame": "x"}, "start_frame must be int; it is str, 'x'"),
        ("rdcap", {"dense_captions": []}, "dense_captions must not be empty"),
        ("rdcap", {"dense_captions": ["runs"]}, "row 1: dense_captions must hold objects; number 0 is str"),
        ("rdcap", {"dense_captions": [{"start_frame": 0}]}, "row 1, caption 0: end_frame must be int; it is missing"),
        ("fgqa", {"options": {"first": "left", "option_1": "right"}}, "must be named option_0, option_1 .*got 'first'"),
        ("fgqa", {"options": [str(number) for number in range(27)]}, "options must be 2 to 26 texts"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, task: str, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**RECORDS[task][0], **change}) + "\n")
    with pytest.raises(BadMedia, match=said):
        read_rows(path, task)


@pytest.mark.parametrize("line", [b'{"uid": "\xff"}', b"[" * 100_000, b"{", b"[1]"])
def test_lines_that_are_no_rows_are_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(RECORDS["sgqa"][0]).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(BadMedia, match=r"rows\.jsonl line 3 must be (a )?JSON"):
        read_rows(path, "sgqa")


def test_boxes_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    for box in ([1, 2, 3], [1, 2, 3, "x"], [1, 2, 3, float("nan")], [1, 2, 3, float("inf")], {"left": 1}):
        path.write_text(json.dumps({"video": "v", "masklet_id": 0, "bbox": {"7": box}}) + "\n")
        with pytest.raises(BadMedia, match=r"boxes\.jsonl line 1: bbox must hold four numbers by frame; got '7'"):
            read_boxes(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    write_bench(tmp_path)
    with pytest.raises(BadInput, match=r"must hold rows of rtloc.*of the split val there are none"):
        read_rows(tmp_path, "rtloc", "val")
    with pytest.raises(BadInput, match="task of PLM-VideoBench must be one of"):
        read_rows(tmp_path, "rtlok")
    with pytest.raises(BadInput, match=r"region tasks need their boxes, metadata/metadata_val\.jsonl"):
        read_boxes(tmp_path, "val")
    twice = tmp_path / "twice.jsonl"
    twice.write_text(2 * (json.dumps(RECORDS["sgqa"][0]) + "\n"))
    with pytest.raises(BadMedia, match="comes twice"):
        read_rows(twice, "sgqa")
    twice.write_text("{}\nno json\n")
    with pytest.raises(BadMedia, match="uid must be str; it is missing"):
        read_rows(twice, "sgqa")


def test_boxes_are_found_by_video_and_masklet(tmp_path: Path) -> None:
    write_bench(tmp_path)
    boxes = read_boxes(tmp_path)
    assert set(boxes) == {("clip.mp4", 2), ("other.mp4", 0)}
    assert boxes["clip.mp4", 2][0] == BOX
    assert 5 not in boxes["clip.mp4", 2]  # null in the file
    assert set(read_boxes(tmp_path, wanted={("other.mp4", 0)})) == {("other.mp4", 0)}


def test_sampled_frames() -> None:
    assert sampled_frames(32) == list(range(32))
    assert sampled_frames(64)[:3] == [0, 2, 4]
    assert sampled_frames(64)[-1] == 63
    assert sampled_frames(5, 4) == [0, 1, 3, 4]
    assert len(sampled_frames(7)) == 32
    assert sampled_frames(7, repeat=False) == list(range(7))
    assert sampled_frames(3, 1) == [0]
    assert [stride_of(rate) for rate in (6, 23.976, 24, 5)] == [1, 4, 4, 1]
    with pytest.raises(BadInput, match="frames of a video"):
        sampled_frames(0)


@pytest.mark.parametrize("rate", [6, 24])
def test_region_frames_are_numbered_at_6_a_second(tmp_path: Path, rate: int) -> None:
    write_bench(tmp_path, rate=rate)
    row = next(row for row in read_rows(tmp_path, "rtloc") if row.video == "clip.mp4")
    path = VideoPlaces(tmp_path)(row)
    assert path is not None
    with VideoReader(path) as reader:
        pictures = frames_for(row, reader, 8)
    shown = shown_frames(row, pictures, {0: BOX}, 40, 8)
    assert sorted(pictures) == sampled_frames(40, 8)
    assert len(shown) == 8
    red = [np.asarray(picture)[10, 8:20] for picture in shown]
    assert (red[0][:, 0] > 200).all()
    assert (red[0][:, 1] < 90).all()
    assert (red[1][:, 0] < 90).all()  # no box there
    grey = [float(np.asarray(picture)[40:, 40:].mean()) for picture in shown]
    assert grey == pytest.approx([5 * number for number in sampled_frames(40, 8)], abs=6)  # the frame that it is


def test_short_videos_and_whole_ones(tmp_path: Path) -> None:
    write_bench(tmp_path)
    with VideoReader(tmp_path / "videos" / "other.mp4") as reader:
        region = Row("rcap", "1", "other.mp4", masklet=0)
        assert len(shown_frames(region, frames_for(region, reader), {}, 12)) == 32
        assert len(frames_for(Row("sgqa", "1"), reader)) == 12
        assert list(frames_for(Row("fgqa", "1"), reader, 2)) == [0, 6]
    assert VideoPlaces(tmp_path)(Row("sgqa", "1", "gone")) is None
