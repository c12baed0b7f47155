"""z-scores and what is known without pictures."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.selection import depth_prior, parameters_prior, with_capacity, z_scores


def test_capacity_by_hand() -> None:
    scores, layers = np.array([1.0, 2.0, 3.0]), np.array([50, 18, 8])
    assert with_capacity(scores, layers) == pytest.approx([-1 + 1, 0.36, 1 + 0.16])
    assert with_capacity(scores, layers, 0.5, divisor=100) == pytest.approx([-0.75, 0.09, 1.04])
    assert with_capacity(scores, layers, 0.0) is not None
    assert with_capacity(scores, layers, 0.0).tolist() == [1, 2, 3]


def test_the_deviation_is_over_all_rows_of_a_table() -> None:
    table = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    wanted = (table - table.mean()) / table.std(ddof=1)
    assert z_scores(table) == pytest.approx(wanted)
    assert with_capacity(table, np.zeros((2, 3))) == pytest.approx(wanted)


def test_equal_scores_tell_nothing() -> None:
    assert z_scores([0.1] * 7).tolist() == [0] * 7
    assert z_scores([5.0]).tolist() == [0]
    assert z_scores([0.0, 0.0]).tolist() == [0, 0]


def test_static_priors_rank_by_size() -> None:
    assert parameters_prior([1e6, 1e8]).tolist() == [6, 8]
    assert depth_prior([4, 12]).tolist() == [4, 12]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: parameters_prior([1e6, 0]), "parameters must be numbers above 0"),
        (lambda: depth_prior([np.nan]), "depths must be numbers above 0"),
        (lambda: z_scores([1, np.inf]), "scores must be finite numbers"),
        (lambda: with_capacity([1, 2], [1, 2, 3]), "layers must be as many as scores"),
    ],
)
def test_numbers_that_cannot_be_used(call, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call()
