"""Handler of the kind sam2/jf. Its arrays are compared in float64: they must agree to 1e-9."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

import numpy as np

from percepta.evaluation import contours, score_video
from tests.exactness.golden import Golden, cut
from tests.exactness.sam2_cases import shape_mask


def check_arrays(golden: Golden, call: dict[str, Any], results: dict[str, np.ndarray]) -> None:
    """Every output of a call against its array; NaN matches only NaN."""
    for output in call["outputs"]:
        name = output["out"]
        got, want = np.asarray(cut(results[output["result"]], output["select"]), np.float64), golden.arrays[name]
        rules = golden.content["tolerance"]
        rule = next((r for glob, r in rules["per_array"].items() if fnmatch.fnmatchcase(name, glob)), rules["default"])
        assert got.shape == want.shape, name
        known = ~np.isnan(want)
        assert np.array_equal(known, ~np.isnan(got)), name
        limit = rule["atol"] + rule["rtol_of_max"] * float(np.abs(want[known]).max(initial=0))
        off = np.abs(got - want)[known] > limit
        assert off.sum() <= rule.get("max_fraction", 0) * want.size, f"{name} differs"


def scores(golden: Golden) -> None:
    config, frames = golden.content["config"], golden.inputs["frames"]
    masks = {name: [shape_mask(frame[name]) for frame in frames] for name in ("truth", "prediction")}
    skip, tolerance = config["skip_first_and_last"], config["boundary_tolerance_of_diagonal"]
    number = config["object"]
    for call in golden.content["calls"]:
        if call["call"] == "boundary_pixels":
            counts = [contours(mask).sum() for mask in masks[call["args"]["masks"]]]
            check_arrays(golden, call, {"count": np.array(counts)})
            continue
        assert call["call"] == "score_frames"
        assert call["args"] == {"frames": "frames"}
        found = []
        for truth, prediction in zip(masks["truth"], masks["prediction"], strict=True):
            one = score_video([truth * number], [prediction * number], skip, tolerance)
            row = one.objects.index(number) if number in one.objects else None
            found.append([np.nan] * 2 if row is None else [one.regions[row, 0], one.boundaries[row, 0]])
        table = np.array(found)
        check_arrays(golden, call, {"J": table[:, 0], "F": table[:, 1]})


HANDLERS: dict[str, Callable[[Golden], None]] = {"sam2/jf": scores}
"""What runs a case, by its kind."""
