"""Exact features, any size: the grid of any layer of a picture at its own size, as the sheet of journeys has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta


def test_the_grid_of_a_picture_at_its_own_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    Image.fromarray(noise).resize((96, 64)).save(tmp_path / "map.tif")
    torch.manual_seed(0)
    model = percepta.build("pe-spatial-b16-512", depth=3, width=64, heads=2, image_size=64).eval()
    picture = model.preprocess(tmp_path / "map.tif", size=None)
    assert picture.shape == (3, 64, 96)
    with torch.inference_mode():
        (grid,) = model.intermediates(picture[None], layers=[-3], layout="NCHW")
        (same,) = model.intermediates(picture[None], layers=[0], layout="NHWC")
    assert grid.shape == (1, 64, 4, 6)
    assert torch.equal(grid.permute(0, 2, 3, 1), same)


def test_layers_are_those_that_a_deeper_run_passes_through(tmp_path: Path) -> None:
    model = percepta.load("pe-core-nano")
    pictures = torch.stack([model.preprocess(Image.new("RGB", (50, 40), colour)) for colour in ("red", "green")])
    with torch.inference_mode():
        every = model.intermediates(pictures, layers=list(range(model.config.depth)))
        (last,) = model.intermediates(pictures, layers=[-1])
        (third,) = model.intermediates(pictures, layers=[2])
    assert torch.equal(every[-1], last)
    assert torch.equal(every[2], third)
    with pytest.raises(percepta.BadInput, match="layer"):
        model.intermediates(pictures, layers=[model.config.depth])
