"""Every official state-dict key and shape, derived on the meta device, and the tables as bijections."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import percepta
from percepta.models.perception_encoder import layouts

KEYS = Path(os.environ.get("PERCEPTA_KEYS", Path(__file__).parents[3] / "shared" / "specs" / "keys"))
OFFICIAL = [name for name in percepta.list_models("pe-*") if percepta.describe(name).aliases]
COUNTS = {"core-t": 313, "core-s": 313, "core-b": 457, "core-l": 601, "core-g": 912, "lang-l": 327, "lang-g": 662}
COUNTS |= {"spatial-t": 149, "spatial-s": 149, "spatial-b": 149, "spatial-l": 293, "spatial-g": 704}


def test_there_are_fourteen_official_models() -> None:
    assert len(OFFICIAL) == 14


@pytest.mark.parametrize("name", OFFICIAL)
def test_tables_are_bijections(name: str) -> None:
    model = percepta.build(name, device="meta")
    native = model.state_dict()
    for layout, table in layouts(model.config).items():
        foreign = table.to_foreign(native)
        back, left = table.to_native(foreign)
        assert not left
        assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in native.items()}
        if layout == "official":
            assert len(foreign) == next(count for part, count in COUNTS.items() if name.startswith(f"pe-{part}"))


@pytest.mark.skipif(not KEYS.is_dir(), reason=f"no official key lists in {KEYS}")
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_keys_and_shapes(name: str) -> None:
    model = percepta.build(name, device="meta")
    derived = layouts(model.config)["official"].to_foreign(model.state_dict())
    expected = json.loads((KEYS / f"{percepta.describe(name).aliases[0]}.json").read_text())["keys"]
    assert {key: list(value.shape) for key, value in derived.items()} == expected


def test_values_survive_both_ways() -> None:
    torch.manual_seed(0)
    model = percepta.build("pe-core-nano", depth=1, text={"depth": 1, "vocabulary": 20})
    for table in layouts(model.config).values():
        back, _ = table.to_native(table.to_foreign(model.state_dict()))
        for key, value in model.state_dict().items():
            assert torch.equal(back[key], value)
