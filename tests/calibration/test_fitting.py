"""Fitting on toy worlds whose truth is known: probabilities are kept, and unanswered questions stay empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from percepta.calibration import Prior, fit_background, fit_prior, judge, neutral_texts, probabilities
from percepta.errors import BadInput
from percepta.evaluation.calibration import expected_calibration_error
from percepta.evaluation.folders import Mix, World, draw_cases, texts_alone
from percepta.evaluation.nothing_here import Embedded

COUNT, WIDTH, NOISE = 300, 32, 0.9
MIX = Mix(sizes=(1, 100))


class Toy:
    """Each thing is a direction; a picture is its direction with noise, a text the direction itself."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.directions = random.normal(size=(COUNT, WIDTH)) / np.sqrt(WIDTH)
        self.noise = NOISE * random.normal(size=(2, COUNT, WIDTH)) / np.sqrt(WIDTH)
        self.neutral = random.normal(size=(len(neutral_texts()), WIDTH))
        pictures = np.zeros((2, COUNT, 2, 2, 3), np.uint8)
        pictures[..., 0, 0, 0], pictures[..., 0, 0, 1] = np.arange(COUNT) % 256, np.arange(COUNT) // 256
        pictures[1, ..., 0, 0, 2] = 1
        self.words = World(
            "things",
            pictures[0],
            tuple(f"thing {number}" for number in range(COUNT)),
            ("thing",) * COUNT,
            np.eye(COUNT, dtype=np.bool_),
            owner=np.arange(COUNT),
        )
        self.by_picture = replace(self.words, name="pictures", asking=pictures[1])

    def look(self, pictures: np.ndarray) -> Tensor:
        first = pictures[:, 0, 0].astype(int)
        number = first[:, 0] + 256 * first[:, 1]
        return torch.from_numpy(self.directions[number] + self.noise[first[:, 2], number])

    def read(self, texts) -> Tensor:
        if tuple(texts) == neutral_texts():
            return torch.from_numpy(self.neutral)
        return torch.from_numpy(self.directions[[int(text.split()[-1]) for text in texts]])


def held_out(toy: Toy, world: World, prior: Prior, question: str) -> tuple[float, float, float]:
    """Calibration error of the first hits, share of absent questions that stay empty, share of present ones found."""
    known = judge(prior, question)
    embedded = Embedded.of([world], toy.look, toy.read, known.neutral, known.summarise)
    first, right, empty, found = [], [], [], []
    for case in draw_cases([world], 80, MIX, seed=9):
        asked = embedded.ask(case)
        stated = known.probabilities(asked.scores, asked.neutral)
        first.append(stated.max())
        right.append(case.right[stated.argmax()])
        (found if case.present else empty).append((stated[case.right] if case.present else stated).max() >= 0.5)
    return expected_calibration_error(first, right), 1 - float(np.mean(empty)), float(np.mean(found))


@pytest.fixture(scope="module")
def prior() -> Prior:
    toy = Toy(0)
    return fit_prior(toy.look, toy.read, [toy.words, toy.by_picture], "toy", "0" * 12, "toys", folders=80, mix=MIX)


def test_probabilities_of_new_things_are_kept(prior: Prior) -> None:
    toy = Toy(1)
    error, empty, found = held_out(toy, toy.words, prior, "words")
    assert error < 0.06
    assert empty > 0.75
    assert found > 0.75


def test_questions_by_picture_have_their_own_curve(prior: Prior) -> None:
    toy = Toy(1)
    assert prior.picture is not None
    assert prior.picture != prior.words
    error, empty, found = held_out(toy, toy.by_picture, prior, "picture")
    assert error < 0.08
    assert empty > 0.8
    words = held_out(toy, toy.by_picture, replace(prior, picture=prior.words), "picture")
    assert words[0] > error  # two noisy pictures are further apart than a picture and its text
    assert found > words[2]


def test_what_a_prior_says_of_itself(prior: Prior) -> None:
    assert (prior.model, prior.weights, prior.fitted_on) == ("toy", "0" * 12, "toys")
    assert set(prior.thresholds) == {"words", "picture"}
    assert set(prior.thresholds["words"]) == {"all", "things"}
    assert all(0.3 < value < 0.7 for thresholds in prior.thresholds.values() for value in thresholds.values())
    assert prior.words.location == pytest.approx(0, abs=0.02)
    assert prior.words.scale == pytest.approx(1 / np.sqrt(WIDTH), rel=0.15)


def test_a_fit_follows_its_seed() -> None:
    toy = Toy(2)

    def fitted(seed: int) -> Prior:
        return fit_prior(toy.look, toy.read, [toy.words], "toy", "", folders=8, mix=MIX, seed=seed)

    assert fitted(0) == fitted(0) != fitted(1)
    assert fitted(0).picture is None


def test_everything_matches_and_nothing_does() -> None:
    """Folders of one class: a high score stays likely though nothing in the folder is lower."""
    random = np.random.default_rng(0)
    cases = []
    for number in range(400):
        size, full = int(random.integers(1, 60)), number % 3
        right = np.full(size, full == 0) if full < 2 else random.random(size) < 0.3
        scores = np.where(right, random.normal(0.7, 0.05, size), random.normal(0.2, 0.1, size)).astype(np.float32)
        cases.append((scores, np.tile(np.array([0.1, 0.1], np.float32), (size, 1)), right))
    prior = Prior("toy", "", fit_background(cases, steps=4))
    for size in (1, 2, 50):
        neutral = np.tile([0.1, 0.1], (size, 1))
        assert probabilities(np.full(size, 0.7), neutral, prior).min() > 0.9
        assert probabilities(np.full(size, 0.2), neutral, prior).max() < 0.1


def test_worlds_without_questions_of_both_sorts_are_refused() -> None:
    toy = Toy(0)
    for present in (0.0, 1.0):
        with pytest.raises(BadInput, match="with and without an answer"):
            fit_prior(toy.look, toy.read, [toy.words], "toy", "", folders=5, mix=replace(MIX, present=present))
    with pytest.raises(BadInput, match="world with pictures"):
        fit_prior(toy.look, toy.read, [texts_alone("elsewhere", ["thing 1"])], "toy", "", folders=5)
    with pytest.raises(BadInput, match="folders"):
        fit_prior(toy.look, toy.read, [toy.words], "toy", "", folders=0)
    with pytest.raises(BadInput, match="20 entries"):
        fit_prior(toy.look, toy.read, [toy.words], "toy", "", folders=5, mix=Mix(sizes=(1, 5)))
