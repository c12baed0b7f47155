"""Checkpoint files: every wrapper, hostile pickles, damaged files, atomic writes."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from percepta.checkpoints import files, read_metadata, read_tensors, write_safetensors
from percepta.errors import BadInput, CheckpointMismatch, MissingWeights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "weights", "module", "module in state_dict"])
def test_wrappers_are_opened(tmp_path: Path, wrap: str) -> None:
    content: dict = {f"module.{key}": value for key, value in STATE.items()} if "module" in wrap else dict(STATE)
    key = {"weights": "weights", "state_dict": "state_dict", "module in state_dict": "state_dict"}.get(wrap)
    torch.save({key: content, "epoch": 3} if key else content, tmp_path / "x.pt")
    got = read_tensors(tmp_path / "x.pt")
    assert set(got) == set(STATE)
    assert all(torch.equal(got[name], value) for name, value in STATE.items())


def test_a_folder_with_one_file_will_do(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", STATE, {"name": "x"})
    assert set(read_tensors(tmp_path)) == set(STATE)
    assert read_metadata(tmp_path) == {"name": "x"}
    torch.save(STATE, tmp_path / "other.pt")
    with pytest.raises(BadInput, match="holds 2 checkpoints"):
        read_tensors(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", STATE, {"name": "y"})  # what a training run leaves beside others
    assert read_metadata(tmp_path) == {"name": "y"}


def test_content_counts_and_not_the_ending(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "really.pt", STATE)
    assert set(read_tensors(tmp_path / "really.pt")) == set(STATE)


class _Hostile:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_does_not_execute(tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "executed"
    file = tmp_path / "evil.pt"
    if legacy:
        file.write_bytes(pickle.dumps(_Hostile(str(marker))))
    else:
        torch.save({"w": torch.ones(1), "evil": _Hostile(str(marker))}, file)
    with pytest.raises(CheckpointMismatch, match="refused"):
        read_tensors(file)
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Hostile(str(marker))))  # the bait is real
    assert marker.exists()


def test_damaged_files_get_one_sentence(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    noise = [random.Random(seed).randbytes(64) for seed in range(100)]
    for content in (b"", b"not a checkpoint", b"PK\x03\x04broken", whole[:200], whole[:-30], *noise):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(CheckpointMismatch) as caught:
            read_tensors(tmp_path / "x.pt")
        assert "\n" not in str(caught.value)


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", STATE)
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:-10])
    with pytest.raises(CheckpointMismatch):
        read_tensors(tmp_path / "x.safetensors")


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="does not exist"):
        read_tensors(tmp_path / "nowhere.pt")
    with pytest.raises(MissingWeights, match="holds no checkpoint"):
        read_tensors(tmp_path)
    torch.save({"note": "hello"}, tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatch, match="holds no tensors"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("moment", ["while writing", "while moving"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    file = tmp_path / "x.safetensors"
    write_safetensors(file, STATE)
    before = file.read_bytes()

    def fail(*arguments: object, **_: object) -> None:
        Path(str(arguments[1 if moment == "while writing" else 0])).write_bytes(b"half")
        raise OSError("disk full")

    if moment == "while writing":
        monkeypatch.setattr(files, "save_file", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors(file, {"b": torch.ones(1)})
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
