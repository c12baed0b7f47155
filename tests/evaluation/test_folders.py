"""Folders and questions: what a case promises of its folder, for scenes and for classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from percepta.datasets.cifar import LabelledPictures
from percepta.datasets.scenes import is_true, parse
from percepta.datasets.scenes.pictures import plan_scene
from percepta.errors import BadInput
from percepta.evaluation.folders import Mix, World, draw_cases
from percepta.evaluation.worlds import ELSEWHERE, SCENE_KINDS, elsewhere, photographs_world, scenes_world

SEEDS = np.arange(2_000_000, 2_000_150)


@pytest.fixture(scope="module")
def scenes() -> World:
    return scenes_world(SEEDS, size=16)


@pytest.fixture(scope="module")
def photographs() -> World:
    labels = np.repeat(np.arange(5), 40)
    return photographs_world(LabelledPictures(np.zeros((200, 8, 8, 3), np.uint8), labels, tuple("abcde")), "letters")


def test_scenes_answer_by_logic(scenes: World) -> None:
    assert len(scenes.pictures) == 150
    assert set(scenes.kinds) == set(SCENE_KINDS)
    assert scenes.near is not None
    assert (scenes.near | ~scenes.right).all()  # right ones are near ones
    random = np.random.default_rng(0)
    for text in random.choice(len(scenes.texts), 40, replace=False):
        statement = parse(scenes.texts[text])
        for scene in random.choice(150, 15, replace=False):
            objects = plan_scene(int(SEEDS[scene])).objects
            assert scenes.right[text, scene] == is_true(statement, objects)
            pairs = {(thing.colour, thing.shape) for thing in objects}
            assert scenes.near[text, scene] == any((one.colour, one.shape) in pairs for one in statement.things)


def test_cases_hold_what_they_promise(scenes: World, photographs: World) -> None:
    worlds = (scenes, photographs, elsewhere(tested=True))
    cases = list(draw_cases(worlds, 60, Mix(sizes=(1, 60), mixed=0.5)))
    assert len(cases) == 60 * 12
    for case in cases:
        world, text = case.text
        sizes = [len(inside) for inside in case.entries]
        assert len(case.right) == sum(sizes) <= 60
        assert case.kind == f"{worlds[world].name}/{worlds[world].kinds[text]}"
        assert all(len(set(inside.tolist())) == len(inside) for inside in case.entries)
        inside = case.entries[world]
        assert case.right.sum() == worlds[world].right[text, inside].sum()
        near = worlds[world].near
        if case.thorough and near is not None:
            assert not near[text, inside].any()
            assert not case.present
    present = np.array([case.present for case in cases])
    assert 0.4 < present.mean() < 0.6
    mixed = {case.folder for case in cases if sum(len(inside) > 0 for inside in case.entries) > 1}
    assert 15 < len(mixed) < 45
    assert any(case.kind == "elsewhere/elsewhere" for case in cases)
    assert any(not case.present and not case.thorough for case in cases)


def test_present_captions_are_those_of_scenes_in_the_folder(scenes: World) -> None:
    mix = Mix(sizes=(30, 30), present=1.0, kinds={"two things": 0.0, "one thing": 0.0})
    assert scenes.owner is not None
    for case in draw_cases([scenes], 20, mix):
        assert case.kind == "scenes/caption"
        assert scenes.owner[case.text[1]] in case.entries[0]
        assert len(case.right) == 30


def test_folders_are_made_up_of_some_groups(photographs: World) -> None:
    classes = [
        len(np.unique(photographs.groups[case.entries[0]]))  # type: ignore[index]
        for case in draw_cases([photographs], 60, Mix(sizes=(40, 40), questions=1, present=1.0))
    ]
    assert set(classes) == {1, 2, 3, 4, 5}
    few = draw_cases([photographs], 30, Mix(sizes=(40, 40), questions=1, present=1.0, groups=2))
    assert {len(np.unique(photographs.groups[case.entries[0]])) for case in few} == {1, 2}  # type: ignore[index]


def test_draws_follow_the_seed(scenes: World) -> None:
    def drawn(seed: int) -> list[tuple[tuple[int, int], list[int]]]:
        return [(case.text, case.entries[0].tolist()) for case in draw_cases([scenes], 3, Mix(sizes=(5, 9)), seed)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_refusals(scenes: World) -> None:
    with pytest.raises(BadInput, match="world with pictures"):
        list(draw_cases([elsewhere(tested=True)], 1))
    with pytest.raises(BadInput, match="weight 0"):
        list(draw_cases([scenes], 1, Mix(kinds=dict.fromkeys(SCENE_KINDS, 0.0))))
    with pytest.raises(BadInput, match="sizes"):
        Mix(sizes=(5, 2))
    with pytest.raises(BadInput, match="present"):
        Mix(present=1.5)
    with pytest.raises(BadInput, match="right"):
        replace(scenes, right=scenes.right[:, :-1])
    with pytest.raises(BadInput, match="owner"):
        replace(scenes, owner=np.zeros(3, np.int64))
    assert len(set(ELSEWHERE)) == len(ELSEWHERE)
