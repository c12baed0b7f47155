"""The nano architecture under seeded weights, and a few pictures and clips: enough for everything but the scores."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import percepta
from percepta.media import write_video

COLOURS = {"red": (220, 40, 40), "green": (40, 160, 70), "blue": (40, 80, 220), "grey": (128, 128, 128)}


@functools.lru_cache(maxsize=1)
def model() -> Any:
    """One seeded model for all tests; nobody changes it."""
    torch.manual_seed(7)
    return percepta.build("pe-core-nano").eval()


def weights(folder: Path) -> Path:
    """Its weights as a file."""
    return percepta.save(model(), folder / "nano.safetensors", dtype="float16")


def pictures(folder: Path) -> Path:
    """Four pictures of different shapes, one with an EXIF turn, one of them without colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, colour) in enumerate(COLOURS.items()):
        array = np.full((40 + 8 * number, 64, 3), colour, dtype=np.uint8)
        array[:20, :20] = 255
        Image.fromarray(array).save(folder / f"{name}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(array).save(folder / "turned photo.jpg", exif=turned)
    return folder


def clip(path: Path, frames: int = 10) -> Path:
    """A short video of a moving square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = np.zeros((frames, 48, 64, 3), dtype=np.uint8)
    for number in range(frames):
        arrays[number, 8:24, 4 * number : 4 * number + 16] = (250, 200, 30)
    return write_video(path, arrays, 10)
