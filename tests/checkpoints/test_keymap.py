"""Key tables: renames, joins, transposes, nesting, constants, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from percepta.checkpoints import KeyMap, joined, recognise, rename, transposed, unsqueezed
from percepta.errors import CheckpointMismatch

TABLE = KeyMap(
    (
        rename("blocks.{i}.a", "layers.{i}.first"),
        joined(("q", "kv"), "in_proj", (1, 2)),
        transposed("head", "fc.weight"),
        unsqueezed("token", "cls", 2),
    ),
    {"fc.bias": lambda tensors: tensors["head"].new_zeros(tensors["head"].shape[1])},
)
NATIVE = {
    "blocks.0.a": torch.randn(3),
    "blocks.11.a": torch.randn(3),
    "q": torch.randn(4, 2),
    "kv": torch.randn(8, 2),
    "head": torch.randn(5, 7),
    "token": torch.randn(6),
}


def test_values_cross_both_ways() -> None:
    foreign = TABLE.to_foreign(NATIVE)
    assert set(foreign) == {"layers.0.first", "layers.11.first", "in_proj", "fc.weight", "fc.bias", "cls"}
    assert foreign["cls"].shape == (1, 1, 6)
    assert torch.equal(foreign["in_proj"], torch.cat([NATIVE["q"], NATIVE["kv"]]))
    assert foreign["fc.bias"].shape == (7,)
    back, left = TABLE.to_native(foreign)
    assert not left
    assert all(torch.equal(back[key], value) for key, value in NATIVE.items())


def test_nested_tables_and_sums() -> None:
    both = TABLE.nested("vision.", "visual.") + KeyMap((rename("scale", "logit_scale"),))
    native = {f"vision.{key}": value for key, value in NATIVE.items()} | {"scale": torch.ones(())}
    foreign = both.to_foreign(native)
    assert "visual.layers.11.first" in foreign
    assert "visual.fc.bias" in foreign
    assert both.foreign_name("vision.blocks.3.a") == "visual.layers.3.first"
    assert both.foreign_name("unknown") == "unknown"
    assert set(both.to_native(foreign)[0]) == set(native)


def test_unknown_native_keys_and_halves_are_refused() -> None:
    with pytest.raises(CheckpointMismatch, match="1 unexpected"):
        TABLE.to_foreign(NATIVE | {"stray": torch.ones(1)})
    with pytest.raises(CheckpointMismatch, match="1 missing"):
        TABLE.to_foreign({key: value for key, value in NATIVE.items() if key != "kv"})


def test_recognise_names_what_does_not_fit() -> None:
    layouts = {"peer": TABLE}
    foreign = TABLE.to_foreign(NATIVE)
    assert recognise(foreign, NATIVE, layouts)[0] == "peer"
    assert recognise(NATIVE, NATIVE, layouts)[0] == "native"
    broken = {key: value for key, value in foreign.items() if key != "cls"}
    broken["extra"] = torch.ones(1)
    broken["fc.weight"] = torch.ones(2, 5)
    with pytest.raises(CheckpointMismatch) as caught:
        recognise(broken, NATIVE, layouts, owner="file.pt")
    assert caught.value.missing == ("cls",)
    assert caught.value.unexpected == ("extra",)
    assert "fc.weight (5, 2) instead of (5, 7)" in str(caught.value)
    assert "closest layout is 'peer'" in str(caught.value)


def test_recognise_finds_a_sub_tree() -> None:
    whole = {f"visual.{key}": value for key, value in TABLE.to_foreign(NATIVE).items()} | {"text.a": torch.ones(1)}
    name, native = recognise(whole, NATIVE, {"peer": TABLE}, {"peer": "visual."})
    assert name == "peer"
    assert torch.equal(native["token"], NATIVE["token"])
