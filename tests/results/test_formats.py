"""Other programs' formats: there and back again."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.results import Boxes, Embedding, Failure, Hit, Hits, Labels, Masks, Tracks
from percepta.results.formats.coco import boxes_from_coco, masks_from_coco, to_coco
from percepta.results.formats.table import rows, to_csv
from percepta.results.formats.yolo import from_yolo, masks_from_yolo, to_yolo, to_yolo_masks

BOXES = [
    Boxes("a.jpg", [[1.5, 2, 30, 40.25], [0, 0, 100, 80]], ("cat", "dog"), [0.5, 0.25], (80, 100)),
    Boxes("b.jpg", [], size=(10, 20)),
    Boxes("c.jpg", [[3, 4, 5, 6]], ("cat",), [0.75], (33, 77)),
]


def test_coco_boxes() -> None:
    data = json.loads(json.dumps(to_coco(BOXES)))
    assert [category["name"] for category in data["categories"]] == ["cat", "dog"]
    for got, wanted in zip(boxes_from_coco(data), BOXES, strict=True):
        assert got.source == wanted.source
        assert got.names == wanted.names
        assert got.size == wanted.size
        assert np.allclose(got.xyxy, wanted.xyxy)
        assert (got.scores is None) == (len(wanted) == 0)


def test_coco_masks() -> None:
    dense = np.random.default_rng(0).random((3, 12, 17)) < 0.4
    masks = [Masks.from_dense("a.jpg", dense, ("x", "y", "x"), [0.1, 0.2, 0.3]), Masks("b.jpg", (4, 5), ())]
    data = json.loads(json.dumps(to_coco(masks)))
    got = masks_from_coco(data)
    assert np.array_equal(got[0].dense(), dense)
    assert got[0].names == ("x", "y", "x")
    assert got[1].size == (4, 5)
    assert data["annotations"][0]["area"] == dense[0].sum()
    data["annotations"][0]["segmentation"] = {"size": [12, 17], "counts": masks[0].counts[0].tolist()}
    assert np.array_equal(masks_from_coco(data)[0].dense(), dense)
    data["annotations"][0]["segmentation"] = [[1, 2, 6, 2, 6, 5, 1, 5], [10, 0, 12, 0, 12, 2, 10, 2]]
    drawn = masks_from_coco(data)[0].dense()[0]
    assert drawn[2:5, 1:6].all()
    assert drawn[:2, 10:12].all()
    assert drawn.sum() == 15 + 4
    for wrong in (
        [[1, 2, 3, 4]],
        [[1, 2, 3]],
        [["x"]],
        None,
        [],
        "text",
        {"size": [12, 17]},
        [[1, 2, 3, 4, float("inf"), 5]],
    ):
        data["annotations"][0]["segmentation"] = wrong
        with pytest.raises(BadInput, match=r"run lengths or polygons|a polygon must be"):
            masks_from_coco(data)


def test_bad_coco() -> None:
    with pytest.raises(BadInput, match="size"):
        to_coco([Boxes("a", [[0, 0, 1, 1]])])
    for data in ({}, {"images": [{}], "annotations": [], "categories": []}, {"images": 5}):
        with pytest.raises(BadInput, match=r"\.$"):
            boxes_from_coco(data)


def test_yolo() -> None:
    classes = ["dog", "cat"]
    for boxes in BOXES:
        got = from_yolo(to_yolo(boxes, classes), classes, boxes.source, boxes.size)  # type: ignore[arg-type]
        assert got.names == boxes.names
        assert np.abs(got.xyxy - boxes.xyxy).max(initial=0) < 1e-3
    assert to_yolo(BOXES[2], classes).startswith("1 0.0519")
    with pytest.raises(BadInput, match="cow"):
        to_yolo(Boxes("a", [[0, 0, 1, 1]], ("cow",), size=(4, 4)), classes)
    with pytest.raises(BadInput, match="size"):
        to_yolo(Boxes("a", [[0, 0, 1, 1]]), classes)
    for line in ("5 0 0 1 1", "0 0 0 1", "x 0 0 1 1", "0 a 0 1 1", "0 0 0 1 1 1 1"):
        with pytest.raises(BadInput, match="line 1"):
            from_yolo(line, classes, "a.txt", (4, 4))


def test_yolo_masks() -> None:
    dense = np.zeros((3, 20, 30), bool)
    dense[0, 3:9, 4:20] = True
    dense[0, 5:7, 8:12] = False  # a hole, which is filled
    dense[1, 2:6, 2:6], dense[1, 10:18, 14:29] = True, True  # two parts, which are joined
    dense[2, 19, 29] = True  # one pixel
    masks = Masks.from_dense("a.jpg", dense, ("cat", "dog", "cat"), [0.5, 0.25, 0.75])
    text = to_yolo_masks(masks, ["dog", "cat"])
    got = masks_from_yolo(text, ["dog", "cat"], "a.jpg", (20, 30))
    assert got.names == masks.names
    assert got.scores is not None
    assert got.scores.tolist() == [0.5, 0.25, 0.75]
    filled = dense[0].copy()
    filled[5:7, 8:12] = True
    assert np.array_equal(got.dense()[0], filled)
    assert (got.dense()[1] & dense[1]).sum() == dense[1].sum()
    assert got.dense()[1].sum() - dense[1].sum() < 15  # the line between the parts
    assert np.array_equal(got.dense()[2], dense[2])
    assert to_yolo_masks(Masks.from_dense("a", np.zeros((1, 4, 4)), ("cat",)), ["cat"]) == ""
    assert masks_from_yolo("\n", ["cat"], "a", (4, 4)).scores is None
    with pytest.raises(BadInput, match="cow"):
        to_yolo_masks(Masks.from_dense("a", np.ones((1, 4, 4)), ("cow",)), ["cat"])
    for line in ("0 0 0 1 1", "5 0 0 1 1 1 0", "x 0 0 1 1 0 1", "0 0 0 1 1 nan 0"):
        with pytest.raises(BadInput, match="line 1"):
            masks_from_yolo(line, ["cat"], "a.txt", (4, 4))
    with pytest.raises(BadInput, match="a score in each line"):
        masks_from_yolo("0 0 0 1 1 0 1 0.5\n0 0 0 1 1 0 1\n", ["cat"], "a.txt", (4, 4))


def test_tables() -> None:
    labels = Labels('=evil("x").jpg', ("a", "b,c"), [0.1, 0.9], "cosine")
    text = to_csv(rows(labels) + rows(Failure("broken\n.jpg", "It is broken.")))
    table = list(csv.DictReader(io.StringIO(text)))
    assert table[0]["source"].startswith("'=")
    assert table[0]["label"] == "b,c"
    assert float(table[0]["score"]) == pytest.approx(0.9)
    assert table[2]["source"] == "broken\n.jpg"
    assert table[2]["failure"] == "It is broken."
    hits = rows(Hits("boat", (Hit("a", 0.5), Hit("b", 0.7)), "cosine"))
    assert [row["source"] for row in hits] == ["b", "a"]
    tracks = Tracks("v", np.array([0, 5]), np.array([1, 1]), Boxes("v", [[0, 0, 1, 1]] * 2, ("x", "x")), rate=10.0)
    assert rows(tracks)[1]["time"] == 0.5
    assert rows(BOXES[0])[0]["score"] == 0.5
    masks = rows(Masks.from_dense("a", np.eye(3)[None], ("x",), [0.5]))
    assert masks == [
        {"source": "a", "left": 0, "top": 0, "right": 3, "bottom": 3, "name": "x", "score": 0.5, "area": 3}
    ]
    assert to_csv([], ["a", "b"]) == "a,b\n"
    to_csv([{"source": "bad \udcff name"}]).encode()
    with pytest.raises(BadInput):
        rows(Embedding("a", [1.0], "m"))  # type: ignore[arg-type]
