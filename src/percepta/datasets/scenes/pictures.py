"""Scenes by seed: one with its full ground truth, or many pictures at once for training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from percepta.datasets.scenes.dice import Dice
from percepta.datasets.scenes.language import caption_of, draw_statement, hard_negatives
from percepta.datasets.scenes.layout import draw_backdrop, place_objects
from percepta.datasets.scenes.render import (
    object_depth,
    object_masks,
    object_patches,
    paint_backdrop,
    paint_objects,
    to_picture,
)
from percepta.datasets.scenes.scene import Scene, SceneBatch, ScenePlan, boxes_of
from percepta.datasets.scenes.vocabulary import COLOURS, SCENE_STREAM, SHAPES, SceneConfig
from percepta.errors import BadInput


def plan_scene(seed: int, config: SceneConfig | None = None) -> ScenePlan:
    """All of a scene but its pixels: a tenth of the cost of painting it."""
    config = config or SceneConfig()
    dice = Dice(int(seed), SCENE_STREAM)
    objects, named = place_objects(dice, config.extent)
    order, statement = draw_statement(dice, objects[:named])
    negatives = hard_negatives(dice, statement)
    backdrop = draw_backdrop(dice, config.extent)
    arranged = tuple([objects[i] for i in order] + objects[named:])
    return ScenePlan(int(seed), arranged, named, backdrop, caption_of(statement), negatives)


def make_scene(seed: int, config: SceneConfig | None = None) -> Scene:
    """The scene of `seed` with its full ground truth. Raises BadInput for a negative seed."""
    config = config or SceneConfig()
    plan = plan_scene(seed, config)
    canvas, nearness = paint_backdrop(plan.backdrop, config)
    patches = object_patches(plan.objects, plan.backdrop, config)
    paint_objects(canvas, plan.objects, patches, plan.backdrop)
    visible, amodal = object_masks(plan.objects, patches, config)
    return Scene(
        seed=plan.seed,
        picture=to_picture(canvas),
        caption=plan.caption,
        hard_negatives=tuple(negative.caption for negative in plan.negatives),
        negative_kinds=tuple(negative.kind for negative in plan.negatives),
        objects=plan.objects,
        label=plan.label,
        boxes=boxes_of(visible),
        amodal_boxes=boxes_of(amodal),
        visible_masks=visible,
        amodal_masks=amodal,
        depth=object_depth(nearness, plan.objects, visible),
    )


def make_batch(seeds: Iterable[int] | np.ndarray, config: SceneConfig | None = None) -> SceneBatch:
    """Pictures and words of many seeds, without masks and depth: the fast path of training.

    Each picture equals make_scene's for its seed; of the hard negatives the first is taken, whose kind is random.
    Raises BadInput for a negative seed or for none.
    """
    config = config or SceneConfig()
    chosen = tuple(int(seed) for seed in seeds)
    if not chosen:
        raise BadInput("make_batch needs at least one seed; got none.")
    pictures = np.empty((len(chosen), config.height, config.width, 3), np.uint8)
    plans = [plan_scene(seed, config) for seed in chosen]
    for picture, plan in zip(pictures, plans, strict=True):
        canvas, _ = paint_backdrop(plan.backdrop, config)
        paint_objects(canvas, plan.objects, object_patches(plan.objects, plan.backdrop, config), plan.backdrop)
        canvas += np.float32(0.5)
        np.clip(canvas, 0, 255, out=canvas)
        picture[...] = canvas.transpose(1, 2, 0)
    return SceneBatch(
        seeds=chosen,
        pictures=pictures,
        captions=[plan.caption for plan in plans],
        hard_negatives=[plan.negatives[0].caption for plan in plans],
        negative_kinds=[plan.negatives[0].kind for plan in plans],
        labels=[plan.label for plan in plans],
    )


def scene_classes() -> list[str]:
    """The 64 labels of scenes ('red circle' ...): colour and shape of the largest object."""
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
