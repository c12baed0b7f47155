"""What collect finds, in which order, and how it says what it cannot use."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percepta.errors import BadInput
from percepta.media import Source, collect, write_video
from percepta.results import Failure
from tests.media.broken import picture_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("a.jpg", "b/two words.png", "b/no ending", "c.gif", ".hidden/x.jpg", ".secret.jpg"):
        (tmp_path / name).write_bytes(picture_bytes("JPEG"))
    frames = [np.full((16, 16, 3), value, dtype=np.uint8) for value in (0, 90, 200)]
    write_video(tmp_path / "d.mp4", frames)
    write_video(tmp_path / "e.gif", frames)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    (tmp_path / "b" / "back").symlink_to(tmp_path, target_is_directory=True)
    return tmp_path


def names(found: list[Source | Failure], folder: Path) -> list[str]:
    entries = [(source.name if isinstance(source, Source) else "!" + source.source) for source in found]
    return [entry.replace(str(folder) + "/", "") for entry in entries]


def test_folder(folder: Path) -> None:
    found = list(collect(folder))
    assert names(found, folder) == [
        "a.jpg", "b/no ending", "b/two words.png", "!broken.jpg", "c.gif", "d.mp4", "e.gif",
    ]  # fmt: skip
    kinds = {source.name.rsplit("/")[-1]: source.kind for source in found if isinstance(source, Source)}
    assert kinds["d.mp4"] == kinds["e.gif"] == "video"
    assert kinds["c.gif"] == kinds["no ending"] == "picture"
    assert list(map(str, found)) == list(map(str, collect(str(folder))))


def test_an_explicit_file_is_never_passed_over(folder: Path) -> None:
    (failure,) = collect(folder / "notes.txt")
    assert isinstance(failure, Failure)
    assert failure.reason.endswith("is no picture or video that can be read here.")
    (missing,) = collect(str(folder / "none.jpg"))
    assert "does not exist" in str(missing)
    (address,) = collect("https://example.org/x.jpg")
    assert "only local files" in str(address)


@pytest.mark.parametrize("pattern", ["b", "b/", "/b", "**/b", "b/*", "two*"])
def test_excluded_by_name_or_path(folder: Path, pattern: str) -> None:
    left = names(list(collect(folder, [pattern])), folder)
    assert "b/two words.png" not in left
    assert ("b/no ending" in left) == (pattern == "two*")
    assert "a.jpg" in left


def test_files_that_are_named_may_be_excluded_too(folder: Path) -> None:
    given = [str(folder / "a.jpg"), str(folder / "c.gif")]
    assert names(list(collect(given, ["*.gif"])), folder) == ["a.jpg"]
    assert names(list(collect(str(folder / "[ac].*"), ["a*"])), folder) == ["c.gif"]
    with pytest.raises(BadInput):
        list(collect(given[0], ["a.jpg"]))


def test_what_a_file_is_may_be_known_already(folder: Path) -> None:
    known = Source("known", "picture")
    found = list(collect(folder / "b", classify=lambda path, name: known))
    assert found == [known] * 8  # "back" leads to the whole folder


def test_globs_home_and_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(list(collect(str(folder / "*.jpg"))), folder) == ["a.jpg", "!broken.jpg"]
    assert names(list(collect(str(folder / "**/*.png"))), folder) == ["b/two words.png"]
    monkeypatch.setenv("HOME", str(folder))
    assert names(list(collect("~/a.jpg")), folder)[0].endswith("a.jpg")
    assert names(list(collect(["~/a.jpg", folder / "e.gif"])), folder)[1] == "e.gif"
    odd = folder / "odd[1].jpg"
    odd.write_bytes(picture_bytes("PNG"))
    assert names(list(collect(str(odd))), folder) == ["odd[1].jpg"]


def test_things_in_memory() -> None:
    items = [Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8), picture_bytes("PNG"), b"text", 5]
    found = list(collect(items))
    assert [type(source).__name__ for source in found] == ["Source"] * 3 + ["Failure"] * 2
    assert [source.name for source in found[:3] if isinstance(source, Source)] == [
        "picture 1",
        "picture 2",
        "picture 3",
    ]
    stack = list(collect(np.zeros((3, 4, 4, 3), np.uint8)))
    assert len(stack) == 3
    assert all(isinstance(source, Source) and source.thing.shape == (4, 4, 3) for source in stack)
    assert list(collect(found[:1])) == found[:1]


def test_iterables_are_taken_one_by_one() -> None:
    taken: list[int] = []

    def endless() -> object:
        number = 0
        while True:
            taken.append(number)
            yield np.zeros((4, 4), np.uint8)
            number += 1

    stream = collect(endless())
    next(stream)
    next(stream)
    assert len(taken) <= 3


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_names_on_standard_input(separator: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = separator.join(os.fsencode(folder / name) for name in ("a.jpg", "none.jpg")) + separator
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert names(list(collect("-")), folder) == ["a.jpg", "!none.jpg"]


def test_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    (tmp_path / "notes.txt").write_text("nothing")
    for inputs in ([], tmp_path, str(tmp_path / "*.jpg"), "-", (), np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(BadInput, match=r"\.$"):
            list(collect(inputs))
    for inputs in (None, 5, {"a": 1}, True):
        with pytest.raises(BadInput, match="inputs must be"):
            collect(inputs)
    (failure,) = collect([tmp_path])
    assert "holds no picture or video" in str(failure)


def test_odd_entries(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "nowhere.jpg").symlink_to("none")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "line\nbreak.jpg").write_bytes(b"x" * 99)
    found = {Path(failure.source).name: str(failure) for failure in collect(tmp_path) if isinstance(failure, Failure)}
    assert "symbolic links" in found["loop.jpg"]
    assert "does not exist" in found["nowhere.jpg"]
    assert "no ordinary file" in found["pipe.jpg"]
    assert "zero bytes" in found["zero.jpg"]
    assert "line\\nbreak" in found["line\nbreak.jpg"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").write_bytes(picture_bytes("JPEG"))
    scan = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(collect(tmp_path))
    assert isinstance(found[0], Source)
    assert "permission denied" in str(found[1])
