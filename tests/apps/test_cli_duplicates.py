"""`percepta duplicates` as people type it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.apps.conftest import Percepta


@pytest.fixture
def folder(media: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(media, tmp_path / "photos"))
    shutil.copy2(folder / "red.png", folder / "red\nagain.png")
    shutil.copy2(folder / "moving.mp4", folder / "moving too.mp4")
    return folder


def test_a_folder(percepta: Percepta, folder: Path) -> None:
    before = sorted(folder.iterdir())
    outcome = percepta("duplicates", folder)
    assert outcome.code == 0, outcome.err
    assert f"exact: keep {folder / 'red.png'} (shortest name)" in outcome.lines
    assert f"    {folder}/red\\nagain.png" in outcome.lines
    assert outcome.lines[-1].startswith("2 groups among 8 pictures and videos: 2 need not be kept, ")
    assert outcome.lines[-1].endswith("nothing was deleted")
    assert sorted(folder.iterdir()) == before


def test_an_index(percepta: Percepta, folder: Path, tmp_path: Path) -> None:
    assert percepta("index", folder, "--to", tmp_path / "x.index").code == 0
    of_index = percepta("duplicates", tmp_path / "x.index", "--json")
    assert json.loads(of_index.out)["groups"] == json.loads(percepta("duplicates", folder, "--json").out)["groups"]


def test_names_for_another_program(percepta: Percepta, folder: Path, media: Path) -> None:
    outcome = percepta("duplicates", folder, "-0", "--kinds", "exact")
    assert set(outcome.out.split("\0")) == {str(folder / "red\nagain.png"), str(folder / "moving too.mp4"), ""}
    outcome = percepta("duplicates", media, "-0")
    assert (outcome.code, outcome.out) == (0, "")


def test_a_table_is_written_and_never_replaced(percepta: Percepta, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "out" / "duplicates.csv"
    outcome = percepta("duplicates", folder, "-o", table)
    assert (outcome.code, outcome.out) == (0, "")
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["keep"] for row in rows] == ["True", "False", "True", "False"]
    assert {row["group"] for row in rows} == {"1", "2"}
    assert sum(int(row["savings"] or 0) for row in rows) == sum(
        (folder / name).stat().st_size for name in ("red\nagain.png", "moving too.mp4")
    )
    assert percepta("duplicates", folder, "-o", table).code == 2
    assert percepta("duplicates", folder, "-o", table, "--overwrite").code == 0


def test_what_is_wrong_is_one_sentence(percepta: Percepta, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((folder, "--kinds", "exact,nearly"), "did you mean 'near'"),
        ((folder, "-0", "--json"), "cannot be had at once"),
        ((tmp_path / "empty",), "holds no picture or video"),
        ((folder, "--seconds", "-1"), "seconds of duplicates"),
        ((folder, "-o", "x.txt"), "must end in"),
    ):
        outcome = percepta("duplicates", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    outcome = percepta("duplicates", folder)
    assert outcome.code == 1
    assert "broken.png" in outcome.err


def test_a_folder_without_duplicates(percepta: Percepta, media: Path) -> None:
    outcome = percepta("duplicates", media, "--limit", 3)
    assert (outcome.code, outcome.lines) == (0, ["no duplicates among 3 pictures and videos"])
