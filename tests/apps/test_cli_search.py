"""`percepta search` as people type it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.apps.conftest import Percepta


@pytest.fixture
def folder(media: Path, percepta: Percepta, tmp_path: Path) -> Path:
    """A folder with its index."""
    place = Path(shutil.copytree(media, tmp_path / "photos"))
    assert percepta("index", place).code == 0
    return place


def test_words_pictures_and_tables(percepta: Percepta, folder: Path, tmp_path: Path) -> None:
    done = percepta("search", folder, "a red square", "--limit", 2)
    assert done.code == 0
    assert len(done.lines) == 3
    assert done.lines[-1].startswith("uncalibrated: the numbers are cosines")
    like = json.loads(percepta("search", folder, "--picture", folder / "red.png", "--json", "--limit", 1).out)
    assert Path(like["hits"][0]["source"]).name == "red.png"
    assert like["score_kind"] == "cosine"
    assert percepta("search", folder, folder / "red.png", "--limit", 1).lines[0].endswith("red.png")
    assert percepta("search", folder, "a red square", "-o", tmp_path / "hits.CSV").code == 0
    rows = list(csv.DictReader((tmp_path / "hits.CSV").open()))
    assert len(rows) >= 6
    assert set(rows[0]) == {"query", "rank", "source", "score", "score_kind", "probability", "start", "end"}


def test_a_calibrated_answer_ends_the_list(percepta: Percepta, media: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    assert percepta("index", media, "--to", place, weights=False).code == 0
    done = percepta("search", place, "a photo of a dog", weights=False)
    assert done.code == 0
    assert done.lines[-1].endswith(("nothing else", "possible", "nothing above chance"))
    assert all("%" in line for line in done.lines[:-1])
    every = percepta("search", place, "a photo of a dog", "--all", weights=False)
    assert len(every.lines) >= 7


def test_a_folder_without_an_index_is_searched_in_memory(percepta: Percepta, media: Path) -> None:
    done = percepta("search", media, "a red square", "--limit", 2)
    assert done.code == 0
    assert not list(media.glob(".*"))


def test_hits_are_copied_linked_and_named_for_other_programs(percepta: Percepta, folder: Path, tmp_path: Path) -> None:
    copies, links = tmp_path / "copies", tmp_path / "links"
    done = percepta("search", folder, folder / "red.png", "--limit", 2, "--copy-to", copies, "--link-to", links)
    assert done.code == 0
    assert sorted(path.name for path in copies.iterdir())[0] == "001 red.png"
    assert (copies / "001 red.png").read_bytes() == (folder / "red.png").read_bytes()
    assert (links / "001 red.png").resolve() == (folder / "red.png").resolve()
    again = percepta("search", folder, folder / "red.png", "--limit", 2, "--copy-to", copies)
    assert (again.code, "--overwrite" in again.err) == (2, True)
    assert percepta("search", folder, folder / "red.png", "--limit", 2, "--copy-to", copies, "--overwrite").code == 0
    names = percepta("search", folder, "a red square", "-0", "--kind", "picture").out.split("\0")
    assert names[-1] == ""
    assert all(Path(name).is_file() for name in names[:-1])
    assert len(names) == 6


def test_question_after_question(percepta: Percepta, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a red square\n\nphotos/gone.jpg\na green square\n"))
    done = percepta("search", folder, "-", "--limit", 1)
    assert done.code == 0
    assert len(done.lines) == 4  # two questions, each with a hit and a last line
    assert "looks like a file and is none" in done.err


WRONG = [
    (["MEDIA", " "], "got an empty text."),
    (["MEDIA", "a", "--limit", "0"], "limit of search must be a whole number of 1 or more; got 0."),
    (["MEDIA", "--picture", "gone.png"], "the picture 'gone.png' does not exist."),
    (["MEDIA", "gone.png"], "looks like a file and is none"),
    (["gone.index", "a cat"], "there is no index 'gone.index'"),
    (["gone", "a cat"], "'gone' does not exist; name an index, a folder, a glob or a file."),
    (["MEDIA", "a" * 10_000], "a query may have 2,000 letters; got 10,000: ask in a sentence."),
    (["MEDIA", "--report", "x.html"], "search needs words or --picture FILE"),
    (["MEDIA", "a", "-o", "x.txt"], "the output must end in .csv, .jsonl, .json"),
    (["MEDIA", "a", "--since", "soon"], "since must be a date such as"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_usage_is_one_sentence_and_code_2(
    percepta: Percepta,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = percepta("search", *[str(folder) if word == "MEDIA" else word for word in arguments])
    assert done.code == 2
    assert sentence in done.err
    assert done.out == ""


def test_words_alone_are_for_the_index_of_several_folders(
    percepta: Percepta, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    without = percepta("search", "a red square")
    assert without.code == 2
    assert "there is no index of several folders to look for it in" in without.err
    for name in ("one", "two"):
        shutil.copytree(media, tmp_path / name)
    assert percepta("index", "one", "two").code == 0
    done = percepta("search", "a red square", "--limit", 20)
    assert done.code == 0
    assert {Path(line.split("  ")[1]).parts[0] for line in done.lines[:-1]} == {"one", "two"}
    assert "does not exist" in percepta("search", "three/", "a red square").err


def test_the_model_is_that_of_the_index(percepta: Percepta, folder: Path) -> None:
    other = percepta("search", folder, "a red square", "--model", "pe-core-t16-384")
    assert (other.code, "was made with pe-core-nano and now pe-core-t16-384" in other.err) == (2, True)
    assert percepta("search", folder, "a red square", "--model", "PE-core-nano").code == 0
    others = percepta("search", folder, "a blue square", weights=False)  # the index knows where its weights are
    assert others.code == 0


def test_the_first_hit_is_opened_at_its_moment(
    percepta: Percepta, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("mpv", "xdg-open"):
        (programs / name).write_text(
            f'#!/bin/sh\nprintf "%s\\n" {name} "$@" > "{said}.part"; mv "{said}.part" "{said}"\n'
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert percepta("search", folder, "a square", "--kind", "video", "--open").code == 0
    assert _awaited(said)[:2] == ["mpv", "--start=0.0"]
    assert percepta("search", folder, folder / "red.png", "--open").code == 0
    assert _awaited(said) == ["xdg-open", str(folder / "red.png")]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no program is at hand to open" in percepta("search", folder, folder / "red.png", "--open").err


def _awaited(said: Path) -> list[str]:
    """What a program that was started wrote, which it did in its own time."""
    for _ in range(500):
        if said.is_file():
            lines = said.read_text(encoding="utf-8").splitlines()
            said.unlink()
            return lines
        time.sleep(0.01)
    raise AssertionError("no program was started")
