"""Scores of PLM-VideoBench, as pure functions (arXiv 2504.13180, section 5.1, appendices C.3, C.4 and D).

Order of this file: frames and intervals, ordered matching, what a score is, the five tasks, the average.
Unusual: dense captions are matched in the order in which they were written (SODA_c, Fujita et al., ECCV 2020), with a
judge's marks in place of METEOR. An interval of no length overlaps nothing, not even itself. Numbers of frames of the
gold answers are rescaled to those that the model saw, and cut; those of an answer are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.videobench import REGION_TASKS, TASKS, Row
from percepta.errors import BadInput, one_of, out_of_range, wrong_shape
from percepta.evaluation.metrics import Points
from percepta.evaluation.videobench_reading import (
    Mark,
    check_option,
    parse_interval,
    parse_segments,
    read_mark,
    read_verdict,
)

FRAMES = 32
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
_TINY = 1e-8
_BEYOND = (10, 20)  # where an interval that cannot be read is put, after the end of the gold one

Reply = Callable[[str, str], str]
"""What a judge said of a gold and a predicted caption."""


def rescale_frame(frame: int, total: int, count: int = FRAMES) -> int:
    """A frame of the video as one of the `count` that the model saw: cut, not rounded.

    Raises: BadInput for a video without frames.
    """
    if total < 1 or count < 1:
        raise out_of_range("frames", min(total, count), "1 or more", "rescale_frame")
    return int(frame / (total / count))


def interval_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two intervals, 0 to 1, as lengths (no frame is added); their ends in either order."""
    (start, end), (first, last) = sorted(map(float, a)), sorted(map(float, b))
    shared = max(0.0, min(end, last) - max(start, first))
    union = min(max(end, last) - min(start, first), (end - start) + (last - first))
    return shared / (union + _TINY)


@dataclass(frozen=True, slots=True)
class Matching:
    """The best one-to-one matching that keeps the order of both sides.

    Attributes:
        total: the sum over its pairs.
        pairs: (row, column), in order; only those that add something.
    """

    total: float
    pairs: tuple[tuple[int, int], ...]


def match_in_order(values: Any) -> Matching:
    """The matching of rows with columns of (G, P) values, 0 or more, whose sum is largest.

    Raises: BadInput for no row or no column, or a negative value.
    """
    gains = np.asarray(values, np.float64)
    if gains.ndim != 2 or not gains.size:
        raise wrong_shape("values", gains.shape, "(gold, predicted) with at least one of each", "match_in_order")
    if not (gains >= 0).all():
        raise out_of_range("values", float(gains.min()), "0 or more", "match_in_order")
    rows, columns = gains.shape
    best = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        for j in range(columns):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + gains[i, j])
    pairs: list[tuple[int, int]] = []
    i, j = rows, columns
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return Matching(float(best[rows, columns]), tuple(reversed(pairs)))


