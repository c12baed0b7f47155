from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_interaction import SMALL

import percepta
from percepta.errors import BadInput
from percepta.models.sam2.bank import Recollection
from percepta.training import make_recipe, read_records, run
from percepta.training.data import Mixture
from percepta.training.loop import STATE_FILE
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.segment_validation import validate_segmentation
from percepta.training.segmenting import SegmentLearner, renew_memory, segment_inputs
from percepta.training.sources import Part

PICTURES = {"scene_masks": {"size": 64, "pool": 16, "objects": 2, "augment": {}}}
CLIPS = {"scene_masklets": {"size": 64, "pool": 8, "batch_size": 2, "frames": 3, "length": 8, "augment": {}}}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(out: Path, sources: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    data = {"workers": 0, "mixing": "alternate", "validation_samples": 2, **(sources or {**PICTURES, **CLIPS})}
    values = {
        "model": "sam2-nano",
        "model_overrides": SMALL,
        "objective": "segment",
        "out": str(out),
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "optimiser": "muon",
        "gradient_clip": 1.0,
        "schedule": "constant",
        "log_every": 2,
        "save_every": 2,
        "evaluate_every": 2,
        "segment": {"clicks": 1, "validation_clicks": [1, 2], "loss": {"side": 32, "dice": 4.0, "focal_alpha": 0.5}},
        "data": data,
    }
    return make_recipe({**values, **changes})


class Killed(Exception):
    """Stands for a process that ends at once."""


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    """Pictures and clips alternate; the run is killed between two saves."""

    def kill(made: int, total: int, figures: Any) -> None:
        if made == 3:
            raise Killed

    run(recipe(tmp_path / "whole"))
    with pytest.raises(Killed):
        run(recipe(tmp_path / "broken"), progress=kill)
    torch.manual_seed(99)
    assert run(recipe(tmp_path / "broken")).finished
    one, other = (load_file(tmp_path / name / STATE_FILE) for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [[{k: v for k, v in row.items() if k != "samples_per_second"} for row in read_records(tmp_path / name)]
            for name in ("whole", "broken")]  # fmt: skip
    assert rows[0] == rows[1]
    names = {name.removeprefix("validation.") for row in rows[0] for name in row if name.startswith("validation")}
    pictures = {f"scene_masks.{name}" for name in ("iou_1", "iou_2", "iou_box")}
    assert names == pictures | {"scene_masklets.iou", "scene_masklets.presence"}


def test_it_learns_to_cut_out_what_is_clicked(tmp_path: Path) -> None:
    """Eight scenes, 100 small steps: the loss falls by a third, and the IoU after the last click is above 0.2.

    An untrained model stays below 0.1, as does whoever takes the whole picture.
    """
    few = {"scene_masks": {**PICTURES["scene_masks"], "pool": 8}}
    result = run(recipe(tmp_path, few, steps=100, batch_size=8, log_every=10, save_every=0, evaluate_every=0))
    rows = [row for row in read_records(tmp_path) if "loss" in row]
    assert float(rows[-1]["loss"]) < 0.67 * float(rows[0]["loss"])
    assert float(rows[0]["last_iou"]) < 0.1
    assert float(rows[-1]["last_iou"]) > 0.2
    loaded = percepta.load("sam2-nano", weights=result.folder / "model.safetensors", **SMALL)
    assert loaded.config.image_size == 64


def test_objects_that_the_first_frame_does_not_show_are_left_out() -> None:
    masks = np.zeros((2, 2, 3, 16, 16), bool)
    masks[0, 0] = masks[1, 1, :2, 4:8, 4:8] = True
    masks[1, 0, 1:] = True  # not in the first frame
    pictures = np.arange(2 * 3 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 3, 16, 16, 3)
    inputs = segment_inputs(Part("x", pictures, [], Any, masks=masks), 16, None, 5, None)  # type: ignore[arg-type]
    assert inputs.which.tolist() == [0, 1]
    assert inputs.truth.shape == (2, 3, 16, 16)
    assert torch.equal(inputs.truth[1], torch.from_numpy(masks[1, 1]))
    frames = inputs.pictures.unflatten(0, (3, 2))  # frame after frame
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = (torch.from_numpy(pictures[1, 2]).permute(2, 0, 1) / 255 - mean) / std
    torch.testing.assert_close(frames[2, 1], wanted)


def test_every_weight_has_a_gradient_where_processes_share_a_batch(tmp_path: Path) -> None:
    plan = recipe(tmp_path)
    model = percepta.build("sam2-nano", **SMALL).train()

    class Two(Ranks):
        def mean(self, own: torch.Tensor) -> torch.Tensor:
            return own

    for sources in (PICTURES, CLIPS):
        model.zero_grad()
        part = Mixture(recipe(tmp_path, sources).data, 2, 0).batch(0).parts[0]
        losses = SegmentLearner(model, plan, Two(0, 2))(segment_inputs(part, 64, None, 1, None))
        alone = SegmentLearner(model, plan, Ranks())(segment_inputs(part, 64, None, 1, None))
        torch.testing.assert_close(losses[0], alone[0])
        losses[0].backward()
        assert not [name for name, weight in model.named_parameters() if weight.grad is None]


def test_a_batch_without_objects_is_no_mistake(tmp_path: Path) -> None:
    model = percepta.build("sam2-nano", **SMALL).train()
    part = Part(
        "x", np.zeros((1, 64, 64, 3), np.uint8), [], recipe(tmp_path).data.scenes, masks=np.zeros((1, 1, 64, 64), bool)
    )  # type: ignore[arg-type]
    losses = SegmentLearner(model, recipe(tmp_path), Ranks())(segment_inputs(part, 64, None, 1, None))
    losses[0].backward()
    assert losses.tolist() == [0] * 7


def test_perfect_answers_have_perfect_figures() -> None:
    """A model that answers with the truth: IoU and presence 1; the mode is left as it was."""
    model = percepta.build("sam2-nano", **SMALL).train()
    part = Mixture(recipe(Path("x")).data, 2, 0).heldout()[1]
    inputs = segment_inputs(part, 64, None, 0, None)
    chunks = iter(range(9))

    class Oracle(torch.nn.Module):
        config = model.config

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def heads(self, image: Any, features: Any, *rest: Any) -> Any:
            frame = 1 + next(chunks) % 2
            given = model.heads(image, features, *rest)
            truth = inputs.truth[:, frame, None].float()
            there = truth.flatten(1).any(1, keepdim=True)
            return given._replace(logits=20 * truth - 10, object_score=torch.where(there, 5.0, -5.0))

    figures = validate_segmentation(Oracle(), [("clips", inputs)])
    assert figures == {"clips.iou": 1.0, "clips.presence": 1.0}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs masks; the source scenes has none"):
        run(recipe(tmp_path, {"scenes": {"size": 32}}, evaluate_every=0))
    with pytest.raises(BadInput, match=r"set data.mixing to alternate"):
        run(recipe(tmp_path, {**PICTURES, **CLIPS, "mixing": "within"}, evaluate_every=0))
    with pytest.raises(BadInput, match="leave out stages"):
        run(recipe(tmp_path, PICTURES, stages=[{"share": 1, "image_size": 64}]))


def test_a_new_memory_counts_beside_large_features() -> None:
    """Beside features of size 20, what memories say of an object is lost, unless they are made for them."""
    torch.manual_seed(0)
    differences = {}
    for size in (1.0, 20.0):
        model = percepta.build("sam2-nano", **SMALL).eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        renew_memory(model, percepta.build("sam2-nano", **SMALL), size)
        changed = {
            name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
        }
        assert changed == {"memory_attention", "memory_encoder", "memory_times", "absent", "pointer_time"}
        coarse = 20 * torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(1))
        logits = torch.full((2, 1, 64, 64), -10.0)
        logits[0, :, :32], logits[1, :, 32:] = 10.0, 10.0
        with torch.no_grad():
            memory = model.remember(coarse, logits, torch.ones(2, 1), prompted=True)
            image = model.condition(coarse, [Recollection([(memory, 6)], [(torch.randn(2, 32), 1)])], 8)
        differences[size] = float((image[0] - image[1]).std())
        scale = float(image.std())
        assert scale == pytest.approx(size, rel=0.5)
    assert differences[20.0] > 5 * differences[1.0]
