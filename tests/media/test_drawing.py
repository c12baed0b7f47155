"""Thumbnails, sheets, feature pictures and paint."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

from percepta.errors import BadInput
from percepta.media import contact_sheet, draw_boxes, draw_masks, pca_picture, thumbnail
from percepta.media.drawing import _blurred, colour_of
from percepta.results import Boxes, Masks


def test_thumbnail() -> None:
    assert thumbnail(Image.new("RGB", (400, 100)), 80).size == (80, 20)
    assert thumbnail(Image.new("RGB", (3000, 1)), 80).size == (80, 1)
    assert thumbnail(Image.new("RGB", (20, 10)), 80).size == (20, 10)
    clear = thumbnail(Image.new("RGBA", (20, 10), (255, 0, 0, 0)), 80)
    assert clear.getpixel((3, 3)) == (255, 255, 255)
    assert thumbnail(np.full((4, 4), 40000, np.uint16)).getpixel((0, 0)) == (156, 156, 156)
    assert thumbnail(Image.new("LAB", (20, 10))).mode == "RGB"
    with pytest.raises(BadInput):
        thumbnail(Image.new("RGB", (20, 10)), 0)


def test_contact_sheet() -> None:
    pictures = [Image.new("RGB", (60, 40), colour_of(number)) for number in range(5)]
    captions = [
        "short",
        "a much longer caption that will never fit in two lines of this cell at all",
        "",
        "x" * 200,
        "ü",
    ]
    sheet = contact_sheet(pictures, captions, columns=3, side=60)
    colours = {colour for _, colour in sheet.getcolors(100_000)}
    assert {picture.getpixel((0, 0)) for picture in pictures} <= colours
    assert sheet.width == 16 + 3 * 76
    assert contact_sheet(pictures[:1]).width < sheet.width + 60
    for arguments in (([],), (pictures, ["one"]), (pictures, (), 0)):
        with pytest.raises(BadInput):
            contact_sheet(*arguments)


def test_the_blur_of_the_recipe() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=(7, 9, 5)).astype(np.float32)
    wanted = gaussian_blur(torch.from_numpy(values).permute(2, 0, 1), [3, 3], [1.0, 1.0]).permute(1, 2, 0).numpy()
    assert np.abs(_blurred(values) - wanted).max() < 1e-5


def test_feature_picture_shows_what_is_alike() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 96)) * 5
    labels = np.repeat(np.arange(3), 8)[None].repeat(16, axis=0)
    values = centres[labels] + rng.normal(size=(16, 24, 96)) * 0.1
    pixels = np.asarray(pca_picture(values)).astype(int)
    assert pixels.shape == (16, 24, 3)
    means = [pixels[:, 8 * part + 2 : 8 * part + 6].reshape(-1, 3) for part in range(3)]
    within = max(part.std(axis=0).max() for part in means)
    between = min(np.abs(means[a].mean(0) - means[b].mean(0)).max() for a, b in ((0, 1), (0, 2), (1, 2)))
    assert between > 3 * within
    assert between > 40
    assert np.array_equal(pixels, np.asarray(pca_picture(values)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (4, 4, 3), (2, 1, 64)])
def test_feature_pictures_of_odd_maps(shape: tuple[int, int, int]) -> None:
    assert pca_picture(np.random.default_rng(0).normal(size=shape), size=(40, 30)).size == (40, 30)
    assert pca_picture(np.ones(shape)).size == (shape[1], shape[0])


def test_feature_pictures_refuse() -> None:
    for values in (np.ones((3, 3)), np.full((3, 3, 3), np.nan), np.ones((0, 3, 3))):
        with pytest.raises(BadInput):
            pca_picture(values)


def test_boxes_and_masks_are_painted() -> None:
    blank = Image.new("RGB", (100, 80), "white")
    boxes = Boxes("x", [[10, 20, 60, 70], [0, 0, 0, 0], [90, 70, 100, 80]], ("cat", "", "dog"), [0.9, 0.5, 0.1])
    painted = draw_boxes(blank, boxes)
    assert painted.getpixel((10, 45)) != (255, 255, 255)
    assert painted.getpixel((35, 45)) == (255, 255, 255)
    mask = np.zeros((1, 80, 100), bool)
    mask[0, 20:60, 30:70] = True
    veiled = draw_masks(blank, Masks.from_dense("x", mask), opacity=0.5)
    assert veiled.getpixel((30, 30)) == colour_of(0)
    assert veiled.getpixel((50, 40)) not in (colour_of(0), (255, 255, 255))
    assert veiled.getpixel((5, 5)) == (255, 255, 255)
    assert blank.getpixel((50, 40)) == (255, 255, 255)
    with pytest.raises(BadInput, match="size of the picture"):
        draw_masks(blank, Masks.from_dense("x", mask[:, :10]))
    with pytest.raises(BadInput):
        draw_masks(blank, Masks.from_dense("x", mask), opacity=2)
