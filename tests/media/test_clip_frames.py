"""Which frames of a clip are looked at."""

from __future__ import annotations

import math

import pytest

from percepta.errors import BadInput
from percepta.media.clip_frames import frame_indices


def test_exactly_as_many_as_are_asked_for_wherever_the_clip_has_them() -> None:
    for rate in (0.7, 1.0, 12.5, 24.0, 29.97):
        for total in (*range(1, 80, 7), 480, 961):
            for count in (1, 2, 8, 32):
                found = frame_indices(total, rate, count)
                assert len(found) == min(count, total)
                assert found == sorted(set(found))
                assert found[0] == 0
                assert found[-1] < total


def test_one_frame_a_second_is_thinned_with_halves_rounded_to_even() -> None:
    grid = frame_indices(33, 1.0, 32)
    assert grid == [*range(16), *range(17, 33)]  # 15.48 → 15, 16.5 → 16, 17.5 → 18 as Python rounds, on a step of 32/31
    assert frame_indices(3, 1.0, 2) == [0, 2]
    # i * 9 / 6 over ten frames: 0, 1.5 → 2, 3, 4.5 → 4, 6, 7.5 → 8, 9.
    assert frame_indices(10, 30.0, 7) == [0, 2, 3, 4, 6, 8, 9]


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.01])
def test_a_rate_below_half_a_frame_a_second_counts_every_frame(rate: float) -> None:
    """The official step is round(rate) = 0 there, and its range fails."""
    assert round(rate) == 0
    assert frame_indices(10, rate, 4) == [0, 3, 6, 9]
    assert frame_indices(4, rate, 4) == [0, 1, 2, 3]


def test_a_clip_without_length_is_two_frames_and_never_one_beyond_the_end() -> None:
    assert frame_indices(500, 25.0, 16, 3.0, 3.0) == [75, 76]
    assert frame_indices(1, 25.0, 16) == [0]  # the official code asks for frame 1 as well
    assert frame_indices(500, 25.0, 16, 19.96, 30.0) == [499]
    assert frame_indices(500, 25.0, 8, 100.0, 4.0) == frame_indices(500, 25.0, 8, 4.0, 100.0)


def test_a_clip_beyond_the_end_is_refused_in_one_sentence() -> None:
    with pytest.raises(BadInput, match=r"must begin before the last frame, at 19.96 seconds; got 20 seconds"):
        frame_indices(500, 25.0, 8, 20.0)
    with pytest.raises(BadInput, match="must begin before the last frame"):
        frame_indices(500, 25.0, 8, 30.0, 30.0)


def test_the_rule_of_the_port_misses_the_last_frame() -> None:
    from transformers.video_utils import VideoMetadata, default_sample_indices_fn

    for total in (32, 33, 77, 300, 961):
        want = default_sample_indices_fn(VideoMetadata(total_num_frames=total, fps=25.0), num_frames=32)
        assert frame_indices(total, 25.0, 32, rule="transformers") == want.tolist()
    assert frame_indices(300, 30.0, 32, rule="transformers")[-1] == 290
    assert frame_indices(300, 30.0, 32)[-1] == 299
    assert frame_indices(5, 25.0, 32, rule="transformers") == [0, 1, 2, 3, 4]  # the port refuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 25.0, 8), "frames of frame_indices must be 1 or more"),
        ((10, 25.0, 0), "count of frame_indices must be 1 or more"),
        ((10, 0.0, 8), "rate of frame_indices"),
        ((10, math.nan, 8), "rate of frame_indices"),
        ((10, 25.0, 8, -1.0), "start of a clip"),
        ((10, 25.0, 8, 0.0, math.inf), "end of a clip"),
    ],
)
def test_numbers_out_of_range(arguments: tuple[float, ...], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        frame_indices(*arguments)  # type: ignore[arg-type]


def test_an_unknown_rule() -> None:
    with pytest.raises(BadInput, match="did you mean 'official'"):
        frame_indices(10, 25.0, 8, rule="offical")
