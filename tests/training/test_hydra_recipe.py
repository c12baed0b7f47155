from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import percepta
from percepta.errors import BadInput
from percepta.layers.hydra import HydraAttention
from percepta.training import make_recipe, read_recipe, read_records, run
from percepta.training.loop import changed_fields, make_model

SMALL = {"depth": 2, "text": {"depth": 1}}
BASE: dict[str, Any] = {
    "model": "pe-core-nano",
    "model_overrides": SMALL,
    "hydra": "back:1",
    "steps": 20,
    "batch_size": 12,
    "learning_rate": 3e-3,
    "hard_negative_weight": 0,
    "log_every": 5,
    "evaluate_every": 0,
    "stages": [{"share": 1, "image_size": 32}],
    "data": {"workers": 0, "scenes": {"size": 32, "pool": 12}},
}


def test_a_run_trains_converted_blocks_and_saves_the_plain_layout(tmp_path: Path) -> None:
    run(make_recipe({**BASE, "out": str(tmp_path)}))
    losses = [float(row["loss"]) for row in read_records(tmp_path) if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    model = percepta.load("pe-core-nano", weights=tmp_path / "model.safetensors", **SMALL)
    assert not any(isinstance(module, HydraAttention) for module in model.modules())


def test_the_packaged_recipe_converts_the_last_two_blocks() -> None:
    recipe = read_recipe("pe-core-nano-hydra")
    assert (recipe.hydra, recipe.weights) == ("back:2", "pretrained")
    model = make_model(recipe)
    kinds = [isinstance(block.attention, HydraAttention) for block in model.vision.blocks]
    assert kinds == [False] * 4 + [True] * 2


def test_blocks_may_be_listed_and_are_part_of_what_decides_the_weights() -> None:
    recipe = make_recipe({**BASE, "hydra": [0, 1]})
    assert isinstance(make_model(recipe).vision.blocks[0].attention, HydraAttention)
    assert changed_fields({"hydra": "back:1"}, {"hydra": "back:2"}) == ["hydra"]
    assert changed_fields({}, {"hydra": None}) == []  # runs from before there was such a field go on
    with pytest.raises(BadInput, match=r"mine.yaml: blocks must be 'all', 'back:k'.* got 'last:2'"):
        make_recipe({**BASE, "hydra": "last:2"}, "mine.yaml")
