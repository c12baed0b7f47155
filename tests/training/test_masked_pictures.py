"""Masked pre-training and classification by recipe: inputs, exact resume, losses that fall, scores above chance."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.samples import write_cifar

import percepta
from percepta.errors import BadInput
from percepta.training.classifying import Classify, ClassInputs, mixed
from percepta.training.data import Batch
from percepta.training.loop import run
from percepta.training.masked_pictures import Masked
from percepta.training.optimisers import rate_factors, undecayed
from percepta.training.picture_inputs import model_pictures
from percepta.training.picture_recipe import ClassifyRecipe, MaskedRecipe
from percepta.training.ranks import Ranks
from percepta.training.recipe import AugmentRecipe, list_recipes, make_recipe, read_recipe
from percepta.training.sources import Part

SMALL = {"stages": (1, 1, 1), "embed_dim": 16}


def small_recipe(folder: Path, objective: str, **changes):
    write_cifar(folder / "cifar.parquet", 400)
    values = {
        "model": "mae-hiera-nano" if objective == "masked" else "hiera-nano",
        "objective": objective,
        "model_overrides": dict(SMALL),
        "out": str(folder / objective),
        "steps": 30,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "warmup": 5,
        "log_every": 5,
        "evaluate_every": 30,
        "data": {
            "cifar10": {"path": str(folder / "cifar.parquet"), "holdout": 100, "augment": {"flip": 0.5}},
            "workers": 0,
            "validation_samples": 100,
        },
    }
    return make_recipe(values | changes)


def part(count: int = 8, **fields) -> Part:
    pictures = np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    return Part("cifar10", pictures, ["x"] * count, AugmentRecipe(flip=0.5), **fields)


def test_pictures_are_normalised_as_the_model_wants_them():
    preprocess = percepta.build("hiera-tiny-224", device="meta").preprocess
    got = model_pictures(part(2), 32, preprocess, None)
    want = torch.from_numpy(part(2).pictures).permute(0, 3, 1, 2).float() / 255
    want = (want - torch.tensor(preprocess.mean).view(3, 1, 1)) / torch.tensor(preprocess.std).view(3, 1, 1)
    assert torch.allclose(got, want, atol=1e-5)
    video = dataclasses.replace(part(6), pictures=part(6).pictures.reshape(2, 3, 32, 32, 3), captions=["x"] * 2)
    assert model_pictures(video, 32, None, torch.Generator().manual_seed(0)).shape == (2, 3, 3, 32, 32)


def test_masks_do_not_depend_on_the_number_of_processes(tmp_path):
    recipe = small_recipe(tmp_path, "masked", masked={"ratio": 0.5})
    objective = Masked(recipe, percepta.build("mae-hiera-nano", **SMALL), Ranks())
    whole = part(8, rows=np.arange(8), total=8)
    made = objective.inputs(Batch(3, (whole,)), 32)
    assert made.keep.sum(1).tolist() == [8] * 8
    odd = np.arange(1, 8, 2)
    share = dataclasses.replace(whole, pictures=whole.pictures[odd], captions=["x"] * 4, rows=odd)
    some = objective.inputs(Batch(3, (share,)), 32)
    assert torch.equal(some.keep, made.keep[odd])
    assert torch.equal(some.pictures, made.pictures[odd])
    assert not torch.equal(objective.inputs(Batch(4, (whole,)), 32).keep, made.keep)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_mixed_as_pixels_are(kind):
    ones = torch.zeros(4, 3, 8, 8)
    ones[:2] = 1.0
    inputs = ClassInputs(ones, torch.eye(2)[[0, 0, 1, 1]])
    for seed in range(5):
        got = mixed(inputs, ClassifyRecipe(**{kind: 1.0}), np.random.default_rng(seed))
        assert torch.allclose(got.targets.sum(1), torch.ones(4))
        assert torch.allclose(got.pictures.mean((1, 2, 3)), got.targets[:, 0], atol=1e-6)
    assert mixed(inputs, ClassifyRecipe(), np.random.default_rng(0)) is inputs


def test_classes_come_from_numbers_or_from_captions(tmp_path):
    recipe = small_recipe(tmp_path, "classify", classify={"names": ["cat", "dog"]})
    objective = Classify(recipe, percepta.build("hiera-nano", **SMALL), Ranks())
    assert objective.labels(part(2, labels=np.array([3, 9]))).tolist() == [3, 9]
    assert objective.labels(dataclasses.replace(part(2), captions=["dog", "cat"])).tolist() == [1, 0]
    with pytest.raises(BadInput, match=r"classify\.names"):
        objective.labels(part(2))
    with pytest.raises(BadInput, match="10 classes"):
        objective.labels(part(2, labels=np.array([3, 10])))


def test_pre_training_then_fine_tuning(tmp_path):
    first = run(small_recipe(tmp_path, "masked"))
    assert first.figures["cifar10.masked_loss"] < 0.97
    encoder = str(tmp_path / "masked" / "model.safetensors")
    recipe = small_recipe(tmp_path, "classify", steps=40, classify={"encoder": encoder, "cutmix": 1.0})
    second = run(recipe)
    assert second.figures["cifar10.top1"] > 0.3, second.figures  # chance is 0.1
    stopped = run(dataclasses.replace(recipe, steps=20, out=str(tmp_path / "again"), schedule="constant"))
    assert stopped.finished
    model = percepta.load(tmp_path / "classify" / "model.safetensors")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_objectives_want_their_models(tmp_path):
    with pytest.raises(BadInput, match="decoder"):
        Masked(small_recipe(tmp_path, "masked"), percepta.build("hiera-nano", **SMALL), Ranks())
    with pytest.raises(BadInput, match="classes"):
        Classify(small_recipe(tmp_path, "classify"), percepta.build("mae-hiera-nano", **SMALL), Ranks())
    with pytest.raises(BadInput, match="ratio"):
        MaskedRecipe(ratio=1.0)
    with pytest.raises(BadInput, match="smoothing"):
        ClassifyRecipe(smoothing=1.0)


@pytest.mark.parametrize("name", [name for name in list_recipes() if "hiera" in name])
def test_recipes_build_on_meta(name):
    recipe = read_recipe(name)
    model = percepta.build(recipe.model, device="meta", **recipe.model_overrides)
    kept = undecayed(model, recipe.rates)
    assert kept == {key for key, _ in model.named_parameters() if "positions." in key}
    if recipe.rates.layer_decay < 1:
        factors = rate_factors(model, recipe.rates)
        last = model.config.depth - 1
        decay = recipe.rates.layer_decay
        assert factors["projection.weight"] == pytest.approx(factors[f"blocks.{last}.norm1.weight"]) == decay
        assert factors["patches.weight"] == pytest.approx(decay ** (model.config.depth + 1))
