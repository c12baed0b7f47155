from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from percepta.errors import BadInput
from percepta.training.recipe import Recipe, list_recipes, make_recipe, parse_override, read_recipe

BASE: dict[str, Any] = {
    "model": "tiny",
    "steps": 100,
    "batch_size": 8,
    "learning_rate": "1e-3",
    "data": {"scenes": {"size": 32}},
}


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_are_valid_and_build_their_models(name: str) -> None:
    import percepta

    recipe = read_recipe(name)
    model = percepta.build(recipe.model, device="meta", **recipe.model_overrides)
    assert recipe.image_size(recipe.steps - 1) in (model.config.image_size, None)
    assert all(stage.image_size % model.config.patch_size == 0 for stage in recipe.stages)


def test_paper_scale_recipes_carry_the_paper_s_numbers() -> None:
    recipe = read_recipe("pe-core-l14")
    assert (recipe.batch_size, recipe.learning_rate, recipe.optimiser) == (131_072, 2e-3, "lamb")
    assert (recipe.betas, recipe.weight_decay, recipe.warmup_steps) == ((0.9, 0.95), 0.05, 2000)
    assert [stage.image_size for stage in recipe.stages] == [98, 154, 224, 336]


def test_the_paper_s_video_stage() -> None:
    recipe = read_recipe("pe-core-b16-video")
    assert (recipe.batch_size, recipe.learning_rate, recipe.steps) == (4096, 1e-6, 5400)
    assert recipe.data.videos is not None
    assert (recipe.data.videos.frames, recipe.data.videos.size) == (8, 224)
    assert recipe.steps * recipe.batch_size == pytest.approx(22e6, rel=0.01)
    masks = [read_recipe(name).mask for name in ("pe-core-b16", "pe-core-l14", "pe-core-b16-video")]
    assert [mask and (mask.share, mask.ratio) for mask in masks] == [(1 / 16, 0.4), (1 / 16, 0.4), None]


@pytest.mark.parametrize("size", ["1b", "3b", "8b"])
def test_the_paper_s_stages_of_plm(size: str) -> None:
    """What trains, on how many tiles and frames of how many tokens: the first stage pools and scales nothing."""
    rates = {"warmup": 1e-4, "midtraining": 4e-5, "sft": 1e-5 if size == "8b" else 4e-5}
    lengths = {
        "warmup": (1280, 512, 8000, 20),
        "midtraining": (6144, 2048, 35_000, 120),
        "sft": (11_520, 1024, 21_000, 120),
    }
    seen = {"warmup": (1, 8, "vanilla"), "midtraining": (16, 16, "thumb+tile"), "sft": (36, 32, "thumb+tile")}
    for stage, (length, batch, steps, warmup) in lengths.items():
        recipe = read_recipe(f"plm-{size}-{stage}")
        assert recipe.answer is not None
        assert (recipe.answer.length, recipe.batch_size, recipe.steps, recipe.warmup_steps) == (
            length, batch, steps, warmup,
        )  # fmt: skip
        assert recipe.learning_rate == rates[stage]
        assert recipe.weight_decay == (0.05 if size == "8b" else 0.01)
        assert (recipe.optimiser, recipe.betas, recipe.gradient_clip) == ("adamw", (0.9, 0.95), 1.0)
        first = stage == "warmup"
        assert recipe.answer.form == ("warmup" if first else "plm_sft")
        assert recipe.answer.train == (("projector",) if first else ("vision", "projector", "decoder"))
        assert recipe.model_overrides.get("pooling") == (1 if first else None)
        assert (recipe.model_overrides.get("vision", {}).get("layer_scale", 0.1) is None) is first
        rows = recipe.data.conversations
        assert rows is not None
        assert (rows.tiles, rows.frames, rows.mode) == seen[stage]


