"""Small labelled data on disk in the layouts that training reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

COLOURS = np.array(
    [(230, 40, 40), (40, 200, 40), (40, 60, 230), (230, 220, 40), (220, 60, 220),
     (40, 220, 220), (240, 240, 240), (20, 20, 20), (240, 140, 30), (120, 70, 30)], np.uint8
)  # fmt: skip


def picture(label: int, random: np.random.Generator, side: int = 32) -> np.ndarray:
    """A noisy square of the class's colour on grey."""
    canvas = random.integers(90, 160, (side, side, 3), dtype=np.uint8)
    left, top = random.integers(2, side // 2 - 2, 2)
    canvas[top : top + side // 2, left : left + side // 2] = COLOURS[label]
    return canvas


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_cifar(path: Path, count: int = 400) -> Path:
    """A parquet file in the layout of CIFAR-10, with ten colours for its classes."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count)
    rows = [{"bytes": encode(picture(label, random)), "path": None} for label in labels]
    pyarrow.parquet.write_table(pyarrow.table({"img": rows, "label": labels}), path)
    return path
