"""From cosines of regions to probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from percepta.calibration.words import WordsPrior, fit_words, load_words_prior, region_inputs
from percepta.errors import BadInput


def questions(count: int = 200) -> tuple[list[np.ndarray], list[np.ndarray]]:
    draw = np.random.default_rng(0)
    tables, right = [], []
    for _ in range(count):
        outcome = np.zeros(5, bool)
        outcome[0] = draw.random() < 0.5
        cosines = draw.normal(0.3, 0.1, 5) + 0.4 * outcome
        neutral = np.stack([draw.normal(0.1, 0.02, 5), np.full(5, 0.05)], axis=1)
        tables.append(region_inputs(cosines, neutral, draw.random(5), draw.random(5)))
        right.append(outcome)
    return tables, right


@pytest.fixture(scope="module")
def prior() -> WordsPrior:
    return fit_words(*questions(), "some-model", "0123", "some-masks", "drawn numbers")


def test_the_likelier_the_closer(prior: WordsPrior) -> None:
    rows = region_inputs(np.linspace(0, 1, 9), np.tile([[0.1, 0.05]], (9, 1)), np.full(9, 0.8), np.full(9, 0.1))
    found = prior.probability(rows)
    assert (np.diff(found) > 0).all()
    assert found[0] < 0.05
    assert found[-1] > 0.95


def test_half_of_what_looks_like_one_half_is_right(prior: WordsPrior) -> None:
    tables, right = questions(400)
    found = np.array([prior.probability(table)[0] for table in tables])
    outcome = np.array([row[0] for row in right])
    assert abs(found.mean() - outcome.mean()) < 0.06


def test_written_and_read(prior: WordsPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior.write(tmp_path / "some-model.words.json")
    monkeypatch.setenv("PERCEPTA_PRIORS", str(tmp_path))
    assert load_words_prior("some-model") == prior
    assert load_words_prior("another-model") is None
    assert load_words_prior("../some-model") is None
    (tmp_path / "broken.words.json").write_text("{}")
    with pytest.raises(BadInput, match="written by"):
        load_words_prior("broken")


def test_what_cannot_be_fitted(prior: WordsPrior) -> None:
    tables, right = questions(20)
    with pytest.raises(BadInput, match="right and others"):
        fit_words(tables, [np.zeros(5, bool)] * 20, "a", "b", "c", "d")
    with pytest.raises(BadInput, match="falls"):
        fit_words(tables, [~row for row in right], "a", "b", "c", "d")
    with pytest.raises(BadInput, match="inputs"):
        prior.probability(np.zeros((3, 4)))
