"""Segmenting pictures: prompts of all kinds, one picture or many, scores, and everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from percepta.errors import BadInput, BadMedia
from percepta.results import Masks
from percepta.running.feed import Stream
from percepta.tasks.segment import prompts_of, read_mask, segment
from tests.tasks import tiny_sam2

SIZE = (tiny_sam2.HEIGHT, tiny_sam2.WIDTH)
BALL, OTHER = (8, 20), (30, 6)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_sam2.model()


def wanted(model: Any, multimask: bool, **prompts: Any) -> tuple[np.ndarray, np.ndarray]:
    """(M, H, W) masks and (M,) qualities from the model itself, of one prompt in pixels of the picture."""
    ratio = torch.tensor([tiny_sam2.SIDE / SIZE[1], tiny_sam2.SIDE / SIZE[0]])
    given: dict[str, Any] = {}
    if "points" in prompts:
        given["points"] = (torch.tensor(prompts["points"]) * ratio)[None]
        given["labels"] = torch.tensor([prompts["labels"]])
    if "box" in prompts:
        given["boxes"] = (torch.tensor(prompts["box"]).view(2, 2) * ratio).view(1, 4)
    with torch.inference_mode():
        features = model.encode_image(model.preprocess(tiny_sam2.frame(0))[None])
        found = model.predict(features, **given, multimask=multimask)
        large = F.interpolate(found.logits, SIZE, mode="bilinear", align_corners=False)
    return (large[0] > 0).numpy(), found.iou[0].numpy()


def test_one_click_gives_the_best_of_three(model: Any) -> None:
    found = segment(tiny_sam2.frame(0), points=[BALL], model=model)
    assert isinstance(found, Masks)
    masks, quality = wanted(model, True, points=[BALL], labels=[1])
    assert found.size == SIZE
    assert found.names == ("object",)
    assert found.scores == pytest.approx([quality.max()], abs=1e-5)
    assert (found.dense()[0] == masks[quality.argmax()]).all()
    every = segment(tiny_sam2.frame(0), points=BALL, model=model, multimask=True)
    assert (every.dense() == masks).all()
    single = segment(tiny_sam2.frame(0), points=[BALL], model=model, multimask=False)
    assert (single.dense() == wanted(model, False, points=[BALL], labels=[1])[0]).all()


def test_more_than_one_click_and_boxes_give_the_single_mask(model: Any) -> None:
    clicks = {"points": [BALL, OTHER], "labels": [1, 0]}
    found = segment(tiny_sam2.frame(0), **clicks, model=model)
    assert (found.dense() == wanted(model, False, **clicks)[0]).all()
    boxes = [(2, 14, 15, 27), (25, 1, 36, 12)]
    found = segment(tiny_sam2.frame(0), boxes=boxes, model=model)
    for row, box in enumerate(boxes):
        assert (found.dense()[row] == wanted(model, False, box=[float(edge) for edge in box])[0][0]).all()


def test_objects_with_different_numbers_of_clicks_keep_their_order(model: Any) -> None:
    found = segment(
        tiny_sam2.frame(0), points=[[BALL], [OTHER, (1, 1)], [OTHER]], labels=[[1], [1, 0], [1]], model=model
    )
    alone = [
        segment(tiny_sam2.frame(0), points=[BALL], model=model),
        segment(tiny_sam2.frame(0), points=[OTHER, (1, 1)], labels=[1, 0], model=model),
        segment(tiny_sam2.frame(0), points=[OTHER], model=model),
    ]
    assert found.to_strings() == [one.to_strings()[0] for one in alone]
    assert found.scores == pytest.approx(np.concatenate([one.scores for one in alone]), abs=1e-5)


def test_a_rough_mask_is_a_prompt_and_may_be_a_file(model: Any, tmp_path: Path) -> None:
    rough = np.zeros(SIZE, bool)
    rough[14:27, 2:15] = True
    Image.fromarray(rough).save(tmp_path / "rough.png")
    found = segment(tiny_sam2.frame(0), masks=[rough], model=model)
    assert found.to_strings() == segment(tiny_sam2.frame(0), masks=tmp_path / "rough.png", model=model).to_strings()
    other = segment(tiny_sam2.frame(0), masks=~rough, model=model)
    assert found.scores != pytest.approx(other.scores, abs=1e-7)
    small = np.zeros(SIZE, np.uint8)
    small[3:5, 3:9] = 2
    Image.fromarray(small).save(tmp_path / "labels.png")
    assert read_mask(tmp_path / "labels.png").sum() == 12
    Image.fromarray(small * 100 + 20).save(tmp_path / "bright.png")
    assert read_mask(tmp_path / "bright.png").sum() == 12


def test_everything_names_its_objects(model: Any) -> None:
    settings = {"points_per_side": 4, "iou_threshold": 0.0, "stability_threshold": 0.0}
    found = segment(tiny_sam2.frame(0), everything=settings, model=model)
    assert len(found) > 0
    assert set(found.names) == {"object"}
    assert found.size == SIZE
    with pytest.raises(BadInput, match=r"a setting of everything must be one of .*did you mean 'points_per_side'"):
        segment(tiny_sam2.frame(0), everything={"points_per_sides": 4}, model=model)


def test_many_pictures_come_one_by_one_and_failures_are_collected(model: Any, tmp_path: Path) -> None:
    folder = tiny_sam2.folder(tmp_path / "pictures", 3)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    Image.fromarray(tiny_sam2.frame(0, 20, 10)).save(folder / "3.png")
    tiny_sam2.video(folder / "4.mp4", 3)
    stream = segment(folder, points=[BALL], model=model, batch_size=2)
    assert isinstance(stream, Stream)
    results = list(stream)
    assert [Path(found.source).name for found in results] == ["0.png", "2.png"]
    reasons = [failure.reason for failure in stream.failures]
    assert "damaged" in reasons[0]
    assert "a point must lie in" in reasons[1]
    assert "20x10 pixels; got (8, 20)" in reasons[1]
    assert "4.mp4' is a video; follow things in it with track." in reasons[2]
    one = segment(folder / "2.png", points=[BALL], model=model)
    assert one.to_strings() == results[1].to_strings()
    assert len(list(segment([tiny_sam2.frame(0)] * 2, points=[BALL], model=model))) == 2
    with pytest.raises(BadMedia, match="damaged"):
        segment(folder / "1.png", points=[BALL], model=model)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "segment needs points, boxes or masks, or text, or everything=True, one of them; got nothing"),
    ({"points": [BALL], "everything": True}, "got prompts and everything"),
    ({"points": [(50, 3)]}, r"a point must lie in .*, 50x38 pixels; got \(50, 3\)"),
    ({"points": [(float("nan"), 3)]}, "points must be finite numbers"),
    ({"points": [(1, 2, 3)]}, "points of an object must have the shape"),
    ({"points": "here"}, "points must be a list of numbers"),
    ({"points": [BALL, BALL], "labels": [1, 0]}, r"the point \(8, 20\) is labelled both inside and outside"),
    ({"points": [BALL], "labels": [2]}, "labels must be 1"),
    ({"points": [BALL], "labels": [1, 1]}, "labels must be one for each point; got 2 for 1"),
    ({"points": [[BALL], [OTHER]], "labels": [1, 1]}, "labels must be"),
    ({"points": [BALL], "labels": [0]}, "at least one inside"),
    ({"boxes": [(3, 3, 3, 9)]}, "a box must have an area"),
    ({"boxes": [(9, 3, 3, 9)]}, "a box must have an area"),
    ({"boxes": [(3, 3, 9)]}, "a box must be left, top, right, bottom; got 3 numbers"),
    ({"boxes": [(3, 3, 60, 9)]}, "a box must lie in"),
    ({"boxes": [(3, 3, 9, 9), (1, 1, 5, 5)], "points": [BALL]}, "points must be given for all 2 objects or for none"),
    ({"masks": np.zeros(SIZE)}, "a mask must have at least one pixel inside"),
    ({"masks": np.ones((3, 4))}, "a mask must have the size of .*, 50x38 pixels; got 4x3"),
    ({"masks": [np.ones((3, 4, 5))]}, "a mask must have the shape"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_wrong_prompts_are_one_sentence(
    model: Any, given: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((BadInput, BadMedia), match=sentence) as caught:
        segment(tiny_sam2.frame(0), **given, model=model)
    assert str(caught.value).count(". ") == 0


def test_wrong_models_and_inputs(model: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="need a model that takes prompts"):
        segment(tiny_sam2.frame(0), points=[BALL], model="pe-core-nano")
    with pytest.raises(BadInput, match=r"does not exist|holds no"):
        list(segment(tmp_path, points=[BALL], model=model))
    with pytest.raises((BadInput, BadMedia), match="does not exist"):
        segment(tmp_path / "none.png", points=[BALL], model=model)


def test_prompts_of_what_people_give() -> None:
    assert prompts_of() == []
    (one,) = prompts_of(points=np.array([[1, 2], [3, 4]]), labels=np.array([1, 0]), boxes=np.array([0, 0, 9, 9]))
    assert one.points.tolist() == [[1, 2], [3, 4]]
    assert (one.labels.tolist(), one.box) == ([1, 0], (0, 0, 9, 9))
    assert prompts_of(points=(1, 2))[0].is_one_click
    assert len(prompts_of(points=[[(1, 2)], [(3, 4)]])) == 2
