"""Answers as records and as subtitles."""

from __future__ import annotations

import json

import pytest

from percepta.errors import BadInput
from percepta.results import Boxes
from percepta.results.answer import Answer, Moment
from percepta.results.formats.subtitles import moments_of, to_srt, to_vtt

DENSE = Answer(
    "film.mp4",
    "what happens?",
    "text",
    said="[0, 3]: a ball rolls",
    moments=(Moment(4.0, 3725.25, "it <stops> & rests"), Moment(0.0, 1.5, "a ball\n\nrolls --> away")),
    frames=(0, 0.5, 1),
    span=(0.0, 3725.25),
    visual_tokens=48,
)


def test_an_answer_is_its_text() -> None:
    answer = Answer("a.png", "what?", "a red ball")
    assert str(answer) == "a red ball"
    assert answer.samples == ("a red ball",)
    assert answer.said == "a red ball"
    assert answer.complete
    assert answer.lines == ("a red ball",)
    cut = Answer("a.png", "what?", "a red", finish="length")
    assert not cut.complete
    assert "(cut off)" in repr(cut)


def test_it_is_ready_for_json() -> None:
    entry = json.loads(json.dumps(DENSE.to_dict()))
    assert entry["moments"][1] == {"start": 0.0, "end": 1.5, "words": "a ball\n\nrolls --> away"}
    assert entry["frames"] == [0.0, 0.5, 1.0]
    assert entry["span"] == [0.0, 3725.25]
    assert entry["said"] == "[0, 3]: a ball rolls"
    assert entry["boxes"] is None
    boxed = Answer("a.png", "where?", "there", boxes=Boxes("a.png", [(1, 2, 3, 4)], size=(9, 9)))  # type: ignore[arg-type]
    assert boxed.to_dict()["boxes"] == [{"xyxy": [1.0, 2.0, 3.0, 4.0], "name": ""}]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="must be one of stop, length, text"):
        Answer("a", "b", "c", finish="tired")
    for start, end in ((2, 1), (-1, 1), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(BadInput, match="a moment must begin at 0 or later"):
            Moment(start, end)


def test_moments_are_subtitles_by_time() -> None:
    assert to_srt(DENSE) == (
        "1\n00:00:00,000 --> 00:00:01,500\na ball\nrolls -> away\n\n"
        "2\n00:00:04,000 --> 01:02:05,250\nit <stops> & rests\n"
    )
    assert to_vtt(DENSE) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na ball\nrolls -&gt; away\n\n"
        "00:00:04.000 --> 01:02:05.250\nit &lt;stops&gt; &amp; rests\n"
    )
    assert DENSE.lines[0] == "[4.0, 3725.2] it <stops> & rests"


def test_a_caption_lasts_as_long_as_its_video() -> None:
    plain = Answer("film.mp4", "what?", "a ball", span=(2.0, 9.0))
    assert moments_of(plain) == [Moment(2.0, 9.0, "a ball")]
    assert to_srt(plain) == "1\n00:00:02,000 --> 00:00:09,000\na ball\n"
    assert to_srt(Answer("a.png", "what?", "a ball")) == ""
    assert to_vtt(Answer("a.png", "what?", "a ball")) == "WEBVTT\n"


def test_a_moment_of_no_length_is_shown_all_the_same() -> None:
    short = Answer("film.mp4", "what?", "x", moments=(Moment(1.0, 1.0, "a flash"),), span=(0.0, 2.0))
    assert "00:00:01,000 --> 00:00:01,500" in to_srt(short)


def test_what_cannot_be_shown_is_left_out() -> None:
    odd = Answer(
        "film.mp4", "what?", "x", moments=(Moment(0, 1, "\x0f\x1b"), Moment(1, 2, "a\x1b[2J b")), span=(0.0, 2.0)
    )
    assert [moment.start for moment in moments_of(odd)] == [1]
    assert "a[2J b" in to_vtt(odd)
