"""Parity with the merging of task vectors in peft (huggingface/peft from PyPI), which merges one tensor at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from percepta.merging import dare, task_arithmetic, ties

pytest.importorskip("peft")
from peft.utils import merge_utils

MODELS, SIZE = 4, 3000


def vectors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SIZE, generator=generator) ** 3 for _ in range(MODELS)]


def split(vector: Tensor) -> dict[str, Tensor]:
    """A vector as the state dict of a model, for peft trims tensor by tensor and we trim all of them together."""
    return {"a": vector[:1000].view(20, 50), "b": vector[1000:2900], "c": vector[2900:]}


def joined(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in state.values()])


BASE = split(torch.zeros(SIZE))
WEIGHTS = torch.ones(MODELS)


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ties(seed: int, keep: float) -> None:
    tasks = vectors(seed)
    wanted = merge_utils.ties(tasks, WEIGHTS, keep)
    torch.testing.assert_close(joined(ties(BASE, [split(task) for task in tasks], keep)), wanted)


def test_task_arithmetic() -> None:
    tasks = vectors(0)
    wanted = merge_utils.task_arithmetic(tasks, 0.3 * WEIGHTS)
    found = joined(task_arithmetic(BASE, [split(task) for task in tasks], 0.3))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("then", ["task_arithmetic", "ties"])
def test_dare_on_average(then: str) -> None:
    """Draws differ; their mean over many does not."""
    tasks = [vector[:300] for vector in vectors(0)]
    base, models = {"w": torch.zeros(300)}, [{"w": task} for task in tasks]
    method = merge_utils.dare_linear if then == "task_arithmetic" else merge_utils.dare_ties
    torch.manual_seed(0)
    draws = 400
    wanted = torch.stack([method(tasks, WEIGHTS, 0.6) for _ in range(draws)])
    found = torch.stack([dare(base, models, 0.4, seed, then, scale=1, keep=1)["w"] for seed in range(draws)])
    error = (wanted.var(0) + found.var(0)).div(draws).sqrt()
    away = (found.mean(0) - wanted.mean(0)) / error.clamp(min=1e-6)
    assert float(away.abs().max()) < 5
    assert 0.8 < float(away.std()) < 1.2
