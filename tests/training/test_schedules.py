from __future__ import annotations

import math

import pytest

from percepta.errors import BadInput
from percepta.training.schedules import SCHEDULES, schedule_factor


@pytest.mark.parametrize("name", sorted({*SCHEDULES} - {"plm_cosine"}))
def test_warm_up_rises_in_equal_steps_to_the_peak(name: str) -> None:
    factors = [schedule_factor(name, step, 100, warmup=10, decay=20) for step in range(10)]
    assert factors == pytest.approx([(step + 1) / 10 for step in range(10)])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_factors_stay_between_zero_and_one(name: str) -> None:
    factors = [schedule_factor(name, step, 100, warmup=10, decay=90) for step in range(150)]
    assert all(0 <= factor <= 1 for factor in factors)


def test_the_published_schedule_of_plm_begins_at_rate_nothing() -> None:
    factors = [schedule_factor("plm_cosine", step, 100, warmup=10) for step in (0, 5, 10, 55, 99)]
    assert factors == pytest.approx([0, 0.5, 1, 0.505, 0.01], abs=1e-3)


def test_wsd_is_flat_then_decays_inversely() -> None:
    factors = [schedule_factor("wsd", step, 100, warmup=0, decay=20) for step in range(100)]
    assert factors[:80] == [1.0] * 80
    inverses = [1 / factor for factor in factors[80:]]
    differences = [later - earlier for earlier, later in zip([1.0, *inverses], inverses, strict=False)]
    assert differences == pytest.approx([9 / 20] * 20)
    assert factors[-1] == pytest.approx(0.1)


def test_linear_decay_ends_one_step_above_zero() -> None:
    factors = [schedule_factor("wsd_linear", step, 50, decay=9) for step in range(50)]
    assert factors[40] == 1.0
    assert factors[41:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_cosine_is_half_way_in_the_middle() -> None:
    assert schedule_factor("cosine", 59, 110, warmup=10) == pytest.approx(0.55)
    assert schedule_factor("cosine", 109, 110, warmup=10) == pytest.approx(0.1)
    quarter = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert schedule_factor("cosine", 34, 110, warmup=10) == pytest.approx(quarter)


@pytest.mark.parametrize(
    ("name", "numbers", "words"),
    [
        ("cosin", (0, 10, 0, 0), "did you mean 'cosine'"),
        ("wsd", (-1, 10, 0, 0), "step of schedule wsd must be 0 or more"),
        ("wsd", (0, 10, 6, 5), "fit into 10 steps"),
    ],
)
def test_impossible_schedules_are_refused(name: str, numbers: tuple[int, int, int, int], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        schedule_factor(name, *numbers)


def test_reciprocal_sqrt_halves_after_three_times_and_cools_down_to_nothing() -> None:
    factors = [schedule_factor("reciprocal_sqrt", step, 90_000, 1000, 5000) for step in (0, 999, 4000, 84_999, 89_999)]
    assert factors[:3] == pytest.approx([1e-3, 1.0, 0.5])
    assert factors[3] == pytest.approx((1 + 83.999) ** -0.5)
    assert factors[4] == pytest.approx((1 + 88.999) ** -0.5 / 5001)
