"""Pictures: determinism, ground truth, resolution, colours, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.datasets.scenes import (
    COLOURS,
    SHAPES,
    TEXTURES,
    SceneConfig,
    fingerprint,
    is_true,
    make_batch,
    make_scene,
    parse,
    scene_classes,
)
from percepta.datasets.scenes.distinct import distinct_scenes
from percepta.datasets.scenes.pictures import plan_scene
from percepta.datasets.scenes.render import object_patches
from percepta.datasets.scenes.scene import Backdrop, SceneObject, boxes_of
from percepta.datasets.scenes.shapes import DISTANCES
from percepta.datasets.scenes.vocabulary import FIELDS, FLOORS, SKIES, WALLS
from percepta.errors import BadInput

SIZES = [32, 64, (100, 150)]


def test_one_seed_is_one_scene_alone_or_in_any_batch() -> None:
    first, second = make_batch([7, 3, 11]), make_batch([11, 7])
    alone = make_scene(7)
    np.testing.assert_array_equal(first.pictures[0], alone.picture)
    np.testing.assert_array_equal(second.pictures[1], alone.picture)
    np.testing.assert_array_equal(first.pictures[2], second.pictures[0])
    assert first.captions[0] == alone.caption == second.captions[1]
    assert first.hard_negatives[0] == alone.hard_negatives[0]
    assert first.labels[0] == alone.label
    assert not np.array_equal(make_scene(8).picture, alone.picture)


def test_seeds_may_be_numpy_integers() -> None:
    np.testing.assert_array_equal(make_batch(np.arange(3)).pictures, make_batch(range(3)).pictures)


@pytest.mark.parametrize("size", SIZES)
def test_shapes_and_types_at_any_size(size: int | tuple[int, int]) -> None:
    config = SceneConfig(size)
    scene = make_scene(5, config)
    count, frame = len(scene.objects), (config.height, config.width)
    assert scene.picture.shape == (*frame, 3)
    assert scene.picture.dtype == np.uint8
    assert scene.visible_masks.shape == scene.amodal_masks.shape == (count, *frame)
    assert scene.visible_masks.dtype == bool
    assert scene.boxes.shape == scene.amodal_boxes.shape == (count, 4)
    assert scene.depth.shape == frame
    assert scene.depth.dtype == np.float32


def test_the_world_is_the_same_at_every_resolution() -> None:
    small, large = make_scene(21, SceneConfig(64)), make_scene(21, SceneConfig(256))
    assert small.objects == large.objects
    assert small.caption == large.caption
    shrunk = large.picture.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small.picture).mean() < 6
    np.testing.assert_allclose(large.boxes / 4, small.boxes, atol=1.6)


@pytest.mark.parametrize("size", SIZES)
def test_masks_agree_with_boxes_and_depth_order(size: int | tuple[int, int]) -> None:
    for seed in range(40):
        scene = make_scene(seed, SceneConfig(size))
        assert not (scene.visible_masks & ~scene.amodal_masks).any()
        assert scene.visible_masks.sum(axis=0).max() == 1  # one object a pixel
        np.testing.assert_array_equal(scene.visible_masks.any(axis=0), scene.amodal_masks.any(axis=0))
        distances = np.array([thing.distance for thing in scene.objects])
        nearest = np.where(scene.amodal_masks, distances[:, None, None], np.inf).min(axis=0)
        covered = np.isfinite(nearest)
        np.testing.assert_allclose(scene.depth[covered], nearest[covered].astype(np.float32))
        assert scene.depth[~covered].min() > distances.max()
        for mask, box in zip(scene.visible_masks, scene.boxes.astype(int), strict=True):
            left, top, right, bottom = box
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_masks_lie_on_pixels_of_the_named_colour() -> None:
    """The hue within a plain object's mask is nearer to its own colour than to any other."""
    names = list(COLOURS)
    palette = np.array([COLOURS[name] for name in names], float)
    right = []
    for seed in range(120):
        scene = make_scene(seed)
        for thing, mask in zip(scene.objects, scene.visible_masks, strict=True):
            if thing.texture == "plain":
                seen = np.median(scene.picture[mask].astype(float), axis=0)
                right.append(names[int(np.linalg.norm(palette - seen, axis=1).argmin())] == thing.colour)
    assert len(right) > 60
    assert np.mean(right) == 1.0


def test_objects_stay_well_visible() -> None:
    shares = np.concatenate([make_scene(seed).visible_fractions for seed in range(1_000_000, 1_000_400)])
    assert shares.min() >= 0.6
    assert shares.max() <= 1


