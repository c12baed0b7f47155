"""`percepta select`: the table, JSON, the folder of a report, going on, one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from percepta.running.backbones import Backbone

QUICK = ["--runs", 3, "--estimators", "knn,ridge"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(12):
        folder = tmp_path / "data" / ("dark" if number % 2 else "light things")
        folder.mkdir(parents=True, exist_ok=True)
        shade = 40 + 5 * number if number % 2 else 250 - 5 * number
        Image.new("RGB", (24 + number, 30), (shade, shade, 128)).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_layers(percepta: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "layers"
    done = percepta("select", "layers", data, *QUICK, "-o", out)
    assert done.code == 0, done.err
    assert "pe-core-nano on data, 12 pictures" in done.out
    assert all(
        word in done.out for word in ("layer 0", "output", "regret", "knn", "ridge", "percepta.load('pe-core-nano')")
    )
    report = json.loads((out / "report.json").read_text())
    assert (report["schema"], report["model"], report["data"]) == (1, "pe-core-nano", "data")
    assert report["recommendation"] in done.out
    assert Image.open(out / "ranking.png").size == (1000, 620)
    again = percepta("select", "layers", data, *QUICK, "-o", out)
    assert (again.code, "holds a run; pass --resume to go on" in again.err) == (2, True)
    other = percepta("select", "layers", data, *QUICK, "-o", out, "--resume", "--seed", 1)
    assert (other.code, "is of another run" in other.err) == (2, True)
    assert percepta("select", "layers", data, *QUICK, "-o", out, "--overwrite", "--seed", 1).code == 0


def test_models_as_json_with_one_that_is_missing(percepta: Any, data: Path) -> None:
    words = ["select", "models", data, *QUICK, "--among", "pe-core-nano, hiera-nano, timm/resnet18", "--json"]
    done = percepta(*words)
    assert done.code == 1
    assert "timm/resnet18 is left out: the weights of timm/resnet18 are not at hand" in done.err
    record = json.loads(done.out)
    assert record["what"] == "models"
    assert {one["name"] for one in record["candidates"]} == {"pe-core-nano", "hiera-nano"}
    assert record["left out"][0]["name"] == "timm/resnet18"
    table = percepta(*words[:-1])
    assert "by size" in table.out
    assert "the largest model, pe-core-nano," in table.out


def test_an_interrupted_run_goes_on(percepta: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen, vectors = tmp_path / "models", list[int](), Backbone.vectors

    def interrupted(self: Backbone, pictures: Any, layers: bool = True) -> Any:
        if self.name == "pe-core-nano":
            raise KeyboardInterrupt
        return vectors(self, pictures, layers)

    words = ["select", "models", data, *QUICK, "--among", "hiera-nano,pe-core-nano", "-o", out]
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "vectors", interrupted)
        stopped = percepta(*words)
    assert (stopped.code, "interrupted; what was written so far is kept" in stopped.err) == (130, True)
    assert not (out / "report.json").exists()

    def counted(self: Backbone, pictures: Any, layers: bool = True) -> Any:
        seen.append(len(pictures))
        return vectors(self, pictures, layers)

    monkeypatch.setattr(Backbone, "vectors", counted)
    assert percepta(*words, "--resume").code == 0
    assert sum(seen) == 12
    assert (out / "report.json").exists()


def test_broken_pictures_give_exit_code_1(percepta: Any, data: Path) -> None:
    (data / "dark" / "1.png").write_bytes(b"nothing")
    done = percepta("select", "layers", data, *QUICK)
    assert done.code == 1
    assert "1 input could not be used" in done.err
    assert "11 pictures" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layers", "--budget", 2], "budget must be a whole number of 4 or more pictures; got 2."),
        (["layers", "--model", "pe-coar-nano"], "there is no model called 'pe-coar-nano'; did you mean pe-core-nano"),
        (["layers", "--estimators", "knnn"], "did you mean 'knn'"),
        (["layers", "--regression"], "need a .csv file"),
        (["layers", "--resume"], "--resume needs -o DIR"),
        (["layers", "--device", "tpu"], "device must be one of cpu"),
        (["models", "--among", "pe-x*"], "no encoder of pictures is called 'pe-x*'"),
        (["models", "--among", "pe-core-nano"], "two models at least"),
    ],
)
def test_what_is_wrong_is_said(percepta: Any, data: Path, words: list[Any], said: str) -> None:
    done = percepta("select", words[0], data, *QUICK, *words[1:])
    assert (done.code, said in done.err) == (2, True), done.err
    assert len(done.err.strip().splitlines()) == 1


def test_help_has_examples(percepta: Any) -> None:
    for what in ("models", "layers"):
        helped = percepta("select", what, "--help")
        assert helped.code == 0
        assert f"percepta select {what} by-class/" in helped.out
    assert "layers" in percepta("select", "--help").out
