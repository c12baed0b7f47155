"""Objects by words on generated scenes: is the right one found, and is nothing found where nothing fits?

Each scene is asked for an object that one thing in it fits, and for one that nothing in it fits; half of the latter
share their colour or shape with something that is there. The answer is what a user sees: objects with a probability of
one half or more, the likeliest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.scenes import (
    COLOURS,
    SHAPES,
    TEST_SEED_START,
    VERSION,
    Scene,
    SceneConfig,
    fingerprint,
    make_scene,
)
from percepta.evaluation.protocols import Baseline, Evaluation, Protocol, measured
from percepta.evaluation.regions import jaccard
from percepta.evaluation.vos import Watch
from percepta.results import Masks

FindMany = Callable[[NDArray[np.uint8], Sequence[str]], Sequence[Masks]]
"""A picture (H, W, 3) and texts → for each text all candidates, the likeliest first, scores = probabilities."""
LIKELY, MATCH = 0.5, 0.5


def scenes_words_protocol(count: int = 300, size: int = 128, first: int = TEST_SEED_START) -> Protocol:
    """One object that is there and one that is not, in each of `count` scenes."""
    return Protocol(
        "scenes-words",
        {
            "generator": f"percepta scenes {VERSION}",
            "fingerprint": fingerprint(),
            "first seed": first,
            "count": count,
            "size": size,
            "questions": "a COLOUR SHAPE that one object fits; one that none fits, every other one near",
            "likely": LIKELY,
            "right": f"first mask with an IoU of {MATCH} or more with the object's visible pixels",
            "seed": 0,
        },
    )


def evaluate_scenes_words(find: FindMany, protocol: Protocol | None = None, watch: Watch | None = None) -> Evaluation:
    """How often the right object comes first, and the answer is rightly empty; `watch` is told of each scene."""
    protocol = protocol or scenes_words_protocol()
    settings = protocol.settings
    config = SceneConfig(size=settings["size"])
    right: list[float] = []
    ranked: list[float] = []
    guesses: list[float] = []
    empty: dict[bool, list[float]] = {True: [], False: []}
    for number in range(settings["count"]):
        if watch is not None:
            watch(1)
        scene = make_scene(settings["first seed"] + number, config)
        asked = questions(scene, number)
        if asked is None:
            continue
        wanted, there, absent, near = asked
        found, nothing = find(scene.picture, [there, absent])
        first = bool(len(found)) and bool(jaccard(scene.visible_masks[wanted], next(iter(found))) >= MATCH)
        ranked.append(first)
        right.append(first and found.scores is not None and bool(found.scores[0] >= LIKELY))
        stays = not len(nothing) or (nothing.scores is not None and bool(nothing.scores[0] < LIKELY))
        empty[near].append(stays)
        guesses.append(1 / len(scene.objects))
    measures = (
        measured("right object first", np.array(right), headline=True),
        measured("empty where nothing fits", np.array(empty[True] + empty[False]), headline=True),
        measured("right object ranked first, likely or not", np.array(ranked), float(np.mean(guesses))),
        measured("empty, colour or shape is there", np.array(empty[True])),
        measured("empty, neither is there", np.array(empty[False])),
    )
    guess = Baseline("guessing", "right object first", float(np.mean(guesses)), "knows the objects, not the words")
    return Evaluation(protocol, measures, (guess,), {"scenes": len(right)})


def questions(scene: Scene, number: int) -> tuple[int, str, str, bool] | None:
    """The object asked for, words that it alone fits, words that nothing fits, whether these are near; None where no
    object is alone in its colour and shape and well visible."""
    draw = np.random.default_rng((0, scene.seed))
    pairs = [(thing.colour, thing.shape) for thing in scene.objects]
    visible = scene.visible_masks.reshape(len(pairs), -1).sum(axis=1)
    whole = scene.amodal_masks.reshape(len(pairs), -1).sum(axis=1)
    alone = [row for row, pair in enumerate(pairs) if pairs.count(pair) == 1 and visible[row] >= 0.3 * whole[row] > 0]
    if not alone:
        return None
    wanted = int(draw.choice(alone))
    near = number % 2 == 0
    colours, shapes = {colour for colour, _ in pairs}, {shape for _, shape in pairs}
    absent = [
        (colour, shape)
        for colour in COLOURS
        for shape in SHAPES
        if (colour, shape) not in pairs and (colour in colours or shape in shapes) == near
    ]
    other = absent[int(draw.integers(len(absent)))]
    return wanted, phrase(*pairs[wanted]), phrase(*other), near


def phrase(colour: str, shape: str) -> str:
    """Such as "an orange star"."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"