def test_radii_are_readable_at_64_pixels() -> None:
    radii = [[64 * thing.radius for thing in plan_scene(seed).objects] for seed in range(500)]
    assert np.quantile([radius for row in radii for radius in row], 0.02) > 8.5
    assert max(max(row) for row in radii) < 14


def test_the_label_belongs_to_the_clearly_largest_object() -> None:
    assert len(set(scene_classes())) == len(COLOURS) * len(SHAPES)
    for seed in range(200):
        plan = plan_scene(seed)
        ordered = sorted(plan.objects, key=lambda thing: thing.radius)
        assert plan.label == f"{ordered[-1].colour} {ordered[-1].shape}"
        assert plan.label in scene_classes()
        assert [thing.size for thing in ordered] == ["small"] * (len(ordered) - 1) + ["large"]
        assert ordered[-1].radius > 1.1 * ordered[-2].radius


def test_backgrounds_keep_away_from_object_colours() -> None:
    muted = np.array(WALLS + FLOORS + SKIES + FIELDS, float)
    strong = np.array(list(COLOURS.values()), float)
    distances = np.linalg.norm(muted[:, None] - strong[None], axis=-1)
    assert distances.min() > 75


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_negative_inside_and_have_unit_slope(shape: str) -> None:
    steps = np.linspace(-1.2, 1.2, 241, dtype=np.float32)
    distance = DISTANCES[shape](*np.meshgrid(steps, steps))
    assert distance.dtype == np.float32
    inside = distance < 0
    assert 0.15 < inside.mean() * 2.4**2 / np.pi < 0.95  # share of the unit disc
    rows, columns = np.nonzero(inside)
    assert np.hypot(steps[rows], steps[columns]).max() < 1.3
    slope = np.hypot(*np.gradient(distance, steps, steps))
    assert np.median(np.abs(slope - 1)) < 0.03
    np.testing.assert_allclose(distance[:, ::-1], distance, atol=1e-5)  # all are mirror symmetric


def test_shapes_differ_when_rendered_at_the_smallest_size() -> None:
    steps = (np.arange(24, dtype=np.float32) - 11.5) / 9
    masks = np.stack([DISTANCES[shape](*np.meshgrid(steps, steps)) < 0 for shape in SHAPES])
    for first in range(len(SHAPES)):
        for second in range(first):
            union = (masks[first] | masks[second]).sum()
            assert (masks[first] & masks[second]).sum() / union < 0.85, (SHAPES[first], SHAPES[second])


def test_textures_differ_when_rendered_at_64_pixels() -> None:
    backdrop = Backdrop((150, 150, 150), (120, 120, 120), False, 0, 0, 0.6, 0.0, (0.6, -0.8))
    for colour in COLOURS:
        things = [SceneObject(colour, "circle", name, "small", (0.5, 0.5), 0.15, 0.0, 1.0) for name in TEXTURES]
        patches = object_patches(things, backdrop, SceneConfig(64))
        core = patches.cover[0] == 1
        plain, striped, dotted = (patches.paint[i][:, core] for i in range(3))
        for one, other in ((plain, striped), (plain, dotted), (striped, dotted)):
            assert np.abs(one - other).mean() > 20, colour


def test_boxes_of_an_empty_mask_are_zero() -> None:
    masks = np.zeros((2, 5, 6), bool)
    masks[1, 2:4, 3:5] = True
    np.testing.assert_array_equal(boxes_of(masks), [[0, 0, 0, 0], [3, 2, 5, 4]])


def test_fingerprint_is_the_frozen_one() -> None:
    """A change here means a new VERSION, and figures measured before no longer compare."""
    assert fingerprint() == "547e7c60f067"


def test_distinct_scenes_have_captions_true_of_one_scene_only() -> None:
    seeds = distinct_scenes(count=150)
    assert len(seeds) == 150
    assert seeds[0] == 1_000_000
    assert (np.diff(seeds) > 0).all()
    plans = [plan_scene(int(seed)) for seed in seeds]
    for own, plan in enumerate(plans):
        statement = parse(plan.caption)
        assert [i for i, other in enumerate(plans) if is_true(statement, other.objects)] == [own]


@pytest.mark.parametrize("size", [8, 5000, (16, 100)])
def test_impossible_sizes_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="size of SceneConfig must be"):
        SceneConfig(size)


def test_bad_seeds_are_refused() -> None:
    with pytest.raises(BadInput, match="0 or more"):
        make_scene(-1)
    with pytest.raises(BadInput, match="at least one seed"):
        make_batch([])
    with pytest.raises(BadInput, match="1 or more"):
        distinct_scenes(count=0)
