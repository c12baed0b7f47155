"""`select_models` and `select_layers`: what is found, kept features, failures, foreign models, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import percepta
from percepta.errors import BadInput, BadMedia
from percepta.running.backbones import Backbone
from percepta.tasks.select import packaged
from percepta.tasks.selecting import keeping
from tests.running.vision_models import save_tiny

QUICK: dict[str, Any] = {"runs": 4, "estimators": ["knn", "ridge"]}
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 210)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight noisy pictures of each of three colours, one sub-folder a colour."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            noise = random.integers(-30, 30, (40, 48, 3))
            array = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of a model got."""
    counts: list[int] = []
    vectors = Backbone.vectors

    def counted(self: Backbone, pictures: Tensor, layers: bool = True) -> dict[str, Tensor]:
        counts.append(len(pictures))
        return vectors(self, pictures, layers)

    monkeypatch.setattr(Backbone, "vectors", counted)
    return counts


def table(data: Path, label: Callable[[Path], object]) -> Path:
    rows = [f"data/{path.relative_to(data)},{label(path)}" for path in sorted(data.rglob("*.png"))]
    (data.parent / "labels.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return data.parent / "labels.csv"


# What is found


def test_layers_of_a_model(data: Path, seen: list[int]) -> None:
    found = percepta.select_layers(data, "pe-core-nano", **QUICK)
    assert sorted(found.options) == [*(f"layer {number}" for number in range(6)), "output"]
    assert found.names == ("blue", "green", "red")
    assert found.ranking.prior == ""
    assert found.ranking.samples == 24
    assert sum(seen) == 24
    best = found.best
    if best.layer is None:
        assert (found.answer, found.code) == ("output", "percepta.load('pe-core-nano').encode_image(x)")
    else:
        assert found.answer.startswith(f"{best.name} ± ")
        assert f".intermediates(x, [{best.layer}])" in found.code
    assert found.picture().size == (1000, 620)
    record = json.loads(json.dumps(found.to_dict()))
    assert (record["schema"], record["what"], record["recommendation"]) == (1, "layers", best.name)
    assert [one["name"] for one in record["candidates"]] == [row.name for row in found.ranking.rows]
    assert eval(found.code, {"percepta": percepta, "x": torch.zeros(1, 3, 64, 64)}).shape == (1, best.width)


def test_the_spread_is_how_far_the_best_layer_moves(data: Path) -> None:
    found = percepta.select_layers(data, "pe-core-nano", estimators=["knn"], runs=0)
    assert found.spread is None
    assert "no intervals" in found.ranking.warnings[0]
    shares = {"layer 1": 0.5, "layer 3": 0.5}
    rows = tuple(replace(row, best=shares.get(row.name, 0.0)) for row in found.ranking.rows)
    told = replace(found, ranking=replace(found.ranking, rows=rows, recommendation="layer 1"))
    assert told.spread == pytest.approx(2**0.5)
    assert told.answer == "layer 1 ± 1"


def test_models_by_name_and_in_hand(data: Path) -> None:
    torch.manual_seed(0)
    mine = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5)
    found = percepta.select_models(data, ["pe-core-nano,hiera-nano", mine, mine], **QUICK)
    assert set(found.options) == {"pe-core-nano", "hiera-nano", "VisionTransformer", "VisionTransformer (2)"}
    assert found.ranking.prior == "parameters"
    assert not found.left_out
    assert found.options["hiera-nano"].macs > 4e7
    assert found.beside[0].startswith("the largest model, pe-core-nano,")
    assert found.picture().size == (1000, 620)
    assert mine.training


def test_foreign_libraries_by_name(data: Path, tmp_path: Path) -> None:
    names = ["timm/test_vit", "torchvision/shufflenet_v2_x0_5", f"hf/{save_tiny('dinov2', tmp_path / 'dino')}"]
    found = percepta.select_models(data, names, random_weights=True, **QUICK)
    assert set(found.options) == set(names)
    layers = percepta.select_layers(data, names[2], **QUICK)
    assert len(layers.options) == 4
    assert "output_hidden_states" in layers.code or "pooler_output" in layers.code


