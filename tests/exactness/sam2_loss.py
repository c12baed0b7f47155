"""Handler of the kind sam2/loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.exactness.golden import Golden, make_input


def sam2_loss(golden: Golden) -> None:
    from percepta.training.segment_recipe import LossRecipe
    from percepta.training.segmentation_loss import segmentation_losses, summed

    settings = golden.content["config"]
    assert settings["predict_object_scores"] is True
    assert settings["processes"] == 1
    weights = settings["weights"]
    rules = LossRecipe(
        mask=weights["mask"],
        dice=weights["dice"],
        iou=weights["iou"],
        presence=weights["class"],
        focal_alpha=settings["focal_alpha"],
        focal_gamma=settings["focal_gamma"],
        presence_alpha=settings["object_focal_alpha"],
        presence_gamma=settings["object_focal_gamma"],
        all_qualities=settings["supervise_all_iou"],
        absolute_quality=settings["iou_use_l1"],
    )
    for call in golden.content["calls"]:
        assert call["call"] == "loss"
        steps = []
        frames = golden.content["inputs"][call["args"]["frames"]]
        objects = frames[0]["truth"]["shape"][0]
        for frame in frames:
            truth = _values(frame["truth"])
            for step in frame["steps"]:
                given = (_values(step[name]) for name in ("mask_logits", "iou", "object_score"))
                steps.append(segmentation_losses(*given, truth, rules))
        found = summed(steps, objects, rules)
        results = {
            "mask": found.mask,
            "dice": found.dice,
            "iou": found.iou,
            "class": found.presence,
            "total": found.total,
        }
        rule = golden.content["tolerance"]["default"]
        assert golden.content["tolerance"]["per_array"] == {}
        for output in call["outputs"]:
            assert output["select"] == []
            want = golden.arrays[output["out"]]
            got = results[output["result"]].numpy()
            worst = float(np.abs(got.astype(np.float64) - want).max())
            allowed = rule["atol"] + rule["rtol_of_max"] * float(np.abs(want).max())
            print(f"{output['out']}: differs by {worst:.1e}, allowed {allowed:.1e}")  # shown by pytest -rP
            assert worst <= allowed, output["out"]


def _values(spec: dict[str, Any]) -> Any:
    """A seeded tensor, and what is done to it afterwards."""
    values = make_input(spec)
    if spec.get("transform"):
        assert spec["transform"] == "sigmoid"
        values = values.sigmoid()
    if "greater_than" in spec:
        values = values > spec["greater_than"]
    for row in spec.get("empty_objects", ()):
        values[row] = torch.zeros_like(values[row])
    return values


HANDLERS = {"sam2/loss": sam2_loss}
