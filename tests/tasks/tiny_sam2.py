"""A SAM 2 of a few thousand parameters under seeded weights, and moving discs for it to follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from percepta.media import Preprocess, write_video
from percepta.models.hiera import TrunkConfig
from percepta.models.sam2 import Sam2Config, build

SIDE = 64
WIDTH, HEIGHT = 50, 38


def model(name: str = "sam2-tiny-test", seed: int = 20) -> Any:
    """In evaluation mode, with what running hangs on a model; sure that objects are seen."""
    torch.manual_seed(seed)
    trunk = TrunkConfig(
        embed_dim=8, heads=1, stages=(1, 1, 2, 1), windows=(8, 4, 4, 2), global_blocks=(3,), background=(4, 4)
    )
    config = Sam2Config(
        image_size=SIDE,
        trunk=trunk,
        width=32,
        decoder_hidden=32,
        decoder_inner=16,
        quality_width=16,
        memory_width=8,
        memory_layers=1,
        memory_hidden=32,
        mask_prompt_channels=16,
    )
    built = build(config).eval()
    with torch.no_grad():
        built.mask_decoder.object_head.layers[-1].bias += 3
    built.name = name
    built.preprocess = Preprocess(image_size=SIDE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return built


def frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A bright disc that moves to the right over a gradient, and a dark one that moves down."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    picture = np.stack([x * 2, y * 3, 90 + 0 * x], axis=-1)
    picture[(x - 8 - number % 34) ** 2 + (y - 20) ** 2 < 36] = (250, 240, 60)
    picture[(x - 30) ** 2 + (y - 6 - number % 20) ** 2 < 20] = (10, 20, 140)
    return np.clip(picture, 0, 255).astype(np.uint8)


def frames(count: int) -> list[np.ndarray]:
    return [frame(number) for number in range(count)]


def video(path: Path, count: int, rate: float = 10) -> Path:
    return write_video(path, frames(count), rate)


def folder(path: Path, count: int) -> Path:
    path.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(frame(number)).save(path / f"{number}.png")
    return path
