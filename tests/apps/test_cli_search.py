"""`percepta search` as people type it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
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
