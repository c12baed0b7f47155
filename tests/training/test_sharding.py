"""Weights shared out among two processes: the same run as of one, from state to state; what cannot be is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_accumulating import VALUES, same_weights

import percepta
from percepta.errors import BadInput
from percepta.training import Recipe, make_recipe, read_records, run
from percepta.training.answering import Answer, AnswerInputs, with_picture
from percepta.training.answering_rows import Row
from percepta.training.loop import STATE_FILE
from percepta.training.ranks import Ranks

SHARED = {"devices": 2, "strategy": "fsdp"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(out: Path, **changes: Any) -> Recipe:
    return make_recipe({**VALUES, "answer": {"length": 256, "recompute": True}, "out": str(out), **changes})


def same_states(one: Path, other: Path) -> None:
    first, second = load_file(one / STATE_FILE), load_file(other / STATE_FILE)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=2e-5, rtol=0, msg=name)


def test_shared_weights_train_as_whole_ones(tmp_path: Path) -> None:
    """Begun by one process, gone on by two that share the weights, ended by one: the states are the same files."""
    run(recipe(tmp_path / "whole", log_every=1))
    run(recipe(tmp_path / "parts", log_every=1, steps=1))
    run(recipe(tmp_path / "parts", log_every=1, steps=3, accumulate=2, **SHARED))
    assert run(recipe(tmp_path / "parts", log_every=1)).finished
    same_weights(tmp_path / "whole", tmp_path / "parts", 1e-6)
    same_states(tmp_path / "whole", tmp_path / "parts")
    for before, after in zip(read_records(tmp_path / "whole"), read_records(tmp_path / "parts"), strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=2e-5)


def test_processes_without_a_picture_or_a_word_keep_step(tmp_path: Path) -> None:
    """Each process must use every block, or the others wait for it for ever."""
    Image.new("RGB", (64, 64), (200, 30, 40)).save(tmp_path / "a.png")
    asked = [{"from": "human", "value": "what is red?"}, {"from": "assistant", "value": "a colour"}]
    seen = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "assistant", "value": "red"}]
    endless = [{"from": "human", "value": "what is " * 300}, {"from": "assistant", "value": "a colour"}]
    rows = [{"conversations": asked}, {"image": "a.png", "conversations": seen}, {"conversations": endless}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    conversations = {"path": str(tmp_path / "rows.jsonl"), "size": 64, "tiles": 1}
    data = {"workers": 0, "validation_samples": 1, "conversations": conversations}
    changes = {"data": data, "batch_size": 2, "steps": 6}
    run(recipe(tmp_path / "whole", **changes))
    run(recipe(tmp_path / "parts", **changes, **SHARED))
    same_weights(tmp_path / "whole", tmp_path / "parts", 1e-6)


def test_a_picture_that_says_nothing_changes_no_gradient(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = percepta.build("plm-nano", **VALUES["model_overrides"])
    learner = Answer(recipe(tmp_path), model, Ranks()).learner
    numbers = torch.arange(5)
    text = Row(
        numbers[None], numbers[None], torch.full((1, 5), -1), numbers[2:], numbers[2:] + 3, numbers[2:], ((0, (5,)),)
    )
    shown = with_picture(AnswerInputs(text, None), model.config)
    assert shown.row.tokens.shape[1] == 5 + model.config.tokens_per_chunk
    gradients = []
    for inputs in (AnswerInputs(text, None), shown):
        learner.zero_grad()
        learner(inputs)[0].backward()
        gradients.append({name: weight.grad for name, weight in learner.named_parameters()})
    for name, gradient in gradients[1].items():
        assert gradient is not None, name
        plain = gradients[0][name]
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if plain is None else plain, atol=1e-6, rtol=0)
    assert with_picture(shown, model.config) is shown


def test_what_shared_weights_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"evaluate_every: 0 and no answer\.lora; got optimiser: muon, ema: 0\.9\."):
        run(recipe(tmp_path, optimiser="muon", ema=0.9, **SHARED))
