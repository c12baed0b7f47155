"""Pictures with classes, labels or numbers, and one sentence for data that say nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percepta.datasets.targets import open_targets
from percepta.errors import BadInput, BadMedia
from percepta.media import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcdef":
        Image.new("RGB", (8, 8), (10 * ord(name) % 255, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def csv(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_classes_of_a_csv(folder: Path) -> None:
    found = open_targets(csv(folder, "path,label\na.png,dog\nb.png,cat\nc.png,dog\na.png,dog\n"))
    assert (found.kind, found.names, found.targets.tolist()) == ("classes", ("cat", "dog"), [1, 0, 1])
    sources = list(found.pictures)
    assert [source.path for source in sources if isinstance(source, Source)] == [
        folder / f"{name}.png" for name in "abc"
    ]
    assert found.subset([0, 2]).targets.tolist() == [1, 1]


def test_several_labels(folder: Path) -> None:
    found = open_targets(csv(folder, "file_name\tlabels\na.png\tdog; cat\nb.png\tcat\nc.png\tbird\n", "x.tsv"))
    assert (found.kind, found.names) == ("multi-label", ("bird", "cat", "dog"))
    assert found.targets.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]


def test_numbers(folder: Path) -> None:
    text = "path,kind,age\na.png,dog,3.5\nb.png,cat,1\nc.png,dog,-2\n"
    found = open_targets(csv(folder, text), regression=True, column="age")
    assert (found.kind, found.targets.tolist(), found.targets.dtype) == ("regression", [3.5, 1.0, -2.0], np.float64)
    assert open_targets(csv(folder, "path,value\na.png,1\nb.png,2\n"), regression=True).targets.tolist() == [1.0, 2.0]


def test_a_folder_of_classes(folder: Path) -> None:
    for name in "abcd":
        (folder / ("red" if name in "ab" else "blue")).mkdir(exist_ok=True)
        (folder / f"{name}.png").rename(folder / ("red" if name in "ab" else "blue") / f"{name}.png")
    found = open_targets(folder)
    assert (found.kind, found.names, found.targets.tolist()) == ("classes", ("blue", "red"), [0, 0, 1, 1])
    with pytest.raises(BadInput, match=r"regression and a column need a \.csv file"):
        open_targets(folder, regression=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.png,dog\nb.png,\n", "line 3 lacks a label"),
        ("path,label\n,dog\n", "line 2 lacks a path"),
        ("path,label\n", "it holds no row"),
        ("path,label\na.png,dog\na.png,cat\n", "must name each picture once; a.png has the labels 'dog' and 'cat'"),
        ("place,label\na.png,dog\n", "must have a column of paths of pictures, such as file_name"),
        ("path,animal\na.png,dog\n", "must have a column of labels, such as label"),
        ("path,label\na.png,dog\nb.png,dog\n", "must hold at least two classes; all 2 pictures are 'dog'"),
        ("path,label\na.png,dog\nb.png,cat\n", "more pictures than classes, so two of one at least; it holds 2"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, text: str, said: str) -> None:
    with pytest.raises((BadInput, BadMedia), match=said):
        open_targets(csv(folder, text))


def test_what_is_wrong_with_numbers_is_said(folder: Path) -> None:
    with pytest.raises(BadMedia, match="must be finite numbers for regression; got 'old'"):
        open_targets(csv(folder, "path,label\na.png,1\nb.png,old\n"), regression=True)
    with pytest.raises(BadInput, match="must differ; all 2 are the same"):
        open_targets(csv(folder, "path,label\na.png,1\nb.png,1\n"), regression=True)
    with pytest.raises(BadMedia, match="must have the column 'age'; it has path, label"):
        open_targets(csv(folder, "path,label\na.png,1\n"), regression=True, column="age")
    with pytest.raises(BadMedia, match="does not exist"):
        open_targets(folder / "none.csv")
    (folder / "latin.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(BadMedia, match="must be readable as CSV in UTF-8"):
        open_targets(folder / "latin.csv")