def soda_c(iou: Any, similarity: Any) -> float:
    """The F measure of ordered matching, 0 to 1: 2 D / (P + G) of the best sum D of overlap times likeness.

    Args:
        iou: (G, P) overlaps, rows gold.
        similarity: (G, P) marks of the captions, 0 to 1.

    Raises: BadInput for other shapes.
    """
    overlaps, marks = np.asarray(iou, np.float64), np.asarray(similarity, np.float64)
    if overlaps.shape != marks.shape:
        raise wrong_shape("similarity", marks.shape, f"{overlaps.shape}, that of iou", "soda_c")
    total = match_in_order(overlaps * marks).total
    precision, recall = total / overlaps.shape[1], total / overlaps.shape[0]
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one row got.

    Attributes:
        uid: of the row.
        score: 0 to 1; its mean is the headline, except for fgqa.
        facts: JSON-ready: what was read, and the other figures of the row.
    """

    uid: str
    score: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"uid": self.uid, "score": self.score, **self.facts}


@dataclass(frozen=True, slots=True, eq=False)
class TaskScore:
    """What a task got.

    Attributes:
        task: one of `TASKS`.
        samples: one a row, in their order.
        aggregate: the figures as they are published (rounded to 4 digits where they are), and counts of what could
            not be read.
        points: (N,) what the headline is the mean of: rows, or of fgqa questions.
        members: for each point the rows that it stands for.
        groups: (N,) names of what is drawn together for an interval: the videos, or of fgqa the questions.
    """

    task: str
    samples: tuple[Sample, ...]
    aggregate: Mapping[str, float]
    points: Points
    members: tuple[tuple[int, ...], ...]
    groups: tuple[str, ...]

    @property
    def value(self) -> float:
        """The headline, 0 to 1, not rounded."""
        return float(self.points.mean())


def score_fgqa(rows: Sequence[Row], predictions: Sequence[str], rule: str = "official") -> TaskScore:
    """Multi-binary accuracy: the share of questions of which every row is right.

    Args:
        rule: how options are read, see `check_option`.

    Raises: BadInput for no rows, or as many answers as there are no rows.
    """
    _check("fgqa", rows, predictions)
    samples = []
    for row, said in zip(rows, predictions, strict=True):
        right, strict = (check_option(said, row.gold, one) for one in (rule, "strict"))
        samples.append(Sample(row.uid, float(right), {"gold": row.gold, "prediction": said, "strict": strict}))
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.group or row.uid, []).append(place)
    members = tuple(map(tuple, places.values()))
    points = np.array([min(samples[place].score for place in group) for group in members])
    strictly = np.array([all(samples[place].facts["strict"] for place in group) for group in members])
    aggregate = {
        "multibinary_accuracy": float(points.mean()),
        "multibinary_accuracy_strict": float(strictly.mean()),
        "row_accuracy": float(np.mean([sample.score for sample in samples])),
        "num_questions": len(points),
        "num_instances": len(rows),
    }
    return TaskScore("fgqa", tuple(samples), aggregate, points, members, tuple(places))


def score_sgqa(rows: Sequence[Row], replies: Sequence[str], predictions: Sequence[str] | None = None) -> TaskScore:
    """The share of answers that the judge takes for right; `replies` are the judge's, word for word."""
    marks = _marks("sgqa", rows, replies, read_verdict)
    samples = _judged(rows, marks, replies, predictions)
    aggregate = {"success": _mean(samples), "unreadable_replies": _unreadable(marks), "num_instances": len(rows)}
    return _by_row("sgqa", rows, samples, aggregate)


def score_rcap(rows: Sequence[Row], replies: Sequence[str], predictions: Sequence[str] | None = None) -> TaskScore:
    """The mean of the judge's marks, 0 to 1; `replies` are the judge's, word for word."""
    marks = _marks("rcap", rows, replies, read_mark)
    samples = _judged(rows, marks, replies, predictions)
    aggregate = {
        "score": round(_mean(samples), 4),
        "success_rate": round(float(np.mean([mark.readable for mark in marks])), 4),
        "unreadable_replies": _unreadable(marks),
        "num_instances": len(rows),
    }
    return _by_row("rcap", rows, samples, aggregate)


def score_rtloc(rows: Sequence[Row], predictions: Sequence[str], frames: int = FRAMES) -> TaskScore:
    """The share of four thresholds of overlap that an interval exceeds, over all rows.

    Args:
        frames: that the model saw of each video.

    Raises: BadInput for rows without exactly one interval.
    """
    _check("rtloc", rows, predictions)
    samples = [_located(row, said, frames) for row, said in zip(rows, predictions, strict=True)]
    means = {
        name: round(float(np.mean([sample.facts[name] for sample in samples])), 4)
        for name in ("mean_precision", "mean_recall", "mean_iou")
    }
    unread = sum(sample.facts["parse_error"] for sample in samples)
    return _by_row("rtloc", rows, samples, {**means, "parse_errors": unread, "num_instances": len(rows)})


def _located(row: Row, said: str, frames: int) -> Sample:
    if len(row.stretches) != 1:
        raise BadInput(f"row {row.uid} of rtloc must have one interval; it has {len(row.stretches)}.")
    stretch = row.stretches[0]
    target = [rescale_frame(frame, row.total_frames, frames) for frame in (stretch.start, stretch.end)]
    read = parse_interval(said)
    predicted = tuple(float(stretch.end + more) for more in _BEYOND) if read is None else read
    overlap = interval_iou(predicted, target)
    recall = sum(overlap > threshold for threshold in THRESHOLDS) / len(THRESHOLDS)
    facts = {"target": target, "predicted": list(predicted), "parse_error": int(read is None), "prediction": said}
    facts |= {"mean_precision": recall, "mean_recall": recall, "mean_iou": overlap}
    return Sample(row.uid, recall, facts)


def score_rdcap(
    rows: Sequence[Row], predictions: Sequence[str], reply: Reply, frames: int = FRAMES, keep_pairs: bool = True
) -> TaskScore:
    """SODA_c with a judge's marks of every gold with every predicted caption, over all rows.

    Args:
        reply: (gold, predicted) → the judge's reply word for word.
        frames: that the model saw of each video.
        keep_pairs: keep the matched pairs with each row.
    """
    _check("rdcap", rows, predictions)
    samples = [_dense(row, said, reply, frames, keep_pairs) for row, said in zip(rows, predictions, strict=True)]
    aggregate = {
        "soda_c": round(_mean(samples), 4),
        "parse_errors": sum(not sample.facts["segments"] for sample in samples),
        "unreadable_replies": sum(sample.facts["unreadable_replies"] for sample in samples),
        "num_instances": len(rows),
    }
    return _by_row("rdcap", rows, samples, aggregate)


