"""Scores of PLM-VideoBench as figures: with intervals, chance and breakdowns, and the average.

Unusual: rows of one video (of fgqa, of one question) are drawn together for an interval, since they are not
independent. What scores without looking (always all frames; a coin) is stated beside each task where it can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from percepta.datasets.videobench import REGION_TASKS, TASKS, Row
from percepta.evaluation.metrics import LEVEL, RESAMPLES, Points
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol, measured
from percepta.evaluation.videobench import FRAMES, TaskScore, gold_segments, interval_iou, overall, score_rtloc
from percepta.results import Failure

HEADLINES = {
    "fgqa": "fgqa, multi-binary accuracy",
    "sgqa": "sgqa, accuracy by judge",
    "rcap": "rcap, mark by judge",
    "rtloc": "rtloc, mean recall",
    "rdcap": "rdcap, SODA by judge",
}
AVERAGE = "average"
ALWAYS_ALL = "all frames"


def evaluation_of(
    scores: Mapping[str, TaskScore],
    rows: Mapping[str, Sequence[Row]],
    protocol: Protocol,
    details: Mapping[str, Any] | None = None,
    baselines: Sequence[Baseline] = (),
    frames: int = FRAMES,
    failures: Sequence[Failure] = (),
) -> Evaluation:
    """The figures of the tasks that were run; the average where all five were.

    Args:
        scores, rows: by task, of the same rows.
        frames: that the model saw of each video.
    """
    measures: list[Measure] = []
    beside = list(baselines)
    for task, score in scores.items():
        measures += task_measures(score, rows[task])
        if task == "rtloc":
            beside.append(always_all(rows[task], frames))
    if set(scores) >= set(TASKS):
        measures.insert(0, average_of(scores))
    aggregates = {task: dict(score.aggregate) for task, score in scores.items()}
    return Evaluation(
        protocol, tuple(measures), tuple(beside), dict(details or {}), {}, {"aggregates": aggregates}, tuple(failures)
    )


def task_measures(score: TaskScore, rows: Sequence[Row]) -> list[Measure]:
    """The headline of a task, its other figures, and its breakdowns."""
    groups = list(score.groups)
    chance = chance_of(score, rows)
    found = [
        measured(HEADLINES[score.task], score.points, None if chance is None else float(chance.mean()), True, groups)
    ]
    if score.task == "rtloc":
        overlaps = np.array([sample.facts["mean_iou"] for sample in score.samples])
        found.append(measured("rtloc, mean IoU", overlaps, groups=groups))
    if score.task == "fgqa":
        strict = np.array([all(score.samples[place].facts["strict"] for place in group) for group in score.members])
        found.append(measured("fgqa, strict reading", strict.astype(np.float64), groups=groups))
    for name, places in parts_of(score, rows).items():
        guess = None if chance is None else float(chance[places].mean())
        drawn = [groups[place] for place in places]
        found.append(measured(f"{score.task}, {name}", score.points[places], guess, groups=drawn))
    return found


def chance_of(score: TaskScore, rows: Sequence[Row]) -> Points | None:
    """(N,) what a coin gets on each point; None where guessing is not defined."""
    if score.task != "fgqa":
        return None
    return np.array([np.prod([1 / len(rows[place].options) for place in group]) for group in score.members])


def parts_of(score: TaskScore, rows: Sequence[Row]) -> dict[str, list[int]]:
    """Points by what their rows note ("question type ...", "domain ..."), and region tasks by length or number.

    A note that all rows share, or none has, is left out.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for place, members in enumerate(score.members):
        row = rows[members[0]]
        for name, value in {**row.facts, **_kinds(row)}.items():
            found.setdefault(name, {}).setdefault(value, []).append(place)
    parts: dict[str, list[int]] = {}
    for name, values in found.items():
        if len(values) > 1:
            parts |= {f"{name} {value}": places for value, places in sorted(values.items())}
    return parts


def _kinds(row: Row) -> dict[str, str]:
    """How long what is asked about lasts, as a share of the video; how many parts a dense caption has."""
    if row.task == "rdcap":
        number = len(row.stretches)
        return {"parts": str(number) if number < 4 else "4 or more"}
    if row.task in REGION_TASKS:
        part = row.stretches[0]
        share = (part.end - part.start) / row.total_frames
        return {"length": "up to a quarter" if share <= 0.25 else "up to a half" if share <= 0.5 else "over a half"}
    return {}


def always_all(rows: Sequence[Row], frames: int = FRAMES) -> Baseline:
    """What an answer of all frames, whatever is asked, gets at localisation."""
    value = score_rtloc(rows, [f"[0, {frames - 1}]"] * len(rows), frames).value
    note = f"[0, {frames - 1}] for every row: what localisation gives without looking"
    return Baseline(ALWAYS_ALL, HEADLINES["rtloc"], value, note)


def oracle(row: Row, frames: int = FRAMES) -> str:
    """The right answer to a row as a model would write it."""
    if row.task == "rtloc":
        start, end = gold_segments(row, frames)[0]
        return f"[{start}, {end}]"
    if row.task == "rdcap":
        parts = zip(gold_segments(row, frames), row.stretches, strict=True)
        return "\n".join(f"[{start}, {end}]: {part.caption}" for (start, end), part in parts)
    return row.gold


def of_no_length(rows: Sequence[Row], frames: int = FRAMES) -> float:
    """The share of localisation rows that nothing can hit, since their interval has no length among sampled frames."""
    lengths = [gold_segments(row, frames)[0] for row in rows]
    return float(np.mean([interval_iou(one, one) == 0 for one in lengths]))


def average_of(scores: Mapping[str, TaskScore]) -> Measure:
    """The published average with its interval: every task's videos (of fgqa, questions) are redrawn by themselves."""
    drawn = {
        task: redrawn_means(score.points, score.groups, number) for number, (task, score) in enumerate(scores.items())
    }
    means = np.array([overall({task: values[k] for task, values in drawn.items()}) for k in range(RESAMPLES)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = overall({task: score.value for task, score in scores.items()})
    count = sum(len(score.points) for score in scores.values())
    return Measure(AVERAGE, value, float(low), float(high), count, headline=True)


def redrawn_means(points: Points, groups: Sequence[str], seed: int) -> Points:
    """(R,) means of as many groups, drawn with replacement."""
    _, where = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(where, weights=points), np.bincount(where)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    return np.asarray((drawn @ sums) / (drawn @ counts))
