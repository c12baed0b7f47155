"""Distillation by recipe: widths, words, exactness, and a student that comes closer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import percepta
from percepta.errors import BadInput
from percepta.training.aligning_recipe import DistilRecipe
from percepta.training.data import Batch
from percepta.training.distilling import Distil, DistilInputs
from percepta.training.loop import run
from percepta.training.ranks import Ranks
from percepta.training.recipe import AugmentRecipe, Recipe, list_recipes, make_recipe, read_recipe
from percepta.training.sources import Part

NARROW = {"width": 48, "heads": 4, "depth": 2, "image_size": 32}


def small(folder: Path, **changes: Any) -> Recipe:
    values = {
        "model": "pe-spatial-nano",
        "objective": "distil",
        "out": str(folder),
        "steps": 20,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "stages": [{"share": 1, "image_size": 32}],
        "model_overrides": {**NARROW, "layer_scale": None},
        "distil": {"teacher": "pe-core-nano", "layer": 3},
        "threads": 1,
        "log_every": 1,
        "evaluate_every": 20,
        "data": {"scenes": {"size": 32, "pool": 16}, "workers": 0, "validation_samples": 16},
    }
    return make_recipe(values | changes)


def core(**changes: Any) -> Any:
    return percepta.build("pe-core-nano", **{**NARROW, "pooling_heads": 4, "output_dim": 32, **changes})


def test_a_narrower_student_comes_closer(tmp_path: Path) -> None:
    result = run(small(tmp_path))
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) > 20
    student = percepta.load(result.folder / "model.safetensors")
    assert student.config.width == 48
    assert not [name for name in student.state_dict() if "head" in name]
    objective = Distil(small(tmp_path), fresh := percepta.build("pe-spatial-nano", **NARROW, layer_scale=None), Ranks())
    part = Part("scenes", scenes(16), ["x"] * 16, AugmentRecipe())
    before = objective.validate(fresh, [part], 32, torch.device("cpu"))
    assert result.figures["scenes.token_loss"] < -0.3
    assert abs(before["scenes.token_loss"]) < 0.25
    assert result.figures["scenes.pair_loss"] < before["scenes.pair_loss"] * 0.8


def scenes(count: int) -> np.ndarray:
    from percepta.datasets.scenes import SceneConfig, make_batch

    return make_batch(range(900_000, 900_000 + count), SceneConfig(32)).pictures


def test_words_are_compared_at_half_the_temperature(tmp_path: Path) -> None:
    recipe = small(
        tmp_path, model="pe-core-nano", model_overrides={},
        distil={"teacher": "pe-core-nano", "tokens": 0, "pairs": 0, "contrast": 1},
    )  # fmt: skip
    student = percepta.load("pe-core-nano").train()
    objective = Distil(recipe, student, Ranks())
    captions = ["a red star", "a blue cube", "two green discs"]
    inputs = objective.inputs(Batch(0, (Part("scenes", scenes(3), captions, AugmentRecipe()),)), 32)
    with torch.no_grad():
        student.logit_scale.fill_(float(np.log(100)))
        same = objective.learner(inputs)[0].item()
        student.logit_scale.fill_(float(np.log(5)))
        flat = objective.learner(inputs)[0].item()
    wanted = _by_hand(objective.teacher.model, inputs, 100.0)
    assert same == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert flat > same


def _by_hand(model: Any, inputs: DistilInputs, scale: float) -> float:
    assert inputs.words is not None
    with torch.inference_mode():
        images, texts, _ = model(inputs.pictures, inputs.words[0])
    total = 0.0
    for similar in (images @ texts.T, texts @ images.T):
        p = (200 * similar).double().softmax(1)
        total += (p * (p.clamp_min(1e-300).log() - (scale * similar).double().log_softmax(1))).sum(1).mean().item() / 2
    return total


def test_the_gradient_reaches_the_student_alone(tmp_path: Path) -> None:
    recipe = small(tmp_path, model="pe-core-nano", distil={"teacher": "pe-core-nano", "layer": 3, "contrast": 1})
    student = core()
    objective = Distil(recipe, student, Ranks())
    part = Part("scenes", scenes(4), ["a red star", "a blue cube", "a disc", "a ring"], AugmentRecipe())
    losses = objective.learner(objective.inputs(Batch(0, (part,)), 32))
    assert losses[0].item() == pytest.approx(losses[1:].sum().item(), rel=1e-5)
    losses[0].backward()
    assert student.logit_scale.grad is not None
    assert objective.learner.head.linear.weight.grad.abs().sum() > 0
    assert all(value.grad is None for value in objective.teacher.model.parameters())
    assert not objective.teacher.model.training


def test_what_cannot_be_distilled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="one of tokens, pairs, contrast"):
        DistilRecipe("x", tokens=0, pairs=0)
    with pytest.raises(BadInput, match="needs distil"):
        Distil(small(tmp_path, distil=None), core(), Ranks())
    tower = percepta.build("pe-spatial-nano", **NARROW)
    with pytest.raises(BadInput, match="the student has no words"):
        Distil(small(tmp_path, distil={"teacher": "pe-core-nano", "contrast": 1}), tower, Ranks())
    objective = Distil(small(tmp_path, distil={"teacher": "pe-core-nano", "contrast": 1}), core(), Ranks())
    with pytest.raises(BadInput, match="a caption for each picture"):
        objective.inputs(Batch(0, (Part("scenes", scenes(2), [], AugmentRecipe()),)), 32)


def test_the_paper_s_small_models_learn_from_the_large_one() -> None:
    names = [name for name in list_recipes() if name in {f"pe-spatial-{size}" for size in ("t16", "s16", "b16", "l14")}]
    assert len(names) == 4
    for name in names:
        recipe = read_recipe(name)
        assert recipe.distil is not None
        assert (recipe.distil.teacher, recipe.distil.tokens, recipe.distil.pairs) == ("pe-spatial-g14-448", 1, 1)
        assert percepta.build(recipe.model, device="meta").config.layer_scale is None
