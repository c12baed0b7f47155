"""Scores of PLM-VideoBench: properties that hold for any rows, and how replies are read."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percepta.datasets.videobench import Row, Stretch
from percepta.errors import BadInput
from percepta.evaluation.protocols import Protocol
from percepta.evaluation.videobench import (
    interval_iou,
    match_in_order,
    overall,
    rescale_frame,
    score_fgqa,
    score_rcap,
    score_rdcap,
    score_rtloc,
    score_sgqa,
    shown_frames,
    soda_c,
)
from percepta.evaluation.videobench_measures import evaluation_of, of_no_length, oracle
from percepta.evaluation.videobench_reading import (
    check_option,
    parse_interval,
    parse_segments,
    read_mark,
    read_verdict,
)

FAST = settings(max_examples=60, deadline=None)
SHARES = st.floats(0, 1, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def matrices(draw: st.DrawFn, most: int = 4) -> np.ndarray:
    rows, columns = draw(st.integers(1, most)), draw(st.integers(1, most))
    values = draw(st.lists(SHARES, min_size=rows * columns, max_size=rows * columns))
    return np.array(values).reshape(rows, columns)


def by_force(values: np.ndarray) -> float:
    """The best sum over all one-to-one matchings that keep the order."""
    rows, columns = values.shape
    best = 0.0
    for size in range(1, min(rows, columns) + 1):
        for left in itertools.combinations(range(rows), size):
            for right in itertools.combinations(range(columns), size):
                best = max(best, sum(values[i, j] for i, j in zip(left, right, strict=True)))
    return best


def recursively(values: np.ndarray, i: int, j: int) -> float:
    if i < 0 or j < 0:
        return 0.0
    return max(
        recursively(values, i - 1, j), recursively(values, i, j - 1), recursively(values, i - 1, j - 1) + values[i, j]
    )


@FAST
@given(matrices())
def test_matching_is_the_best_of_all(values: np.ndarray) -> None:
    found = match_in_order(values)
    rows, columns = values.shape
    assert found.total == pytest.approx(by_force(values)) == pytest.approx(recursively(values, rows - 1, columns - 1))
    assert sum(values[pair] for pair in found.pairs) == pytest.approx(found.total)
    assert all(one[0] < two[0] and one[1] < two[1] for one, two in itertools.pairwise(found.pairs))


@FAST
@given(matrices())
def test_soda_is_symmetric_and_bounded(values: np.ndarray) -> None:
    ones = np.ones_like(values)
    score = soda_c(values, ones)
    assert score == pytest.approx(soda_c(values.T, ones.T))
    rows, columns = values.shape
    assert 0 <= score <= 2 * min(rows, columns) / (rows + columns) + 1e-12


def test_matching_of_many_needs_no_recursion() -> None:
    assert match_in_order(np.eye(1500)).total == 1500


@FAST
@given(st.tuples(*[st.integers(0, 40)] * 4))
def test_overlap(ends: tuple[int, int, int, int]) -> None:
    a, b = ends[:2], ends[2:]
    assert interval_iou(a, b) == interval_iou(b, a) == interval_iou(a[::-1], b)
    assert 0 <= interval_iou(a, b) <= 1
    assert (interval_iou(a, a) > 0.9) == (a[0] != a[1])


def localisation(rng: random.Random, number: int) -> Row:
    total = rng.randrange(8, 200)
    start = rng.randrange(total)
    end = rng.randrange(start, total)
    return Row("rtloc", str(number), f"v{number % 4}", total_frames=total, stretches=(Stretch(start, end, "x"),))


@FAST
@given(st.integers(0, 10_000))
def test_recall_grows_with_overlap_and_no_order_matters(seed: int) -> None:
    rng = random.Random(seed)
    rows = [localisation(rng, number) for number in range(6)]
    said = [f"[{rng.randrange(32)}, {rng.randrange(32)}]" for _ in rows]
    score = score_rtloc(rows, said)
    by_overlap = sorted((sample.facts["mean_iou"], sample.score) for sample in score.samples)
    assert [recall for _, recall in by_overlap] == sorted(recall for _, recall in by_overlap)
    order = rng.sample(range(6), 6)
    turned = score_rtloc([rows[place] for place in order], [said[place] for place in order])
    assert turned.aggregate == score.aggregate
    assert turned.value == pytest.approx(score.value)


@FAST
@given(st.integers(0, 10_000))
def test_the_right_interval_scores_all_that_can_be_hit(seed: int) -> None:
    rng = random.Random(seed)
    rows = [localisation(rng, number) for number in range(8)]
    found = score_rtloc(rows, [oracle(row) for row in rows])
    assert found.value == pytest.approx(1 - of_no_length(rows))


def test_what_cannot_be_read_lies_after_the_end_and_may_still_overlap() -> None:
    long = Row("rtloc", "1", total_frames=320, stretches=(Stretch(5, 9),))
    short = Row("rtloc", "2", total_frames=16, stretches=(Stretch(12, 15),))
    score = score_rtloc([long, short], ["from 1 to 2", "(1, 2)"])
    assert score.aggregate["parse_errors"] == 2
    assert score.samples[0].facts["mean_iou"] == 0
    assert score.samples[1].facts["predicted"] == [25, 35]  # the published rule, in frames of the video
    assert score.samples[1].facts["mean_iou"] > 0


def questions(rng: random.Random) -> tuple[list[Row], list[str]]:
    rows, said = [], []
    for number in range(12):
        options = rng.sample(["red", "blue", "green"], 2)
        rows.append(
            Row("fgqa", str(number), options=tuple(options), answer=options[0], group=str(number % 4))
        )  # as many rows of each
        said.append(rng.choice(["A", "B", "(A) x", "."]))
    return rows, said


@FAST
@given(st.integers(0, 10_000))
def test_questions_are_never_easier_than_rows(seed: int) -> None:
    rng = random.Random(seed)
    rows, said = questions(rng)
    score = score_fgqa(rows, said)
    assert score.value <= score.aggregate["row_accuracy"] + 1e-12
    order = rng.sample(range(len(rows)), len(rows))
    turned = score_fgqa([rows[place] for place in order], [said[place] for place in order])
    assert turned.aggregate == pytest.approx(score.aggregate)


@pytest.mark.parametrize(
    ("said", "official", "strict"),
    [
        ("(A)", True, True),
        ("a.", True, True),
        (" A", False, True),
        ("(", True, False),
        (".", True, False),
        ("xx(a)yy", True, True),
        ("The answer is (A)", False, True),
        ("red", False, True),
        ("a red one or (B)", True, False),
        ("(A) or (B)", True, True),
        ("both (A) and (B)", False, False),
        ("", False, False),
    ],
)
def test_two_readings_of_options(said: str, official: bool, strict: bool) -> None:
    assert check_option(said, "(A) red") is official
    assert check_option(said, "(A) red", "strict") is strict
    with pytest.raises(BadInput, match="rule of check_option must be one of official, strict"):
        check_option(said, "(A) red", "lenient")


MALFORMED = [
    "",
    "7",
    "[7]",
    "null",
    '{"score": 7',
    "score: 7",
    '{"score": "7", "explanation": "x"}',
    '{"explanation": "x"}',
    '{"score": NaN, "explanation": "x"}',
    "[" * 100_000,
]


@pytest.mark.parametrize("reply", [*MALFORMED, '{"score": 7}', '{"score": 11, "explanation": "x"}', '{"score": true}'])
def test_malformed_marks_are_worth_nothing_and_counted(reply: str) -> None:
    assert read_mark(reply).score == 0
    assert not read_mark(reply).readable
    row = Row("rcap", "1", total_frames=32, stretches=(Stretch(0, 5, "gold"),))
    found = score_rcap([row, row], [reply, '{"score": 6, "explanation": "x"}'])
    assert found.aggregate["unreadable_replies"] == 1
    assert (found.aggregate["score"], found.aggregate["success_rate"]) == (0.3, 0.5)


@pytest.mark.parametrize(
    ("reply", "right", "readable"),
    [
        ('{"pred": "yes"}', 1, True),
        ('{"pred": "Yes"}', 0, True),
        ('{"score": 4}', 0, False),
        ("5", 0, False),
        ('"yes"', 0, False),
        ("eyes", 1, False),
        ("no", 0, False),
        ("[" * 100_000, 0, False),
    ],
)
def test_verdicts(reply: str, right: int, readable: bool) -> None:
    assert (read_verdict(reply).score, read_verdict(reply).readable) == (right, readable)
    score = score_sgqa([Row("sgqa", "1", question="q", answer="a")], [reply])
    assert (score.value, score.aggregate["unreadable_replies"]) == (right, int(not readable))


@pytest.mark.parametrize("reply", MALFORMED)
def test_malformed_marks_of_dense_captions(reply: str) -> None:
    row = Row("rdcap", "1", total_frames=32, stretches=(Stretch(0, 31, "gold"),))
    score = score_rdcap([row], ["[0, 31]: gold"], lambda gold, said: reply)
    assert (score.value, score.aggregate["unreadable_replies"]) == (0, 1)
    assert score_rdcap([row], ["[0, 31]: gold"], lambda gold, said: '{"score": 5}').value == pytest.approx(0.5)


def test_right_dense_captions_get_what_the_judge_gives() -> None:
    parts = (Stretch(0, 20, "runs"), Stretch(21, 63, "rests"))
    row = Row("rdcap", "1", total_frames=64, stretches=parts)

    def same(gold: str, said: str) -> str:
        return json.dumps({"score": 10 * (gold == said)})

    assert score_rdcap([row], [oracle(row)], same).value == pytest.approx(1)
    backwards = "\n".join(reversed(oracle(row).split("\n")))
    assert score_rdcap([row], [backwards], same).value == pytest.approx(0.5)  # matched in the order of the list


def test_intervals_in_words() -> None:
    assert parse_interval("x [2.5, 4] [1, 2]") == (2.5, 4)
    assert parse_interval("[0,1]") == (0, 1)
    for text in ("(1, 2)", "[1 , 2]", "[-1, 2]", "[ 1, 2]", "[03, 5] [1, 2]"):
        assert parse_interval(text) is None, text
    assert parse_segments("[1, 2]: a [b] c\n[3, 4]: d,")[1] == ("a", "d")


@pytest.mark.parametrize("digits", [16, 400, 5000])
def test_a_loop_of_digits_is_no_frame(digits: int) -> None:
    """A model that repeats itself writes numbers that are no floats, or too long to be read at all."""
    said = f"[0, {'9' * digits}]: x"
    located = score_rtloc([Row("rtloc", "1", total_frames=64, stretches=(Stretch(0, 30),))], [said])
    assert located.value == 0
    assert np.isfinite(located.samples[0].facts["predicted"]).all()
    dense = Row("rdcap", "1", total_frames=64, stretches=(Stretch(0, 63, "x"),))
    score = score_rdcap([dense, dense], [said, f"{said} [0, 31]: x"], lambda gold, told: '{"score": 10}')
    assert [sample.score for sample in score.samples] == pytest.approx([0, 1])
    assert score.aggregate["parse_errors"] == 1


def test_prompts_say_the_length_of_their_variant() -> None:
    row = Row("rcap", "1", total_frames=81, stretches=(Stretch(10, 50, "c"),))
    assert shown_frames(row) == shown_frames(row, variant="paper") == (3, 19, 32)
    assert shown_frames(row, variant="lmms-eval") == (3, 19, 81)
    with pytest.raises(BadInput, match="variant"):
        shown_frames(row, variant="lmms")


@given(st.integers(32, 5000), st.integers(0, 5000))
def test_rescaled_frames_stay_among_those_sampled(total: int, frame: int) -> None:
    assert 0 <= rescale_frame(min(frame, total - 1), total) <= 31
    assert rescale_frame(total - 1, total) == 31


@pytest.mark.parametrize(
    ("fgqa", "sgqa", "rdcap", "rcap", "rtloc", "printed"),
    [(67.7, 46.2, 52.8, 46.6, 59.1, 55.6), (61.2, 63.7, 20.9, 35.7, 33.1, 51.6), (57.1, 49.9, 14.4, 33.1, 27.6, 44.0)],
)
def test_the_published_average(
    fgqa: float, sgqa: float, rdcap: float, rcap: float, rtloc: float, printed: float
) -> None:
    scores = {"fgqa": fgqa, "sgqa": sgqa, "rdcap": rdcap, "rcap": rcap, "rtloc": rtloc}
    assert overall(scores) == pytest.approx(printed, abs=0.051)
    with pytest.raises(BadInput, match="rtloc missing"):
        overall({name: value for name, value in scores.items() if name != "rtloc"})


def test_figures_have_intervals_chance_and_parts() -> None:
    rng = random.Random(0)
    rows = [
        Row("fgqa", f"{q}-{n}", f"v{q}", options=("a", "b"), answer="a", group=str(q), facts={"domain": "xy"[q % 2]})
        for q in range(6)
        for n in range(3)
    ]
    located = [localisation(rng, number) for number in range(9)]
    scores = {
        "fgqa": score_fgqa(rows, [rng.choice("AB") for _ in rows]),
        "rtloc": score_rtloc(located, ["[0, 31]"] * 9),
    }
    found = evaluation_of(scores, {"fgqa": rows, "rtloc": located}, Protocol("videobench", {}))
    assert found["fgqa, multi-binary accuracy"].chance == 0.125
    assert {"fgqa, domain x", "fgqa, domain y"} <= {measure.name for measure in found.measures}
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in found.measures)
    assert found.baselines[0].value == pytest.approx(found["rtloc, mean recall"].value)  # all frames was what was said
    assert "average" not in {measure.name for measure in found.measures}
    with pytest.raises(BadInput, match="one answer a row"):
        score_rtloc(located, ["[0, 1]"])
