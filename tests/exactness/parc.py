"""Handlers of the kinds parc/*."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from percepta import selection
from tests.exactness.golden import Golden, cut, seeded

Array = np.ndarray


def made(spec: dict[str, Any], inputs: dict[str, Any]) -> Array:
    """An input of parc/scores; `inputs` holds those before it."""
    if spec["type"] == "seeded":
        return seeded(spec["name"], spec["shape"], spec["scale"], spec["offset"])
    if spec["type"] == "rank_modulo":
        return np.argsort(made(spec["of"], inputs), kind="stable") % spec["modulo"]
    if spec["type"] == "relu_centre_plus_noise":
        centres = made(spec["centres"], inputs)[inputs["labels"]]
        values = np.maximum(0, spec["centre_factor"] * centres + made(spec["noise"], inputs))
        return values.astype(spec["dtype"])
    if spec["type"] == "softmax_linear":
        logits = spec["logit_factor"] * (inputs[spec["of"]] @ made(spec["weight"], inputs)).astype(spec["dtype"])
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    assert spec["type"] == "threshold", spec["type"]
    rows = made(spec["of"], inputs) > spec["greater_than"]
    rows[~rows.any(axis=1), spec["empty_rows_get_class"]] = True
    return rows.astype(np.float64)


def scores(golden: Golden) -> None:
    content, inputs = golden.content, dict(golden.content["inputs"])
    for name in ("labels", "features", "probabilities", "reference_features", "multilabels"):
        if name in inputs:
            inputs[name] = made(inputs[name], inputs)
    assert inputs["features"].shape == (inputs["samples"], inputs["dim"])
    assert len(np.unique(inputs["labels"])) == inputs["classes_present"]
    if "probabilities" in inputs:
        assert inputs["probabilities"].shape[1] == inputs["source_classes"]
    for call in content["calls"]:
        result = called(call["call"], call["args"], content, inputs)
        compare(content, golden.arrays, call, cut(np.asarray(result), call.get("select")))
    assert {call["out"] for call in content["calls"]} == set(golden.arrays)


def called(name: str, args: dict[str, Any], content: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """What one call gives through the public interface."""
    features, options = inputs["features"], dict(args)
    if name in ("features", "labels"):
        return inputs[name]
    labels = options.pop("labels", "labels")
    targets = selection.as_targets(
        inputs[labels],
        "multi-label" if labels == "multilabels" else "classes",
        None if labels == "multilabels" else inputs["target_classes"],
    )
    if "dims" in options:
        options["dims"] = reduction(content["reduction"], options["dims"])
    if name in ("leep", "nce"):
        return getattr(selection, name)(inputs["probabilities"], targets, **options)
    if name in ("rsa", "dds"):
        return getattr(selection, name)(features, inputs["reference_features"], **options)
    if name == "logistic_split":
        options["solver"] = solver(content["logistic"])
    if name == "parc":  # the goldens hold what the official code's rounding makes of it
        return selection.official_parc(features, targets, **options)
    return getattr(selection, name)(features, targets, **options)


def reduction(spec: dict[str, Any], dims: int | None) -> selection.Reduction | None:
    assert (spec["method"], spec["whiten"], spec["dims_capped_at_samples"]) == ("pca", False, True)
    if dims is None:
        return None
    return selection.Reduction(
        dims,
        spec["solver"],
        spec["random_state"],
        spec["iterated_power"],
        spec["n_oversamples"],
        spec["power_iteration_normalizer"],
    )


def solver(spec: dict[str, Any]) -> selection.LogisticSolver:
    assert (spec["solver"], spec["multinomial"], spec["penalty"], spec["fit_intercept"]) == ("lbfgs", True, "l2", True)
    return selection.LogisticSolver(1 / spec["C"], spec["max_iter"], spec["tol"])


def compare(content: dict[str, Any], arrays: dict[str, Array], call: dict[str, Any], got: Array) -> None:
    """Within the tolerance of the array; `expected`, where it is one number, repeats the array."""
    name, rules = call["out"], content["tolerance"]
    want = arrays[name]
    rule = next((r for glob, r in rules.get("per_array", {}).items() if fnmatch.fnmatchcase(name, glob)), None)
    rule = rule or rules["default"]
    limit = rule["atol"] + rule["rtol_of_max"] * float(np.abs(want).max())
    assert got.shape == want.shape, name
    worst = float(np.abs(got.astype(np.float64) - want).max())
    print(f"{name}: differs by {worst:.1e}, allowed {limit:.1e}")  # shown by pytest -rP
    assert worst <= limit, f"{name}: differs by {worst:.2e}, allowed {limit:.2e}"
    if isinstance(call.get("expected"), float | int):
        assert float(got) == pytest.approx(call["expected"], abs=limit)


def benchmark(golden: Golden) -> None:
    content = golden.content
    table = selection.OracleTable(content["columns"], content["transfers"])
    rows, runs = len(table), content["runs"]
    assert rows == len(content["transfers"])
    layers = [content["model_layers"][name] for name in table.column("architecture")]
    oracle = np.tile(table.oracle, runs)
    tables = {
        name: (spec["noise_factor"] * made(spec["noise"], {}) + spec["oracle_factor"] * oracle).reshape(runs, rows)
        for name, spec in content["scores"].items()
    }
    measure = content["correlation"]
    for call in content["calls"]:
        assert call["call"] == "mean_correlation"
        method, weight = call["args"]["method"], call["args"]["capacity_weight"]
        capacity = content["capacity"]
        evaluation = selection.evaluate_scores(
            table,
            {method: tables[method]},
            layers=layers,
            capacity_weight=weight,
            measures=[measure],
            divisor=capacity["divisor"],
            ddof=capacity["z_score_ddof"],
        )
        judged = evaluation[method][measure]
        compare(content, golden.arrays, call, np.asarray(judged.mean))
        got = {
            "mean": judged.mean,
            "variance": judged.variance,
            "per_run": list(judged.per_run),
            "per_target": dict(judged.per_group),
        }
        limit = content["tolerance"]["expected"]["atol"]
        for name, want in call["expected"].items():
            assert got[name] == pytest.approx(want, abs=limit), f"{call['out']}: {name}"
    assert {call["out"] for call in content["calls"]} == set(golden.arrays)


HANDLERS: dict[str, Callable[[Golden], None]] = {"parc/benchmark": benchmark, "parc/scores": scores}
