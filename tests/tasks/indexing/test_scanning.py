"""What has changed in a folder: new, touched, moved, gone, excluded, and what must never count as gone."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percepta.errors import BadInput
from percepta.media import Source, collect
from percepta.results import Failure
from percepta.tasks.indexing import scanning
from percepta.tasks.indexing.places import common_root, input_paths
from percepta.tasks.indexing.scanning import (
    WHOLE_BYTES,
    Changes,
    changes_of,
    classify_known,
    content_hash,
)
from percepta.tasks.indexing.store import FileRow


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8 + seed, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "b.png", "sub/c.png")):
        picture(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def known_of(folder: Path) -> dict[str, FileRow]:
    """As the index knows the folder after a run."""
    found = scan({}, folder).new
    return {item.row.source: replace(item.row, content=content_hash(folder / item.row.source)) for item in found}


def scan(known: dict[str, FileRow], folder: Path, exclude: tuple[str, ...] = ()) -> Changes:
    return changes_of(known, collect(folder, exclude), folder, input_paths(folder))


def test_nothing_has_changed(folder: Path) -> None:
    known = known_of(folder)
    assert sorted(known) == ["a.png", "b.png", "sub/c.png"]
    changes = scan(known, folder)
    assert (changes.new, changes.moved, changes.gone, changes.unchanged) == ([], [], [], 3)


def test_new_changed_touched_moved_and_gone(folder: Path) -> None:
    known = known_of(folder)
    picture(folder / "new.png", 7)
    picture(folder / "a.png", 8)
    os.utime(folder / "b.png", ns=(1, 1))
    shutil.move(folder / "sub" / "c.png", folder / "moved.png")
    changes = scan(known, folder)
    assert [item.row.source for item in changes.new] == ["a.png", "new.png"]
    assert [(old, row.source) for old, row in changes.moved] == [("b.png", "b.png"), ("sub/c.png", "moved.png")]
    assert changes.moved[0][1].modified == 1
    assert changes.gone == []
    (folder / "moved.png").unlink()
    assert scan(known, folder).gone == ["sub/c.png"]


def test_a_copy_is_new_and_the_original_stays(folder: Path) -> None:
    known = known_of(folder)
    shutil.copy(folder / "a.png", folder / "copy.png")
    changes = scan(known, folder)
    assert [item.row.source for item in changes.new] == ["copy.png"]
    assert not changes.moved
    assert not changes.gone


def test_only_what_an_input_holds_can_be_gone(folder: Path) -> None:
    known = known_of(folder)
    (folder / "a.png").unlink()
    below = changes_of(known, collect(folder / "sub"), folder, input_paths(folder / "sub"))
    assert below.gone == []
    by_glob = changes_of(known, collect(str(folder / "*.png")), folder, input_paths(str(folder / "*.png")))
    assert by_glob.gone == []


def test_a_folder_that_cannot_be_read_is_not_gone(folder: Path) -> None:
    known = known_of(folder)
    found = [item for item in collect(folder) if "sub" not in str(getattr(item, "path", ""))]
    unread = Failure(str(folder / "sub"), "no permission.")
    assert changes_of(known, [*found, unread], folder, input_paths(folder)).gone == []
    assert changes_of(known, found, folder, input_paths(folder)).gone == ["sub/c.png"]  # walked through, and not met


def test_excluded_names_and_leftovers(folder: Path) -> None:
    known = known_of(folder)
    for leftover in ("@eaDir", "node_modules", ".thumbnails"):
        picture(folder / leftover / "thumb.png", 3)
    assert scan(known, folder).new == []
    assert scan(known, folder, ("sub",)).gone == ["sub/c.png"]
    assert scan(known, folder, ("sub/*", "b.*")).gone == ["b.png", "sub/c.png"]


def test_a_link_back_to_the_folder_ends(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder)
    assert scan({}, folder).new[-1].row.source == "sub/c.png"
    assert len(scan({}, folder).new) == 3


def test_failures_are_told_again_and_not_tried_again(folder: Path) -> None:
    known = known_of(folder)
    known["a.png"] = replace(known["a.png"], failure="'a.png' is broken.")
    changes = scan(known, folder)
    assert changes.new == []
    assert [failure.reason for failure in changes.failures] == ["'a.png' is broken."]
    os.utime(folder / "a.png", ns=(1, 1))
    assert [item.row.source for item in scan(known, folder).new] == ["a.png"]


def test_roots(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    assert common_root(folder) == folder
    assert common_root(str(folder / "**" / "*.png")) == folder
    assert common_root([folder / "a.png", folder / "sub" / "c.png"]) == folder
    assert common_root([folder, tmp_path / "films"]) == tmp_path
    assert common_root("-") == Path.cwd()
    with pytest.raises(BadInput, match="lies outside of"):
        changes_of({}, collect(folder), tmp_path / "films", [])


def test_contents_are_told_apart(tmp_path: Path) -> None:
    small, large, other = (tmp_path / name for name in ("small", "large", "other"))
    small.write_bytes(b"x" * 100)
    large.write_bytes(b"x" * (WHOLE_BYTES + 1))
    changed = bytearray(large.read_bytes())
    changed[-1] = 0
    other.write_bytes(changed)
    assert len({content_hash(path) for path in (small, large, other)}) == 3
    small.write_bytes(b"x" * 99 + b"y")
    assert content_hash(small) != content_hash(large)


def test_a_known_file_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_of(folder)
    opened: list[str] = []
    sniff = scanning.classify_file

    def watched(path: Path, name: str) -> Source | Failure:
        opened.append(path.name)
        return sniff(path, name)

    monkeypatch.setattr(scanning, "classify_file", watched)
    picture(folder / "new.png", 5)
    picture(folder / "b.png", 6)
    with monkeypatch.context() as patched:
        patched.chdir(folder.parent)
        for given in (folder, "photos", "photos/../photos/*.png"):
            found = [
                item for item in collect(given, classify=classify_known(known, folder)) if isinstance(item, Source)
            ]
            assert "a.png" in {Path(item.name).name for item in found}
            assert set(opened) == {"new.png", "b.png"}
            opened.clear()


def test_each_file_is_hashed_once_however_many_have_its_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (folder / f"{number:02}.bmp").write_bytes(b"BM" + bytes([number]) * 100)
    known = known_of(folder)
    hashed: list[Path] = []
    monkeypatch.setattr(scanning, "content_hash", lambda path: hashed.append(path) or content_hash(path))
    for path in list(folder.glob("*.bmp")):
        shutil.move(path, folder / "sub" / path.name)
    changes = scan(known, folder)
    assert [(old, row.source) for old, row in changes.moved] == [(f"{n:02}.bmp", f"sub/{n:02}.bmp") for n in range(20)]
    assert len(hashed) == 20
    assert not changes.gone


def test_a_folder_that_is_empty_all_of_a_sudden_tells_nothing(folder: Path, tmp_path: Path) -> None:
    """As when one of two drives is not mounted."""
    known = known_of(folder)
    for path in (folder / "sub").iterdir():
        path.unlink()
    inputs = [str(folder / "sub"), str(folder / "a.png")]
    changes = changes_of(known, collect(inputs), folder, inputs)
    assert changes.gone == []
    assert "holds no picture" in changes.failures[0].reason
    assert changes_of(known, collect(folder), folder, [str(folder)]).gone == ["sub/c.png"]


def test_inputs_in_memory_of_one_name_are_two(tmp_path: Path) -> None:
    given = [np.zeros((2, 4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)]
    changes = changes_of({}, collect(given), tmp_path, [])
    assert [item.row.source for item in changes.new] == ["picture 1", "picture 2", "picture 2 (2)"]
    assert [item.source.name for item in changes.new] == ["picture 1", "picture 2", "picture 2 (2)"]
