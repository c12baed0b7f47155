"""Reliability and expected calibration error against truth that is known."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.evaluation.calibration import expected_calibration_error, reliability


def test_promises_kept_and_broken() -> None:
    assert expected_calibration_error([0.0, 1.0, 1.0], [False, True, True]) == 0.0
    assert expected_calibration_error([1.0, 1.0], [False, False]) == 1.0
    assert expected_calibration_error([0.5] * 10, [True] * 8 + [False] * 2) == pytest.approx(0.3)


def test_known_distortion_is_recovered() -> None:
    random = np.random.default_rng(0)
    true = random.uniform(0, 1, 40_000)
    came = random.random(40_000) < true
    assert expected_calibration_error(true, came) < 0.012
    # Stated 0.1 too high wherever there is room: the error is 0.1 for nine tenths and 0.05 on average for the rest.
    assert expected_calibration_error(np.minimum(true + 0.1, 1), came) == pytest.approx(0.095, abs=0.012)


def test_bins_hold_equally_many_and_keep_equals_together() -> None:
    stated = np.r_[np.zeros(700), np.linspace(0.1, 0.9, 300)]
    found = reliability(stated, np.zeros(1000, bool), bins=10)
    assert found.counts.sum() == 1000
    assert found.counts[0] == 700
    assert set(found.counts[1:].tolist()) == {100}
    assert (np.diff(found.stated) > 0).all()
    order = np.random.default_rng(0).permutation(1000)
    came = np.random.default_rng(1).random(1000) < stated
    assert reliability(stated, came).error == pytest.approx(reliability(stated[order], came[order]).error)


def test_refusals() -> None:
    for stated, came in (([], []), ([0.5], [True, False]), ([[0.5]], [[True]])):
        with pytest.raises(BadInput, match="two rows"):
            reliability(stated, came)
    for value in (1.1, -0.1, float("nan")):
        with pytest.raises(BadInput, match="from 0 to 1"):
            reliability([value], [True])
    with pytest.raises(BadInput, match="bins"):
        reliability([0.5], [True], bins=0)
