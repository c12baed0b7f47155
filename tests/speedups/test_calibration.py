"""Schedules found on pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import percepta
from percepta.errors import BadInput
from percepta.speedups import calibrate_schedule
from percepta.speedups.calibration import other_weights
from tests.battery import pictures, small


@torch.no_grad()
def change(model: Any, x: torch.Tensor, **setting: Any) -> float:
    want = model(x)
    with percepta.merge_tokens(model, **setting):
        return float(1 - F.cosine_similarity(model(x), want).mean())


def test_a_calibrated_schedule_changes_outputs_least_at_its_cost() -> None:
    model, x = small("pe-core-nano", text=None), pictures(8, 3, 32, 32)
    seen: list[tuple[int, int]] = []
    schedule = calibrate_schedule(model, x, 0.6, "bipartite", rounds=1, report=lambda *done: seen.append(done))
    with percepta.merge_tokens(model, schedule=schedule) as merging:
        assert 0.55 < merging.flops <= 0.6
    assert change(model, x, schedule=schedule) < change(model, x, flops=0.6)
    assert seen[-1] == (9, 9)
    assert model.shorten is None


def test_a_model_with_words_is_calibrated_by_its_pictures() -> None:
    schedule = calibrate_schedule(small("pe-core-nano"), pictures(4, 3, 32, 32), 0.7, rounds=1)
    assert len(schedule) == 3


def test_a_timm_model_is_calibrated_by_its_logits() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=48, num_heads=3).eval()
    schedule = calibrate_schedule(vit, pictures(4, 3, 64, 64), 0.8, rounds=1)
    assert schedule[-1] == 0, "the last block cannot change a class token"


def test_every_block_can_come_back() -> None:
    assert other_weights([1.0, 0.0], 1) == [[1.0, 0.125], [1.0, 0.25], [1.0, 0.5]]
    assert other_weights([1.0, 2.0], 0) == [[0.0, 2.0], [0.5, 2.0], [2.0, 2.0]]


def test_what_cannot_be_is_told() -> None:
    model = small("pe-core-nano", text=None)
    with pytest.raises(BadInput, match=r"\(B, 3, H, W\)"):
        calibrate_schedule(model, pictures(3, 32, 32), 0.5)
    with pytest.raises(BadInput, match="least that this model can reach"):
        calibrate_schedule(model, pictures(1, 3, 32, 32), 0.05)
