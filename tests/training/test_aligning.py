"""Spatial alignment by recipe: hidden patches, teachers, exact resume, and a loss that falls."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import percepta
from percepta.errors import BadInput
from percepta.training.aligning import Align, AlignInputs
from percepta.training.aligning_recipe import AlignRecipe
from percepta.training.aligning_teachers import MaskTeacher, TokenTeacher, normalised_for
from percepta.training.aligning_towers import blanked, hidden_patches, like, see, start_from
from percepta.training.data import Batch
from percepta.training.loop import run
from percepta.training.ranks import Ranks
from percepta.training.recipe import AugmentRecipe, Recipe, make_recipe, read_recipe
from percepta.training.sources import Part


def small(folder: Path, **changes: Any) -> Recipe:
    values = {
        "model": "pe-spatial-nano",
        "objective": "align-spatial",
        "out": str(folder),
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "stages": [{"share": 1, "image_size": 32}],
        "model_overrides": {"image_size": 64, "drop_path": 0.1},
        "align": {"start": "pe-core-nano", "layer": 1, "sam": "sam2-nano", "points": 3},
        "threads": 1,
        "log_every": 1,
        "save_every": 2,
        "evaluate_every": 0,
        "data": {"scenes": {"size": 32, "pool": 8, "augment": {"flip": 0.5}}, "workers": 0, "validation_samples": 4},
    }
    return make_recipe(values | changes)


def part(count: int = 8, **fields: Any) -> Part:
    pictures = np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    return Part("scenes", pictures, ["x"] * count, AugmentRecipe(flip=0.5), **fields)


def test_exactly_three_quarters_of_the_patches_are_hidden_in_squares() -> None:
    hidden = hidden_patches(5, (8, 12), 0.75, 2, torch.Generator().manual_seed(0))
    assert hidden.shape == (5, 8, 12)
    assert hidden.flatten(1).sum(1).tolist() == [72] * 5
    squares = hidden.unflatten(2, (6, 2)).unflatten(1, (4, 2)).sum((2, 4))
    assert set(squares.unique().tolist()) == {0, 4}
    assert len({tuple(row.tolist()) for row in hidden.flatten(1)}) == 5


def test_squares_at_the_edge_of_an_odd_grid_are_cut() -> None:
    hidden = hidden_patches(3, (5, 5), 0.75, 2)
    assert hidden.shape == (3, 5, 5)
    assert not hidden.all()
    assert torch.equal(hidden[:, 0], hidden[:, 1])


def test_hidden_patches_are_the_same_to_the_encoder_whatever_was_there() -> None:
    model = percepta.load("pe-core-nano", text=None)
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    hidden[0, :2, :2] = True
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[..., :16, :16] = 0.7
    with torch.inference_mode():
        a, b = (see(model, blanked(one, hidden)).tokens for one in (x, other))
        assert torch.equal(a, b)
        embedded, _ = model.embed(blanked(x, hidden), lambda patches: patches.sub(patches[:, :1]))
        assert torch.equal(embedded, model.embed(blanked(x, hidden))[0])  # a hidden patch embeds to 0
    assert torch.equal(blanked(x, hidden)[..., 16:], x[..., 16:])


def test_a_start_with_layer_scale_can_be_the_same_function() -> None:
    source = percepta.load("pe-core-nano", text=None)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = see(source, x).tokens
        for same in (True, False):
            student = percepta.build("pe-spatial-nano", image_size=64).eval()
            start_from(student, source, same)
            assert all(torch.all(block.scale1.gamma == 0.1) for block in student.blocks)
            found = see(student, x).tokens
            near = (found - wanted).abs().max() / wanted.abs().max()
            assert (near < 1e-5) == same


def test_a_start_of_another_shape_is_refused_and_changes_nothing() -> None:
    student = percepta.build("pe-spatial-nano", width=96, heads=4)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(BadInput, match="such as"):
        start_from(student, percepta.load("pe-core-nano", text=None))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_shorter_student_takes_the_first_blocks() -> None:
    source, student = percepta.load("pe-core-nano", text=None), percepta.build("pe-spatial-nano", depth=4)
    start_from(student, source)
    assert torch.equal(student.blocks[3].mlp.expand.weight, source.blocks[3].mlp.expand.weight)


def test_gradient_reaches_the_student_alone_and_teachers_stay_as_they_are(tmp_path: Path) -> None:
    model = percepta.build("pe-spatial-nano", image_size=64)
    learner = Align(small(tmp_path), model, Ranks()).learner
    teachers = [teacher.model for teacher in learner.teachers]
    before = [{name: value.clone() for name, value in one.state_dict().items()} for one in teachers]
    assert {name.split(".")[0] for name, _ in learner.named_parameters()} == {"model"}
    optimiser = torch.optim.SGD(learner.parameters(), 0.1)
    hidden = hidden_patches(2, (4, 4), 0.75, 2)
    learner(AlignInputs(torch.randn(2, 3, 32, 32), hidden))[0].backward()
    assert all(value.grad is not None for value in model.parameters())
    optimiser.step()
    for one, values in zip(teachers, before, strict=True):
        assert not one.training
        assert all(value.grad is None and not value.requires_grad for value in one.parameters())
        assert all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(("weights", "zero"), [({"pairs": 0}, 2), ({"tokens": 0}, 1)])
def test_each_teacher_alone(tmp_path: Path, weights: dict[str, float], zero: int) -> None:
    recipe = small(tmp_path, align={"start": "pe-core-nano", "layer": 1, "sam": "sam2-nano", "points": 3, **weights})
    learner = Align(recipe, percepta.build("pe-spatial-nano", image_size=64), Ranks()).learner
    losses = learner(AlignInputs(torch.randn(1, 3, 32, 32), torch.zeros(1, 4, 4, dtype=torch.bool)))
    assert losses[zero] == 0
    assert losses[3 - zero] == losses[0] != 0
    assert [teacher is None for teacher in learner.teachers] == [zero == 1, zero == 2]


def test_hidden_patches_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    objective = Align(small(tmp_path), percepta.build("pe-spatial-nano", image_size=64), Ranks())
    whole = part(8, rows=np.arange(8), total=8)
    made = objective.inputs(Batch(3, (whole,)), 32)
    odd = np.arange(1, 8, 2)
    share = dataclasses.replace(whole, pictures=whole.pictures[odd], captions=["x"] * 4, rows=odd)
    some = objective.inputs(Batch(3, (share,)), 32)
    assert torch.equal(some.hidden, made.hidden[odd])
    assert torch.equal(some.pictures, made.pictures[odd])
    assert not torch.equal(objective.inputs(Batch(4, (whole,)), 32).hidden, made.hidden)


def test_masks_are_kept_for_pictures_that_come_again() -> None:
    teacher = MaskTeacher(percepta.load("sam2-nano"), 3, None, cache=3)
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked: list[int] = []
    logits = teacher.logits
    teacher.logits = lambda some, grid: (asked.append(len(some)), logits(some, grid))[1]  # type: ignore[method-assign]
    first = teacher(x[[0, 1, 1]], (4, 4))
    again = teacher(x[[1, 0]], (4, 4))
    assert asked == [2]
    assert torch.equal(again, first[[1, 0]])
    assert torch.allclose(first[:2], logits(x[:2], (4, 4)), rtol=2e-3, atol=0.05)
    teacher(x, (2, 2))
    assert asked == [2, 3]  # another grid is another structure
    assert len(teacher.kept) == 3


def test_logits_of_a_click_stand_where_the_decoder_gives_them() -> None:
    sam = percepta.load("sam2-nano")
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    got = MaskTeacher(sam, 2, None).logits(x, (24, 24))
    with torch.inference_mode():
        features = sam.encode_image(normalised_for(x, None, sam.preprocess)[1:])
        click = torch.tensor([[[72.0, 24.0]]])  # the second of four: right, above
        wanted = sam.predict(features, click, torch.ones(1, 1, dtype=torch.long), multimask=False).logits
    assert got.shape == (2, 576, 4)
    assert torch.allclose(got[1, :, 1], wanted.flatten(), atol=1e-3)


def test_a_teacher_of_another_grid_is_brought_to_the_student_s() -> None:
    hiera, tower = percepta.build("hiera-nano").eval(), percepta.build("pe-spatial-nano").eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        student, teacher = like(see(tower, x), see(hiera, x, 0))
    assert student.shape[:2] == teacher.shape[:2] == (1, 16)  # the class token has nothing to be compared with


def test_a_hiera_can_be_aligned_too(tmp_path: Path) -> None:
    recipe = small(
        tmp_path, model="hiera-nano", model_overrides={}, steps=1, stages=[],
        align={"teacher": "pe-core-nano", "layer": 2, "pairs": 0.0},
    )  # fmt: skip
    result = run(recipe)
    assert result.finished
    assert -1 <= result.figures["token_loss"] <= 1


def test_what_cannot_be_aligned_is_refused(tmp_path: Path) -> None:
    model = percepta.build("pe-spatial-nano", image_size=64)
    with pytest.raises(BadInput, match="start"):
        AlignRecipe()
    with pytest.raises(BadInput, match="one of tokens, pairs"):
        AlignRecipe(start="x", tokens=0, pairs=0)
    with pytest.raises(BadInput, match="hidden"):
        AlignRecipe(start="x", hidden=1.0)
    with pytest.raises(BadInput, match="layer"):
        TokenTeacher(percepta.load("pe-core-nano"), 6, None)
    with pytest.raises(BadInput, match="SAM 2"):
        MaskTeacher(model, 4, None)
    with pytest.raises(BadInput, match="needs align"):
        Align(small(tmp_path, align=None), model, Ranks())
    objective = Align(small(tmp_path, align={"start": "pe-core-nano", "layer": 1, "pairs": 0}), model, Ranks())
    video = dataclasses.replace(part(2), pictures=np.zeros((2, 2, 32, 32, 3), np.uint8))
    with pytest.raises(BadInput, match="takes pictures"):
        objective.inputs(Batch(0, (video,)), 32)


def test_a_resumed_run_is_exact(tmp_path: Path) -> None:
    def stop(step: int, total: int, figures: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole = run(small(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path / "parts"), progress=stop)
    parts = run(small(tmp_path / "parts"))
    a, b = (percepta.load(one.folder / "model.safetensors").state_dict() for one in (whole, parts))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_aligning_makes_the_last_layer_like_the_teacher(tmp_path: Path) -> None:
    recipe = small(
        tmp_path, steps=30, batch_size=8, evaluate_every=30,
        align={"start": "pe-core-nano", "layer": 1, "same_start": True, "sam": "sam2-nano", "points": 3},
    )  # fmt: skip
    objective = Align(recipe, (model := percepta.build("pe-spatial-nano", image_size=64)), Ranks())
    scenes = Part("scenes", percepta_scenes(16), ["x"] * 16, AugmentRecipe())
    before = objective.validate(model, [scenes], 32, torch.device("cpu"))
    result = run(recipe)
    after = objective.validate(percepta.load(result.folder / "model.safetensors"), [scenes], 32, torch.device("cpu"))
    assert after["scenes.token_loss"] < before["scenes.token_loss"] - 0.2
    assert after["scenes.pair_loss"] < before["scenes.pair_loss"] * 0.9


def percepta_scenes(count: int) -> np.ndarray:
    from percepta.datasets.scenes import SceneConfig, make_batch

    return make_batch(range(900_000, 900_000 + count), SceneConfig(32)).pictures


def test_the_paper_s_alignment() -> None:
    recipe = read_recipe("pe-spatial-g14")
    assert (recipe.batch_size, recipe.learning_rate, recipe.steps, recipe.warmup) == (12_288, 5e-4, 24_000, 0)
    assert (recipe.optimiser, recipe.betas, recipe.weight_decay) == ("lamb", (0.9, 0.95), 0.05)
    assert recipe.steps * recipe.batch_size == pytest.approx(300e6, rel=0.02)
    align = recipe.align
    assert align is not None
    assert (align.layer, align.temperature, align.points, align.hidden, align.block) == (40, 20, 32, 0.75, 2)
    assert (align.tokens, align.pairs) == (1, 1)
    assert recipe.model_overrides["drop_path"] == 0.4
    assert percepta.build(recipe.model, device="meta").config.layer_scale == 0.1