def gold_segments(row: Row, frames: int = FRAMES) -> list[list[int]]:
    """The intervals of a row in the frames that the model saw."""
    return [[rescale_frame(one, row.total_frames, frames) for one in (part.start, part.end)] for part in row.stretches]


TOTALS = {"percepta": "sampled", "paper": "sampled", "lmms-eval": "source"}
"""Which length of a video the prompt of region captions names, by variant: the frames that were sampled, or all."""


def shown_frames(row: Row, frames: int = FRAMES, variant: str = "percepta") -> tuple[int, int, int]:
    """What the prompt of a region caption says: first and last frame among those sampled, and the length named.

    Raises: BadInput for an unknown variant.
    """
    if variant not in TOTALS:
        raise one_of("variant", variant, TOTALS, owner="shown_frames")
    start, end = gold_segments(row, frames)[0]
    return start, end, frames if TOTALS[variant] == "sampled" else row.total_frames


def _dense(row: Row, said: str, reply: Reply, frames: int, keep_pairs: bool) -> Sample:
    segments, captions = parse_segments(said)
    facts: dict[str, Any] = {"prediction": said, "segments": len(segments), "unreadable_replies": 0}
    if not row.stretches:
        raise BadInput(f"row {row.uid} of rdcap must have a caption; it has none.")
    if not segments:
        return Sample(row.uid, 0.0, facts)
    gold = gold_segments(row, frames)
    iou = np.array([[interval_iou(segment, target) for segment in segments] for target in gold])
    marks = [[read_mark(reply(part.caption, told), explained=False) for told in captions] for part in row.stretches]
    likeness: NDArray[np.float64] = np.array([[mark.score for mark in line] for line in marks])
    facts["unreadable_replies"] = sum(not mark.readable for line in marks for mark in line)
    if keep_pairs:
        facts |= {"gold_segments": gold, "said_segments": [list(one) for one in segments]}
        facts |= {"pairs": [list(pair) for pair in match_in_order(iou * likeness).pairs]}
    return Sample(row.uid, soda_c(iou, likeness), facts)


def overall(scores: Mapping[str, float]) -> float:
    """The published average: fine-grained questions, smart-glasses questions, and the three region tasks as one.

    Args:
        scores: by task, in any one unit.

    Raises: BadInput where a task is missing.
    """
    missing = [task for task in TASKS if task not in scores]
    if missing:
        raise BadInput(f"the average needs {', '.join(TASKS)}; {', '.join(missing)} missing.")
    regions = sum(scores[task] for task in REGION_TASKS) / len(REGION_TASKS)
    return (scores["fgqa"] + scores["sgqa"] + regions) / 3


def _check(task: str, rows: Sequence[Row], given: Sequence[Any]) -> None:
    if not len(rows):
        raise BadInput(f"{task} needs at least one row; got none.")
    if len(given) != len(rows):
        raise BadInput(f"{task} needs one answer a row, {len(rows)}; got {len(given)}.")


def _marks(task: str, rows: Sequence[Row], replies: Sequence[str], read: Callable[[str], Mark]) -> list[Mark]:
    _check(task, rows, replies)
    return [read(reply) for reply in replies]


def _judged(
    rows: Sequence[Row], marks: Sequence[Mark], replies: Sequence[str], predictions: Sequence[str] | None
) -> list[Sample]:
    said = [{}] * len(rows) if predictions is None else [{"prediction": one} for one in predictions]
    return [
        Sample(row.uid, mark.score, {**told, "gold": row.gold, "reply": reply, "success": int(mark.readable)})
        for row, mark, reply, told in zip(rows, marks, replies, said, strict=True)
    ]


def _mean(samples: Sequence[Sample]) -> float:
    return float(np.mean([sample.score for sample in samples]))


def _unreadable(marks: Sequence[Mark]) -> int:
    return sum(not mark.readable for mark in marks)


def _by_row(task: str, rows: Sequence[Row], samples: Sequence[Sample], aggregate: Mapping[str, float]) -> TaskScore:
    points = np.array([sample.score for sample in samples])
    groups = tuple(row.video or row.uid for row in rows)
    return TaskScore(task, tuple(samples), aggregate, points, tuple((place,) for place in range(len(rows))), groups)
