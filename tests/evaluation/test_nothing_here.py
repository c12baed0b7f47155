"""The protocols for "nothing here", with models and judges of which it is known what they must score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from percepta.datasets.cifar import LabelledPictures
from percepta.datasets.scenes import SceneConfig, make_batch
from percepta.errors import BadInput
from percepta.evaluation import Evaluation
from percepta.evaluation.nothing_here import (
    Judge,
    cifar10_nothing_here_protocol,
    evaluate_cifar10_nothing_here,
    evaluate_scenes_nothing_here,
    scenes_nothing_here_protocol,
)

COUNT, SIZE = 60, 16
NAMES = ("cat", "dog", "ship")


def small(protocol, **changed):
    return replace(protocol, settings={**protocol.settings, "folder": 12, "other folders": [5], **changed})


SCENES = small(scenes_nothing_here_protocol(COUNT, SIZE, folders=25))
PHOTOGRAPHS = small(cifar10_nothing_here_protocol(folders=25))


def judging(probabilities, thresholds=None) -> Judge:
    """A judge that looks at the scores alone."""
    return Judge(
        ("nothing",),
        lambda table: np.zeros((len(table), 1), np.float32),
        lambda scores, neutral: probabilities(np.asarray(scores, np.float64)),
        thresholds or {},
        {"judge": "of a test"},
    )


SHARP = judging(lambda scores: np.where(scores > 0.9, 1.0, 0.0), {"all": 0.9, "scenes": 1.1, "cifar10": 1.1})


class Classes:
    """Photographs and texts by their class, without error; texts without a class point elsewhere."""

    def __init__(self, count: int = 90) -> None:
        labels = np.arange(count) % 3
        pictures = np.zeros((count, 8, 8, 3), np.uint8)
        pictures[:, 0, 0, 0] = labels
        self.photographs = LabelledPictures(pictures, labels, NAMES)

    def look(self, pictures: np.ndarray) -> torch.Tensor:
        return torch.eye(4)[pictures[:, 0, 0, 0].tolist()]

    def read(self, texts) -> torch.Tensor:
        return torch.eye(4)[[next((n for n, name in enumerate(NAMES) if name in text), 3) for text in texts]]


def measures(result: Evaluation, start: str) -> dict[str, float]:
    return {measure.name: measure.value for measure in result.measures if measure.name.startswith(start)}


def test_a_model_and_a_judge_without_error_score_everything() -> None:
    oracle = Classes()
    result = evaluate_cifar10_nothing_here(oracle.photographs, oracle.look, oracle.read, SHARP, PHOTOGRAPHS)
    assert set(measures(result, "empty").values()) == set(measures(result, "found").values()) == {1.0}
    assert set(measures(result, "calibration error").values()) == {0.0}
    assert [one.name for one in result.measures if one.headline] == [
        "empty, class, absent",
        "found, class",
        "calibration error, first hits",
    ]
    assert "empty, class, absent, folders of 5" in measures(result, "empty")
    assert "empty, about something else" in measures(result, "empty")
    fixed = {(one.name, one.measure): one.value for one in result.baselines}
    assert fixed["fixed cosine", "empty, class, absent"] == fixed["fixed cosine", "found, class"] == 1.0
    assert fixed["cosine for these", "empty, class, absent"] == 1.0  # never finds anything
    assert fixed["cosine for these", "found, class"] == 0.0
    assert result.tables["reliability"]["stated"] == [0.0, 1.0]
    assert result.tables["reliability"]["kept"] == [0.0, 1.0]
    assert result.details["judge"] == "of a test"


def test_judges_that_say_always_never_and_maybe() -> None:
    oracle = Classes()

    def run(probability: float) -> Evaluation:
        judge = judging(lambda scores: np.full(len(scores), probability))
        return evaluate_cifar10_nothing_here(oracle.photographs, oracle.look, oracle.read, judge, PHOTOGRAPHS)

    always, never, maybe = run(1.0), run(0.0), run(0.3)
    assert set(measures(always, "found").values()) == set(measures(never, "empty").values()) == {1.0}
    assert set(measures(always, "empty").values()) == set(measures(never, "found").values()) == {0.0}
    # The first of entries that are all equal is right as often as entries are; pairs of 0 do not count at all.
    kept = maybe.tables["reliability"]["kept"]
    assert len(kept) == 1
    assert maybe["calibration error, first hits"].value == pytest.approx(abs(kept[0] - 0.3), abs=1e-5)
    pairs = "calibration error, pairs of p ≥ 0.01"
    assert never[pairs].count == 0
    assert never[pairs].value == 0.0
    assert always[pairs].count > 25 * 12


def test_scenes_ask_for_captions_pairs_and_single_things() -> None:
    rows = {
        picture.tobytes(): row
        for row, picture in enumerate(make_batch(range(1_000_000, 1_000_000 + COUNT), SceneConfig(SIZE)).pictures)
    }

    def look(pictures: np.ndarray) -> torch.Tensor:
        return torch.eye(COUNT + 1)[[rows[picture.tobytes()] for picture in pictures]]

    result = evaluate_scenes_nothing_here(look, lambda texts: torch.ones(len(texts), COUNT + 1), SHARP, SCENES)
    assert set(measures(result, "empty").values()) == {1.0}
    assert set(measures(result, "found").values()) == {0.0}
    for kind in ("caption", "two things", "one thing"):
        assert {f"empty, {kind}, absent objects", f"empty, {kind}, near misses", f"found, {kind}"} <= {
            one.name for one in result.measures
        }
    assert result.details["seeds"] == f"1000000 to {1_000_000 + COUNT - 1}"
    captions = result["found, caption"]
    assert captions.low <= captions.value <= captions.high
    with pytest.raises(KeyError):  # the pictures are those of test seeds and of no others
        evaluate_scenes_nothing_here(
            look, lambda texts: torch.ones(len(texts), 2), SHARP, small(SCENES, seed=0, **{"first seed": 5})
        )


def test_hashes_follow_the_settings() -> None:
    hashes = {
        scenes_nothing_here_protocol().hash,
        scenes_nothing_here_protocol(count=1000).hash,
        SCENES.hash,
        cifar10_nothing_here_protocol().hash,
        PHOTOGRAPHS.hash,
    }
    assert len(hashes) == 5
    assert scenes_nothing_here_protocol().hash == scenes_nothing_here_protocol().hash


def test_no_photographs() -> None:
    none = LabelledPictures(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), NAMES)
    with pytest.raises(BadInput, match="photographs"):
        evaluate_cifar10_nothing_here(none, Classes().look, Classes().read, SHARP)
