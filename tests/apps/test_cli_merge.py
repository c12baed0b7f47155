"""`percepta merge` on the command line, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import percepta as library
from tests.tasks import halves


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return halves.colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return halves.pair(tmp_path_factory.mktemp("models"), folder)


def test_a_table_a_sentence_and_three_files(files, folder, tmp_path, percepta) -> None:
    out = tmp_path / "both.safetensors"
    run = percepta("merge", *map(str, files), "--data", str(folder), "-o", str(out), "--sweep", "--limit", "16")
    assert run.code == 0
    for word in ("ensemble", "average", "zipit", "up to layer1", "task 1: blue, green", "worth it"):
        assert word.lower() in run.out.lower(), word
    assert json.loads(out.with_suffix(".json").read_text())["method"] == "zipit"
    assert Image.open(out.with_suffix(".png")).width > 600
    assert type(library.load(out)).__name__ == "ResNet"
    again = percepta("merge", *map(str, files), "--data", str(folder), "-o", str(out))
    assert again.code == 2
    assert "--overwrite" in again.err


def test_json_for_machines_and_a_place_to_stop(files, folder, tmp_path, percepta) -> None:
    out = tmp_path / "heads.safetensors"
    run = percepta(
        "merge", *map(str, files), "--data", str(folder), "-o", str(out), "--stop", "50%", "--json", "--limit", "16"
    )
    assert run.code == 0
    content = json.loads(run.out)
    assert content["rows"][-1]["name"].startswith("zipit, up to ")
    assert "heads behind" in content["notes"][0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "zippit"], "did you mean 'zipit'"),
        (["--stop", "layer9"], "where one tensor passes"),
        (["--set", "scale"], "KEY=VALUE"),
        (["--method", "tsv"], "pass base"),
    ],
)
def test_wrong_usage_is_one_sentence(more, said, files, tmp_path, percepta) -> None:
    run = percepta("merge", *map(str, files), "-o", str(tmp_path / "out.safetensors"), *more)
    assert run.code == 2
    assert said in run.err
    assert len(run.err.strip().splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_the_help_names_every_method(percepta) -> None:
    from percepta.merging import METHODS, STATE_METHODS

    told = " ".join(percepta("merge", "--help").out.split())
    assert all(name in told for name in (*METHODS, *STATE_METHODS))


def test_other_endings_are_refused(files, tmp_path: Path, percepta) -> None:
    run = percepta("merge", *map(str, files), "-o", str(tmp_path / "out.pt"))
    assert run.code == 2
    assert ".safetensors" in run.err