def test_scores_of_the_source_need_a_classifier(data: Path) -> None:
    found = percepta.select_models(data, "hiera-nano,timm/test_vit", estimators=["leep"], runs=0, random_weights=True)
    assert found.ranking.estimators == ("leep",)
    with pytest.raises(BadInput, match="pe-core-nano: leep needs the probabilities"):
        percepta.select_models(data, "hiera-nano,pe-core-nano", estimators=["leep"], runs=0)


def test_the_packaged_toys_are_compared_unless_told() -> None:
    assert packaged() == ["hiera-nano", "pe-core-nano", "pe-lang-nano"]


def test_several_labels_and_numbers(data: Path) -> None:
    several = table(data, lambda path: f"{path.parent.name};{'even' if int(path.stem) % 2 == 0 else 'odd'}")
    found = percepta.select_layers(several, **QUICK)
    assert (found.ranking.kind, found.ranking.classes) == ("multi-label", 5)
    numbers = table(data, lambda path: COLOURS[path.parent.name][0] / 255)
    found = percepta.select_layers(numbers, regression=True, **QUICK)
    assert (found.ranking.kind, found.names) == ("regression", ())


# Kept features


def test_nothing_is_computed_twice(data: Path, seen: list[int]) -> None:
    first = percepta.select_models(data, "pe-core-nano,hiera-nano", **QUICK)
    assert sum(seen) == 48
    seen.clear()
    again = percepta.select_models(data, "pe-core-nano,hiera-nano", **QUICK)
    assert seen == []
    assert again.to_dict() == first.to_dict()
    percepta.select_models(data, "pe-core-nano,hiera-nano,pe-lang-nano", **QUICK)
    assert sum(seen) == 24
    seen.clear()
    percepta.select_layers(data, "pe-core-nano", **QUICK)  # layers were not wanted before
    assert sum(seen) == 24


def test_a_picture_is_known_by_its_bytes(data: Path, seen: list[int]) -> None:
    percepta.select_layers(data, **QUICK)
    (data / "red" / "0.png").rename(data / "red" / "9.png")
    seen.clear()
    percepta.select_layers(data, **QUICK)
    assert seen == []
    Image.new("RGB", (40, 40), (250, 10, 10)).save(data / "red" / "1.png")
    percepta.select_layers(data, **QUICK)
    assert seen == [1]


def test_a_run_that_is_stopped_goes_on_behind_what_it_did(
    data: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = Backbone.vectors

    def stopped(self: Backbone, pictures: Tensor, layers: bool = True) -> dict[str, Tensor]:
        if self.name == "pe-core-nano" and len(seen) == 8:
            raise KeyboardInterrupt
        return vectors(self, pictures, layers)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "vectors", stopped)
        with pytest.raises(KeyboardInterrupt):
            percepta.select_models(data, "hiera-nano,pe-core-nano", batch_size=4, **QUICK)
    assert seen == [4] * 8
    seen.clear()
    done = percepta.select_models(data, "hiera-nano,pe-core-nano", batch_size=4, **QUICK)
    assert seen == [4] * 4
    assert done.ranking.samples == 24


