"""Metrics against cases worked by hand, brute force and normal theory."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from percepta.errors import BadInput
from percepta.evaluation import (
    bootstrap_interval,
    choice_accuracy,
    choices,
    dual_softmax,
    hits_at_k,
    recall_at_k,
    same,
    top_k_accuracy,
)

SCORES = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4], [0.7, 0.8, 0.6]])


def test_top_k_by_hand() -> None:
    labels = np.array([0, 1, 2])  # ranks 1, 2, 3
    assert [top_k_accuracy(SCORES, labels, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert top_k_accuracy(torch.tensor(SCORES), torch.tensor(labels), 2) == pytest.approx(2 / 3)


def test_identical_captions_share_their_positives() -> None:
    captions = ["a cat", "a dog", "a cat"]
    assert same(captions, captions).tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    scores = np.array([[0.1, 0.2, 0.9], [0.1, 0.9, 0.2], [0.9, 0.1, 0.2]])  # each cat finds the other cat
    assert recall_at_k(scores, same(captions, captions), 1) == 1.0
    assert recall_at_k(scores, np.arange(3), 1) == pytest.approx(1 / 3)


def test_constant_scores_get_chance() -> None:
    points = hits_at_k(np.zeros((4, 10)), np.arange(4), 3)
    assert points == pytest.approx([0.3] * 4)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_ties_equal_the_mean_over_all_orders(k: int) -> None:
    random = np.random.default_rng(k)
    scores = random.integers(0, 3, (12, 5)) / 2
    positives = random.random((12, 5)) < 0.4
    positives[np.arange(12), random.integers(5, size=12)] = True
    expected = np.zeros(12)
    for order in permutations(range(5)):
        ranked = np.argsort(-scores[:, order], axis=1, kind="stable")[:, :k]
        expected += np.take_along_axis(positives[:, order], ranked, 1).any(axis=1) / math.factorial(5)
    np.testing.assert_allclose(hits_at_k(scores, positives, k), expected, atol=1e-12)


def test_retrieval_equals_sorting_where_nothing_is_tied() -> None:
    random = np.random.default_rng(0)
    scores, captions = random.normal(size=(40, 40)), random.integers(25, size=40).tolist()
    for k in (1, 5, 10):
        best = np.argsort(-scores, axis=1)[:, :k]
        expected = [any(captions[item] == captions[query] for item in best[query]) for query in range(40)]
        assert recall_at_k(scores, same(captions, captions), k) == pytest.approx(np.mean(expected))


def test_dual_softmax_by_hand_and_its_purpose() -> None:
    scores = np.array([[1.0, 0.0], [2.0, 1.5]])
    column = [[1 / (1 + math.e), 1 / (1 + math.exp(1.5))], [math.e / (1 + math.e), math.exp(1.5) / (1 + math.exp(1.5))]]
    np.testing.assert_allclose(dual_softmax(scores), scores * np.array(column), rtol=1e-12)
    torch_scores = torch.randn(5, 7, dtype=torch.float64)
    np.testing.assert_allclose(dual_softmax(torch_scores), torch_scores * torch_scores.softmax(0), rtol=1e-12)
    np.testing.assert_allclose(
        dual_softmax(torch_scores, 10), 10 * torch_scores * (10 * torch_scores).softmax(0), rtol=1e-12
    )
    # The first item is a hub that is best for both queries, and prefers the first: the second query is set right.
    hub = np.array([[0.9, 0.1], [0.6, 0.5]])
    assert recall_at_k(hub, np.arange(2), 1) == 0.5
    assert recall_at_k(dual_softmax(hub, 10), np.arange(2), 1) == 1.0


def test_choices() -> None:
    assert choices([0.5, 0.5, 0.1], [0.4, 0.5, 0.2]).tolist() == [1.0, 0.5, 0.0]
    assert choice_accuracy(torch.tensor([0.5, 0.1]), torch.tensor([0.4, 0.0])) == 1.0


def test_bootstrap_is_seeded_and_as_wide_as_theory_says() -> None:
    points = (np.arange(1000) < 300).astype(float)
    low, high = bootstrap_interval(points)
    assert (low, high) == bootstrap_interval(torch.tensor(points))
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)
    assert bootstrap_interval(points, seed=1) != (low, high)
    narrow = bootstrap_interval(points, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_interval(np.ones(5)) == (1.0, 1.0)


def test_bootstrap_of_groups_knows_that_copies_are_no_news() -> None:
    points = (np.arange(250) < 100).astype(float)
    alone = bootstrap_interval(points)
    copied = np.repeat(points, 4)
    together = bootstrap_interval(copied, groups=np.repeat(np.arange(250), 4))
    assert together == pytest.approx(alone, abs=1e-12)
    fooled = bootstrap_interval(copied)
    assert fooled[1] - fooled[0] < 0.6 * (alone[1] - alone[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hits_at_k(np.zeros(3), np.arange(3), 1), "scores must have the shape"),
        (lambda: hits_at_k(np.zeros((2, 0)), np.arange(2), 1), "scores must have the shape"),
        (lambda: hits_at_k(SCORES, np.arange(3), 0), "k of hits_at_k must be 1 or more; got 0"),
        (lambda: hits_at_k(SCORES, np.array([0, 1, 3]), 1), "positives must be 0 to 2; got 3"),
        (lambda: hits_at_k(SCORES, np.array([0, -1, 2]), 1), "positives must be 0 to 2; got -1"),
        (lambda: hits_at_k(SCORES, np.arange(2), 1), "positives must have the shape"),
        (lambda: hits_at_k(SCORES, np.zeros((3, 3), bool), 1), "3 of 3 have none"),
        (lambda: hits_at_k(SCORES * np.nan, np.arange(3), 1), "9 of 9 are NaN"),
        (lambda: choices([1.0], [1.0, 2.0]), "one length"),
        (lambda: choices([], []), "at least 1"),
        (lambda: dual_softmax(np.zeros(3)), "scores must have the shape"),
        (lambda: bootstrap_interval([]), "points must have the shape"),
        (lambda: bootstrap_interval([1.0], groups=[0, 1]), "as many as points"),
        (lambda: bootstrap_interval([1.0], level=1), "level"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples"),
    ],
)
def test_bad_input_is_one_sentence(call, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()
