"""Rows of conversations: what they hold, and one sentence with file, line and field for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from percepta.datasets.conversations import conversation_data, parse_row, read_conversations, read_registry
from percepta.errors import BadInput

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "assistant", "value": "A cat."}]


def row(**fields: Any) -> str:
    return json.dumps({"conversations": TALK, **fields})


def test_pictures_videos_and_words() -> None:
    root = Path("media")
    one = parse_row(row(image="a.jpg", id=7), root)
    assert (one.kind, one.images) == ("image", (root / "a.jpg",))
    assert one.turns == (("human", "<image>\nWhat?"), ("assistant", "A cat."))
    assert parse_row(row(image=["a.jpg", "b.jpg"])).kind == "multi_image"
    assert parse_row(row(image=["a.jpg"])).kind == "image"
    assert parse_row(row()).kind == "text"
    clip = parse_row(row(video="v.mp4", start_time=1, end_time=2.5, bbox_map={"3": [1, 2, 3, 4], "4": None}), root)
    assert (clip.kind, clip.video, clip.start, clip.end) == ("video", root / "v.mp4", 1, 2.5)
    assert clip.boxes == {3: (1, 2, 3, 4)}
    assert parse_row('{"text": "A cat.", "image": "a.jpg"}').turns == (("human", ""), ("assistant", "A cat."))


def test_regions_stand_in_words() -> None:
    talk = [{"from": "human", "value": "<|bbox0|>?"}, {"from": "assistant", "value": "a cat at <|bbox1|>"}]
    given = json.dumps(
        {"conversations": talk, "bbox": [[10, 20, 30, 40], [0, 0, 100, 200]], "width": 100, "height": 200}
    )
    assert parse_row(given).turns == (("human", "[100,100,400,300]?"), ("assistant", "a cat at [000,000,999,999]"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "must be a JSON object"),
        ("[1]", "must be a JSON object; got list"),
        (b'{"text": "\xff"}', "must be a JSON object"),
        ("[" * 100_000, "must be a JSON object"),
        ('{"text": "half \\ud83d"}', "field text: must be whole letters; got '\\ud83d'"),
        (
            '{"conversations": [{"from": "human", "value": "\\udc00"}]}',
            "field conversations[0].value: must be whole letters; got '\\udc00'",
        ),
        ("{}", "field conversations: must be there, or else text, a string"),
        ('{"text": 5}', "field conversations: must be there, or else text, a string; got 5"),
        ('{"conversations": []}', "field conversations: must be a list of turns, at least one; got []"),
        ('{"conversations": ["hi"]}', "field conversations[0]: must be an object"),
        (
            '{"conversations": [{"from": "gpt", "value": "x"}]}',
            "field conversations[0].from: must be one of human, assistant; got 'gpt'",
        ),
        ('{"conversations": [{"from": "human"}]}', "field conversations[0].value: must be a string; got None"),
        ('{"conversation": []}', "field conversation: is not known; did you mean 'conversations'?"),
        (row(Image="a.jpg"), "field Image: is not known; did you mean 'image'?"),
        (row(vidoe="a.mp4"), "field vidoe: is not known; did you mean 'video'?"),
        (row(images="a.jpg"), "field images: is not known; did you mean 'image'?"),
        (row(image="a.jpg", video="b.mp4"), "field video: must not stand beside image"),
        (row(image=[]), "field image: must be the path of a file, or a list of them; got []"),
        (row(image=["a.jpg", 3]), "field image: must be the path of a file"),
        (row(video=""), "field video: must be the path of a file"),
        (row(video="v.mp4", start_time=-1), "field start_time: must be seconds, 0 or more; got -1"),
        (row(video="v.mp4", end_time="4"), "field end_time: must be seconds, 0 or more; got '4'"),
        (row(image="a.jpg", start_time=1), "field start_time: needs a video in the same row"),
        (row(video="v.mp4", bbox_map=[1]), "field bbox_map: must be an object from frame numbers to boxes"),
        (row(video="v.mp4", bbox_map={"x": None}), "field bbox_map: must be an object whose names are frame numbers"),
        (row(video="v.mp4", bbox_map={"1": [1, 2]}), "field bbox_map.1: must be [x1, y1, x2, y2] or null; got [1, 2]"),
        (row(bbox=[[1, 2, 3, 4]], height=4), "field width: must be the picture's size in pixels"),
        (row(bbox=[[1, 2, 3, 4]], width=0, height=4), "field width: must be the picture's size"),
        (row(bbox=[1, 2, 3, 4], width=4, height=4), "field bbox: must be a list of boxes, each [x, y, w, h]"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(line: str | bytes, words: str) -> None:
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        parse_row(line, place="some.jsonl, line 3")
    assert str(caught.value).startswith("some.jsonl, line 3")


def test_a_mark_without_a_box() -> None:
    talk = [{"from": "human", "value": "<|bbox1|>"}, {"from": "assistant", "value": "x"}]
    given = json.dumps({"conversations": talk, "bbox": [[1, 2, 3, 4]], "width": 9, "height": 9})
    with pytest.raises(BadInput, match=r"a row, field bbox: <\|bbox1\|> must name one of 1 boxes"):
        parse_row(given)


def test_a_file_is_read_with_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "rows of ü.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + f"{row()}\n\n   \n{row(image='a.jpg')}\nnonsense\n".encode())
    reading = read_conversations(file)
    assert next(reading).place == f"{file}, line 1"
    second = next(reading)
    assert (second.place, second.images) == (f"{file}, line 4", (tmp_path / "a.jpg",))
    with pytest.raises(BadInput, match="line 5: must be a JSON object"):
        next(reading)
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        next(read_conversations(tmp_path / "none.jsonl"))


def test_a_registry(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row())
    (tmp_path / "parts").mkdir()
    for number in (1, 0):
        (tmp_path / "parts" / f"x.chunk.{number:02}.jsonl").write_text(row())
    (tmp_path / "parts" / "notes.jsonl").write_text("")
    file = tmp_path / "registry.yaml"
    file.write_text("one: {annotation: a.jsonl, root_dir: media}\nmany: {annotation: parts}\n")
    found = read_registry(file)
    assert found["one"].files == (tmp_path / "a.jsonl",)
    assert found["one"].root == tmp_path / "media"
    assert [path.name for path in found["many"].files] == ["x.chunk.00.jsonl", "x.chunk.01.jsonl"]
    assert found["many"].root == tmp_path / "parts"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "must name data sets, each with an annotation"),
        ("a: [", "must be a readable YAML of data sets"),
        ("a: {root_dir: x}", "data set a, field annotation: must be a jsonl file or a folder of them"),
        ("a: {annotation: a.jsonl, rootdir: x}", "data set a, field rootdir: is not known; did you mean 'root_dir'?"),
        ("a: {annotation: a.jsonl, root_dir: 3}", "data set a, field root_dir: must be a path; got 3"),
        ("a: {annotation: none.jsonl}", "none.jsonl does not exist"),
        ("a: {annotation: empty}", "must hold files such as train.chunk.00.jsonl"),
    ],
)
def test_registries_that_cannot_be_used(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.jsonl").write_text(row())
    (tmp_path / "empty").mkdir()
    (tmp_path / "registry.yaml").write_text(content)
    with pytest.raises(BadInput, match=re.escape(words)):
        read_registry(tmp_path / "registry.yaml")


def test_a_data_set_without_a_registry(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row())
    data = conversation_data(tmp_path / "a.jsonl")
    assert (data.name, data.root) == ("a", tmp_path)
