"""Dense probes against scikit-learn and by hand, and the four protocols on scenes with doubles that know the answer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from percepta.datasets.scenes import SHAPES, TEST_SEED_START
from percepta.errors import BadInput
from percepta.evaluation import dense_probes as probes
from percepta.evaluation.dense_scenes import (
    CONSTANT,
    FIT_SEED_START,
    PATCH_TRUTH,
    PLACE_ALONE,
    evaluate_scenes_depth,
    evaluate_scenes_objects,
    evaluate_scenes_position,
    evaluate_scenes_segmentation,
    evaluate_scenes_tracking,
    scene_truth,
    scenes_depth_protocol,
    scenes_objects_protocol,
    scenes_position_protocol,
    scenes_segmentation_protocol,
    scenes_tracking_protocol,
)
from percepta.evaluation.tallies import Tally, mean_iou, ratio, root_mean_square

COUNT, SIZE, GRID = 12, 32, (8, 8)


def random_features(count: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return features * torch.arange(1, width + 1) + 3


def test_ridge_equals_scikit_learn() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, new = random_features(200), random_features(50, seed=1)
    y = torch.cat([x[:, :2].sin() + x[:, 2:3], x[:, 3:4]], dim=1)
    found = probes.fit_ridge(x, y, 0.1)(new)
    scaler = StandardScaler().fit(x.numpy())
    model = Ridge(alpha=0.1 * len(x)).fit(scaler.transform(x.numpy()), y.numpy())
    np.testing.assert_allclose(found, model.predict(scaler.transform(new.numpy())), atol=1e-4)


def test_softmax_equals_scikit_learn_and_takes_shares() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, new = random_features(300), random_features(50, seed=1)
    classes = (x[:, 0] > 3).long() + (x[:, 1] - x[:, 2] > 1).long()
    shares = torch.nn.functional.one_hot(classes, 3).float()
    scaler = StandardScaler().fit(x.numpy())
    model = LogisticRegression(C=1 / (0.01 * len(x)), max_iter=2000, tol=1e-8).fit(scaler.transform(x.numpy()), classes)
    expected = model.predict_proba(scaler.transform(new.numpy()))
    found = probes.fit_softmax(x, shares, 0.01)(new).softmax(dim=-1)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    # Half of every patch of a class that nothing tells: that is what comes out.
    halves = probes.fit_softmax(x, torch.full((300, 2), 0.5), 0.01)(new).softmax(dim=-1)
    np.testing.assert_allclose(halves, 0.5, atol=1e-3)


def test_a_constant_channel_does_no_harm() -> None:
    x = torch.cat([random_features(100), torch.ones(100, 1)], dim=1)
    y = x[:, :1]
    found = probes.fit_ridge(x, y, 1e-6)
    torch.testing.assert_close(found(x), y, atol=1e-2, rtol=1e-2)
    assert found.weight[-1].abs().max() < 1e-6


def test_patches_by_hand() -> None:
    classes = np.zeros((1, 4, 4), np.int64)
    classes[0, :2, 1:] = 1
    assert probes.patch_shares(classes, (2, 2), 2)[0, :, :, 1].tolist() == [[0.5, 1.0], [0.0, 0.0]]
    assert probes.patch_means(classes.astype(np.float32), (2, 1))[0, :, 0, 0].tolist() == [0.75, 0.0]
    assert probes.patch_places((2, 4))[1, 0].tolist() == [0.75, 0.125]
    assert probes.place_features((2, 4), 3).shape == (3, 2, 4, 5)
    pictures = np.arange(16 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    colours = probes.patch_colours(pictures, (2, 2), parts=2)
    assert colours.shape == (1, 2, 2, 12)
    expected = pictures[0, 2:, :2].reshape(-1) / 127.5 - 1  # of the lower left patch, its four pixels in order
    np.testing.assert_allclose(colours[0, 1, 0], expected, atol=1e-6)
    with pytest.raises(BadInput, match="divide the picture"):
        probes.patch_means(np.zeros((1, 4, 5), np.float32), (2, 2))


def test_tallies_by_hand() -> None:
    counts = np.array([[1.0, 2], [3, 2]])
    assert Tally(counts, ratio).value == 1
    assert Tally(counts, root_mean_square).value == 1
    ious = Tally(np.array([[1.0, 0, 0, 2, 1, 0], [1, 0, 0, 2, 1, 0]]), mean_iou)  # 1/2, 0, and a class never seen
    assert ious.value == 0.25
    assert ious.interval() == (0.25, 0.25)
    assert Tally(counts, ratio).interval() == (0.5, 1.5)  # one of the two scenes twice, or both
    better = Tally(counts + np.array([1.0, 0]), ratio)
    assert better.beyond(Tally(counts, ratio)) == (0.5, 0.5, 0.5)  # the same in both scenes: nothing to doubt
    with pytest.raises(BadInput, match="same scenes"):
        better.beyond(Tally(counts[:1], ratio))
    with pytest.raises(BadInput, match="level"):
        Tally(counts, ratio).interval(level=1)
    with pytest.raises(BadInput, match="at least one of each"):
        Tally(counts[:0], ratio)


def test_scores_by_hand() -> None:
    classes = np.array([[[0, 0], [1, 1]]])
    logits = torch.tensor([[[[0.0, 1.0]]]])  # everything is 1
    assert probes.score_classes(logits, classes).value == 0.25
    depth = np.array([[[1.0, 1.0], [3.0, 3.0]]])
    assert probes.score_depth(torch.full((1, 1, 1, 1), 2.0), depth).value == 1
    truth = torch.tensor([[[[0.0, 0.0], [float("nan"), float("nan")]]]])
    found = torch.tensor([[[[3.0, 4.0], [9.0, 9.0]]]])
    assert probes.score_places(found, truth).value == 5


class Knower:
    """A double whose tokens hold the truth of each patch in "layer 1", and noise in "layer 0"."""

    def __init__(self, starts: tuple[int, ...] = (TEST_SEED_START, FIT_SEED_START)) -> None:
        self.known: dict[bytes, torch.Tensor] = {}
        for start in starts:
            truth = scene_truth(range(start, start + COUNT), SIZE)
            shares = probes.patch_shares(truth.classes, GRID, len(SHAPES) + 1)
            depth = probes.patch_means(truth.depth, GRID)
            centres = truth.centre_of_patches(GRID).nan_to_num(0.0)
            places = probes.patch_places(GRID).expand(COUNT, -1, -1, -1)
            tokens = torch.cat([20 * shares, depth, centres, places], dim=-1)
            self.known |= {one.tobytes(): row for one, row in zip(truth.pictures, tokens, strict=True)}

    def __call__(self, pictures: np.ndarray) -> dict[str, torch.Tensor]:
        tokens = torch.stack([self.known[one.tobytes()] for one in pictures])
        noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(len(self.known)))
        return {"layer 0": noise, "layer 1": tokens}


@pytest.fixture(scope="module")
def knower() -> Knower:
    return Knower()


@pytest.mark.parametrize(
    ("evaluate", "make", "unit"),
    [
        (evaluate_scenes_segmentation, scenes_segmentation_protocol, ""),
        (evaluate_scenes_depth, scenes_depth_protocol, "m"),
        (evaluate_scenes_position, scenes_position_protocol, "sides"),
    ],
    ids=["segmentation", "depth", "position"],
)
def test_scenes_know_truth_from_noise(knower: Knower, evaluate, make, unit: str) -> None:
    protocol = make(COUNT, SIZE, layers=("all",), fit_count=COUNT)
    result = evaluate(knower, protocol)
    headline = result.measures[0].name.split(",")[0]
    noise, truth = (result[f"{headline}, layer {number}"] for number in (0, 1))
    beside = {one.name: one.value for one in result.baselines if one.measure == noise.name}
    better = (lambda a, b: a < b) if unit else (lambda a, b: a > b)
    assert better(truth.value, noise.value)
    assert truth.unit == unit
    assert truth.low <= truth.value <= truth.high
    assert truth.count == COUNT
    assert truth.chance is not None
    assert better(truth.value, truth.chance)
    assert not better(noise.value, truth.chance) or abs(noise.value - truth.chance) < 0.15 * truth.chance
    assert PLACE_ALONE in beside
    assert CONSTANT not in beside  # it is the chance
    if PATCH_TRUTH in beside:
        assert abs(truth.value - beside[PATCH_TRUTH]) < 0.15 * beside[PATCH_TRUTH]
    assert result.tables["layers"]["layers"] == ["layer 0", "layer 1"]
    assert [row[0] for row in result.tables["layers"]["measures"][headline]] == [noise.value, truth.value]
    difference, low, high = result.tables["layers"]["minus the last"][headline][0]
    assert difference == pytest.approx(noise.value - truth.value)
    assert low <= difference <= high
    assert result.tables["layers"]["minus the last"][headline][1] == [0, 0, 0]
    assert json.dumps(result.to_dict()) == json.dumps(evaluate(knower, protocol).to_dict())


def test_position_of_the_patch_itself(knower: Knower) -> None:
    result = evaluate_scenes_position(knower, scenes_position_protocol(COUNT, SIZE, fit_count=COUNT))
    assert result["own place, layer 1"].value < 0.02
    assert result["own place, layer 0"].value == pytest.approx(result["own place, layer 0"].chance, rel=0.05)


def test_truth_of_scenes() -> None:
    truth = scene_truth([TEST_SEED_START, TEST_SEED_START + 1], 64)
    assert ((truth.classes > 0) == (truth.objects > 0)).all()
    assert truth.depth[truth.objects > 0].max() <= 1.9 + 1e-6
    centres = truth.centre_of_patches((8, 8))
    inside = ~centres.isnan().any(dim=-1)
    assert 0 < inside.float().mean() < 0.6
    far = (centres - probes.patch_places((8, 8))).square().sum(-1).sqrt()[inside]
    assert far.max() < 0.3  # no patch of an object lies further from its centre than a radius and half a diagonal


def test_tracking_on_clips() -> None:
    """Colours know little of objects; the true masks as tokens follow them up to the resolution of patches."""
    from percepta.datasets.scenes import SceneConfig, make_clip

    protocol = scenes_tracking_protocol(3, 64, frames=6)
    known = {}
    for seed in range(TEST_SEED_START, TEST_SEED_START + 3):
        clip = make_clip(seed, SceneConfig(64), 6)
        masks = sum(((number + 1) * one.visible_masks).astype(np.int64) for number, one in enumerate(clip.tracks))
        # 16 patches a side, so that an object that is not there in the first frame is told from those that are
        known[clip.frames.tobytes()] = probes.patch_shares(masks, (16, 16), 6)
    result = evaluate_scenes_tracking(lambda frames: {"layer 0": known[frames.tobytes()]}, protocol)
    beside = {(one.measure, one.name): one.value for one in result.baselines}
    assert [measure.name for measure in result.measures] == ["J&F", "J", "F"]
    assert result["J&F"].value == pytest.approx((result["J"].value + result["F"].value) / 2)
    assert result["J&F"].value > beside["J&F", "first mask kept"]
    assert beside["J&F", PATCH_TRUTH] > beside["J&F", "first mask kept"]
    assert set(beside) == {
        (measure, name) for measure in ("J&F", "J", "F") for name in ("first mask kept", "colours", PATCH_TRUTH)
    }


def test_objects_of_the_whole_scene() -> None:
    """Tokens that hold which pairs a scene shows, and noise; the truth comes first, noise is at chance."""
    from percepta.datasets.scenes import SceneConfig, make_batch, scene_classes
    from percepta.datasets.scenes.pictures import plan_scene

    many, classes = 150, scene_classes()
    known = {}
    for start in (TEST_SEED_START, FIT_SEED_START):
        seeds = range(start, start + many)
        for seed, picture in zip(seeds, make_batch(seeds, SceneConfig(SIZE)).pictures, strict=True):
            held = {f"{thing.colour} {thing.shape}" for thing in plan_scene(seed).objects}
            known[picture.tobytes()] = torch.tensor([float(name in held) for name in classes])
    noise = torch.Generator().manual_seed(0)

    def encode(pictures: np.ndarray) -> dict[str, torch.Tensor]:
        tokens = torch.stack([known[one.tobytes()] for one in pictures])[:, None, None]
        return {"layer 0": torch.randn(tokens.shape, generator=noise), "layer 1": tokens}

    result = evaluate_scenes_objects(encode, scenes_objects_protocol(many, SIZE, fit_count=many))
    blind, sighted = (result[f"objects, layer {number}"] for number in (0, 1))
    assert sighted.value > 0.95
    assert 0.0 < blind.chance < 0.15
    assert abs(blind.value - blind.chance) < 0.06


def test_settings_are_in_the_hash() -> None:
    made = [
        scenes_segmentation_protocol(),
        scenes_segmentation_protocol(layers=("all",)),
        scenes_segmentation_protocol(size=96),
        scenes_depth_protocol(),
        scenes_position_protocol(),
        scenes_tracking_protocol(),
        scenes_tracking_protocol(frames=8),
        replace(scenes_depth_protocol(), settings={**scenes_depth_protocol().settings, "strength": 1.0}),
    ]
    assert len({protocol.hash for protocol in made}) == len(made)


def test_bad_input() -> None:
    x = random_features(10)
    with pytest.raises(BadInput, match="features and"):
        probes.fit_ridge(x, x[:5])
    with pytest.raises(BadInput, match="strength"):
        probes.fit_softmax(x, x, 0.0)
    with pytest.raises(BadInput, match="tokens"):
        probes.probe_depth(x, np.ones((1, 4, 4), np.float32), x, np.ones((1, 4, 4), np.float32))
    nowhere = torch.full((1, 2, 2, 2), float("nan"))
    with pytest.raises(BadInput, match="one part has none"):
        probes.probe_places(torch.ones(1, 2, 2, 3), nowhere, torch.ones(1, 2, 2, 3), nowhere)
    with pytest.raises(BadInput, match="divide the picture"):
        evaluate_scenes_depth(
            lambda pictures: {"layer 0": torch.ones(len(pictures), 5, 5, 2)}, scenes_depth_protocol(2, 32, fit_count=2)
        )
