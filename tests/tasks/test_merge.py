"""The verb merge: tables, sweeps, files that open again, other libraries' files, bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import percepta
from percepta.errors import BadInput, CheckpointMismatch
from percepta.evaluation.joint import JointAccuracy
from percepta.merging import MultiHead
from percepta.tasks.merge import judged, merge
from percepta.tasks.merging_scores import Row
from tests.tasks import halves


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return halves.colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return halves.pair(tmp_path_factory.mktemp("models"), folder)


def test_two_networks_become_one_that_knows_more_than_either(files, folder, tmp_path) -> None:
    found = merge(files, folder, tmp_path / "both.safetensors", beta=0.5)
    assert [row.name for row in found.rows] == ["a", "b", "ensemble", "average", "zipit"]
    assert found.tasks == (("blue", "green"), ("red", "white"))
    table = {row.name: row for row in found.rows}
    assert table["ensemble"].accuracy.mean > 0.95
    assert table["zipit"].accuracy.mean >= 0.7
    assert table["zipit"].macs == table["a"].macs == table["ensemble"].macs / 2
    assert math.isnan(table["a"].accuracy.tasks[1])
    again = percepta.load(tmp_path / "both.safetensors")
    assert type(again).__name__ == "ResNet"
    assert again.preprocess.mean[0] == pytest.approx(0.4914)
    content = json.loads(json.dumps(found.to_dict()))
    assert content["schema"] == 1
    assert content["rows"][0]["tasks"][1] is None


def test_a_trunk_with_two_heads_opens_like_any_model(files, folder, tmp_path) -> None:
    out = tmp_path / "both.safetensors"
    found = merge(files, folder, out, stop="layer2")
    assert isinstance(found.model, MultiHead)
    assert any("2 heads behind layer2" in note for note in found.notes)
    again = percepta.load(out)
    x = torch.stack([again.preprocess(Image.open(folder / "red" / "0.png"))] * 2)
    with torch.no_grad():
        for got, want in zip(again(x), found.model(x), strict=True):
            assert torch.allclose(got, want, atol=1e-5)
    with pytest.raises(BadInput, match="holds no trunk with heads"):
        percepta.load_merged(files[0])


def test_a_sweep_draws_how_accuracy_falls_with_depth(files, folder) -> None:
    found = merge(files, folder, sweep=True, limit=24)
    shares = [share for share, _ in found.stops]
    assert shares == sorted(shares)
    assert 2 <= len(shares) <= 8
    costs = [row.macs for _, row in found.stops]
    assert costs == sorted(costs, reverse=True)
    picture = found.picture()
    assert picture.width > 600
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 20
    with pytest.raises(BadInput, match="needs a sweep"):
        merge(files, folder).picture()


def test_heads_of_different_classes_stay_apart_and_are_named(folder) -> None:
    models = [halves.trained(folder, classes, seed, outputs=2) for seed, classes in enumerate(((0, 1), (2, 3)))]
    with pytest.raises(BadInput, match="classes must say which of the data's 4 classes"):
        merge(models, folder)
    found = merge(models, folder, classes=[["blue", "green"], ["2", "3"]])
    assert found.tasks == (("blue", "green"), ("red", "white"))
    assert isinstance(found.model, MultiHead)
    assert found.rows[-1].accuracy.mean > 0.5
    with pytest.raises(BadInput, match="got 'pink'"):
        merge(models, folder, classes=[["blue", "pink"], ["2", "3"]])
    with pytest.raises(BadInput, match="has 2 outputs"):
        merge(models, folder, classes=[["blue", "green", "red"], ["2", "3"]])


def test_fine_tunes_of_one_model_by_their_own_methods(folder, tmp_path) -> None:
    base = halves.trained(folder, (0, 1, 2, 3), 0, steps=10)
    percepta.save(base, tmp_path / "base.safetensors")
    tuned = []
    for number in range(2):
        model = percepta.load(tmp_path / "base.safetensors")
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
        tuned.append(model)
    for method, more in (("ties", {}), ("task_arithmetic", {"options": {"scale": 0.5}}), ("regmean", {})):
        found = merge(tuned, folder, method=method, base=tmp_path / "base.safetensors", **more)
        assert found.rows[-1].name == method
        assert found.rows[-1].accuracy.joint > 0.25
    with pytest.raises(BadInput, match="ties needs the model that the others were tuned from"):
        merge(tuned, folder, method="ties")
    with pytest.raises(BadInput, match="stop is for zipit"):
        merge(tuned, folder, method="ties", base=base, stop=0.5)


def test_files_of_another_library(folder, tmp_path) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet", num_classes=4).state_dict(), tmp_path / f"{seed}.safetensors")
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    found = merge(paths, folder, tmp_path / "both.safetensors", architecture="timm/test_resnet", limit=8)
    assert found.names == ("0", "1")
    again = percepta.load(tmp_path / "both.safetensors")
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(again(x), found.model(x), atol=1e-5)
    heads = merge(paths, folder, tmp_path / "heads.safetensors", architecture="timm/test_resnet", limit=8, stop=0.5)
    assert isinstance(percepta.load(tmp_path / "heads.safetensors"), MultiHead)
    assert heads.rows[-1].macs > found.rows[-1].macs
    with pytest.raises(BadInput, match="no architecture called"):
        merge(paths, folder, architecture="timm/no_such_net")
    with pytest.raises(CheckpointMismatch):
        merge(paths, folder, architecture="timm/resnet18")


def test_without_data_it_merges_by_the_weights_and_says_what_that_is_worth(files) -> None:
    found = merge(files)
    assert found.rows == ()
    assert any("batch norms hold merged statistics" in note for note in found.notes)
    assert merge(files, method="weights").correlations == {}


def test_encoders_are_matched_on_pictures_and_not_scored(folder, tmp_path) -> None:
    torch.manual_seed(0)
    towers = [percepta.build("pe-spatial-nano", depth=1) for _ in range(2)]
    found = merge(towers, folder, tmp_path / "tower.safetensors", method="permute", limit=8)
    assert found.rows == ()
    assert any("nothing is scored" in note for note in found.notes)
    assert percepta.load(tmp_path / "tower.safetensors").config.depth == 1
    with pytest.raises(BadInput, match="give no classes"):
        merge(towers, folder, sweep=True)


def test_what_cannot_be_is_one_sentence(files, folder, tmp_path) -> None:
    with pytest.raises(BadInput, match="two models or more; got 1"):
        merge([files[0]])
    with pytest.raises(BadInput, match=r"method of merge must be one of .*did you mean 'permute'"):
        merge(files, folder, method="permut")
    with pytest.raises(BadInput, match="pass data"):
        merge(files, sweep=True)
    (tmp_path / "regression.csv").write_text("path,label\n" + f"{folder}/red/0.png,a;b\n{folder}/red/1.png,b\n")
    with pytest.raises(BadInput, match="one class for each picture"):
        merge(files, tmp_path / "regression.csv")
    other = halves.trained(folder, (0, 1), 0, steps=1)
    wide = percepta.build("resnet20", stages=(1, 1, 1), widths=(8, 12, 20), classes=4, image_size=16)
    with pytest.raises(BadInput, match="of one architecture"):
        merge([other, wide], folder)
    with torch.no_grad():
        other.linear.bias[0] = float("nan")
    with pytest.raises(BadInput, match=r"linear\.bias of model 1 holds NaN"):
        merge([other, halves.trained(folder, (0, 1), 1, steps=1)], folder, classes=[["0", "1"], ["2", "3"]])


def test_the_verdict_is_a_sentence_with_its_figures() -> None:
    def row(name: str, joint: float, macs: float) -> Row:
        return Row(name, JointAccuracy(joint, (joint, joint)), macs, 1)

    rows = [row("a", 0.4, 1), row("b", 0.45, 1), row("ensemble", 0.8, 2)]
    assert judged([*rows, row("zipit", 0.75, 1)], 2).startswith("Worth it: 75.0 % of all classes against 80.0")
    assert "15.0 points are not missed" in judged([*rows, row("zipit", 0.65, 1)], 2)
    assert judged([*rows, row("zipit", 0.44, 1)], 2).startswith("Not worth it")
