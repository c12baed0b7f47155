"""Labels, hits, vectors, boxes, tracks and failures: order, checks, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.results import Boxes, Embedding, Failure, FeatureMap, Hit, Hits, Labels, Masks, Tracks
from percepta.results.labels import from_matrix


def through_json(record: object) -> object:
    return json.loads(json.dumps(record.to_dict(), allow_nan=False))  # type: ignore[attr-defined]


def test_labels() -> None:
    labels = Labels("a.jpg", ("cat", "dog", "cow"), np.array([0.1, 0.7, 0.2]), "probability (softmax over 3 labels)")
    assert labels.names == ("dog", "cow", "cat")
    assert labels.top == ("dog", pytest.approx(0.7))
    assert [name for name, _ in labels] == ["dog", "cow", "cat"]
    assert labels[1][0] == "cow"
    assert labels.score("cat") == pytest.approx(0.1)
    assert labels.best(2).names == ("dog", "cow")
    assert len(labels.above(0.15)) == 2
    assert through_json(labels)["labels"][0]["name"] == "dog"  # type: ignore[index]
    assert "1 more" not in repr(labels)
    ties = Labels("a", ("x", "y", "z"), [0.5, 0.5, 0.5], "cosine")
    assert ties.names == ("x", "y", "z")
    rows = from_matrix(["a", "b"], ["x", "y"], [[1, 2], [4, 3]], "logit")
    assert [row.top[0] for row in rows] == ["y", "x"]


@pytest.mark.parametrize(
    ("names", "scores"),
    [(("a", "b"), [1.0]), ("ab", [1.0, 2.0]), (("a",), [np.nan]), (("a",), [[1.0]]), (("a",), ["x"]), (("a",), None)],
)
def test_bad_labels(names: tuple[str, ...], scores: object) -> None:
    with pytest.raises(BadInput, match=r"\.$"):
        Labels("a.jpg", names, scores, "cosine")  # type: ignore[arg-type]


def test_empty_labels() -> None:
    empty = Labels("a.jpg", (), [], "cosine")
    assert list(empty) == []
    with pytest.raises(BadInput, match="no best one"):
        _ = empty.top
    with pytest.raises(BadInput, match="got 'x'"):
        empty.score("x")


def test_hits() -> None:
    hits = Hits("a red boat", tuple(Hit(f"{n}.jpg", score) for n, score in enumerate((0.1, 0.9, 0.5))), "cosine")
    assert [hit.source for hit in hits] == ["1.jpg", "2.jpg", "0.jpg"]
    assert isinstance(hits[:2], Hits)
    assert len(hits[:2]) == 2
    assert hits[0].score == 0.9
    assert hits.source == hits.query
    assert len(hits.above(0.5)) == 2
    plain = {"source": "0.jpg", "score": 0.1, "probability": None, "start": None, "end": None}
    assert through_json(hits)["hits"][2] == plain  # type: ignore[index]
    assert "best '1.jpg'" in repr(hits)
    assert (hits.answer, len(hits.likely), len(hits.possible)) == ("uncalibrated", 0, 0)


def test_how_sure_hits_are() -> None:
    sure = Hit("clip.mp4", 0.5, 0.9, 41.0, 47.5)
    found = Hits("boat", (sure, Hit("a", 0.4, 0.5), Hit("b", 0.3, 0.2), Hit("c", 0.2, 0.01)), "cosine", "x", 2, 1)
    assert [hit.source for hit in found.likely] == ["clip.mp4", "a"]
    assert [hit.source for hit in found.possible] == ["b"]
    assert found.answer == found[:1].answer == "2 likely, 1 possible, nothing else"
    assert replace(found, possible_count=0).answer == "2 likely, nothing else"
    assert replace(found, likely_count=0).answer == "nothing likely, 1 possible"
    assert replace(found, likely_count=0, possible_count=0).answer == "nothing above chance"
    assert sure.moment == "00:41-00:48"
    assert Hit("long.mp4", 0.5, None, 3600.0, 3725.0).moment == "1:00:00-1:02:05"
    assert found[1].moment is None


def test_vectors() -> None:
    first, second = Embedding("a", [3, 4], "m"), Embedding("b", [4, 3], "m")
    assert first.vector.dtype == np.float32
    assert np.allclose(first.unit().vector, [0.6, 0.8])
    assert first.cosine(second) == pytest.approx(0.96)
    assert through_json(first) == {"source": "a", "model": "m", "vector": [3.0, 4.0]}
    for bad in (Embedding("b", [1, 2, 3], "m"), Embedding("b", [1, 2], "other")):
        with pytest.raises(BadInput, match="one model"):
            first.cosine(bad)
    with pytest.raises(BadInput, match="zero"):
        Embedding("a", [0, 0], "m").unit()
    with pytest.raises(BadInput, match="shape"):
        Embedding("a", [[1.0]], "m")
    grid = FeatureMap("a", 3, np.ones((2, 4, 5)), "m")
    assert through_json(grid)["shape"] == [2, 4, 5]  # type: ignore[index]
    assert "2x4x5" in repr(grid)
    with pytest.raises(BadInput):
        FeatureMap("a", 3, np.ones((2, 4)), "m")


def test_boxes() -> None:
    boxes = Boxes("a", [[0, 0, 10, 20], [5, 5, 15, 25]], ("cat", "dog"), [0.5, 0.9], (30, 40))
    assert boxes.area.tolist() == [200, 200]
    assert boxes.xywh[1].tolist() == [5, 5, 10, 20]
    shared = 5 * 15
    assert boxes.iou(boxes)[0, 1] == pytest.approx(shared / (400 - shared))
    assert np.allclose(np.diag(boxes.iou(boxes)), 1)
    assert boxes.select(boxes.scores > 0.6).names == ("dog",)
    assert boxes.select([1, 0]).names == ("dog", "cat")
    assert Boxes.from_xywh("a", boxes.xywh).xyxy.tolist() == boxes.xyxy.tolist()
    assert through_json(boxes)["boxes"][0] == {"xyxy": [0, 0, 10, 20], "name": "cat", "score": 0.5}  # type: ignore[index]
    empty = Boxes("a", [])
    assert len(empty) == 0
    assert empty.iou(boxes).shape == (0, 2)
    point = Boxes("a", [[3, 3, 3, 3]])
    assert point.iou(point)[0, 0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"xyxy": [[0, 0, -1, 5]]},
        {"xyxy": [[0, 0, np.inf, 5]]},
        {"xyxy": [[0, 0, 5]]},
        {"xyxy": [0, 0, 5, 5]},
        {"xyxy": [[0, 0, 5, 5]], "names": ("a", "b")},
        {"xyxy": [[0, 0, 5, 5]], "scores": [0.1, 0.2]},
    ],
)
def test_bad_boxes(arguments: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"Boxes of 'a'.*\.$"):
        Boxes("a", **arguments)  # type: ignore[arg-type]


def test_tracks() -> None:
    dense = np.zeros((4, 6, 8), bool)
    for row in range(4):
        dense[row, row : row + 2, 1:3] = True
    masks = Masks.from_dense("v", dense, ("dog", "cat", "dog", "cat"))
    tracks = Tracks("v", np.array([2, 0, 0, 2]), np.array([7, 3, 7, 3]), masks.boxes(), masks, 10.0)
    assert tracks.frames.tolist() == [0, 0, 2, 2]
    assert tracks.identities.tolist() == [3, 7, 3, 7]
    assert tracks.ids == (3, 7)
    assert tracks.of(7).frames.tolist() == [0, 2]
    assert tracks.of(7).boxes.names == ("dog", "dog")
    assert tracks.of(7).masks is not None
    assert np.array_equal(tracks.of(7).masks.dense(), dense[[2, 0]])
    assert len(tracks.at(1)) == 0
    assert through_json(tracks)["observations"][0]["identity"] == 3  # type: ignore[index]
    box = Boxes("v", [[0, 0, 1, 1]])
    for frames, identities in (([0, 1], [0, 1]), ([-1], [0]), ([0.5], [0]), ([0], [[0]])):
        with pytest.raises(BadInput, match=r"Tracks of 'v'.*\.$"):
            Tracks("v", frames, identities, box)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="twice"):
        Tracks("v", [0, 0], [1, 1], Boxes("v", [[0, 0, 1, 1]] * 2))  # type: ignore[arg-type]


def test_failures_are_one_sentence() -> None:
    failure = Failure("a\nb.jpg", "it is broken\n  badly")
    assert failure.reason == str(failure) == "it is broken badly."
    assert Failure("a", "Done.").reason == "Done."
    assert Failure("a", "").reason.endswith(".")
    assert through_json(failure)["source"] == "a\nb.jpg"  # type: ignore[index]


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Failure("a", "b").source = "c"  # type: ignore[misc]


def test_results_need_no_torch() -> None:
    code = "import sys, percepta.results, percepta.media; assert not {'torch', 'av', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
