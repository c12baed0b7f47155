from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from percepta.datasets.cifar import CIFAR10_NAMES, read_cifar10
from percepta.errors import BadMedia


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("wrapped", [True, False])
def test_pixels_and_labels_come_back_exactly(tmp_path: Path, wrapped: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    rows = [{"bytes": png(item), "path": "x"} if wrapped else png(item) for item in pixels]
    table = pyarrow.table({"img": rows, "label": [3, 0, 9, 1, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a file.parquet")
    read = read_cifar10(tmp_path / "a file.parquet")
    assert np.array_equal(read.pictures, pixels)
    assert read.labels.tolist() == [3, 0, 9, 1, 3]
    assert (len(read), read.names) == (5, CIFAR10_NAMES)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadMedia, match="there is no file"):
        read_cifar10(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(BadMedia, match="it is none"):
        read_cifar10(tmp_path / "text.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"picture": [1]}), tmp_path / "other.parquet")
    with pytest.raises(BadMedia, match="it has picture"):
        read_cifar10(tmp_path / "other.parquet")
    big = pyarrow.table({"img": [png(np.zeros((8, 32, 3), np.uint8))], "label": [0]})
    pyarrow.parquet.write_table(big, tmp_path / "big.parquet")
    with pytest.raises(BadMedia, match="row 0 is 32 x 8"):
        read_cifar10(tmp_path / "big.parquet")
