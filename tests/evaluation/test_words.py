"""The protocol of objects by words, with finders whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from percepta.datasets.scenes import SceneConfig, make_scene
from percepta.evaluation.words import evaluate_scenes_words, phrase, questions, scenes_words_protocol
from percepta.results import Masks

COUNT, SIZE, FIRST = 12, 64, 1_000_000
PROTOCOL = scenes_words_protocol(COUNT, SIZE)
SCENES = {
    make_scene(FIRST + n, SceneConfig(size=SIZE)).picture.tobytes(): make_scene(FIRST + n, SceneConfig(size=SIZE))
    for n in range(COUNT)
}


def oracle(picture: np.ndarray, texts: Sequence[str]) -> list[Masks]:
    """Knows the truth."""
    scene = SCENES[picture.tobytes()]
    answers = []
    for text in texts:
        fits = np.array([phrase(thing.colour, thing.shape) == text for thing in scene.objects])
        order = np.argsort(~fits, kind="stable")
        masks = Masks.from_dense("", scene.visible_masks[order])
        answers.append(replace(masks, scores=np.where(fits[order], 0.9, 0.1).astype(np.float32)))
    return answers


def test_who_knows_the_truth_is_right() -> None:
    found = evaluate_scenes_words(oracle, PROTOCOL)
    assert found["right object first"].value == 1
    assert found["empty where nothing fits"].value == 1
    assert found.details["scenes"] >= COUNT - 2


def test_who_always_finds_something_is_never_empty() -> None:
    def eager(picture: Any, texts: Any) -> list[Masks]:
        return [replace(masks, scores=np.ones(len(masks), np.float32)) for masks in oracle(picture, texts)]

    found = evaluate_scenes_words(eager, PROTOCOL)
    assert found["right object first"].value == 1
    assert found["empty where nothing fits"].value == 0


def test_who_finds_nothing_is_always_empty() -> None:
    def shy(picture: Any, texts: Any) -> list[Masks]:
        return [masks.select([]) for masks in oracle(picture, texts)]

    found = evaluate_scenes_words(shy, PROTOCOL)
    assert found["right object first"].value == 0
    assert found["empty where nothing fits"].value == 1


def test_questions_say_what_they_claim() -> None:
    for number, scene in enumerate(SCENES.values()):
        asked = questions(scene, number)
        if asked is None:
            continue
        wanted, there, absent, near = asked
        names = [phrase(thing.colour, thing.shape) for thing in scene.objects]
        assert names.count(there) == 1
        assert names[wanted] == there
        assert absent not in names
        parts = {word for name in names for word in name.split()[1:]}
        assert bool(parts & set(absent.split()[1:])) == near
