"""Labelled and captioned pictures come out the same from every layout, lazily, and what is wrong is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from percepta.datasets.picture_sets import LabelledSet, are_synsets, open_captioned, open_labelled, parts_of
from percepta.errors import BadInput, BadMedia
from percepta.media import open_picture
from percepta.results import Failure
from tests.datasets.pictures_on_disk import COLOURS, NAMES, class_folder, encoded, parquet, saved_dataset, tar

LABELS = [number % 3 for number in range(9)]
PICTURES = [encoded(number) for number in range(9)]
CLASSES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(NAMES)}}


def labelled(layout: str, folder: Path) -> LabelledSet:
    """The nine pictures in one layout."""
    wrapped = [{"bytes": picture, "path": None} for picture in PICTURES]
    if layout == "folder":
        return open_labelled(class_folder(folder, 3))
    if layout in ("tar", "tar of json"):
        key = "cls" if layout == "tar" else "json"
        texts = [str(label) if key == "cls" else json.dumps({"label": label}) for label in LABELS]
        for shard in range(3):
            rows = range(3 * shard, 3 * shard + 3)
            members = {f"{row}.png": PICTURES[row] for row in rows} | {f"{row}.{key}": texts[row] for row in rows}
            tar(folder / f"{shard}.tar", members)
        (folder.parent / "classnames.txt").write_text("\n".join(NAMES))
        return open_labelled(folder if layout == "tar" else folder / "*.tar")
    if layout == "parquet":
        return open_labelled(parquet(folder / "a.parquet", {"image": wrapped, "label": LABELS}, CLASSES))
    if layout == "parquet of names":
        columns = {"idx": range(9), "img": PICTURES, "class": [NAMES[label] for label in LABELS]}
        return open_labelled(parquet(folder / "a.parquet", {name: list(values) for name, values in columns.items()}))
    return open_labelled(saved_dataset(folder, {"image": wrapped, "label": LABELS}, CLASSES))


@pytest.mark.parametrize("layout", ["folder", "tar", "tar of json", "parquet", "parquet of names", "saved dataset"])
def test_every_layout_gives_the_same(tmp_path: Path, layout: str) -> None:
    found = labelled(layout, tmp_path / "the data")
    assert (len(found), found.names, found.named) == (9, NAMES, True)
    assert sorted(found.labels.tolist()) == sorted(LABELS)
    for source, label in found:
        assert open_picture(source.thing).getpixel((20 % 16, 20)) == COLOURS[label]
    few = found.subset([1, 4, 8])
    assert few.labels.tolist() == found.labels[[1, 4, 8]].tolist()
    assert [source.name for source, _ in few] == [[*found.pictures][row].name for row in (1, 4, 8)]
    again = few.subset([2])
    assert [source.name for source in again.pictures] == [[*found.pictures][8].name]
    assert len({found.pictures.key, few.pictures.key, again.pictures.key}) == 3
    assert found.subset([1, 4, 8]).pictures.key == few.pictures.key


def test_pictures_are_read_when_their_turn_comes(tmp_path: Path) -> None:
    found = labelled("folder", tmp_path / "x")
    row = iter(found)
    next(row)
    (tmp_path / "x" / "cat" / "1.png").write_bytes(b"changed")
    source, _ = next(row)
    assert source.path is not None
    assert source.path.read_bytes() == b"changed"


def test_numbers_alone_are_no_names(tmp_path: Path) -> None:
    found = open_labelled(parquet(tmp_path / "a.parquet", {"image": PICTURES, "label": LABELS}))
    assert (found.names, found.named) == (("0", "1", "2"), False)
    named = found.renamed(["a", "b", "c", "never seen"])
    assert (named.names, named.named) == (("a", "b", "c", "never seen"), True)
    with pytest.raises(BadMedia, match=r"must be 0 to 1, .*row 2 has 2"):
        found.renamed(["a", "b"])


def test_classes_of_folders_are_named_in_order_or_by_key(tmp_path: Path) -> None:
    found = open_labelled(class_folder(tmp_path, 1, ("n02", "n01")))
    assert found.keys == ("n01", "n02")
    assert found.renamed(["cat", "dog"]).names == ("cat", "dog")
    assert found.renamed(["n02\tdog", "n09\tcow", "n01\tcat"]).names == ("cat", "dog")
    with pytest.raises(BadInput, match="must be 2 names for the classes"):
        found.renamed(["cat", "dog", "cow"])
    with pytest.raises(BadInput, match="'n01' has no line"):
        found.renamed(["n02\tdog"])
    assert not are_synsets(found.keys)
    assert are_synsets([f"n{number:08d}" for number in range(1000)])


def test_divided_data(tmp_path: Path) -> None:
    assert parts_of(tmp_path) is None
    class_folder(tmp_path / "a" / "train")
    class_folder(tmp_path / "a" / "val")
    assert parts_of(tmp_path / "a") == (tmp_path / "a" / "train", tmp_path / "a" / "val")
    for name, rows in (("train-00000-of-00002", 4), ("train-00001-of-00002", 3), ("test-00000-of-00001", 2)):
        columns = {"image": PICTURES[:rows], "label": LABELS[:rows]}
        parquet(tmp_path / "b" / "data" / f"{name}.parquet", columns, CLASSES)
    parts = parts_of(tmp_path / "b")
    assert parts is not None
    assert [len(open_labelled(part)) for part in parts] == [7, 2]


def test_what_holds_no_picture_fails_alone(tmp_path: Path) -> None:
    pictures = [{"bytes": PICTURES[0], "path": None}, {"bytes": None, "path": None}, {"bytes": None, "path": "a.png"}]
    (tmp_path / "a.png").write_bytes(PICTURES[2])
    found = open_labelled(parquet(tmp_path / "a.parquet", {"image": pictures, "label": [0, 1, 2]}))
    first, second, third = found.pictures
    assert first.data == PICTURES[0]
    assert second == Failure("a.parquet row 1", "a.parquet row 1 holds no picture.")
    assert third.path == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "none", "does not exist"),
        (lambda folder: _with_empty_class(folder), "every class of .* must hold a picture; 'empty' holds none"),
        (lambda folder: parquet(folder / "a.parquet", {"x": [1]}), "must have a column of labels, .* it has x"),
        (lambda folder: parquet(folder / "a.parquet", {"label": [1]}), "must have a column of pictures"),
        (lambda folder: _labels(folder, [0, None, 1]), "every row .* must have a label; row 1 has none"),
        (lambda folder: _labels(folder, [0, -1, 1]), "row 1 has -1"),
        (lambda folder: _labels(folder, [0, 3, 1], CLASSES), "must be 0 to 2, .*row 1 has 3"),
        (lambda folder: _labels(folder, [0.5, 1.5, 2.5]), "whole numbers or texts, one a picture; got 0.5"),
        (lambda folder: _labels(folder, [[0], [1], [2]]), r"one a picture; got \[0\]"),
        (lambda folder: _labels(folder, []), "it holds none"),
        (lambda folder: _text(folder / "a.parquet"), "readable as parquet or arrow; it is not"),
        (lambda folder: _text(folder / "a.tar"), "must be a tar file"),
        (lambda folder: tar(folder / "a.tar", {"a.png": PICTURES[0]}), "must have a label in a .cls"),
        (lambda folder: tar(folder / "a.tar", _mixed()), "all numbers or all names"),
        (lambda folder: _reordered(folder), "after flatten_indices"),
        (lambda folder: _other_columns(folder), "must have the same columns; b.parquet has image, y"),
    ],
)
def test_unusable_data_are_one_sentence(tmp_path: Path, make, sentence: str) -> None:
    with pytest.raises(BadMedia, match=sentence):
        open_labelled(make(tmp_path))


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from percepta.errors import MissingExtra

    path = parquet(tmp_path / "a.parquet", {"image": PICTURES, "label": LABELS})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="needs pyarrow"):
        open_labelled(path)


CAPTIONS = (("a cat", "one cat"), ("a dog",), ("a hot dog", "food"))


def captioned(layout: str, folder: Path) -> Path:
    """Three pictures and one without captions."""
    folder.mkdir()
    names = ["a.png", "b.png", "c d.png", "silent.png"]
    if layout.startswith("tar"):
        members: dict[str, bytes | str] = {name: PICTURES[row] for row, name in enumerate(names)}
        for name, texts in zip(names, CAPTIONS, strict=False):
            stem = name.removesuffix(".png")
            members |= (
                {f"{stem}.txt": "\n".join(texts)}
                if layout == "tar"
                else {f"{stem}.json": json.dumps({"caption": texts})}
            )
        return tar(folder / "a.tar", members)
    if layout in ("parquet", "saved dataset"):
        columns = {"image": PICTURES[:4], "captions": [*map(list, CAPTIONS), []]}
        if layout == "parquet":
            return parquet(folder / "a.parquet", columns)
        return saved_dataset(folder, columns, {"image": {"_type": "Image"}})
    for row, name in enumerate(names):
        (folder / name).write_bytes(PICTURES[row])
    pairs = [(name, text) for name, texts in zip(names, CAPTIONS, strict=False) for text in texts]
    if layout == "beside":
        for name, texts in zip(names, CAPTIONS, strict=False):
            (folder / name).with_suffix(".txt").write_text("\n".join([*texts, " "]))
    elif layout == "coco":
        images = [{"id": row, "file_name": name} for row, name in enumerate(names)]
        notes = [{"image_id": names.index(name), "caption": text} for name, text in pairs]
        (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    elif layout == "by name":
        content = {name: list(texts) for name, texts in zip(names, CAPTIONS, strict=False)}
        (folder / "captions.json").write_text(json.dumps(content))
    elif layout == "jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in pairs]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    elif layout == "csv":
        (folder / "captions.csv").write_text(
            "image,caption\n" + "".join(f'"{name}","{text}"\n' for name, text in pairs)
        )
        return folder / "captions.csv"
    return folder


@pytest.mark.parametrize(
    "layout",
    ["beside", "coco", "by name", "jsonl", "csv", "tar", "tar of json", "parquet", "saved dataset"],
)
def test_captions_of_every_layout(tmp_path: Path, layout: str) -> None:
    found = open_captioned(captioned(layout, tmp_path / "x"))
    assert found.captions == CAPTIONS
    for row, (source, texts) in enumerate(found):
        assert texts == CAPTIONS[row]
        assert np.array_equal(np.asarray(open_picture(source.thing)), np.asarray(open_picture(PICTURES[row])))


def test_no_captions_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    with pytest.raises(BadMedia, match="no caption was found"):
        open_captioned(tmp_path)
    with pytest.raises(BadMedia, match="no caption was found"):
        open_captioned(parquet(tmp_path / "a.parquet", {"image": PICTURES[:1], "text": [" "]}))
    with pytest.raises(BadMedia, match="does not exist"):
        open_captioned(tmp_path / "none")
    other = tmp_path / "other"
    other.mkdir()
    (other / "captions.json").write_text("[1")
    with pytest.raises(BadMedia, match="cannot be read so"):
        open_captioned(other)
    (other / "captions.json").write_text(json.dumps([{"who": "a.png", "what": "a cat"}]))
    with pytest.raises(BadMedia, match="name no file or no caption"):
        open_captioned(other)


def _with_empty_class(folder: Path) -> Path:
    (class_folder(folder) / "empty").mkdir()
    return folder


def _labels(folder: Path, labels: list, features: dict | None = None) -> Path:
    return parquet(folder / "a.parquet", {"image": PICTURES[: len(labels)], "label": labels}, features)


def _text(path: Path) -> Path:
    path.write_text("hello")
    return path


def _mixed() -> dict[str, bytes | str]:
    return {"a.png": PICTURES[0], "a.cls": "0", "b.png": PICTURES[1], "b.cls": "dog"}


def _reordered(folder: Path) -> Path:
    saved = saved_dataset(folder / "x", {"image": PICTURES, "label": LABELS}, CLASSES)
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    return saved


def _other_columns(folder: Path) -> Path:
    parquet(folder / "a.parquet", {"image": PICTURES, "label": LABELS})
    parquet(folder / "b.parquet", {"image": PICTURES, "y": LABELS})
    return folder
