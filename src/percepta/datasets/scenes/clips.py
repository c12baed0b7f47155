"""Clips by seed: short videos of moving objects with captions, tracks, masks and depth.

A clip has two captions: one says what moves where and what passes before what, the other, without motion words, only
what is seen (for models that average frames). Each object of a clip is seen in at least half of its frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from percepta.datasets.scenes.dice import Dice
from percepta.datasets.scenes.language import (
    Description,
    Statement,
    caption_of,
    describe,
    draw_statement,
    hard_negatives,
    join_words,
    swap_attribute,
)
from percepta.datasets.scenes.layout import draw_backdrop
from percepta.datasets.scenes.motion import Choreography, choreograph
from percepta.datasets.scenes.render import (
    object_depth,
    object_masks,
    object_patches,
    paint_backdrop,
    paint_objects,
    to_picture,
)
from percepta.datasets.scenes.scene import Backdrop, Clip, HardNegative, Track, boxes_of, visible_fractions
from percepta.datasets.scenes.vocabulary import CLIP_STREAM, SceneConfig
from percepta.errors import out_of_range

OCCLUDED_BELOW = 0.9  # an object of which less is visible counts as occluded
REVERSED = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """A clip before it is painted: the choreography and all that is said."""

    seed: int
    choreography: Choreography
    backdrop: Backdrop
    caption: str
    content_caption: str
    negatives: tuple[HardNegative, ...]
    content_negatives: tuple[HardNegative, ...]


@dataclass(frozen=True, slots=True)
class MotionStatement:
    """The meaning of a motion caption: what each object does, and how the first passes the second."""

    things: tuple[Description, ...]
    motions: tuple[str, ...]
    passing: str | None


def plan_clip(seed: int, config: SceneConfig | None = None) -> ClipPlan:
    """All of a clip but its pixels."""
    config = config or SceneConfig()
    dice = Dice(int(seed), CLIP_STREAM)
    choreography = choreograph(dice, config.extent)
    _, content = draw_statement(dice, choreography.objects, related=False)
    told = MotionStatement(
        tuple(Description(thing.colour, thing.shape) for thing in choreography.objects),
        tuple(path.motion for path in choreography.paths),
        choreography.passing,
    )
    return ClipPlan(
        seed=int(seed),
        choreography=choreography,
        backdrop=draw_backdrop(dice, config.extent),
        caption=motion_caption(told),
        content_caption=caption_of(content),
        negatives=motion_negatives(dice, told),
        content_negatives=hard_negatives(dice, content),
    )


def motion_caption(told: MotionStatement) -> str:
    """Such as 'a red circle moves left behind a blue star, a green ring bounces'."""
    names = [describe(thing) for thing in told.things]
    phrases = [f"{name} {_motion_words(motion)}" for name, motion in zip(names, told.motions, strict=True)]
    if told.passing is not None:
        phrases[:2] = [f"{phrases[0]} {told.passing} {names[1]}"]
    return join_words(phrases)


def _motion_words(motion: str) -> str:
    if motion == "still":
        return "stays still"
    return f"moves {motion}" if motion in REVERSED else motion


def motion_negatives(dice: Dice, told: MotionStatement, limit: int = 3) -> tuple[HardNegative, ...]:
    """Up to `limit` false captions: a direction or the order in depth reversed, or two attributes swapped."""
    changed: list[tuple[str, MotionStatement]] = []
    turnable = [i for i, motion in enumerate(told.motions) if motion.split()[-1] in REVERSED]
    if turnable:
        chosen = dice.pick(turnable)
        motions = [_reverse(motion) if i == chosen else motion for i, motion in enumerate(told.motions)]
        changed.append(("direction", replace(told, motions=tuple(motions))))
    if told.passing is not None:
        other = "behind" if told.passing == "in front of" else "in front of"
        changed.append(("order", replace(told, passing=other)))
    for field in ("colour", "shape"):
        swapped = swap_attribute(dice, Statement(told.things), field)
        if swapped is not None:
            changed.append((f"swap {field}", replace(told, things=swapped.things)))
    mixed = dice.shuffled(changed)[:limit]
    return tuple(HardNegative(motion_caption(statement), kind) for kind, statement in mixed)


def _reverse(motion: str) -> str:
    *words, side = motion.split()
    return " ".join([*words, REVERSED[side]])


def make_clip(
    seed: int, config: SceneConfig | None = None, frames: int = 16, times: Sequence[float] | None = None
) -> Clip:
    """The clip of `seed` with its full ground truth.

    The motion is the same whatever the number of frames, which only says how finely it is sampled: evenly from its
    first moment, 0, to its last, 1, or at the given `times` (then `frames` counts for nothing). Raises BadInput for a
    negative seed or less than one frame.
    """
    if frames < 1 or (times is not None and not len(times)):
        raise out_of_range("frames", frames if times is None else 0, "1 or more", "make_clip")
    config = config or SceneConfig()
    plan = plan_clip(seed, config)
    dance = plan.choreography
    if times is None:
        times = [0.5] if frames == 1 else [frame / (frames - 1) for frame in range(frames)]
    centres = np.array([[path.at(time) for time in times] for path in dance.paths], np.float32)
    empty, nearness = paint_backdrop(plan.backdrop, config)
    pictures, depths, visible, amodal = [], [], [], []
    for time in times:
        objects = [replace(thing, centre=path.at(time)) for thing, path in zip(dance.objects, dance.paths, strict=True)]
        canvas = empty.copy()
        patches = object_patches(objects, plan.backdrop, config)
        paint_objects(canvas, objects, patches, plan.backdrop)
        seen, whole = object_masks(objects, patches, config)
        pictures.append(to_picture(canvas))
        depths.append(object_depth(nearness, objects, seen))
        visible.append(seen)
        amodal.append(whole)
    return Clip(
        seed=plan.seed,
        frames=np.stack(pictures),
        caption=plan.caption,
        content_caption=plan.content_caption,
        hard_negatives=tuple(negative.caption for negative in plan.negatives),
        negative_kinds=tuple(negative.kind for negative in plan.negatives),
        content_hard_negatives=tuple(negative.caption for negative in plan.content_negatives),
        tracks=_tracks(dance, centres, np.stack(visible, 1), np.stack(amodal, 1)),
        depth=np.stack(depths),
    )


def _tracks(dance: Choreography, centres: np.ndarray, visible: np.ndarray, amodal: np.ndarray) -> tuple[Track, ...]:
    """Masks are (N, T, H, W)."""
    boxes, shares = boxes_of(visible), visible_fractions(visible, amodal)
    inside = np.asarray(amodal.any(axis=(-2, -1)))
    return tuple(
        Track(
            object=thing,
            motion=dance.paths[i].motion,
            centres=centres[i],
            boxes=boxes[i],
            visible_masks=visible[i],
            amodal_masks=amodal[i],
            visible=shares[i],
            occluded=inside[i] & (shares[i] < OCCLUDED_BELOW),
        )
        for i, thing in enumerate(dance.objects)
    )