def test_overrides_change_nested_fields(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: tiny\nsteps: 5\nbatch_size: 2\nlearning_rate: 0.1\nstages: [{share: 1, image_size: 8}]\n")
    changes = ["data.scenes.weight=0.5", "learning_rate=3e-4", "stages.0.image_size=16", "betas=[0.8, 0.9]"]
    recipe = read_recipe(path, changes)
    assert recipe.data.scenes is not None
    assert recipe.data.scenes.weight == 0.5
    assert (recipe.learning_rate, recipe.betas) == (3e-4, (0.8, 0.9))
    assert recipe.image_size(0) == 16


def test_a_source_can_be_switched_off() -> None:
    recipe = read_recipe("pe-core-nano", ["data.scenes=null"])
    assert list(recipe.data.sources) == ["cifar10"]
    assert list(read_recipe("pe-core-nano", ["data.cifar10.weight=0"]).data.sources) == ["scenes"]


def test_override_values_are_yaml() -> None:
    assert parse_override("a.b=[1, x]") == (("a", "b"), [1, "x"])
    assert parse_override("path=a=b") == (("path",), "a=b")


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=1", "a b=1"])
def test_override_syntax_is_explained(text: str) -> None:
    with pytest.raises(BadInput, match="must look like key=value"):
        parse_override(text)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps=[1", "must be YAML"),
        ("steps.more=1", "goes below steps"),
        ("stages.9.share=1", "a number below 3"),
        ("data.scenes.wieght=1", "data.scenes.wieght is not a field of a recipe; did you mean data.scenes.weight"),
    ],
)
def test_bad_overrides_are_explained(override: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_recipe("pe-core-nano", [override])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lerning_rate": 1}, "mine.yaml: lerning_rate is not a field of a recipe; did you mean learning_rate"),
        ({"stages": [{"share": 1, "image_sise": 3}]}, "stages.0.image_sise is not .* did you mean stages.image_size"),
        ({"data": {"scenes": {"augment": {"flop": 1}}}}, "did you mean data.scenes.augment.flip"),
        ({"steps": "many"}, "mine.yaml: steps cannot be 'many'; input should be a valid integer"),
        ({"data": {"cifar10": {}}}, "data.cifar10.path is missing"),
        ({"data": {}}, "at least one source"),
        ({"optimiser": "adm"}, "optimiser cannot be 'adm'"),
        ({"schedule": "wds"}, "did you mean 'wsd'"),
        ({"warmup": 200}, "fit into 100 steps"),
        ({"batch_size": 0}, "batch_size of a recipe must be positive"),
        ({"learning_rate": math.nan}, "learning_rate of a recipe must be positive; got nan"),
        ({"ema": 1.0}, "ema of a recipe must be at least 0 and below 1"),
        ({"stages": [{"share": 1, "image_size": 0}]}, "image_size of a stage must be positive"),
        ({"data": {"scenes": {"weight": -1}, "clips": {}}}, "weight of scenes must be 0 or more; got -1"),
        (
            {"data": {"scenes": {"options": {"highth": 9}}}},
            "options of scenes must be fields of SceneConfig .*; got 'highth'",
        ),
        ({"data": {"clips": {"frames": 0}}}, "data.clips: frames of clips must be 1 or more"),
        ({"data": {"clips": {"captions": "all"}}}, "data.clips.captions cannot be 'all'; input should be 'content' or"),
        ({"data": {"video": {"path": "x"}}}, "data.video is not a field of a recipe; did you mean data.videos"),
        ({"mask": {"ratoi": 0.4}}, "mask.ratoi is not a field of a recipe; did you mean mask.ratio"),
        ({"mask": True}, "mask cannot be True; input should be a dictionary"),
        ({"data": {"scenes": {"augment": {"area": [0.9, 0.1]}}}}, "area of augment must be two rising shares"),
    ],
)
def test_mistakes_are_explained_in_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        make_recipe({**BASE, **change}, "mine.yaml")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'pe-core-nano'"):
        read_recipe("pe-core-nan")
    for text, words in ((b"- 1\n", "must hold fields"), (b"a: [", "must be YAML"), (b"\xff\xfe\0", "must be YAML")):
        (tmp_path / "x.yaml").write_bytes(text)
        with pytest.raises(BadInput, match=words):
            read_recipe(tmp_path / "x.yaml")


def test_stages_follow_their_shares() -> None:
    stages = [{"share": 10, "image_size": 98}, {"share": 8, "image_size": 154}, {"share": 6, "image_size": 224}]
    recipe = make_recipe({**BASE, "steps": 24, "stages": stages})
    assert [recipe.image_size(step) for step in (0, 9, 10, 17, 18, 23, 99)] == [98, 98, 154, 154, 224, 224, 224]
    assert make_recipe(BASE).image_size(0) is None


def test_lengths_below_one_are_shares() -> None:
    recipe = make_recipe({**BASE, "warmup": 0.05, "decay": 20})
    assert (recipe.warmup_steps, recipe.decay_steps) == (5, 20)
    assert isinstance(recipe, Recipe)
    assert math.isclose(recipe.learning_rate, 1e-3)
