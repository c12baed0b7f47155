"""Frames and regions that a model names, as seconds and pixels."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percepta.errors import BadInput
from percepta.results.answer import Moment
from percepta.tasks.asking_words import Timeline, boxes_in, dense, in_seconds, moments_in, settled

LINE = Timeline((0.0, 1.0, 2.5, 3.0), 4.0)


def test_a_frame_lasts_until_the_next() -> None:
    assert LINE.interval(0, 1) == (0.0, 2.5)
    assert LINE.interval(2, 3) == (2.5, 4.0)
    assert LINE.interval(3, 2) == (2.5, 4.0)
    assert LINE.interval(1, 1) == (1.0, 2.5)
    assert LINE.interval(0, 99) == (0.0, 4.0)
    assert LINE.interval(4, 9) is None
    assert LINE.interval(0.5, 1.5) == (0.5, 1.75)


def test_intervals_that_touch_in_frames_touch_in_seconds() -> None:
    first, second = LINE.interval(0, 1), LINE.interval(2, 3)
    assert first is not None
    assert second is not None
    assert first[1] == second[0]


def test_words_speak_of_seconds() -> None:
    assert in_seconds("it stops [2, 3].", LINE) == "it stops [2.5 s, 4.0 s]."
    assert in_seconds("in frame 1, not in frame 7", LINE) == "in frame 1 (1.0 s), not in frame 7"
    assert in_seconds("Frames 1 to 2 and frames 0-1", LINE) == (
        "Frames 1 to 2 (1.0 s to 3.0 s) and frames 0-1 (0.0 s to 2.5 s)"
    )
    assert in_seconds("between [40, 50] there are 30 frames", LINE) == "between [40, 50] there are 30 frames"
    assert in_seconds("it stops [2, 3].", None) == "it stops [2, 3]."


def test_dense_captions_have_times() -> None:
    said = "[0, 1]: a ball rolls,\n- [2, 9] it: stops\n[7, 8]: beyond the end"
    assert moments_in(said, LINE) == (Moment(0.0, 2.5, "a ball rolls"), Moment(2.5, 4.0, "it: stops"))
    assert [str(moment) for moment in dense(said, LINE)] == ["[0.0, 2.5] a ball rolls", "[2.5, 4.0] it: stops"]
    assert dense("a ball\nrolls", LINE) == (Moment(0.0, 4.0, "a ball rolls"),)
    assert dense("  ", LINE) == ()


def test_an_interval_in_a_sentence_has_no_words() -> None:
    assert moments_in("It rolls in [0, 1] and then rests.", LINE) == (Moment(0.0, 2.5),)
    assert moments_in("[0, 1]", None) == ()


def test_regions_are_pixels_of_the_picture() -> None:
    boxes = boxes_in("the cup is at [100,250,500,999].", "a.png", (400, 200))
    assert boxes is not None
    assert boxes.xyxy.tolist() == [pytest.approx([20, 100, 100, 399.6])]
    assert boxes.size == (400, 200)
    assert boxes_in("[500,1,500,2] and [1, 2]", "a.png", (400, 200)) is None


def test_a_timeline_without_frames_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one frame"):
        Timeline((), 1.0)
    with pytest.raises(BadInput, match="do not decrease"):
        Timeline((1.0, 0.0), 1.0)


PIECES = ["[", "]", "1", "2, 3", "[0, 1]", " ", "frame 1", "frames 1 to", " 2", "f", "fra", "me", "s 0", "x", "\n", "."]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_what_was_shown_of_a_growing_text_stays(pieces: list[str]) -> None:
    shown = ""
    words = "".join(pieces)
    for count in range(len(words)):
        now = in_seconds(settled(words[: count + 1], LINE), LINE)
        assert now.startswith(shown)
        shown = now
    assert in_seconds(words, LINE).startswith(shown)


def test_the_most_is_shown_at_once() -> None:
    assert settled("a ball rolls ", LINE) == "a ball rolls "
    assert settled("a ball [1, ", LINE) == "a ball "
    assert settled("in frame 1", LINE) == "in "
    assert settled("a [list of words", LINE) == "a [list of words"
    assert settled("in frame 1", None) == "in frame 1"
