"""Protocols with doubles: one that knows the answers, one that guesses, one that only counts attributes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from percepta.datasets.cifar import CIFAR10_NAMES, LabelledPictures
from percepta.datasets.scenes import SceneConfig, distinct_clips, distinct_scenes, fingerprint, make_batch, make_clip
from percepta.datasets.scenes.baselines import attribute_only_retrieval, attribute_score
from percepta.datasets.scenes.pictures import plan_scene
from percepta.errors import BadInput
from percepta.evaluation import (
    Protocol,
    attribute_scores,
    cifar10_protocol,
    evaluate_cifar10,
    evaluate_scenes_hard_negatives,
    evaluate_scenes_retrieval,
    evaluate_scenes_video_retrieval,
    scenes_hard_negatives_protocol,
    scenes_retrieval_protocol,
    scenes_video_retrieval_protocol,
)

COUNT, CLIPS, WIDTH = 60, 12, 256
RETRIEVAL = scenes_retrieval_protocol(COUNT, 32)
NEGATIVES = replace(
    scenes_hard_negatives_protocol(COUNT, 32),
    settings={**scenes_hard_negatives_protocol(COUNT, 32).settings, "blind seeds": 300},
)
VIDEOS = scenes_video_retrieval_protocol(CLIPS, 32)


class Oracle:
    """Knows which picture (or clip) has which caption; every other text points elsewhere."""

    def __init__(self, looks: np.ndarray, captions: list[str], length: float = 3.0) -> None:
        self.number = {look.tobytes(): row for row, look in enumerate(looks)}
        self.captions = {caption: row for row, caption in enumerate(captions)}
        self.length = length

    def look(self, looks: np.ndarray) -> torch.Tensor:
        assert looks.dtype == np.uint8
        return self.length * torch.eye(WIDTH)[[self.number[look.tobytes()] for look in looks]]

    def words(self, texts) -> torch.Tensor:
        return 2 * torch.eye(WIDTH)[[self.captions.get(text, WIDTH - 1) for text in texts]]


def guess(items) -> torch.Tensor:
    """Random vectors, other ones for texts than for pictures."""
    seed = 1 if isinstance(items, np.ndarray) else 2
    return torch.randn(len(items), 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def scene_oracle() -> Oracle:
    batch = make_batch(distinct_scenes(count=COUNT, config=SceneConfig(32)), SceneConfig(32))
    return Oracle(batch.pictures, batch.captions)


def test_hash_is_of_name_and_settings() -> None:
    protocol = Protocol("probe", {"b": (1, 2), "a": "ü"})
    assert protocol.canonical() == '{"name":"probe","settings":{"a":"ü","b":[1,2]}}'
    assert protocol.hash == "2598e16d5ae3"
    assert protocol.hash == Protocol("probe", {"a": "ü", "b": [1, 2]}).hash
    assert len({protocol.hash, Protocol("probe", {"a": "ü"}).hash, Protocol("other", protocol.settings).hash}) == 3
    with pytest.raises(BadInput, match="JSON values"):
        Protocol("probe", {"a": float("nan")})
    with pytest.raises(BadInput, match="JSON values"):
        Protocol("probe", {"a": object()})


def test_settings_and_generator_are_in_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {scenes_retrieval_protocol(count, size).hash for count in (1000, 100) for size in (64, 32)}
    assert len(hashes) == 4
    before = [make(50).hash for make in (scenes_retrieval_protocol, scenes_video_retrieval_protocol)]
    monkeypatch.setattr("percepta.evaluation.scenes.fingerprint", lambda: "another")
    assert not set(before) & {make(50).hash for make in (scenes_retrieval_protocol, scenes_video_retrieval_protocol)}
    assert cifar10_protocol().hash != cifar10_protocol(["a photo of a {}."]).hash


def test_oracle_finds_every_scene(scene_oracle: Oracle) -> None:
    result = evaluate_scenes_retrieval(scene_oracle.look, scene_oracle.words, RETRIEVAL)
    assert {measure.value for measure in result.measures} == {1.0}
    assert [measure.name for measure in result.measures if measure.headline] == [
        "text to picture R@1",
        "picture to text R@1",
    ]
    assert len(result.measures) == 12
    assert result["text to picture R@5"].count == COUNT
    assert result.details["fingerprint"] == RETRIEVAL.settings["fingerprint"] == fingerprint()
    assert result.details["seeds"].startswith("1000000 to 10000")


def test_guessing_finds_what_chance_finds() -> None:
    result = evaluate_scenes_retrieval(guess, guess, RETRIEVAL)
    for name in ("text to picture R@10", "picture to text R@10", "text to picture R@10 with dual softmax"):
        measure = result[name]
        assert measure.chance == pytest.approx(10 / COUNT)
        assert abs(measure.value - 10 / COUNT) < 0.17  # three and a half standard errors
        assert measure.low <= measure.value <= measure.high


def test_baseline_of_attributes_equals_the_pairwise_one(scene_oracle: Oracle) -> None:
    seeds = distinct_scenes(count=COUNT, config=SceneConfig(32))
    plans = [plan_scene(seed) for seed in seeds]
    captions, objects = [plan.caption for plan in plans], [plan.objects for plan in plans]
    table = attribute_scores(captions, objects)
    for row, column in ((0, 0), (0, 1), (7, 31), (COUNT - 1, 3)):
        assert table[row, column] == pytest.approx(attribute_score(captions[row], objects[column]))
    result = evaluate_scenes_retrieval(scene_oracle.look, scene_oracle.words, RETRIEVAL)
    baseline = next(one for one in result.baselines if one.measure == "text to picture R@1")
    assert baseline.value == pytest.approx(attribute_only_retrieval(list(seeds)))
    assert 0.5 < baseline.value < 1


def test_hard_negatives_oracle_and_its_opposite(scene_oracle: Oracle) -> None:
    right = evaluate_scenes_hard_negatives(scene_oracle.look, scene_oracle.words, NEGATIVES)
    assert {measure.value for measure in right.measures} == {1.0}
    assert [measure.name for measure in right.measures] == [
        "all",
        "relation",
        "swap colour",
        "swap shape",
        "swap texture",
    ]
    assert right["all"].count == right.details["negatives"] == sum(measure.count for measure in right.measures[1:])
    wrong = evaluate_scenes_hard_negatives(scene_oracle.look, lambda texts: -scene_oracle.words(texts), NEGATIVES)
    assert wrong["all"].value == 0.0
    tied = evaluate_scenes_hard_negatives(scene_oracle.look, lambda texts: torch.ones(len(texts), WIDTH), NEGATIVES)
    assert tied["all"].value == 0.5


def test_hard_negatives_by_chance_and_baselines() -> None:
    result = evaluate_scenes_hard_negatives(guess, guess, NEGATIVES)
    assert abs(result["all"].value - 0.5) < 0.13
    values = {one.name: one.value for one in result.baselines}
    assert values["attributes only"] == pytest.approx(0.5)
    assert 0.25 < values["blind"] < 0.75


def test_clips_are_sampled_as_the_protocol_says() -> None:
    clips = [make_clip(seed, SceneConfig(32), 16) for seed in distinct_clips(count=CLIPS, config=SceneConfig(32))]
    frames = np.stack([clip.frames[[0, 2, 4, 6, 8, 10, 12, 15]] for clip in clips])
    oracle = Oracle(frames, [clip.content_caption for clip in clips], length=1.0)
    result = evaluate_scenes_video_retrieval(oracle.look, oracle.words, VIDEOS)
    assert {measure.value for measure in result.measures} == {1.0}
    assert result["text to clip R@1"].chance == pytest.approx(1 / CLIPS)
    words = " ".join(oracle.captions)
    assert not any(word in words for word in ("moves", "bounces", "enters", "leaves", "still"))


def test_length_of_a_clip_vector_counts_and_of_a_picture_does_not(scene_oracle: Oracle) -> None:
    """The published retrieval protocol does not scale the mean of unit frames again."""
    clips = [make_clip(seed, SceneConfig(32), 16) for seed in distinct_clips(count=CLIPS, config=SceneConfig(32))]
    captions = [clip.content_caption for clip in clips]
    loud = torch.ones(CLIPS, WIDTH) * 0.01
    loud[:, :CLIPS] += torch.eye(CLIPS)
    loud[0] *= 1000
    oracle = Oracle(np.zeros((1, 1), np.uint8), captions)
    result = evaluate_scenes_video_retrieval(lambda videos: loud, oracle.words, VIDEOS)
    assert result["text to clip R@1"].value == pytest.approx(1 / CLIPS)
    assert result["clip to text R@1"].value == 1.0
    scale = torch.linspace(0.1, 10, COUNT)[:, None]
    scaled = evaluate_scenes_retrieval(lambda looks: scene_oracle.look(looks) * scale, scene_oracle.words, RETRIEVAL)
    assert scaled["text to picture R@1"].value == 1.0


def photographs(count: int = 200) -> LabelledPictures:
    labels = np.arange(count) % 10
    pictures = np.broadcast_to(labels[:, None, None, None], (count, 32, 32, 3)).astype(np.uint8)
    return LabelledPictures(pictures, labels.astype(np.int64), CIFAR10_NAMES)


def test_cifar_oracle_and_guess() -> None:
    def look(pictures: np.ndarray) -> torch.Tensor:
        return torch.eye(10)[pictures[:, 0, 0, 0].astype(np.int64)]

    def words(texts) -> torch.Tensor:
        return torch.eye(10)[[next(n for n, name in enumerate(CIFAR10_NAMES) if name in text) for text in texts]]

    right = evaluate_cifar10(photographs(), look, words)
    assert {measure.value for measure in right.measures} == {1.0}
    assert [measure.name for measure in right.measures] == ["accuracy", "top-5", *CIFAR10_NAMES]
    assert right["cat"].count == 20
    shifted = evaluate_cifar10(photographs(), lambda pictures: look((pictures + 1) % 10), words)
    assert shifted["accuracy"].value == 0.0
    guessed = evaluate_cifar10(photographs(), guess, guess)
    assert abs(guessed["accuracy"].value - 0.1) < 0.09
    assert abs(guessed["top-5"].value - 0.5) < 0.15
    with pytest.raises(BadInput, match="got none"):
        evaluate_cifar10(replace(photographs(), pictures=np.zeros((0, 32, 32, 3)), labels=np.zeros(0)), look, words)


def test_record_is_json_and_repeats(scene_oracle: Oracle) -> None:
    first, second = (
        json.dumps(evaluate_scenes_retrieval(scene_oracle.look, scene_oracle.words, RETRIEVAL).to_dict())
        for _ in range(2)
    )
    assert first == second
    record = json.loads(first)
    assert record["protocol"]["hash"] == RETRIEVAL.hash
    assert record["protocol"]["settings"]["first seed"] == 1_000_000
    assert record["measures"][0] == {
        "name": "text to picture R@1",
        "value": 1.0,
        "interval": [1.0, 1.0],
        "count": COUNT,
        "chance": round(1 / COUNT, 6),
        "headline": True,
    }
    assert {baseline["measure"] for baseline in record["baselines"]} == {"text to picture R@1", "picture to text R@1"}
