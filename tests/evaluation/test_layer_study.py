"""The layer study on curves that are drawn by hand, and end to end on three tiny models."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import percepta
from percepta.errors import BadInput
from percepta.evaluation import Baseline, Evaluation, Measure, Protocol
from percepta.evaluation.layer_study import TASKS, curves_of, find, judge
from percepta.tasks.evaluate import evaluate

EARLY, LATE, FLAT = [1.0, 3, 4, 3, 2, 2], [1.0, 2, 3, 4, 5, 6], [3.0, 3, 3, 3, 3, 3]


def evaluation(task: str, curve: list[float], unit: str = "", hash_of: int = 0) -> Evaluation:
    """As `evaluate` would give it on all layers, with the model's own output last."""
    protocol, measure, _ = TASKS[task]
    layers = [f"layer {number}" for number in range(len(curve))] + ["output"]
    rows = [[value, value - 0.1, value + 0.1] for value in [*curve, 99.0]]
    measures = tuple(
        Measure(f"{measure}, {layer}", *row, 10, 0.5, True, unit) for layer, row in zip(layers, rows, strict=True)
    )
    return Evaluation(
        Protocol(protocol, {"n": hash_of}),
        measures,
        (Baseline("place alone", measures[0].name, 0.7, "note"),),
        tables={"layers": {"layers": layers, "measures": {measure: rows}}},
    )


def models(noise: float = 0.0, **curves: list[float]) -> dict[str, list[Evaluation]]:
    """Three models with the same curves but for noise."""
    random = np.random.default_rng(0)
    return {
        f"seed {seed}": [
            evaluation(task, [value + noise * random.standard_normal() for value in curve])
            for task, curve in curves.items()
        ]
        for seed in range(3)
    }


def test_curves_leave_the_output_out() -> None:
    (curve,) = curves_of(models(segmentation=EARLY))
    assert curve.layers == tuple(f"layer {number}" for number in range(6))
    assert curve.values.shape == (3, 6, 3)
    assert curve.values[0, 1].tolist() == [3, 2.9, 3.1]
    assert curve.beside == pytest.approx({"constant": 0.5, "place alone": 0.7})
    assert curve.kind == "spatial"
    json.dumps(curve.to_dict())


def test_shown() -> None:
    verdict = judge(curves_of(models(0.1, segmentation=EARLY, objects=LATE)))
    segmentation, objects = verdict.findings
    assert verdict.shown
    assert verdict.sentence == ("Shown: better before the last layer: segmentation; best at or near it: objects.")
    assert segmentation.best == segmentation.chosen == (2, 2, 2)
    assert segmentation.mean == pytest.approx(2, abs=0.3)
    assert 0 < segmentation.low < segmentation.mean < segmentation.high
    assert objects.best == (5, 5, 5)
    assert objects.margins == (0, 0, 0)
    json.dumps(verdict.to_dict())


def test_not_shown() -> None:
    spatial_at_the_end = judge(curves_of(models(segmentation=LATE, tracking=LATE, objects=LATE)))
    assert not spatial_at_the_end.shown
    assert spatial_at_the_end.sentence == (
        "Not shown: better before the last layer: none; best at or near it: objects. Not so: segmentation, tracking."
    )
    assert not judge(curves_of(models(segmentation=EARLY, objects=EARLY))).shown  # the global task is best early
    one_of_two = judge(curves_of(models(segmentation=EARLY, objects=LATE, **{"class": EARLY})))
    assert not one_of_two.shown
    assert "Not so: class" in one_of_two.sentence


def test_what_needs_no_network_shows_nothing() -> None:
    """Best at the first layer by far, but the place of the patch alone does as well: no support for the claim."""
    verdict = judge(curves_of(models(segmentation=[0.6, 0.5, 0.4, 0.3, 0.2, 0.1], objects=LATE)))
    assert not verdict.shown
    assert verdict.findings[0].low >= 0.4
    assert "Not so: segmentation (no better than without the network)." in verdict.sentence
    assert judge(curves_of(models(segmentation=[0.9, 0.5, 0.4, 0.3, 0.2, 0.1], objects=LATE))).shown


def test_noise_alone_is_not_taken_for_a_claim() -> None:
    """On flat curves the layer that the other models choose is no better in the model that is left out."""
    shown = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        flat = {
            f"seed {model}": [
                evaluation("segmentation", (3 + 0.1 * random.standard_normal(6)).tolist()),
                evaluation("objects", LATE),
            ]
            for model in range(3)
        }
        shown += judge(curves_of(flat)).shown
    assert shown <= 5  # of 200: below 2.5 % by the interval, less by the other conditions


def test_errors_are_better_small() -> None:
    found = {f"seed {number}": [evaluation("depth", LATE[::-1], "m")] for number in range(3)}
    (curve,) = curves_of(found)
    assert find(curve).best == (5, 5, 5)
    assert curve.floor == pytest.approx(-0.5)  # the constant; the place alone is worse
    assert not find(curve).holds
    found = {f"seed {number}": [evaluation("depth", [0.1, 0.2, 0.3], "m")] for number in range(3)}
    finding = find(curves_of(found)[0])
    assert finding.best == (0, 0, 0)
    assert finding.margins == pytest.approx((0.2, 0.2, 0.2))
    assert finding.holds


def test_one_model_has_curves_but_no_verdict() -> None:
    found = {"alone": [evaluation("segmentation", EARLY), evaluation("objects", LATE)]}
    verdict = judge(curves_of(found))
    assert not verdict.shown
    assert "since 1 of the three" in verdict.sentence
    assert math.isnan(verdict.findings[0].low)
    assert verdict.findings[0].to_dict()["interval"] is None


def test_what_does_not_compare() -> None:
    with pytest.raises(BadInput, match="at least one model"):
        curves_of({})
    with pytest.raises(BadInput, match="same layers and protocols"):
        curves_of({"a": [evaluation("depth", EARLY)], "b": [evaluation("depth", EARLY[:4])]})
    with pytest.raises(BadInput, match="same layers and protocols"):
        curves_of({"a": [evaluation("depth", EARLY)], "b": [evaluation("depth", EARLY, hash_of=1)]})
    with pytest.raises(BadInput, match="one spatial and one global"):
        judge(curves_of(models(depth=FLAT)))


def test_three_tiny_models_end_to_end() -> None:
    found = {}
    settings = {"layers": ["all"], "count": 10, "count to fit": 10, "size": 32}
    for seed in range(3):
        torch.manual_seed(seed)
        model = percepta.build("pe-core-nano", width=24, depth=3, heads=2, pooling_heads=2)
        found[f"seed {seed}"] = list(evaluate(["scenes-position", "scenes-objects"], model, settings=settings))
    position, objects = curves_of(found)
    assert position.values.shape == objects.values.shape == (3, 3, 3)
    assert position.unit == "sides"
    assert len({position.values[seed].tobytes() for seed in range(3)}) == 3
    verdict = judge([position, objects])
    assert {finding.task for finding in verdict.findings} == {"position", "objects"}
