"""The benchmark: groups, runs, gaps, priors, static rankings."""

from __future__ import annotations

import json

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.selection import MEASURES, OracleTable, evaluate_scores, with_capacity

COLUMNS = ("architecture", "source", "target", "oracle")
ROWS = [
    (architecture, source, target, 50 + 7 * place % 31 + 3 * len(architecture))
    for place, (architecture, source, target) in enumerate(
        (a, s, t) for a in ("deep", "wide", "small") for s in ("x", "y") for t in ("birds", "cars")
    )
]


@pytest.fixture
def table() -> OracleTable:
    return OracleTable(COLUMNS, ROWS)


def test_perfect_and_reversed_scores(table: OracleTable) -> None:
    found = evaluate_scores(table, {"right": table.oracle, "wrong": -table.oracle}, {"length": np.ones(12)})
    for name in ("pearson", "spearman", "kendall", "weighted kendall"):
        assert found["right"][name].mean == pytest.approx(100)
        assert found["wrong"][name].mean == pytest.approx(-100)
        assert found["length"][name].mean == 0
    assert found["right"]["regret@1"].mean == 0
    assert found["wrong"]["regret@1"].mean > 0
    assert found["right"]["top-1 hit"].mean == 100
    assert set(found["right"]) == set(MEASURES)
    assert set(found["right"]["kendall"].per_group) == {"birds", "cars"}


def test_means_are_over_targets_then_runs(table: OracleTable) -> None:
    runs = np.random.default_rng(0).normal(size=(3, 12))
    one = evaluate_scores(table, {"noise": runs}, measures=["pearson"])["noise"]["pearson"]
    values = np.array(
        [[100 * np.corrcoef(run[rows], table.oracle[rows])[0, 1] for rows in table.groups().values()] for run in runs]
    )
    assert one.mean == pytest.approx(values.mean())
    assert one.per_run == pytest.approx(values.mean(axis=1))
    assert one.variance == pytest.approx(values.mean(axis=1).var())
    assert list(one.per_group.values()) == pytest.approx(values.mean(axis=0))
    assert one.low <= one.mean <= one.high


def test_the_prior_is_added_over_all_rows_and_never_to_the_static(table: OracleTable) -> None:
    runs, layers = np.random.default_rng(0).normal(size=(2, 12)), np.arange(12)
    weighted = evaluate_scores(table, {"noise": runs}, {"layers": layers}, layers, 2.0, measures=["pearson"])
    by_hand = with_capacity(runs, np.tile(layers, (2, 1)), 2.0)
    assert weighted["noise"]["pearson"].mean == pytest.approx(
        evaluate_scores(table, {"noise": by_hand}, measures=["pearson"])["noise"]["pearson"].mean
    )
    plain = evaluate_scores(table, {"noise": runs}, {"layers": layers}, measures=["pearson"])
    assert weighted["layers"]["pearson"].mean == plain["layers"]["pearson"].mean
    assert weighted.capacity_weight == 2


def test_unusable_rows_and_missing_scores(table: OracleTable) -> None:
    rows = [(*row[:3], -1) if row[1] == "x" else row for row in ROWS]
    cut = OracleTable(COLUMNS, rows)
    assert all(len(found) == 3 for found in cut.groups().values())
    scores = table.oracle - 60
    gap = np.where(np.arange(12) == 3, np.nan, scores)
    zero = np.where(np.arange(12) == 3, 0.0, scores)
    one, other = evaluate_scores(table, {"gap": gap, "zero": zero}).methods.values()
    assert one["pearson"].mean == other["pearson"].mean


def test_other_groups(table: OracleTable) -> None:
    scores = {"right": table.oracle}
    assert set(evaluate_scores(table, scores, by=())["right"]["pearson"].per_group) == {"all"}
    pairs = evaluate_scores(table, scores, by=("architecture", "source"))["right"]["pearson"].per_group
    assert set(pairs) == {f"{a} {s}" for a in ("deep", "wide", "small") for s in "xy"}
    lonely = OracleTable(COLUMNS, [*ROWS, ("deep", "x", "boats", 70)])
    found = evaluate_scores(lonely, {"right": lonely.oracle})
    assert found.left_out == ("boats",)
    assert "boats" not in found["right"]["pearson"].per_group


def test_it_becomes_json(table: OracleTable) -> None:
    record = json.loads(json.dumps(evaluate_scores(table, {"right": table.oracle}, {"none": np.ones(12)}).to_dict()))
    assert record["schema"] == 1
    assert record["methods"]["right"]["kendall"]["mean"] == pytest.approx(100)
    assert record["static"]["none"]["kendall"]["per group"] == {"birds": 0, "cars": 0}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda t: OracleTable(("a", "b"), [(1, 2)]), "accuracy of the table must be one of a, b"),
        (lambda t: OracleTable(COLUMNS, [(1, 2)]), "rows of 4 values; row 0 has 2"),
        (lambda t: OracleTable(COLUMNS, []), "there are no rows"),
        (lambda t: t.column("model"), "column of the table must be one of architecture"),
        (lambda t: evaluate_scores(t, {"m": np.ones(5)}), r"scores of m must have the shape \(12,\)"),
        (lambda t: evaluate_scores(t, {"m": np.ones(12)}, capacity_weight=1), "needs the layers of the model"),
        (lambda t: evaluate_scores(t, {"m": np.ones(12)}, measures=["r2"]), "measure must be one of pearson"),
        (lambda t: evaluate_scores(t, {"m": np.ones(12)}, by=("target", "source", "architecture")), "has two rows"),
    ],
)
def test_tables_that_cannot_be_judged(table: OracleTable, call, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call(table)
