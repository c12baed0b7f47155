"""Masks of everything against the published procedure written with dense masks, on a network drawn by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from percepta.errors import BadInput
from percepta.models.sam2.everything import (
    Everything,
    EverythingSettings,
    crop_boxes,
    everything,
    point_grid,
)
from percepta.models.sam2.model import Features, Prediction
from percepta.models.sam2.pictures import (
    areas_above,
    predict_picture,
    runs_above,
    scale_boxes,
    widened,
    without_small_regions,
)

SIDE = 256
SETTINGS = {"points_per_side": 5, "points_per_batch": 8, "iou_threshold": 0.6, "stability_threshold": 0.5}


class Drawn:
    """In place of the network: three wavy disks around each click, of a quality that depends on the place."""

    name = "drawn"
    preprocess: Any = None
    config = SimpleNamespace(image_size=SIDE)
    no_memory = torch.zeros(1)
    waves = 6.0

    def __init__(self) -> None:
        self.encoded = 0
        self.prompts: list[int] = []

    def encode_image(self, x: Tensor) -> Features:
        self.encoded += 1
        return Features(x, x, x)

    def predict(
        self,
        features: Features,
        points: Tensor,
        labels: Tensor,
        boxes: Any = None,
        masks: Any = None,
        multimask: bool = True,
    ) -> Prediction:
        assert labels is None or bool((labels == 1).all())
        self.prompts.append(len(points))
        places = torch.arange(SIDE / 4) * 4 + 2
        x, y = points[:, 0, 0, None, None, None], points[:, 0, 1, None, None, None]
        number = torch.arange(3 if multimask else 1.0)[:, None, None]
        distance = (places - x) ** 2 + (places[:, None] - y) ** 2
        waves = self.waves * torch.sin(places / (2 + number)) * torch.cos(places[:, None] / 3)
        logits = ((20 + 14 * number) ** 2 - distance) / 100 + waves
        if masks is not None:
            assert float(masks.abs().max()) <= 32
            logits = (logits + masks) / 2
        iou = 0.5 + 0.45 * torch.sin(x * 3.1 + y * 1.7 + number * 2.2)[..., 0, 0] ** 2
        return Prediction(logits, iou, iou, iou[:, :1])


def prepare(picture: np.ndarray) -> Tensor:
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    return torch.zeros(1)


def found_in(size: tuple[int, int], model: Any = None, **settings: Any) -> Everything:
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    return everything(model or Drawn(), pixels, EverythingSettings(**{**SETTINGS, **settings}), prepare)


def enlarged(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def published(size: tuple[int, int], **changes: Any) -> list[tuple[Any, ...]]:
    """Mask, box, quality, stability, click and crop of each mask; all masks dense."""
    settings, model = EverythingSettings(**{**SETTINGS, **changes}), Drawn()
    whole, crops = [], crop_boxes(size, settings.crop_layers, settings.crop_overlap)
    for crop, layer in crops:
        corner, high, wide = torch.tensor(crop[:2]), crop[3] - crop[1], crop[2] - crop[0]
        own = []
        for place in settings.grid(layer) * [wide, high]:
            click = torch.tensor(place).float()
            scaled = (click / torch.tensor([wide, high]) * SIDE)[None, None]
            some = model.predict(None, scaled, None, multimask=settings.multimask)  # type: ignore[arg-type]
            logits, qualities = some.logits[0], some.iou[0]
            if settings.refine:
                again = [
                    model.predict(None, scaled, None, masks=one.clamp(-32, 32)[None, None], multimask=False)  # type: ignore[arg-type]
                    for one in logits
                ]
                logits = torch.cat([one.logits[0] for one in again])
                qualities = torch.cat([one.iou[0] for one in again])
            logits = without_small_regions(logits, settings.min_region_area, settings.min_region_area)
            for one, quality in zip(enlarged(logits, (high, wide)), qualities, strict=True):
                inner = int((one > settings.mask_threshold + settings.stability_offset).sum())
                outer = int((one > settings.mask_threshold - settings.stability_offset).sum())
                mask = torch.zeros(size, dtype=torch.bool)
                mask[crop[1] : crop[3], crop[0] : crop[2]] = one > settings.mask_threshold
                rows, columns = mask.nonzero(as_tuple=True)
                sides = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [*crop[:2], *crop[:2]]
                box = torch.tensor([float(side) for side in sides])
                near_crop = (box - torch.tensor(crop)).abs() <= 20
                near_picture = (box - torch.tensor([0, 0, size[1], size[0]])).abs() <= 20
                cut = bool((near_crop & ~near_picture).any())
                if (
                    quality > settings.iou_threshold
                    and outer
                    and inner / outer >= settings.stability_threshold
                    and not cut
                ):
                    own.append((mask, box, quality, inner / outer, click + corner, crop))
        if own:
            kept = nms(*(torch.stack([one[part] for one in own]) for part in (1, 2)), settings.box_nms_threshold)
            whole += [own[row] for row in kept]
    if len(crops) > 1 and whole:
        areas = torch.tensor([float((c[2] - c[0]) * (c[3] - c[1])) for *_, c in whole])
        kept = nms(torch.stack([one[1] for one in whole]), 1 / areas, settings.crop_nms_threshold)
        whole = [whole[row] for row in kept]
    return whole


@pytest.mark.parametrize("size", [(150, 211), (97, 55), (40, 30)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_layers": 1, "crop_points_divisor": 2},
        {"crop_layers": 2, "crop_points_divisor": 1.5, "box_nms_threshold": 1.0, "crop_nms_threshold": 0.9},
        {"refine": True},
        {"multimask": False, "mask_threshold": 0.3},
        {"min_region_area": 30, "stability_offset": 0.7},
    ],
)
def test_equal_to_the_published_procedure(size: tuple[int, int], changes: dict[str, Any]) -> None:
    found, want = found_in(size, **changes), published(size, **changes)
    assert len(found) == len(want) > 3
    for one, mask, (wanted, box, quality, stable, click, crop) in zip(found.found, found.masks(), want, strict=True):
        assert np.array_equal(mask, wanted.numpy())
        assert one.area == mask.sum()
        assert one.box == tuple(box.long().tolist())
        assert (one.iou, one.stability) == pytest.approx((float(quality), stable), abs=1e-6)
        assert one.point == pytest.approx(tuple(click.tolist()), abs=1e-4)
        assert one.crop == (crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1])


@pytest.mark.parametrize("size", [(300, 421), (1, 7), (5, 3), (64, 64), (63, 65), (200, 20), (700, 90)])
@pytest.mark.parametrize("small", [16, 64])
def test_runs_are_those_of_enlarged_masks(size: tuple[int, int], small: int) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, small, small, generator=generator)
    smooth = F.interpolate(torch.randn(1, 3, 5, 5, generator=generator), size=(small, small), mode="bicubic")[0] * 9
    for logits in (noise, smooth, torch.full_like(noise, 3.0), torch.full_like(noise, -3.0)):
        columns = widened(logits, size[1])
        for threshold in (0.0, 1.0, -0.6):
            want = enlarged(logits, size) > threshold
            got = torch.zeros(3, size[1], size[0], dtype=torch.bool)
            for mask, column, top, bottom in zip(*(part.tolist() for part in runs_above(columns, size[0], threshold))):
                assert top < bottom
                got[mask, column, top:bottom] = True
            assert torch.equal(got.transpose(1, 2), want)
            assert torch.equal(areas_above(columns, size[0], threshold), want.flatten(1).sum(1))


def test_the_picture_is_encoded_once_and_clicks_come_in_batches() -> None:
    model = Drawn()
    found_in((60, 80), model)
    assert model.encoded == 1
    assert model.prompts == [8, 8, 8, 1]
    model = Drawn()
    found_in((60, 80), model, crop_layers=1, crop_points_divisor=2)
    assert model.encoded == 5
    assert sum(model.prompts) == 25 + 4 * 4


def test_nothing_found() -> None:
    for changes in ({"iou_threshold": 1.0}, {"stability_threshold": 1.1}, {"crop_layers": 1, "iou_threshold": 1.0}):
        found = found_in((50, 60), clean_area=10, **changes)
        assert len(found) == 0
        assert found.records() == []
        assert found.masks("x").dense().shape == (0, 50, 60)


def test_records() -> None:
    found = found_in((50, 60))
    records = found.records()
    assert set(records[0]) == {
        "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box",
    }  # fmt: skip
    first = records[0]
    rows, columns = first["segmentation"].nonzero()
    assert first["bbox"] == [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
    assert first["crop_box"] == [0, 0, 60, 50]
    assert [record["predicted_iou"] for record in records] == sorted((one.iou for one in found.found), reverse=True)
    plain, packed = found.records("uncompressed_rle"), found.records("coco_rle")
    assert plain[0]["segmentation"]["size"] == [50, 60]
    assert sum(plain[0]["segmentation"]["counts"]) == 3000
    assert isinstance(packed[0]["segmentation"]["counts"], str)
    with pytest.raises(BadInput, match="output must be one of binary_mask, uncompressed_rle, coco_rle; got 'rle'"):
        found.records("rle")


class Holed(Drawn):
    """A ring with a small hole, a speck beside it, and the same without both, of a little less quality."""

    def predict(self, features: Features, points: Tensor, labels: Tensor, *rest: Any, **more: Any) -> Prediction:
        places = torch.arange(64.0)
        disk = ((places - 25) ** 2 + (places[:, None] - 30) ** 2 < 15**2).float() * 20 - 10
        holed = disk.clone()
        holed[29:31, 24:26] = -10
        holed[50:52, 60:62] = 10
        logits = torch.stack([holed, disk, holed.clone().fill_(-10)])[None].expand(len(points), -1, -1, -1)
        return Prediction(logits, torch.tensor([[0.9, 0.8, 0.7]]).expand(len(points), -1), logits, logits)


def test_small_regions_are_cleaned_at_the_size_of_the_picture() -> None:
    settings = {"points_per_side": 1, "stability_threshold": 0.5}
    plain = found_in((256, 256), Holed(), **settings)
    assert [one.iou for one in plain.found] == pytest.approx([0.9, 0.8])
    assert plain.found[0].box[2] > 200  # the speck counts
    disk = plain.masks().dense()[1]
    assert not np.array_equal(plain.masks().dense()[0], disk)
    cleaned = found_in((256, 256), Holed(), clean_area=200, **settings)
    assert [one.iou for one in cleaned.found] == pytest.approx([0.8])  # the untouched one of two equal masks stays
    assert np.array_equal(cleaned.masks().dense()[0], disk)
    kept = found_in((256, 256), Holed(), clean_area=200, box_nms_threshold=1.0, crop_nms_threshold=1.0, **settings)
    assert [one.iou for one in kept.found] == pytest.approx([0.8, 0.9])
    for mask, one in zip(kept.masks(), kept.found, strict=True):
        assert np.array_equal(mask, disk)
        assert one.area == disk.sum()
        assert one.box == plain.found[1].box
    assert len(found_in((256, 256), Holed(), clean_area=20, **settings)) == 2


def test_a_crop_without_width_is_left_out() -> None:
    boxes = crop_boxes((1, 300), 2, 0.3)
    assert boxes[0] == ((0, 0, 300, 1), 0)
    assert all(right > left and bottom > top for (left, top, right, bottom), _ in boxes)
    found_in((1, 300), crop_layers=2)


def test_grids_and_crops() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(0).shape == (0, 2)
    boxes = crop_boxes((300, 400), 1, 512 / 1500)
    overlap = int(512 / 1500 * 300)
    wide, high = math.ceil((overlap + 400) / 2), math.ceil((overlap + 300) / 2)
    assert boxes[1:3] == [((0, 0, wide, high), 1), ((0, high - overlap, wide, 300), 1)]
    own = EverythingSettings(points_per_side=None, point_grids=([[0.5, 0.5]], [[0.2, 0.3]]), crop_layers=1)
    assert own.grid(1).tolist() == [[0.2, 0.3]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points_per_side": None}, "needs points_per_side or point_grids"),
        ({"point_grids": ([[0.5, 0.5]],)}, "got both"),
        ({"points_per_side": None, "point_grids": ([[0.5, 0.5]],), "crop_layers": 1}, "one a layer, 2"),
        ({"points_per_side": None, "point_grids": ([[0.5, 1.5]],)}, "x and y from 0 to 1"),
        ({"points_per_side": None, "point_grids": ([0.5],)}, r"\(n, 2\)"),
        ({"points_per_side": 0}, "points_per_side of EverythingSettings must be 1 or more; got 0"),
        ({"points_per_batch": 0}, "points_per_batch"),
        ({"crop_layers": -1}, "crop_layers"),
        ({"clean_area": -1}, "clean_area"),
        ({"stability_offset": 0}, "stability_offset"),
        ({"crop_overlap": 1.0}, "crop_overlap"),
        ({"crop_points_divisor": 0.5}, "crop_points_divisor"),
    ],
)
def test_bad_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        EverythingSettings(**changes)


def test_bad_pictures() -> None:
    with pytest.raises(BadInput, match=r"pixels of drawn must have the shape \(3, H, W\)"):
        everything(Drawn(), torch.zeros(4, 4, 3, dtype=torch.uint8), prepare=prepare)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="pixels must be uint8; got float32"):
        everything(Drawn(), torch.zeros(3, 4, 4), prepare=prepare)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="prepare must be given"):
        everything(Drawn(), torch.zeros(3, 4, 4, dtype=torch.uint8))  # type: ignore[arg-type]


def test_prompts_are_given_in_the_pictures_pixels() -> None:
    model, size = Drawn(), (100, 200)
    features = Features(*[torch.zeros(1, 1)] * 3)
    clicks, ones = torch.tensor([[[50.0, 20.0]]]), torch.ones(1, 1)
    got = predict_picture(model, features, size, clicks, ones)  # type: ignore[arg-type]
    want = model.predict(features, clicks / torch.tensor([200.0, 100.0]) * SIDE, ones)
    torch.testing.assert_close(got.logits[0], enlarged(want.logits[0], size), rtol=1e-5, atol=1e-3)
    assert torch.equal(got.small, want.logits.clamp(-32, 32))
    assert float(want.logits.min()) < -32
    filtered = predict_picture(model, features, size, clicks, ones, holes=9, specks=9)  # type: ignore[arg-type]
    assert torch.equal(filtered.small, got.small)
    clean = enlarged(without_small_regions(want.logits[0], 9, 9), size)
    torch.testing.assert_close(filtered.logits[0], clean, rtol=1e-5, atol=1e-3)
    assert float((filtered.logits - got.logits).abs().max()) > 1
    assert scale_boxes(torch.tensor([[0, 0, 200, 100]]), size, SIDE).tolist() == [[0, 0, SIDE, SIDE]]


def test_bad_prompts() -> None:
    model, features, ones = Drawn(), Features(*[torch.zeros(1, 1)] * 3), torch.ones(1, 1)
    with pytest.raises(BadInput, match="points must lie within the picture, 200 x 100 pixels"):
        predict_picture(model, features, (100, 200), torch.tensor([[[50.0, 120.0]]]), ones)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="points must lie"):
        predict_picture(model, features, (100, 200), torch.tensor([[[float("nan"), 1]]]), ones)  # type: ignore[arg-type]
    for box, words in (([9, 9, 9, 20], "with an area"), ([9, 9, 300, 20], "within the picture")):
        with pytest.raises(BadInput, match=words):
            predict_picture(model, features, (100, 200), boxes=torch.tensor([box]))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"boxes must have the shape \(N, 4\)"):
        predict_picture(model, features, (100, 200), boxes=torch.zeros(4))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="one picture; got 2"):
        predict_picture(model, Features(*[torch.zeros(2, 1)] * 3), (9, 9))  # type: ignore[arg-type]


LARGE = """
import resource, torch
from tests.models.test_sam2_everything import Drawn, EverythingSettings, everything, prepare

settings = EverythingSettings(points_per_side=10, iou_threshold=0.0, stability_threshold=0.0, box_nms_threshold=1.0)
pixels = torch.zeros(3, 3000, 4000, dtype=torch.uint8)
model = Drawn()
model.waves = 0.0
everything(model, pixels[:, :100, :100], settings, prepare)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = everything(model, pixels, settings, prepare)
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in kilobytes on Linux alone")
def test_three_hundred_masks_of_twelve_million_pixels_take_little_memory() -> None:
    run = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    count, kilobytes = map(int, run.stdout.split())
    assert count == 300
    assert kilobytes < 200_000
