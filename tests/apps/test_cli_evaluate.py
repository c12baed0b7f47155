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
from percepta.evaluation import Evaluation, Measure, scenes_hard_negatives_protocol, scenes_retrieval_protocol
from tests.datasets.pictures_on_disk import class_folder


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


def test_without_a_protocol_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from percepta.tasks.evaluate import PROTOCOLS

    assert run(["evaluate"]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 120
    for name, evaluator in PROTOCOLS.items():
        assert f"  {name}: {evaluator.line}" in text
    assert text.count("needs no data") == sum(not evaluator.data for evaluator in PROTOCOLS.values())
    assert run(["evaluate", "scenes-retrieval", "knnn"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'knn'" in error
    assert "  linear-probe: accuracy of" in error


def test_probes_over_a_folder_with_a_broken_picture(
    model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folder(tmp_path / "my data", 10)
    (folder / "dog" / "3.png").write_bytes(b"no picture")
    scores, picture = tmp_path / "scores.json", tmp_path / "layers.png"
    options = ["--data", str(folder), "--layers", "0,output", "--set", "k=5", "--set", "train-count=24"]
    files = ["-o", str(scores), "--picture", str(picture)]
    assert run(["evaluate", "knn", "--model", model_file, *options, *files]) == 1
    said = capsys.readouterr()
    assert "dog/3.png' is no picture that can be read here." in said.err
    assert "1 input could not be used." in said.err
    assert "accuracy, layer 0" in said.out
    assert "most frequent class" in said.out
    (record,) = json.loads(scores.read_text())
    assert record["protocol"]["settings"]["layers"] == [0, "output"]
    assert record["protocol"]["settings"]["train count"] == 24
    assert len(record["failures"]) == 1
    assert record["tables"]["layers"]["layers"] == ["layer 0", "output"]
    assert coloured(picture, (52, 120, 198)) > 300  # the curve


def test_zero_shot_with_names_of_ones_own(model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, names, picture = class_folder(tmp_path / "data", 4), tmp_path / "names.txt", tmp_path / "matrix.png"
    names.write_text("a cat\na dog\na hot dog")
    options = ["--data", str(folder), "--classes", str(names), "--template", "none", "--picture", str(picture)]
    assert run(["evaluate", "zero-shot", "--model", model_file, *options]) == 0
    text = capsys.readouterr().out
    for word in ("accuracy, squash", "accuracy, centre crop", "best resize"):
        assert word in text
    assert Image.open(picture).size[0] == 960
    assert coloured(picture, (16, 52, 98)) > 100  # a class that all pictures of one class are taken for


def test_a_training_part_that_lies_elsewhere(model_file: str, tmp_path: Path) -> None:
    train, test = class_folder(tmp_path / "a", 6), class_folder(tmp_path / "b", 2)
    names = ["linear-probe", "ridge-probe"]
    places = ["--data", str(test), "--train", str(train)]
    scores, picture = tmp_path / "scores.json", tmp_path / "bars.png"
    files = ["-o", str(scores), "--picture", str(picture)]
    assert run(["evaluate", *names, "--model", model_file, *places, *files]) == 0
    for record in json.loads(scores.read_text()):
        assert (record["details"]["training pictures"], record["details"]["pictures"]) == (18, 6)


def coloured(file: Path, colour: tuple[int, int, int]) -> int:
    """Pixels of one colour."""
    return int((np.asarray(Image.open(file).convert("RGB")) == colour).all(axis=-1).sum())


def test_charts_of_many_classes_and_of_none() -> None:
    from percepta.apps.cli.charts import chart

    classes = [{"name": f"class {n}", "value": n / 60, "interval": [n / 70, n / 50], "count": 9} for n in range(50)]
    measure = Measure("accuracy", 0.4, 0.3, 0.5, 450, 0.02, True)
    many = Evaluation(scenes_retrieval_protocol(), (measure,), tables={"classes": classes})
    bare = Evaluation(scenes_retrieval_protocol(), (measure,))
    both = chart([many, bare])
    assert both.height == chart([many]).height + chart([bare]).height
    error = Measure("depth, layer 0", 1.4, 1.3, 1.5, 10, unit="metres")
    curve = {"layers": ["layer 0", "layer 1"], "measures": {"depth": [[1.4, 1.3, 1.5], [0.9, 0.8, 1.0]]}}
    assert chart([Evaluation(scenes_retrieval_protocol(), (error,), tables={"layers": curve})]).height > 300


def test_a_chart_of_probabilities_that_were_kept(tmp_path: Path) -> None:
    from percepta.apps.cli.charts import chart

    measure = Measure("found, caption", 0.9, 0.8, 0.95, 100, None, True)
    kept = {"stated": [0.1, 0.5, 0.9], "kept": [0.1, 0.6, 0.8], "counts": [50, 20, 10]}
    picture = chart([Evaluation(scenes_retrieval_protocol(), (measure,), tables={"reliability": kept})])
    picture.save(tmp_path / "kept.png")
    assert picture.height > 400
    assert coloured(tmp_path / "kept.png", (52, 120, 198)) > 300  # three dots and the line between them


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["knn"], "knn needs labelled pictures"),
        (["knn", "--data", "nowhere"], "nowhere does not exist"),
        (["knn", "--data", ".", "--layers", "lats"], "did you mean 'last'"),
        (["knn", "--data", ".", "--set", "k"], "--set must be NAME=VALUE"),
        (["knn", "--data", ".", "--set", "kk=3"], "setting of knn must be one of"),
        (["knn", "--data", ".", "--picture", "a.jpg"], "must end in .png"),
        (["scenes-retrieval", "--layers", "3"], "setting of scenes-retrieval must be one of"),
        (["zero-shot", "--data", ".", "--classes", "nothing.txt"], "cannot be read"),
        (["zero-shot", "--data", ".", "--templates", "a photo"], "templates must be one of"),
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
