"""Captions are true, hard negatives false, the difficulty is as fixed, and text alone gives nothing away."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from percepta.datasets.scenes import (
    COLOURS,
    SHAPES,
    TEXTURES,
    attribute_only_baseline,
    blind_baseline,
    is_true,
    make_batch,
    parse,
)
from percepta.datasets.scenes.baselines import attribute_only_retrieval, attribute_score
from percepta.datasets.scenes.distinct import distinct_scenes
from percepta.datasets.scenes.language import Description, caption_of, describe, join_words, relation_holds
from percepta.datasets.scenes.pictures import plan_scene
from percepta.datasets.scenes.scene import ScenePlan
from percepta.errors import BadInput

RELATION = re.compile(r"\b(left|right|above|over|below|under)\b")


@pytest.fixture(scope="module")
def plans() -> list[ScenePlan]:
    return [plan_scene(seed) for seed in range(1_000_000, 1_001_500)]


def test_captions_are_true_and_negatives_false(plans: list[ScenePlan]) -> None:
    for plan in plans:
        assert is_true(parse(plan.caption), plan.objects), plan.caption
        assert 1 <= len(plan.negatives) <= 3
        for negative in plan.negatives:
            assert not is_true(parse(negative.caption), plan.objects), (plan.caption, negative)


def test_truth_is_judged_from_the_words_alone() -> None:
    """The reader itself, on a scene known by hand, so that the test above means something."""
    plan = plan_scene(1_000_000)
    first, second = plan.objects[:2]
    names = [f"a {thing.colour} {thing.shape}" for thing in (first, second)]
    assert is_true(parse(f"{names[1]} and {names[0]}"), plan.objects)
    assert not is_true(parse(f"{names[0]} and {names[0]}"), plan.objects)  # one object cannot be two
    assert not is_true(parse(f"a {second.colour} {first.shape} and {names[1]}"), plan.objects)
    apart = first.centre[0] - second.centre[0]
    assert is_true(parse(f"{names[0]} left of {names[1]}"), plan.objects) == (apart <= -0.05)
    assert is_true(parse(f"{names[0]} right of {names[1]}"), plan.objects) == (apart >= 0.05)
    wrong = next(texture for texture in TEXTURES if texture != first.texture)
    assert not is_true(parse(f"a {first.colour} {wrong} {first.shape}"), plan.objects)
    assert is_true(parse(f"a {first.texture} {first.colour} {first.shape}"), plan.objects)


def test_reading_gives_back_what_was_said(plans: list[ScenePlan]) -> None:
    for plan in plans[:300]:
        statement = parse(plan.caption)
        for said, thing in zip(sorted(statement.things, key=repr), plan.objects[: plan.named], strict=False):
            assert said.colour in COLOURS
            assert thing.shape in SHAPES
        named = {(thing.colour, thing.shape) for thing in plan.objects[: plan.named]}
        assert {(said.colour, said.shape) for said in statement.things} == named
        assert len({said.texture is None for said in statement.things}) == 1  # all textures or none
        assert is_true(parse(caption_of(statement)), plan.objects)


def test_negatives_keep_the_bag_of_words(plans: list[ScenePlan]) -> None:
    for plan in plans:
        words = Counter(re.findall(r"\w+", plan.caption.replace(" an ", " a ").replace("an ", "a ")))
        for negative in plan.negatives:
            other = Counter(re.findall(r"\w+", negative.caption.replace(" an ", " a ").replace("an ", "a ")))
            if negative.kind == "relation":
                assert len(parse(negative.caption).things) == len(parse(plan.caption).things)
                assert parse(negative.caption).things == parse(plan.caption).things
            else:
                assert words == other, (plan.caption, negative)


def test_the_difficulty_is_as_fixed(plans: list[ScenePlan]) -> None:
    assert (len(COLOURS), len(SHAPES), len(TEXTURES)) == (8, 8, 3)
    things = [thing for plan in plans for thing in plan.objects]
    for field, count in (("colour", 8), ("shape", 8), ("texture", 3)):
        seen = Counter(getattr(thing, field) for thing in things)
        assert len(seen) == count
        assert min(seen.values()) > 0.75 * len(things) / count
    assert {len(plan.objects) for plan in plans} == {2, 3, 4}
    assert all(2 <= plan.named <= len(plan.objects) for plan in plans)
    related = np.mean([RELATION.search(plan.caption) is not None for plan in plans])
    assert 0.45 < related < 0.55
    textured = np.mean([any(word in plan.caption for word in TEXTURES) for plan in plans])
    assert 0.7 < textured < 0.8


def test_larger_scenes_hold_a_distractor_that_shares_an_attribute(plans: list[ScenePlan]) -> None:
    for plan in plans:
        pairs = [(thing.colour, thing.shape) for thing in plan.objects]
        assert len(set(pairs)) == len(pairs)
        if len(pairs) > 2:
            assert len({colour for colour, _ in pairs}) < len(pairs) or len({shape for _, shape in pairs}) < len(pairs)
        for thing in plan.objects[plan.named :]:
            assert any(
                thing.colour == other.colour or thing.shape == other.shape for other in plan.objects[: plan.named]
            )
    assert sum(plan.named < len(plan.objects) for plan in plans) > 0.1 * len(plans)


def test_every_kind_of_negative_occurs(plans: list[ScenePlan]) -> None:
    first = Counter(plan.negatives[0].kind for plan in plans)
    assert set(first) == {"swap colour", "swap shape", "swap texture", "relation"}
    assert min(first.values()) > 0.1 * len(plans)


def test_attributes_without_binding_are_at_chance() -> None:
    assert attribute_only_baseline(range(1_000_000, 1_001_000)) == 0.5
    plan = plan_scene(4)
    assert attribute_score(plan.caption, plan.objects) == 1.0
    assert attribute_score("a red circle", []) == 0.0


def test_attributes_without_binding_retrieve_only_in_part() -> None:
    share = attribute_only_retrieval(distinct_scenes(count=200).tolist())
    assert 0.5 < share < 0.99


def test_text_alone_is_near_chance() -> None:
    assert abs(blind_baseline(range(4000), range(1_000_000, 1_001_500)) - 0.5) < 0.05


def test_baselines_need_seeds() -> None:
    with pytest.raises(BadInput, match="at least one seed"):
        attribute_only_baseline([])


def test_captions_fit_the_context_of_32_tokens(plans: list[ScenePlan]) -> None:
    open_clip = pytest.importorskip("open_clip")
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = [plan.caption for plan in plans] + [plan.negatives[0].caption for plan in plans]
    assert int((tokenizer(texts) != 0).sum(dim=1).max()) <= 32
    words = {word.strip(",") for text in texts for word in text.split()}
    assert all(len(tokenizer.encode(word)) == 1 for word in words)


def test_small_words() -> None:
    assert describe(Description("orange", "ring")) == "an orange ring"
    assert describe(Description("orange", "ring", "striped"), texture_first=True) == "a striped orange ring"
    assert join_words(["a", "b"]) == "a and b"
    assert join_words(["a", "b", "c"], " with ") == "a with b and c"
    assert join_words(["a", "b", "c", "d"]) == "a, b, c and d"


@pytest.mark.parametrize("caption", ["", "a thing", "a red blue circle", "a plain circle"])
def test_captions_of_another_language_are_refused(caption: str) -> None:
    with pytest.raises(BadInput, match="a caption must"):
        parse(caption)


def test_relations_are_opposite(plans: list[ScenePlan]) -> None:
    for plan in plans[:100]:
        first, second = plan.objects[:2]
        for relation, other in (("left of", "right of"), ("above", "below")):
            assert relation_holds(relation, first, second) == relation_holds(other, second, first)
            assert not (relation_holds(relation, first, second) and relation_holds(other, first, second))


def test_batches_carry_the_first_negative_and_its_kind() -> None:
    batch = make_batch(range(20))
    for i, seed in enumerate(batch.seeds):
        plan = plan_scene(seed)
        assert (batch.hard_negatives[i], batch.negative_kinds[i]) == (plan.negatives[0].caption, plan.negatives[0].kind)
