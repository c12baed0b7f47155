"""percepta evaluate on the command line, with small protocols and an untrained model."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.apps.cli import run
from percepta.evaluation import scenes_hard_negatives_protocol, scenes_retrieval_protocol


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = percepta.build("pe-core-nano", depth=1, text={"depth": 1}, image_size=32)
    return str(percepta.save(model, tmp_path_factory.mktemp("model") / "small.safetensors"))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    from percepta.tasks.evaluate import PROTOCOLS

    for make in (scenes_retrieval_protocol, scenes_hard_negatives_protocol):
        small = partial(make, 12, 32)
        name = small().name
        monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], make=small))


def test_table_says_all_that_a_figure_needs(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "scenes-retrieval", "--model", model_file]) == 0
    text = capsys.readouterr().out
    protocol = scenes_retrieval_protocol(12, 32)
    for word in (
        protocol.hash,
        "text to picture R@1",
        "95 % interval",
        "attributes only",
        "fingerprint",
        "seeds 1000000",
    ):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_json_lines_and_file(model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scores.json"
    names = ["scenes-hard-negatives", "scenes-retrieval"]
    assert run(["evaluate", *names, "--model", model_file, "--json", "-o", str(file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["protocol"]["name"] for line in lines] == names
    assert json.loads(file.read_text()) == lines
    assert run(["evaluate", *names, "--model", model_file, "-o", str(file)]) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err


def test_bars(model_file: str, tmp_path: Path) -> None:
    file = tmp_path / "scores.png"
    assert run(["evaluate", "scenes-retrieval", "--model", model_file, "-o", str(file)]) == 0
    pixels = np.asarray(Image.open(file).convert("RGB"))
    assert pixels.shape[1] == 960
    assert (pixels == (214, 110, 28)).all(axis=-1).sum() > 100  # the mark of the oracle


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nano"], "pass data (on the command line --data)"),
        (["scene-retrieval"], "did you mean 'scenes-retrieval'"),
        (["scenes-retrieval", "-o", "scores.txt"], "must end in .json, .png"),
        (["scenes-retrieval", "--batch-size", "0"], "batch_size of evaluate must be 1 or more"),
        (["scenes-retrieval", "--model", "pe-core-nona"], "pe-core-nano"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_errors_have_a_unit_and_no_bar(
    model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from percepta.evaluation import scenes_depth_protocol
    from percepta.tasks.evaluate import PROTOCOLS

    small = partial(scenes_depth_protocol, 4, 32, fit_count=4)
    monkeypatch.setitem(PROTOCOLS, "scenes-depth", replace(PROTOCOLS["scenes-depth"], make=small))
    scores = tmp_path / "scores.json"
    assert run(["evaluate", "scenes-depth", "--model", model_file, "-o", str(scores)]) == 0
    text = capsys.readouterr().out
    (record,) = json.loads(scores.read_text())
    (measure,) = record["measures"]
    assert measure["unit"] == "m"
    assert f"{measure['value']:.3f} m" in text
    assert f"{measure['chance']:.3f}" in text
    assert "place alone" in text
    bars = [tmp_path / "depth.png", tmp_path / "both.png"]
    assert run(["evaluate", "scenes-depth", "--model", model_file, "-o", str(bars[0])]) == 0
    assert run(["evaluate", "scenes-depth", "scenes-retrieval", "--model", model_file, "-o", str(bars[1])]) == 0
    heights = [Image.open(file).height for file in bars]
    assert heights[1] - heights[0] == 2 * 58  # the two headlines of retrieval, none of depth
