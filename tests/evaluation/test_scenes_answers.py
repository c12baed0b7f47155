"""Questions about scenes: what right, blind and nonsensical answers score, and what each figure counts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from percepta.datasets.scenes import TEST_SEED_START
from percepta.datasets.scenes.questions import FINE_GRAINED
from percepta.evaluation import scenes_answers
from percepta.evaluation.scenes_answers import (
    BLIND,
    CAPTIONS,
    FINE,
    HEADLINES,
    USUAL,
    WHEN,
    Item,
    evaluate_scenes_answers,
    items_of,
    names_all,
    pattern_of,
    points_of,
    recall_of,
    scenes_answers_protocol,
    tidy,
    usual_answers,
)

PROTOCOL = scenes_answers_protocol(count=12, clips=6)


@pytest.fixture(autouse=True, scope="module")
def few_training_worlds() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes_answers, "USUAL_WORLDS", 20)
        yield


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return list(items_of(PROTOCOL))


class Knows:
    """Answers what is seen from a table of frames and questions, and nonsense where the frames are grey."""

    def __init__(self, items: list[Item]) -> None:
        self.table = {(item.frames.tobytes(), item.question.question): item.question.answer for item in items}

    def __call__(self, frames: Any, prompt: str) -> str:
        return self.table.get((np.asarray(frames).tobytes(), prompt), "no idea")


def test_right_answers_score_one_and_grey_pictures_nothing(items: list[Item]) -> None:
    found = evaluate_scenes_answers(Knows(items), PROTOCOL)
    assert all(measure.value == 1 for measure in found.measures)
    assert [measure.name for measure in found.measures if measure.headline] == list(HEADLINES)
    blind = {one.measure: one.value for one in found.baselines if one.name == BLIND}
    usual = {one.measure: one.value for one in found.baselines if one.name == USUAL}
    assert set(blind) == set(usual) == {measure.name for measure in found.measures}
    assert all(blind[name] == 0 for name in HEADLINES)
    assert usual[FINE] < 0.5
    assert usual[CAPTIONS] < 0.1
    assert usual[WHEN] < 0.55
    assert found.details["questions"]


def test_all_kinds_are_asked_of_pictures_and_clips(items: list[Item]) -> None:
    asked = {(item.world, item.question.kind, item.question.boxed) for item in items}
    assert {kind for world, kind, _ in asked if world == "picture"} >= {*FINE_GRAINED, "caption", "region_caption"} - {
        "motion"
    }
    assert {kind for world, kind, boxed in asked if boxed} == {"when", "dense", "region_caption"}
    assert {item.seed for item in items if item.world == "picture"} == set(range(TEST_SEED_START, TEST_SEED_START + 12))
    by_frames = [id(item.frames) for item in items]
    changes = sum(a != b for a, b in pairwise(by_frames))
    assert changes + 1 == len(set(by_frames)) == 12 + 2 * 6


def test_what_a_caption_must_name(items: list[Item]) -> None:
    item = next(one for one in items if one.world == "picture" and len(one.things) == 2)
    first, second = item.things
    right = f"a {second.colour} {second.shape} and a {first.colour} {first.shape}"
    assert names_all(right, item.things)
    assert names_all(right.capitalize(), item.things)
    assert not names_all(f"a {first.colour} {first.shape}", item.things)
    assert not names_all(f"{right} and a {first.colour} {first.shape}", item.things)
    assert not names_all("nothing at all", item.things)
    swapped = f"a {second.colour} {first.shape} and a {first.colour} {second.shape}"
    assert names_all(swapped, item.things) == (first.colour == second.colour or first.shape == second.shape)


def test_times_are_scored_by_overlap() -> None:
    assert recall_of("[2, 5]", (2, 5)) == 1
    assert recall_of("in frames [5, 2].", (2, 5)) == 1
    assert recall_of("[2, 4]", (2, 5)) == 0.5
    assert recall_of("from 2 to 5", (2, 5)) == 0
    assert recall_of("[6, 7]", (2, 5)) == 0


def test_exact_answers_forgive_case_and_stop_alone(items: list[Item]) -> None:
    assert tidy(" Red. ") == "red"
    item = next(one for one in items if one.question.kind == "colour")
    assert points_of(item, item.question.answer.upper() + ".")[FINE] == 1
    assert points_of(item, f"it is {item.question.answer}")[FINE] == 0


def test_the_usual_answer_knows_the_form_alone(items: list[Item]) -> None:
    say = usual_answers(PROTOCOL)
    colours = [item for item in items if item.question.kind == "colour"]
    assert len({pattern_of(item) for item in colours}) <= 12
    assert all(say(item) for item in colours)
    offered = next(item for item in items if item.question.kind == "order" and item.question.options[0] != "in front")
    assert say(offered) in offered.question.options


def test_settings_change_the_hash() -> None:
    assert scenes_answers_protocol().hash != scenes_answers_protocol(frames=12).hash
