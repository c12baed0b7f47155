"""Worlds for questions that may have no answer: generated scenes, photographs by class, and texts about neither.

Unusual: a scene answers a question in words by logic (`is_true` of its objects), so "absent" is known, not assumed; an
object counts as absent only where no scene holds one of its colour and shape, whatever the texture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.datasets.cifar import LabelledPictures
from percepta.datasets.scenes import (
    COLOURS,
    SHAPES,
    TEXTURES,
    SceneConfig,
    SceneObject,
    is_true,
    make_batch,
    make_clip,
    parse,
)
from percepta.datasets.scenes.language import Description, Statement, describe
from percepta.datasets.scenes.pictures import plan_scene
from percepta.evaluation.folders import OWNERLESS, Flags, World, texts_alone

SCENE_KINDS = ("caption", "two things", "one thing")
QUESTION_TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}.", "a picture of a {}.", "a good photo of a {}.")
"""What people write when they look for a thing."""
ELSEWHERE = (
    "a child blowing out candles", "two people arguing", "my passport", "the eiffel tower at night", "a bowl of soup",
    "a wedding in the rain", "an old man in a garage", "a plate of spaghetti", "grandmother", "a page of handwriting",
    "a skyscraper", "a mountain lake in autumn", "a football match", "a screenshot of an error message",
    "a train at a station", "a woman with a violin", "tax receipt 2019", "a snowman", "a lighthouse", "an x-ray",
    "a bicycle leaning on a wall", "fireworks", "a bunch of bananas", "a spider web with dew", "a map of a town",
    "a cup of coffee on a desk", "the kitchen before the renovation", "a guitar", "a chess board", "an empty beach",
)  # fmt: skip
"""Questions about what is neither in scenes nor in CIFAR-10; every other one is for tests."""
_KEYS = {
    (colour, shape, texture): number
    for number, (colour, shape, texture) in enumerate(
        (c, s, t) for c in COLOURS for s in SHAPES for t in (*TEXTURES, None)
    )
}
_EACH = len(TEXTURES) + 1  # keys of one colour and shape


def scenes_world(seeds: Sequence[int] | NDArray[np.int64], size: int = 64, seed: int = 0) -> World:
    """Scenes with three kinds of questions: their captions, two of their things, single things.

    Args:
        seeds: of the scenes.
        size: side in pixels.
        seed: of the choice of things and wordings.
    """
    config, random = SceneConfig(size), np.random.default_rng(seed)
    plans = [plan_scene(int(number), config) for number in seeds]
    objects = [plan.objects for plan in plans]
    asked = [(plan.caption, "caption", parse(plan.caption), number) for number, plan in enumerate(plans)]
    asked += [(*_two_things(things, random), number) for number, things in enumerate(objects)]
    asked += [
        (describe(thing, order), "one thing", Statement((thing,)), OWNERLESS) for thing, order in _single_things()
    ]
    statements = [statement for _, _, statement, _ in asked]
    right, near = _truth(statements, objects)
    return World(
        "scenes",
        make_batch(seeds, config).pictures,
        tuple(text for text, *_ in asked),
        tuple(kind for _, kind, _, _ in asked),
        right,
        near,
        np.array([owner for *_, owner in asked], np.int64),
    )


def photographs_world(
    photographs: LabelledPictures, name: str = "photographs", templates: Sequence[str] = QUESTION_TEMPLATES
) -> World:
    """Photographs whose questions are the names of their classes, in several wordings; folders are made up by class."""
    asked = [
        (template.format(label), number) for number, label in enumerate(photographs.names) for template in templates
    ]
    right = np.array([number for _, number in asked])[:, None] == photographs.labels[None, :]
    texts = tuple(text for text, _ in asked)
    return World(name, photographs.pictures, texts, ("class",) * len(texts), right, groups=photographs.labels)


def clips_by_picture(seeds: Sequence[int] | NDArray[np.int64], size: int = 64, seed: int = 0) -> World:
    """Frames from the middle of clips; the questions are a part of the same frame and an earlier frame of the clip.

    Args:
        seeds: of the clips.
        size: side in pixels.
        seed: of the choice of parts.
    """
    config, random = SceneConfig(size), np.random.default_rng(seed)
    frames = np.stack([make_clip(int(number), config, frames=5).frames[[1, 2]] for number in seeds])
    parts = np.stack([_part(frame, random) for frame in frames[:, 1]])
    owners = np.tile(np.arange(len(frames)), 2)
    return World(
        "clips",
        frames[:, 1],
        tuple(f"{what} {number}" for what in ("part", "frame") for number in seeds),
        ("part",) * len(frames) + ("earlier frame",) * len(frames),
        owners[:, None] == np.arange(len(frames))[None, :],
        owner=owners,
        asking=np.concatenate([parts, frames[:, 0]]),
    )


def photographs_by_picture(photographs: LabelledPictures, name: str = "photographs", asking: int = 200) -> World:
    """Photographs of which the first `asking` ask for others of their class."""
    labels = photographs.labels
    return World(
        name,
        photographs.pictures[asking:],
        tuple(f"{photographs.names[label]} {number}" for number, label in enumerate(labels[:asking])),
        ("same class",) * asking,
        labels[:asking, None] == labels[None, asking:],
        groups=labels[asking:],
        asking=photographs.pictures[:asking],
    )


def elsewhere(tested: bool) -> World:
    """Texts about what neither scenes nor CIFAR-10 show: those for tests, or those for fitting."""
    return texts_alone("elsewhere", ELSEWHERE[int(tested) :: 2])


def _part(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """A part of 60 to 95 % of each side, a little brighter or darker, at the size of the whole."""
    height, width = picture.shape[:2]
    share = random.uniform(0.6, 0.95)
    top, left = (int(random.integers(0, side - int(side * share) + 1)) for side in (height, width))
    part = picture[top : top + int(height * share), left : left + int(width * share)]
    lit = np.clip(part * random.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(lit).resize((width, height), Image.Resampling.BILINEAR))


def _two_things(objects: Sequence[SceneObject], random: np.random.Generator) -> tuple[str, str, Statement]:
    """Two things of a scene, in most cases with their textures."""
    first, second = random.choice(len(objects), 2, replace=False)
    textured = random.random() < 0.7
    things = tuple(
        Description(objects[number].colour, objects[number].shape, objects[number].texture if textured else None)
        for number in (first, second)
    )
    return f"{describe(things[0])} and {describe(things[1])}", "two things", Statement(things)


def _single_things() -> list[tuple[Description, bool]]:
    """Every thing, with and without texture, in both orders of the adjectives."""
    return [
        (Description(colour, shape, texture), order)
        for colour, shape, texture in _KEYS
        for order in ((False,) if texture is None else (False, True))
    ]


def _truth(statements: Sequence[Statement], scenes: Sequence[Sequence[SceneObject]]) -> tuple[Flags, Flags]:
    """(T, N) each: of which scenes a statement is true; which hold an object of a colour and shape that it names."""
    holds = np.zeros((len(scenes), len(_KEYS)), np.bool_)
    for row, objects in enumerate(scenes):
        for thing in objects:
            for texture in (thing.texture, None):
                holds[row, _KEYS[thing.colour, thing.shape, texture]] = True
    plain = holds[:, _EACH - 1 :: _EACH]
    right, near = (np.zeros((len(statements), len(scenes)), np.bool_) for _ in range(2))
    for row, statement in enumerate(statements):
        keys = [_KEYS[said.colour, said.shape, said.texture] for said in statement.things]
        near[row] = plain[:, [key // _EACH for key in keys]].any(axis=1)
        for scene in np.flatnonzero(holds[:, keys].all(axis=1)).tolist():
            right[row, scene] = is_true(statement, scenes[scene])
    return right, near
