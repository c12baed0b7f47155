"""`features(merge=)`: groups that are those of the model, and a model in hand that stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.errors import BadInput
from percepta.media import VideoReader
from percepta.results import FeatureMap
from percepta.speedups import merge_tokens
from percepta.tasks.features import amount_of
from tests.tasks import nano


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8))


def test_groups_and_features_are_those_of_the_merging_model(picture: Image.Image) -> None:
    model = nano.model()
    found = list(percepta.features(picture, [0, 5], model, merge=5, strategy="bipartite"))
    tower = model.vision.truncated(-1)
    with torch.inference_mode(), merge_tokens(tower, r=5) as merging:
        x = model.preprocess(picture)[None]
        traced = merging.trace(x)
        wanted = tower.intermediates(x, [0, 5], layout="NHWC")
    assert traced.group is not None
    assert [len(np.unique(one.groups)) for one in found] == [64 - 5, 64 - 6 * 5]
    np.testing.assert_array_equal(found[1].groups, (traced.group[0, 1:] - 1).reshape(8, 8).numpy())
    for one, values in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.values, values[0].numpy(), atol=1e-4)


def test_a_model_in_hand_stays_as_it_is(picture: Image.Image) -> None:
    model = nano.model()
    before = next(iter(percepta.features(picture, -1, model)))
    stream = iter(percepta.features(picture, -1, model, merge="50%"))
    next(stream)
    assert model.vision.shorten is None
    after = next(iter(percepta.features(picture, -1, model)))
    assert before.groups is None
    assert "groups" not in before.to_dict()
    np.testing.assert_array_equal(after.values, before.values)


def test_a_share_of_the_work_is_that_at_the_size_asked_for(picture: Image.Image) -> None:
    model = nano.model()
    small, large = (next(iter(percepta.features(picture, -1, model, size, merge=0.5))).groups for size in (64, 160))
    assert small is not None
    assert large is not None
    assert large.shape == (20, 20)
    left = [len(np.unique(groups)) / groups.size for groups in (small, large)]
    assert left[1] < left[0] + 0.1  # were it the schedule of 64 pixels, nearly all of 400 tokens would be left


def test_all_frames_of_a_video(tmp_path: Path) -> None:
    clip = nano.clip(tmp_path / "clip.mp4")
    with VideoReader(clip) as reader:
        found = list(percepta.features(reader.iterate(), 1, nano.model(), merge=4))
    assert len(found) == 10
    assert all(one.groups is not None for one in found)


def test_amounts() -> None:
    assert amount_of(16) == amount_of("16") == {"r": 16}
    assert amount_of(0.5) == amount_of("50%") == amount_of(" 50 %") == {"flops": 0.5}
    for wrong in (0, True, -1, 1.5, "0.5", "", "%", float("nan")):
        with pytest.raises(BadInput, match="merge must be tokens for each block"):
            amount_of(wrong)


def test_groups_of_another_grid_are_refused() -> None:
    with pytest.raises(BadInput, match="groups"):
        FeatureMap("x", 0, np.zeros((2, 2, 3)), "m", np.zeros((2, 3), int))
