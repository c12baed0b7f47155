"""The protocols on scenes: which clips they take, what they say of hidden objects and of one that knows everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from percepta.datasets.scenes import TEST_SEED_START
from percepta.errors import BadInput
from percepta.evaluation.scenes_vos import (
    EMPTY,
    FOUND,
    PRESENT,
    area_under_curve,
    evaluate_scenes_clicks,
    evaluate_scenes_vos,
    hiding_clips,
    occluded_clips,
    presence,
    scenes_clicks_protocol,
    scenes_vos_protocol,
)
from percepta.evaluation.vos import KEPT
from tests.evaluation.oracle_session import OracleSession

SMALL = {"count": 3, "hiding": 2, "size": 32, "frames": 8}


def test_area_under_curve_equals_the_reference() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = random.integers(0, 6, 30).astype(float), random.random(30) < 0.4
        assert area_under_curve(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    with pytest.raises(BadInput, match="positives and negatives"):
        area_under_curve(scores, np.ones(30, bool))
    with pytest.raises(BadInput, match="shape"):
        area_under_curve(scores, positive[:3])


def test_clips() -> None:
    covered = list(occluded_clips(TEST_SEED_START, 4, 32, 8))
    assert all(video.clip.has_occlusion for video in covered)
    assert [int(video.name) for video in covered] == sorted(int(video.name) for video in covered)
    for video in hiding_clips(TEST_SEED_START, 3, 32, 8):
        seen = np.array([[number in video.objects(frame) for frame in video.annotated] for number in range(1, 5)])
        assert any((~row[row.argmax() :]).any() for row in seen if row.any())
        labels = video.masks(3)
        assert all((labels == number).sum() == mask.sum() for number, mask in video.objects(3).items())


def test_one_that_knows_everything_and_one_that_never_lets_go() -> None:
    protocol = scenes_vos_protocol(**SMALL)
    frames: list[int] = []
    found = evaluate_scenes_vos(OracleSession, None, protocol, frames.append)
    assert [found[name].value for name in ("J&F", PRESENT, EMPTY, FOUND)] == [1, 1, 1, 1]
    assert found[PRESENT].chance == 0.5
    assert found[EMPTY].count == found.details["hidden frames"] > 0
    assert sum(frames) <= 5 * 8
    kept = next(one.value for one in found.baselines if one.name == KEPT and one.measure == "J&F")
    assert 0 < kept < 1

    def stubborn(video: Any) -> OracleSession:
        firsts: dict[int, np.ndarray] = {}
        return OracleSession(video, lambda frame, number, truth, _: firsts.setdefault(number, truth))

    other = evaluate_scenes_vos(OracleSession, stubborn, protocol)
    off = {one.measure: one.value for one in other.baselines if one.name == "memory off"}
    assert off["J&F"] == pytest.approx(kept)
    told = [presence(stubborn(video), video) for video in hiding_clips(TEST_SEED_START, 2, 32, 8)]
    assert not any(one.empty.any() for one in told)
    assert all(len(set(one.scores.tolist())) == 1 for one in told)


def test_settings_change_the_hash() -> None:
    hashes = {scenes_vos_protocol(**(SMALL | change)).hash for change in ({}, {"hiding": 3}, {"prompt": "box"})}
    assert len(hashes) == 3
    with pytest.raises(BadInput, match="count"):
        scenes_clicks_protocol(count=0)


def test_clicks_on_scenes() -> None:
    def look(picture: np.ndarray) -> Any:
        assert picture.shape == (32, 32, 3)

        def ask(points: Tensor, labels: Tensor, before: Tensor | None, several: bool) -> Any:
            logits = torch.full((len(points), 1, 32, 32), -1.0)
            for row, (x, y) in enumerate(points[:, 0].long().tolist()):
                logits[row, 0, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 1
            return logits, torch.ones(len(points), 1), logits

        return ask

    found = evaluate_scenes_clicks(look, scenes_clicks_protocol(count=6, size=32, clicks=3))
    assert found.details["pictures"] == 6
    assert 0.2 < found["mIoU, 1 click"].value < 0.9
    assert {measure.name for measure in found.measures if measure.headline} == {"mIoU, 1 click", "mIoU, 3 clicks"}
