"""CIFAR-10 photographs from a parquet file of encoded pictures (the layout of the public hub copies)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from percepta.errors import BadMedia, MissingExtra

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Class names in the order of the labels 0 to 9."""

PROMPTS = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a good photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
    "a picture of a {}.",
    "a {}.",
    "the {}",
    "a {}",
    "{}",
)
"""Captions made of a class name, in training and in evaluation."""


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """Pictures of one size in memory.

    Attributes:
        pictures: (N, H, W, 3) uint8.
        labels: (N,) int64, indices into `names`.
        names: class names.
    """

    pictures: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_cifar10(path: str | Path) -> LabelledPictures:
    """All pictures of a CIFAR-10 parquet file, decoded once (150 MB for the 50,000 of the training set).

    Args:
        path: columns `img` (encoded bytes, or a struct with a `bytes` field) and `label` (0 to 9).

    Raises:
        BadMedia: no such file, other columns, or a picture that is not 32 x 32.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train", "Reading CIFAR-10 from parquet") from error
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadMedia(f"CIFAR-10 must be a parquet file with the columns img and label; there is no file {path}.")
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise BadMedia(f"{path} must be a parquet file with the columns img and label; it is none.") from error
    if not {"img", "label"} <= set(table.column_names):
        raise BadMedia(f"{path} must have the columns img and label; it has {', '.join(table.column_names)}.")
    encoded = table.column("img").to_pylist()
    pictures = np.empty((len(encoded), 32, 32, 3), np.uint8)
    for row, item in enumerate(encoded):
        picture = Image.open(io.BytesIO(item["bytes"] if isinstance(item, dict) else item)).convert("RGB")
        if picture.size != (32, 32):
            raise BadMedia(f"pictures of {path} must be 32 x 32; row {row} is {picture.width} x {picture.height}.")
        pictures[row] = np.asarray(picture)
    labels = np.asarray(table.column("label").to_pylist(), np.int64)
    return LabelledPictures(pictures, labels, CIFAR10_NAMES)
