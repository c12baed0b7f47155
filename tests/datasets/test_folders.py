from __future__ import annotations

from pathlib import Path

import pytest

from percepta.datasets.folders import list_picture_folder
from percepta.errors import BadMedia


def test_classes_are_sub_folders(tmp_path: Path) -> None:
    for name in ("hot_dog/b.JPG", "hot_dog/a.png", "cat/deep/x.webp", "cat/notes.txt", ".hidden/y.png", "empty/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "hot_dog" / ".c.png").write_bytes(b"")
    found = list_picture_folder(tmp_path)
    assert found.names == ("cat", "hot dog")
    assert [path.name for path in found.paths] == ["x.webp", "a.png", "b.JPG"]
    assert found.labels.tolist() == [0, 1, 1]
    assert len(found) == 3


def test_folders_without_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loose.png").write_bytes(b"")
    with pytest.raises(BadMedia, match="no picture was found"):
        list_picture_folder(tmp_path)
    with pytest.raises(BadMedia, match="is no folder"):
        list_picture_folder(tmp_path / "loose.png")
