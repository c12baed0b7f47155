"""Linear segmentation of folders of pictures and masks, written from generated scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.datasets.masked import classes_of, open_masked
from percepta.datasets.scenes import SceneConfig, make_scene
from percepta.errors import BadInput, BadMedia
from percepta.evaluation import evaluate_segmentation, segmentation_protocol
from percepta.evaluation.dense_probes import patch_colours
from percepta.tasks.evaluate import evaluate

SIZE = 32


def write_pairs(root: Path, seeds: range) -> None:
    """Masks say 7 for objects and 3 for the background; a strip above is ignored."""
    for folder in ("images", "masks"):
        (root / folder / "deeper").mkdir(parents=True)
    for seed in seeds:
        scene = make_scene(seed, SceneConfig(SIZE))
        mask = np.where(scene.visible_masks.any(axis=0), 7, 3).astype(np.uint8)
        mask[:2] = 255
        Image.fromarray(scene.picture).save(root / f"images/deeper/{seed}.jpg", quality=95)
        Image.fromarray(mask).save(root / f"masks/deeper/{seed}.png")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "train", range(12))
    write_pairs(tmp_path / "test", range(100, 108))
    return tmp_path


def test_colours_tell_objects_from_the_background(pairs: Path) -> None:
    def encode(pictures: np.ndarray) -> dict[str, torch.Tensor]:
        grid = pictures.shape[1] // 4, pictures.shape[2] // 4
        noise = torch.randn(len(pictures), *grid, 4, generator=torch.Generator().manual_seed(len(pictures)))
        return {"layer 0": noise, "layer 1": patch_colours(pictures, grid)}

    train, test = open_masked(pairs / "train"), open_masked(pairs / "test")
    result = evaluate_segmentation(train, test, encode, patch=4, native=33)
    assert result.details == {"training pictures": 12, "pictures": 8, "classes": 2, "side": 32}
    noise, colours = result["mIoU, layer 0"], result["mIoU, layer 1"]
    assert colours.value > colours.chance + 0.05 > noise.value
    assert 0.3 < colours.chance < 0.5
    beside = {one.name: one.value for one in result.baselines if one.measure == colours.name}
    assert beside["truth on patches"] > 0.8


def test_what_is_ignored_does_not_count(pairs: Path) -> None:
    """The figures are the same whatever the pictures show under ignored pixels of the test."""
    train, test = open_masked(pairs / "train"), open_masked(pairs / "test")

    def blind(pictures: np.ndarray) -> dict[str, torch.Tensor]:
        return {"layer 0": torch.ones(len(pictures), 8, 8, 2)}

    result = evaluate_segmentation(train, test, blind, patch=4, native=32)
    _, masks = test.read((32, 32))
    background = float((masks == 3).sum() / (masks != 255).sum())
    assert result["mIoU"].value == pytest.approx(background / 2)  # everything is background; objects have 0
    assert result["mIoU"].chance == pytest.approx(background / 2)


def test_by_name(pairs: Path) -> None:
    torch.manual_seed(0)
    model = percepta.build("pe-core-nano", width=24, depth=2, heads=2, pooling_heads=2, image_size=32)
    (one,) = evaluate("segmentation", model, data=pairs)
    (other,) = evaluate("segmentation", model, data={"data": pairs / "test", "train": pairs / "train"})
    assert one["mIoU"] == other["mIoU"]
    assert one.protocol.hash == segmentation_protocol().hash
    with pytest.raises(BadInput, match="needs training data"):
        list(evaluate("segmentation", model, data=pairs / "train"))


def test_what_is_wrong(pairs: Path) -> None:
    with pytest.raises(BadInput, match="images and masks or annotations"):
        open_masked(pairs)
    (pairs / "test/masks/deeper/100.png").write_bytes(b"nothing")
    with pytest.raises(BadMedia, match=r"100\.png of test must be a mask"):
        open_masked(pairs / "test").read((8, 8))
    (pairs / "test/masks/deeper/100.png").unlink()
    with pytest.raises(BadMedia, match="needs a mask"):
        open_masked(pairs / "test")
    (pairs / "empty/images").mkdir(parents=True)
    (pairs / "empty/annotations").mkdir()
    with pytest.raises(BadInput, match="must hold pictures"):
        open_masked(pairs / "empty")
    with pytest.raises(BadInput, match="at least two classes"):
        classes_of([np.array([[4, 255]])])
