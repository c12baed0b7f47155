"""`percepta index` as people type it."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from percepta.tasks.indexing.places import IN_FOLDER
from tests.apps.conftest import Percepta


@pytest.fixture
def folder(media: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(media, tmp_path / "my photos"))


def test_a_folder_gets_its_index_and_is_brought_up_to_date(percepta: Percepta, folder: Path) -> None:
    first = percepta("index", folder)
    assert first.code == 0, first.err
    assert first.lines[0].startswith("6 added; ")
    assert str(folder / IN_FOLDER) in first.lines[1]
    assert first.lines[2].startswith("next: percepta search")
    assert shlex.split(first.lines[2])[3] == str(folder)
    assert "to index: 5 pictures and 1 video" in first.err
    (folder / "red.png").rename(folder / "rot.png")
    (folder / "blue.png").unlink()
    again = percepta("index", folder, "--json")
    record = json.loads(again.out)
    assert (record["added"], record["moved"], record["removed"], record["unchanged"]) == (0, 1, 1, 4)
    assert record["bytes"] == (folder / IN_FOLDER).stat().st_size


def test_where_the_index_goes(
    percepta: Percepta, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = percepta("index", folder, folder / "red.png")
    assert (some.code, "--to FILE" in some.err) == (2, True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shutil.copytree(folder, tmp_path / "films")
    many = percepta("index", folder, tmp_path / "films")
    assert many.lines[0].startswith("12 added")
    assert str(tmp_path / "data" / "percepta" / "pictures.index") in many.lines[1]
    elsewhere = percepta("index", folder, "--to", tmp_path / "x.index", "--exclude", "*.png")
    assert elsewhere.lines[0].startswith("2 added")
    missing = percepta("index", tmp_path / "nothing here")
    assert missing.code == 2
    assert "does not exist" in missing.err


def test_what_is_broken_is_told_each_time_and_the_rest_is_kept(percepta: Percepta, folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    for said in ("6 added, 1 failed", "6 unchanged, 1 failed"):
        outcome = percepta("index", folder)
        assert outcome.code == 1
        assert outcome.lines[0].startswith(said)
        assert "broken.jpg" in outcome.err


def test_another_model_is_refused_in_one_sentence(percepta: Percepta, folder: Path, nano_file: Path) -> None:
    assert percepta("index", folder / "red.png", "--to", folder / "x.index").code == 0
    outcome = percepta(
        "index", folder / "red.png", "--to", folder / "x.index", "--model", "pe-core-nano", weights=False
    )
    assert outcome.code == 2
    assert "do not compare" in outcome.err
    (folder / "notes.index").write_text("no index")
    assert "is no index of Percepta" in percepta("index", folder, "--to", folder / "notes.index").err


def test_a_second_run_keeps_to_the_model_and_a_limit_removes_nothing(percepta: Percepta, folder: Path) -> None:
    assert percepta("index", folder, "--limit", 2).lines[0].startswith("2 added")
    rest = percepta("index", folder, weights=False)
    assert rest.lines[0].startswith("4 added, 2 unchanged"), rest.err
    again = percepta("index", folder, "--limit", 1, weights=False)
    assert again.lines[0].startswith("1 unchanged"), again.err
    assert "limit of index must be" in percepta("index", folder, "--limit", 0).err


def test_names_from_standard_input_may_lie_anywhere(
    percepta: Percepta, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "\n".join(str(folder / name) for name in ("red.png", "blue.png"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
    monkeypatch.chdir("/")
    assert percepta("index", "-", "--to", tmp_path / "x.index").lines[0].startswith("2 added")