def test_damaged_and_unwritable_caches_change_nothing(
    data: Path, seen: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = percepta.select_layers(data, **QUICK)
    (part,) = keeping.features_folder().glob("*/*.safetensors")
    part.write_bytes(part.read_bytes()[:1000])
    seen.clear()
    assert percepta.select_layers(data, **QUICK).to_dict() == first.to_dict()
    assert sum(seen) == 24
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert percepta.select_layers(data, **QUICK).to_dict() == first.to_dict()


def test_old_features_make_room(data: Path) -> None:
    percepta.select_layers(data, **QUICK)
    percepta.select_models(data, "hiera-nano,pe-core-nano", **QUICK)
    folders = sorted(keeping.features_folder().iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert len(folders) == 3
    keeping.trim(most=sum(file.stat().st_size for file in folders[-1].iterdir()))
    assert list(keeping.features_folder().iterdir()) == [folders[-1]]


# What fails


def test_broken_pictures_and_models_are_named_and_the_others_go_on(data: Path) -> None:
    (data / "red" / "3.png").write_bytes(b"no picture")
    found = percepta.select_models(data, "pe-core-nano,timm/resnet18,hiera-nano,pe-coar-nano", **QUICK)
    assert set(found.options) == {"pe-core-nano", "hiera-nano"}
    assert [one.source for one in found.left_out] == ["timm/resnet18", "pe-coar-nano"]
    assert [Path(one.source).name for one in found.failures] == ["3.png"]
    assert found.ranking.samples == 23
    again = percepta.select_layers(data, "hiera-nano", **QUICK)
    once_more = percepta.select_layers(data, "hiera-nano", **QUICK)  # all but the broken one are kept
    assert again.to_dict() == once_more.to_dict()
    assert len(once_more.failures) == 1
    with pytest.raises(BadMedia):
        percepta.select_layers(data, on_error="raise", **QUICK)


def test_a_model_of_another_library_that_cannot_run_is_left_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    vit = timm.create_model("test_vit").eval()
    monkeypatch.setattr(vit, "forward_features", broken)
    found = percepta.select_models(data, ["pe-core-nano,hiera-nano", vit], **QUICK)
    assert "since it cannot be run: shapes do not fit" in found.left_out[0].reason


def test_features_that_are_no_numbers_are_left_out(data: Path) -> None:
    vit = timm.create_model("test_vit").eval()
    with torch.no_grad():
        vit.norm.weight.fill_(torch.nan)
    found = percepta.select_models(data, ["pe-core-nano,hiera-nano", vit], **QUICK)
    assert "must be finite numbers" in found.left_out[0].reason


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"budget": 3}, "budget must be a whole number of 4 or more"),
        ({"estimators": ["nkn"]}, "did you mean 'knn'"),
        ({"estimators": []}, "estimators must be a list of at least one name"),
        ({"among": "pe-core-nano"}, "two models at least that can be used; 1 can"),
        ({"among": "pe-core-nano,timm/resnet18"}, "1 can .timm/resnet18 is left out: the weights"),
        ({"among": " , "}, "models must name at least one"),
        ({"runs": -1}, "must be 0 or more; got -1"),
    ],
)
def test_what_is_wrong_is_said(data: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        percepta.select_models(data, **{"among": "pe-core-nano,hiera-nano", **QUICK, **more})


def test_data_that_say_nothing_are_refused_before_a_model_runs(data: Path, seen: list[int], tmp_path: Path) -> None:
    for name in ("green", "blue"):
        for file in (data / name).iterdir():
            file.unlink()
        (data / name).rmdir()
    with pytest.raises(BadInput, match="must hold at least two classes; all 8 pictures are 'red'"):
        percepta.select_layers(data, **QUICK)
    (data.parent / "few.csv").write_text("path,label\ndata/red/0.png,a\ndata/red/1.png,b\n")
    with pytest.raises(BadInput, match="more pictures than classes"):
        percepta.select_layers(data.parent / "few.csv", **QUICK)
    with pytest.raises(BadMedia, match="does not exist"):
        percepta.select_layers(tmp_path / "none", **QUICK)
    assert seen == []


def test_a_budget_below_two_of_each_class_leaves_classes_out(data: Path) -> None:
    found = percepta.select_layers(data, budget=4, **QUICK)
    assert found.ranking.samples == 4
    assert "1 of 3 classes were left out at random" in found.notes[1]
