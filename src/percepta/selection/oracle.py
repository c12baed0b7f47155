"""Are the scores right? Their agreement with accuracies after fine-tuning, target by target.

The benchmark of PARC (arXiv 2111.06977, section 3): fix the target, correlate over the models, take the mean over
targets and over runs of the probe. That a static ranking must stand beside is arXiv 2510.06448; the further measures
are the field's (weighted tau) and the user's (regret).
Order of this file: the table, what is found of one method, the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from percepta.errors import BadInput, one_of, wrong_shape
from percepta.evaluation.metrics import bootstrap_interval
from percepta.selection.agreement import MEASURES
from percepta.selection.inputs import Matrix, Rows
from percepta.selection.priors import LAYERS, with_capacity

SCHEMA = 1


@dataclass(frozen=True, slots=True, eq=False)
class OracleTable:
    """Accuracies after fine-tuning, one row a transfer of a model to a target.

    Attributes:
        columns: names; one of them is that of `accuracy`.
        rows: of as many values each.
        accuracy: the column of numbers; a row with 0 or less is unusable and left out of every measure.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    accuracy: str = "oracle"

    def __post_init__(self) -> None:
        if self.accuracy not in self.columns:
            raise one_of("accuracy", self.accuracy, self.columns, "the table")
        odd = [number for number, row in enumerate(self.rows) if len(row) != len(self.columns)]
        if odd or not self.rows:
            where = f"row {odd[0]} has {len(self.rows[odd[0]])}" if odd else "there are no rows"
            raise BadInput(f"the table must have rows of {len(self.columns)} values; {where}.")

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """One value a row. Raises BadInput for an unknown column."""
        if name not in self.columns:
            raise one_of("column", name, self.columns, "the table")
        place = list(self.columns).index(name)
        return [row[place] for row in self.rows]

    @property
    def oracle(self) -> Matrix:
        """(rows,) float64."""
        return np.asarray(self.column(self.accuracy), np.float64)

    def groups(self, by: Sequence[str] = ("target",)) -> dict[str, Rows]:
        """Rows with a usable accuracy and equal values in the columns `by`; one group, "all", for none."""
        keys = [" ".join(str(value) for value in values) for values in zip(*(self.column(name) for name in by))]
        found: dict[str, list[int]] = {}
        for number, usable in enumerate(self.oracle > 0):
            if usable:
                found.setdefault(keys[number] if by else "all", []).append(number)
        return {name: np.array(numbers, np.int64) for name, numbers in found.items()}


@dataclass(frozen=True, slots=True)
class Judgement:
    """One measure of one method.

    Attributes:
        mean: over runs and groups.
        variance: of the runs' means (population).
        per_run: the mean over groups of each run.
        per_group: the mean over runs of each group (target).
        low, high: ends of the 95 % bootstrap interval of the mean over groups.
    """

    mean: float
    variance: float
    per_run: tuple[float, ...]
    per_group: Mapping[str, float]
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "mean": round(self.mean, 6),
            "variance": round(self.variance, 6),
            "interval": [round(self.low, 6), round(self.high, 6)],
            "per run": [round(value, 6) for value in self.per_run],
            "per group": {name: round(value, 6) for name, value in self.per_group.items()},
        }


@dataclass(frozen=True, slots=True)
class ScoreEvaluation:
    """What every method is worth.

    Attributes:
        methods: by name, then by measure (see `agreement.MEASURES`).
        static: the same for rankings that look at no picture.
        capacity_weight: of the prior that was added to the methods, 0 for none.
        left_out: groups with fewer than two usable rows.
    """

    methods: Mapping[str, Mapping[str, Judgement]]
    static: Mapping[str, Mapping[str, Judgement]]
    capacity_weight: float = 0.0
    left_out: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Mapping[str, Judgement]:
        """A method or a static prior by name; KeyError for another."""
        return {**self.static, **self.methods}[name]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with a schema number."""
        tables = {
            kind: {name: {measure: one.to_dict() for measure, one in found.items()} for name, found in methods.items()}
            for kind, methods in (("methods", self.methods), ("static", self.static))
        }
        weight, left = self.capacity_weight, list(self.left_out)
        return {"schema": SCHEMA, "capacity weight": weight, "left out": left, **tables}


def evaluate_scores(
    table: OracleTable,
    scores: Mapping[str, Any],
    static: Mapping[str, Any] | None = None,
    layers: Any = None,
    capacity_weight: float = 0.0,
    by: Sequence[str] = ("target",),
    measures: Sequence[str] = tuple(MEASURES),
    divisor: float = LAYERS,
    ddof: int = 1,
) -> ScoreEvaluation:
    """Judge scores by an oracle.

    Args:
        table: accuracies after fine-tuning.
        scores: by method, (rows,) or (runs, rows); NaN, a missing score, counts as 0 as in the paper.
        static: by name, (rows,): rankings that look at no picture, judged beside and never changed.
        layers: (rows,) of the model of each row, for the capacity prior.
        capacity_weight: added to every method by `with_capacity`, over all rows of all runs; 0 adds nothing.
        by: the columns that are fixed within a group; none puts all rows into one.
        measures: names of `agreement.MEASURES`.
        divisor, ddof: of the capacity prior.

    Raises:
        BadInput: scores of another shape, a weight without layers, an unknown measure, no group of two usable rows.
    """
    for name in measures:
        if name not in MEASURES:
            raise one_of("measure", name, MEASURES)
    if capacity_weight and layers is None:
        raise BadInput("a capacity prior needs the layers of the model of each row; got none.")
    groups = table.groups(by)
    usable = {name: rows for name, rows in groups.items() if len(rows) > 1}
    if not usable:
        raise BadInput(f"no {' and '.join(by) or 'group'} of the table has two rows with an accuracy above 0.")
    found = {}
    for name, values in scores.items():
        runs = _runs(name, values, len(table))
        depth = None if layers is None else np.broadcast_to(np.asarray(layers, np.float64), runs.shape)
        judged = runs if depth is None else with_capacity(runs, depth, capacity_weight, divisor, ddof)
        found[name] = _judge(judged, table.oracle, usable, measures)
    beside = {
        name: _judge(_runs(name, values, len(table)), table.oracle, usable, measures)
        for name, values in (static or {}).items()
    }
    return ScoreEvaluation(found, beside, capacity_weight, tuple(name for name in groups if name not in usable))


def _runs(name: str, values: Any, rows: int) -> Matrix:
    """(runs, rows) float64 without gaps."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or numbers.shape[1] != rows or not len(numbers):
        raise wrong_shape(f"scores of {name}", numbers.shape, f"({rows},) or (runs, {rows}), one a row of the table")
    return np.asarray(np.where(np.isnan(numbers), 0.0, numbers))


def _judge(runs: Matrix, oracle: Matrix, groups: Mapping[str, Rows], measures: Sequence[str]) -> dict[str, Judgement]:
    found = {}
    for name in measures:
        measure = MEASURES[name]
        values = np.array([[measure(run[rows], oracle[rows]) for rows in groups.values()] for run in runs])
        per_run, per_group = values.mean(axis=1), values.mean(axis=0)
        low, high = bootstrap_interval(per_group)
        found[name] = Judgement(
            float(values.mean()),
            float(per_run.var()),
            tuple(per_run.tolist()),
            dict(zip(groups, per_group.tolist())),
            low,
            high,
        )
    return found
