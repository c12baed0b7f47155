"""The official schedules and their quirks beside the textbook's."""

from __future__ import annotations

import math

import pytest

from percepta.errors import BadInput
from percepta.training.schedules_official import Rate, plm_cosine


def test_the_official_cosine_jumps_to_the_peak_at_the_last_step() -> None:
    official, textbook = (Rate("cosine", 100, 10, lowest=0.01, rule=rule) for rule in ("official", "textbook"))
    assert [official(step) for step in range(100)] == [textbook(step) for step in range(100)]
    assert (official(100), textbook(100)) == (1.0, pytest.approx(0.01))
    assert official(101) == textbook(101) == 0.01


def test_the_official_decay_ends_above_the_lowest_rate() -> None:
    official, textbook = (Rate("wsd", 1000, 10, lowest=0.1, decay=0.2, rule=rule) for rule in ("official", "textbook"))
    assert [official(step) for step in range(801)] == [textbook(step) for step in range(801)]
    assert textbook(999) == pytest.approx(0.1, abs=0.001)
    assert official(999) > 0.35


def test_the_first_update_of_a_warm_up_has_no_rate() -> None:
    for scheduler in ("linear", "inv_sqrt", "cosine", "wsd"):
        rate = Rate(scheduler, 100, 10)
        assert [rate(0), rate(5), rate(10)] == [0.0, 0.5, 1.0]
    assert Rate("constant", 100, 10)(0) == 1.0


def test_the_published_schedule() -> None:
    for step in (120, 5000, 20999):
        wave = math.cos(math.pi * (step - 120) / (21000 - 120))
        assert plm_cosine(step, 21000, 120, 0) == pytest.approx(0.01 + 0.5 * 0.99 * (1 + wave))
    assert plm_cosine(0, 21000, 120, 0) == 0
    assert plm_cosine(21000, 21000, 120, 0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scheduler": "cosin"}, "did you mean 'cosine'"),
        ({"rule": "clean"}, "rule of Rate must be one of official, textbook"),
        ({"warmup": 100}, "warmup of Rate must be 0 or more and below steps; got 100 of 100"),
        ({"steps": 0}, "got 0 of 0"),
        ({"lowest": 2}, "lowest of Rate must be 0 to 1"),
        ({"scheduler": "wsd", "lowest": 0}, "for wsd above 0"),
        ({"cycle": 0.001}, "cycle of Rate must be above 0"),
        ({"scheduler": "wsd", "decay": 1.0}, "decay of Rate must be 0 or more and below cycle"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Rate(**{"scheduler": "cosine", "steps": 100, **settings})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="step of Rate must be 0 or more"):
        Rate("cosine", 10)(-1)
