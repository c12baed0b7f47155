from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import TinyModel
from safetensors.torch import save_file

from percepta.checkpoints import write_safetensors
from percepta.errors import BadInput, CheckpointMismatch
from percepta.training.averaging import MovingAverage
from percepta.training.checkpointing import HEADER, TrainingState, read_state
from percepta.training.optimisers import make_optimiser


def state(seed: int, optimiser: str = "adamw", width: int = 48) -> TrainingState:
    torch.manual_seed(seed)
    model = TinyModel(width)
    return TrainingState(model, make_optimiser(optimiser, model, 0.01, 0.1), MovingAverage(model, 0.9))


def step(live: TrainingState) -> None:
    loss = live.learner.encode_image(torch.randn(4, 3, 16, 16)).square().sum()
    loss = loss + live.learner.encode_text(torch.randint(1, 99, (4, 5))).square().sum()
    live.optimiser.zero_grad()
    loss.backward()
    live.optimiser.step()
    assert live.average is not None
    live.average.update(live.learner, 50)


@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "muon"])
def test_a_restored_state_goes_on_bit_for_bit(tmp_path: Path, optimiser: str) -> None:
    live = state(0, optimiser)
    for _ in range(3):
        step(live)
    live.save(tmp_path / "state.safetensors", 3, {"losses": [0.1]})
    other = state(1, optimiser)
    step(other)
    header = other.restore(tmp_path / "state.safetensors")
    assert (header["step"], header["losses"], header["schema"]) == (3, [0.1], 2)
    for going_on in (live, other):
        torch.manual_seed(99)
        for _ in range(2):
            step(going_on)
    assert other.tensors().keys() == live.tensors().keys()
    for name, value in live.tensors().items():
        assert torch.equal(value, other.tensors()[name]), name


def test_states_of_other_models_are_refused_whole(tmp_path: Path) -> None:
    state(0).save(tmp_path / "x.safetensors", 1)
    other = state(0, width=24)
    before = {name: value.clone() for name, value in other.learner.state_dict().items()}
    with pytest.raises(CheckpointMismatch, match=r"misshapen.*another folder"):
        other.restore(tmp_path / "x.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.learner.state_dict().items())


def test_nothing_is_taken_over_where_the_header_does_not_please(tmp_path: Path) -> None:
    state(0).save(tmp_path / "x.safetensors", 1, {"colour": "red"})
    other = state(1)
    before = {name: value.clone() for name, value in other.learner.state_dict().items()}

    def refuse(header: Mapping[str, Any]) -> None:
        raise BadInput(f"no {header['colour']} runs")

    with pytest.raises(BadInput, match="no red runs"):
        other.restore(tmp_path / "x.safetensors", refuse)
    assert all(torch.equal(value, before[name]) for name, value in other.learner.state_dict().items())


def test_states_without_averages_are_refused_where_there_are_some_to_restore(tmp_path: Path) -> None:
    live = state(0)
    TrainingState(live.learner, live.optimiser).save(tmp_path / "x.safetensors", 1)
    with pytest.raises(CheckpointMismatch, match="missing"):
        state(1).restore(tmp_path / "x.safetensors")


def test_files_that_are_no_states_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"junk")
    with pytest.raises(BadInput, match="must be a training state"):
        read_state(tmp_path / "a.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(BadInput, match="plain checkpoint"):
        read_state(tmp_path / "b.safetensors")
    write_safetensors(tmp_path / "c.safetensors", {"a": torch.ones(1)}, {"schema": 9}, HEADER)
    with pytest.raises(BadInput, match="schema 9"):
        read_state(tmp_path / "c.safetensors")
    write_safetensors(tmp_path / "d.safetensors", {"a": torch.ones(1)}, {"schema": 1}, HEADER)
    with pytest.raises(BadInput, match="earlier Percepta"):
        read_state(tmp_path / "d.safetensors")
