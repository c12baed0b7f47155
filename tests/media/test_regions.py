"""Boxes in words and in red."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from percepta.errors import BadInput
from percepta.media.regions import boxes_by_frame, read_regions, red_box, region_text, with_regions


def test_regions_are_cut_thousandths_and_never_1000() -> None:
    assert region_text([10, 20, 30, 40], 100, 200) == "[100,100,400,300]"
    assert region_text([0, 0, 640, 480], 640, 480) == "[000,000,999,999]"
    assert region_text([-5, 1, 1000, 2], 3, 1000) == "[000,001,999,003]"


def test_marks_are_replaced_wherever_they_stand() -> None:
    text = with_regions("a <|bbox1|> b <|bbox0|><|bbox1|>", [[0, 0, 1, 1], [1, 1, 1, 1]], 4, 4)
    assert text == "a [250,250,500,500] b [000,000,250,250][250,250,500,500]"
    with pytest.raises(BadInput, match=r"<\|bbox2\|> must name one of 2 boxes"):
        with_regions("<|bbox2|>", [[0, 0, 1, 1], [1, 1, 1, 1]], 4, 4)


def test_an_answer_is_read_back() -> None:
    width, height = 640, 480
    for box in ([10, 20, 300, 200], [0, 0, 640, 480], [333, 100, 7, 9]):
        found = read_regions(f"It is at {region_text(box, width, height)}.", width, height)
        want = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        assert len(found) == 1
        assert np.abs(np.array(found[0]) - want).max() <= 0.001 * max(width, height) + 1e-9
    assert read_regions("[500,600,100,200]", 1000, 1000) == [(100, 200, 500, 600)]
    assert read_regions("nowhere [1,2,3]", 10, 10) == []
    assert len(read_regions("[1, 2, 3, 4] and [005,006,007,008]", 10, 10)) == 2


@pytest.mark.parametrize(
    "box", [[5, 5, 30, 30], [10.7, 8.2, 50.9, 33.9], [-5, -5, 10, 10], [0, 0, 59, 39], [3, 3, 3, 3]]
)
def test_red_boxes_are_torchvisions(box: list[float]) -> None:
    from torchvision.utils import draw_bounding_boxes

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    want = draw_bounding_boxes(
        torch.from_numpy(pixels).permute(2, 0, 1), torch.tensor([box], dtype=torch.float32), colors=(255, 0, 0), width=4
    )
    picture = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(red_box(picture, box)), want.permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(picture), pixels)


def test_boxes_that_are_none() -> None:
    with pytest.raises(BadInput, match="right and bottom not before"):
        red_box(Image.new("RGB", (9, 9)), [5, 5, 4, 8])
    with pytest.raises(BadInput, match=r"must have the shape \(4,\)"):
        red_box(Image.new("RGB", (9, 9)), [5, 5, 4])
    with pytest.raises(BadInput, match=r"must have the shape \(4,\)"):
        region_text([1, 2, 3], 4, 4)
    with pytest.raises(BadInput, match="size of a picture must be above 0"):
        region_text([1, 2, 3, 4], 0, 4)
    assert boxes_by_frame({"3": [1, 2, 3, 4], 4: None}) == {3: [1, 2, 3, 4]}  # type: ignore[dict-item]
    with pytest.raises(BadInput, match="must be a frame number; got 'x'"):
        boxes_by_frame({"x": [1, 2, 3, 4]})
