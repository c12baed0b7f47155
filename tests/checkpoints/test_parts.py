"""Checkpoints that come in several files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from percepta.checkpoints import read_tensors
from percepta.errors import CheckpointMismatch, MissingWeights


def test_consolidated_parts_are_one_checkpoint(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2), "shared": torch.ones(1)}}, tmp_path / "consolidated.00.pth")
    torch.save({"model": {"b": torch.zeros(3), "shared": torch.ones(1)}}, tmp_path / "consolidated.01.pth")
    (tmp_path / "params.json").write_text("{}")
    found = read_tensors(tmp_path)
    assert {key: value.tolist() for key, value in found.items()} == {"a": [1, 1], "b": [0, 0, 0], "shared": [1]}


def test_parts_that_disagree_are_refused(tmp_path: Path) -> None:
    torch.save({"wq": torch.ones(2)}, tmp_path / "consolidated.00.pth")
    torch.save({"wq": torch.zeros(2)}, tmp_path / "consolidated.01.pth")
    with pytest.raises(CheckpointMismatch, match="wq"):
        read_tensors(tmp_path)


def test_numbered_parts_must_all_be_there(tmp_path: Path) -> None:
    for number, key in ((1, "a"), (3, "c")):
        save_file({key: torch.ones(1)}, tmp_path / f"model-0000{number}-of-00003.safetensors")
    with pytest.raises(MissingWeights, match="2 parts of a checkpoint, not all"):
        read_tensors(tmp_path)
    save_file({"b": torch.ones(1)}, tmp_path / "model-00002-of-00003.safetensors")
    assert sorted(read_tensors(tmp_path)) == ["a", "b", "c"]
