"""Rows of files as a source of training: what is shown, what is left out and counted, and when that is too much."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.errors import BadMedia
from percepta.training.answering import Answer, gather, inputs_of
from percepta.training.answering_recipe import ConversationsRecipe
from percepta.training.data import Batch
from percepta.training.question_sources import ConversationsSource
from percepta.training.ranks import Ranks
from percepta.training.recipe import make_recipe
from percepta.training.sources import Part

SMALL = {
    "vision": {"width": 48, "depth": 1, "heads": 2, "layer_scale": None},
    "text": {"vocabulary": 928, "width": 48, "depth": 1, "heads": 4, "kv_heads": 2, "hidden": 96, "max_length": 1024},
}


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "assistant")[number % 2], "value": text} for number, text in enumerate(texts)]


GOOD = {"image": "a.png", "conversations": talk("<image>\nwhat colour?", "red", "sure?", "yes")}
WORDS = {"conversations": talk("what is red?", "a colour")}
PAIR = {"image": ["a.png", "a.png"], "conversations": talk("<image> and <image>?", "red")}


def source_of(folder: Path, rows: list[Any], **changes: Any) -> ConversationsSource:
    """A source of rows, in an order of its own; each comes once in as many places."""
    Image.new("RGB", (20, 10), "red").save(folder / "a.png")
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    settings: dict[str, Any] = {"size": 64, "mode": "vanilla", "lost": 1.0, **changes}
    return ConversationsSource(ConversationsRecipe(str(folder / "rows.jsonl"), **settings), 0)


def objective() -> Answer:
    torch.manual_seed(0)
    values = {"model": "plm-nano", "objective": "answer", "out": "unused", "steps": 2, "batch_size": 2}
    settings = {"model_overrides": SMALL, "learning_rate": 0.01, "answer": {"length": 300}, "schedule": "constant"}
    recipe = make_recipe({**values, **settings, "data": {"scene_questions": {}, "workers": 0}})
    return Answer(recipe, percepta.build("plm-nano", **SMALL), Ranks())


def test_rows_of_all_kinds_in_one_part(tmp_path: Path) -> None:
    source = source_of(tmp_path, [GOOD, WORDS, PAIR])
    part = source.part(0, np.arange(3))
    assert part.chunks is not None
    assert sorted(zip(part.media or (), part.chunks, strict=True)) == [("image", 1), ("multi_image", 2), ("text", 0)]
    assert part.pictures.shape == (3, 64, 64, 3)
    assert (part.pictures == (255, 0, 0)).all()
    assert source.losses.count == 0
    again = source_of(tmp_path, [GOOD, WORDS, PAIR]).part(0, np.arange(3))
    assert again.dialogues == part.dialogues


BROKEN = {
    "{nonsense": "line 1: must be a JSON object",
    json.dumps({**GOOD, "conversations": talk("what?")}): "line 1, field conversations: must alternate",
    json.dumps({**GOOD, "image": "gone.png"}): "line 1: .*gone.png' does not exist",
    json.dumps({**GOOD, "image": "a\0.png"}): "line 1: .*embedded null byte",
    json.dumps({"video": "a.png", "conversations": talk("what?", "x")}): "line 1: .*is no video",
    json.dumps({**PAIR, "conversations": talk("one <image>", "x")}): "an <image> for each of the 2 pictures; got 1",
    json.dumps({**WORDS, "conversations": talk("half \ud83d", "x")}): r"field conversations\[0\].value: must be whole",
}


@pytest.mark.parametrize("row", BROKEN, ids=range(len(BROKEN)))
def test_a_row_that_cannot_be_used_is_left_out_and_never_ends_the_run(
    tmp_path: Path, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, learning = source_of(tmp_path, [row, GOOD]), objective()
    with caplog.at_level(logging.WARNING):
        part = source.part(0, np.arange(4))  # each row twice
    assert source.losses.by_source == {"rows": 2}
    assert len(caplog.records) == 2
    assert re.search(BROKEN[row], source.losses.first)
    learning.inputs(Batch(0, (part,)), 64)
    assert learning.figures() == {"skipped": 0, "lost": 2}


def test_too_much_that_is_lost_ends_the_run_with_the_first_reason(tmp_path: Path) -> None:
    source = source_of(tmp_path, [{**GOOD, "image": "gone.png"}, GOOD], lost=0.1)
    with pytest.raises(BadMedia, match=r"21 of \d+ rows \(21 of rows\) had to be left out, more than the 10%.*gone"):
        source.part(0, np.arange(100))


@pytest.mark.parametrize(
    "rows", [[WORDS], ["{nonsense"], [{"image": "a.png", "conversations": talk("?", "red " * 400)}]]
)
def test_a_batch_without_pictures_or_without_anything_is_a_number(tmp_path: Path, rows: list[Any]) -> None:
    """Words alone; nothing but broken rows; nothing but answers that do not fit."""
    learning = objective()
    part = source_of(tmp_path, rows).part(0, np.arange(2))
    losses = learning.learner(learning.inputs(Batch(0, (part,)), 64))
    losses[0].backward()
    assert torch.isfinite(losses).all()
    assert (losses[2] > 0) == (rows == [WORDS])
    assert sum(learning.figures().values()) == (0 if rows == [WORDS] else 2)


def test_rows_train_as_they_are_read(tmp_path: Path) -> None:
    """The tokens of a row of a file are those of its conversation, its pictures those of the preprocessing."""
    learning = objective()
    part: Part = source_of(tmp_path, [GOOD]).part(0, np.arange(1))
    inputs = inputs_of(gather(learning.template, [part], 64, 300))
    assert inputs.chunks is not None
    assert torch.allclose(inputs.chunks[0].amax((1, 2)), torch.tensor([1.0, -1.0, -1.0]), atol=1e-6)
    said = learning.template.decode(inputs.row.targets.tolist())
    assert said.count("<|eot_id|>") == 2
    assert said.endswith("yes<|eot_id|><|end_of_text|>")
