"""What sources had to leave out is counted through a whole run, over stops and over processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_accumulating import VALUES

from percepta.datasets.conversations_mixture import Losses, joined_losses, share_of_losses
from percepta.errors import PerceptaError
from percepta.training import Recipe, make_recipe, run
from percepta.training.checkpointing import read_state
from percepta.training.loop import STATE_FILE


def recipe(folder: Path, out: str, good: int, bad: int, **changes: Any) -> Recipe:
    Image.new("RGB", (64, 64), (200, 30, 40)).save(folder / "a.png")
    said = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "assistant", "value": "red"}]
    rows = [{"image": "a.png", "conversations": said}] * good + [{"image": "none.png", "conversations": said}] * bad
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(folder / "rows.jsonl"), "size": 64, "tiles": 1, "lost": 0.3}
    data = {"workers": 0, "validation_samples": 1, "conversations": source}
    return make_recipe({**VALUES, "data": data, "save_every": 100, "out": str(folder / out), **changes})


def left_out(settings: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = read_state(settings.folder / STATE_FILE)[0]["left_out"]
    return found


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"devices": 2}])
def test_counts_go_on_after_a_stop(tmp_path: Path, changes: dict[str, int]) -> None:
    whole = recipe(tmp_path, "whole", 30, 10)
    run(whole)
    assert left_out(whole)["conversations"]["seen"] == 32
    run(recipe(tmp_path, "parts", 30, 10, steps=2, **changes))
    rest = recipe(tmp_path, "parts", 30, 10)
    run(rest)
    counted, again = left_out(whole)["conversations"], left_out(rest)["conversations"]
    assert (again["seen"], again["by_source"]) == (counted["seen"], counted["by_source"])
    assert sum(counted["by_source"].values()) >= 4
    assert "none.png" in again["first"]


def test_a_run_in_pieces_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    """Above the limit of 30 %, but 20 losses are let pass; in pieces of two steps no piece has as many by itself."""
    with pytest.raises(PerceptaError, match="had to be left out, more than the 30% that are allowed"):
        run(recipe(tmp_path, "whole", 8, 32))
    run(recipe(tmp_path, "parts", 8, 32, steps=2))
    with pytest.raises(PerceptaError, match="had to be left out, more than the 30% that are allowed"):
        run(recipe(tmp_path, "parts", 8, 32))


def test_shares_of_losses_add_up() -> None:
    losses = Losses(1.0)
    for number in range(7):
        losses.lost("ab"[number % 2], f"reason {number}")
    losses.seen += 4
    state = losses.state_dict()
    shares = [share_of_losses(state, reader, 3) for reader in range(3)]
    assert [share["seen"] for share in shares] == [4, 4, 3]
    assert joined_losses(shares) == state
    assert joined_losses([]) == {"seen": 0, "by_source": {}, "first": ""}
