"""Probabilities of hits: what must hold for any scores, with the packaged prior."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from percepta.calibration import Prior, load_prior, neutral_texts, probabilities, summarise
from percepta.calibration.prior import INPUTS
from percepta.errors import BadInput

TEXTS = len(neutral_texts())
USUAL = np.array([0.09, 0.14], np.float32)  # the neutral summary of a usual picture


@pytest.fixture(scope="module")
def prior() -> Prior:
    found = load_prior("pe-core-nano")
    assert found is not None
    return found


def usual(count: int) -> np.ndarray:
    return np.tile(USUAL, (count, 1))


@pytest.mark.parametrize("count", [1, 2, 3, 20, 500])
@pytest.mark.parametrize("level", [-1.0, 0.0, 0.3, 0.9, 1.0])
def test_equal_scores_get_one_finite_probability(prior: Prior, count: int, level: float) -> None:
    found = probabilities(np.full(count, level), usual(count), prior)
    assert found.shape == (count,)
    assert found.dtype == np.float64
    assert ((found >= 0) & (found <= 1)).all()
    assert len(set(found.tolist())) == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_higher_score_never_has_the_lower_probability(prior: Prior, seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 400))
    scores = np.sort(random.normal(random.uniform(-0.2, 0.6), random.uniform(0.01, 0.3), count).clip(-1, 1))
    found = probabilities(scores, np.tile(random.normal(0.1, 0.1, 2), (count, 1)), prior)
    assert (np.diff(found) >= -1e-6).all()


@pytest.mark.parametrize("count", [1, 2, 5, 50, 500])
def test_raising_the_best_score_raises_its_probability(prior: Prior, count: int) -> None:
    """Though the score is a part of the background that it is read against."""
    scores = np.random.default_rng(count).normal(0.1, 0.2, count)
    best = int(scores.argmax())
    levels = np.linspace(scores[best], 1.0, 12)
    found = [
        probabilities(np.r_[scores[:best], level, scores[best + 1 :]], usual(count), prior)[best] for level in levels
    ]
    assert (np.diff(found) >= 0).all()
    assert found[-1] > 0.9 > found[0]


def test_order_and_duplicates(prior: Prior) -> None:
    random = np.random.default_rng(1)
    scores, neutral = random.normal(0.1, 0.2, 60), random.normal(0.1, 0.03, (60, 2)).astype(np.float32)
    found = probabilities(scores, neutral, prior)
    turned = random.permutation(60)
    assert probabilities(scores[turned], neutral[turned], prior) == pytest.approx(found[turned])
    twice = probabilities(np.r_[scores, scores], np.r_[neutral, neutral], prior)
    assert twice[:60].tolist() == twice[60:].tolist()


def test_bank_and_its_summary_say_the_same(prior: Prior) -> None:
    random = np.random.default_rng(2)
    table, scores = random.normal(0.1, 0.1, (30, TEXTS)).astype(np.float32), random.normal(0.2, 0.2, 30)
    found = probabilities(scores, table, prior)
    assert found.tolist() == probabilities(scores, summarise(table), prior).tolist()
    assert found.tolist() == probabilities(torch.from_numpy(scores), torch.from_numpy(table), prior).tolist()
    assert summarise(table) == pytest.approx(np.stack([table.mean(1), table.std(1)], 1))


def test_a_larger_folder_than_any_of_the_fit_has_lower_odds(prior: Prior) -> None:
    largest = math.ceil(math.exp(prior.words.high[INPUTS.index("log size")]))
    odds = []
    for times in (2, 20):
        scores = np.full(largest * times, 0.05)
        scores[: math.isqrt(len(scores)) + 1] = 0.75  # the best of both folders have one mean
        found = probabilities(scores, usual(len(scores)), prior)[0]
        odds.append(found / (1 - found))
    assert odds[0] / odds[1] == pytest.approx(10, rel=0.01)


def test_refusals(prior: Prior) -> None:
    with pytest.raises(BadInput, match="1 of 2 are NaN"):
        probabilities([0.1, float("nan")], usual(2), prior)
    with pytest.raises(BadInput, match="NaN"):
        probabilities([0.1], np.array([[np.nan, 0.1]]), prior)
    with pytest.raises(BadInput, match="neutral"):
        probabilities([0.1, 0.2], usual(3), prior)
    with pytest.raises(BadInput, match="neutral"):
        probabilities([0.1], np.zeros((1, 7)), prior)
    with pytest.raises(BadInput, match=r"\(N,\)"):
        probabilities(np.zeros((2, 2)), usual(2), prior)
    with pytest.raises(BadInput, match="uncalibrated"):
        probabilities([0.1], usual(1), replace(prior, picture=None), "picture")
    with pytest.raises(BadInput, match="question"):
        probabilities([0.1], usual(1), prior, "sound")
    assert probabilities([], np.zeros((0, 2)), prior).shape == (0,)
