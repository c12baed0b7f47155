"""Steps of several passes: the same update as of one pass, over passes and processes, resumed, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from percepta.errors import BadInput
from percepta.training import Recipe, make_recipe, read_records, run
from percepta.training.data import Mixture, batches
from percepta.training.loop import MODEL_FILE, STATE_FILE

VALUES: dict[str, Any] = {
    "model": "plm-nano",
    "model_overrides": {
        "vision": {"width": 48, "depth": 1, "heads": 2, "layer_scale": None},
        "text": {"vocabulary": 928, "width": 48, "depth": 1, "heads": 4, "kv_heads": 2, "hidden": 96},
    },
    "objective": "answer",
    "steps": 4,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "epsilon": 1e-3,  # Adam divides by nearly nothing otherwise, and makes rounding visible
    "gradient_clip": 0.5,
    "schedule": "constant",
    "threads": 1,
    "log_every": 2,
    "save_every": 2,
    "evaluate_every": 0,
    "answer": {"length": 256},
    "data": {
        "workers": 0,
        "validation_samples": 1,
        "scene_questions": {"questions": 3},
        "clip_questions": {"questions": 2, "frames": 4},
    },
}


def recipe(out: Path, **changes: Any) -> Recipe:
    return make_recipe({**VALUES, "out": str(out), **changes})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same_weights(one: Path, other: Path, tolerance: float) -> None:
    first, second = load_file(one / MODEL_FILE), load_file(other / MODEL_FILE)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"accumulate": 2, "devices": 2}])
def test_passes_and_processes_make_the_step_of_one(tmp_path: Path, changes: dict[str, int]) -> None:
    """Passes have unequal numbers of supervised tokens, and so have processes; every token counts the same."""
    run(recipe(tmp_path / "one"))
    run(recipe(tmp_path / "several", **changes))
    same_weights(tmp_path / "one", tmp_path / "several", 1e-6)
    first, second = read_records(tmp_path / "one"), read_records(tmp_path / "several")
    devices = changes.get("devices", 1)
    for before, after in zip(first, second, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=2e-5)
        assert after["token_accuracy"] == pytest.approx(before["token_accuracy"], abs=2e-5)
        assert float(after["tokens"]) * devices == pytest.approx(before["tokens"])


def test_gradients_weigh_tokens_not_passes(tmp_path: Path) -> None:
    mixture = Mixture(recipe(tmp_path).data, 8, 0, 0, 1, 4)
    words = [
        sum(len(answer) for dialogues in part.dialogues for each in dialogues for _, answer in each.turns)
        for micro in range(4)
        for part in mixture.batch(0, micro).parts
    ]
    assert len(set(words)) > 1  # or the test above would pass with a mean of means


def test_stopped_and_resumed_gives_the_same_weights(tmp_path: Path) -> None:
    whole = recipe(tmp_path / "whole", accumulate=4)
    run(whole)

    def stop(step: int, *_: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    half = replace(whole, out=str(tmp_path / "half"))
    with pytest.raises(KeyboardInterrupt):
        run(half, progress=stop)
    assert (tmp_path / "half" / STATE_FILE).is_file()
    assert run(half).finished
    same_weights(tmp_path / "whole", tmp_path / "half", 0)
    assert [{**row, "samples_per_second": 0} for row in read_records(tmp_path / "whole")] == [
        {**row, "samples_per_second": 0} for row in read_records(tmp_path / "half")
    ]


def test_a_run_may_go_on_with_another_number_of_passes(tmp_path: Path) -> None:
    run(recipe(tmp_path / "whole"))
    run(recipe(tmp_path / "parts", steps=2, accumulate=2))
    assert run(recipe(tmp_path / "parts", accumulate=8)).finished
    same_weights(tmp_path / "whole", tmp_path / "parts", 1e-6)


def test_passes_share_out_a_batch(tmp_path: Path) -> None:
    data = recipe(tmp_path).data
    whole = Mixture(data, 8, 0).batch(3)
    shares = [Mixture(data, 8, 0, process, 2, 2).batch(3, micro) for micro in (0, 1) for process in (0, 1)]
    for source in ("scene_questions", "clip_questions"):
        dealt = [part for share in shares for part in share.parts if part.source == source]
        rows = np.concatenate([part.rows for part in dealt])
        assert sorted(rows) == list(range(4))
        (part,) = (part for part in whole.parts if part.source == source)
        together = np.concatenate([part.pictures for part in dealt])[np.argsort(rows)]
        assert np.array_equal(together, part.pictures)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_pass_after_pass(tmp_path: Path, workers: int) -> None:
    data = replace(recipe(tmp_path).data, workers=workers)
    with batches(Mixture(data, 8, 0, passes=2), 3, 5) as (made, _):
        assert [(batch.step, batch.micro) for batch in made] == [(3, 0), (3, 1), (4, 0), (4, 1)]


def test_what_cannot_be_passes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="multiple of the 1 devices that share it times the 3 passes"):
        run(recipe(tmp_path, accumulate=3))
    with pytest.raises(BadInput, match="accumulate of a recipe must be positive"):
        recipe(tmp_path, accumulate=0)
    scenes = {"workers": 0, "validation_samples": 1, "scenes": {"size": 32, "pool": 4}}
    nano = {"depth": 1, "text": {"depth": 1}}
    with pytest.raises(BadInput, match="accumulate must be 1 for the objective contrastive"):
        run(recipe(tmp_path, model="pe-core-nano", model_overrides=nano, objective="contrastive", accumulate=2,
                   answer=None, data=scenes))  # fmt: skip
    alternating = {**VALUES["data"], "mixing": "alternate"}
    with pytest.raises(BadInput, match="multiple of the 2 devices times 3 passes; got 8"):
        Mixture(recipe(tmp_path, data=alternating).data, 8, 0, 0, 2, 3)
