"""Figures on held-out objects during a run: IoU after some clicks on pictures, and through clips after one mask.

The user of an evaluation clicks at the centre of the larger error. IoUs are means over objects, between 0 and 1; of a
clip, the mean over all frames but the first, in which the object is given. They steer a run; a published score has its
own protocol in `percepta.evaluation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from percepta.layers.regions import error_centres
from percepta.training.interaction import Clicks, Interaction, Plan, draw_box, full_size
from percepta.training.segmentation_loss import mask_iou

CHUNK = 32


class CentreUser:
    """Clicks at the centre of the larger error; draws exact boxes."""

    def box(self, truth: Tensor) -> Clicks:
        """See `User`."""
        return draw_box(truth, 0.0, 0.0, torch.Generator().manual_seed(0))

    def click(self, truth: Tensor, seen: Tensor | None) -> Clicks:
        """See `User`."""
        points, labels = error_centres(truth, torch.zeros_like(truth) if seen is None else seen)
        return Clicks(points[:, None], labels[:, None])


@torch.no_grad()
def validate_segmentation(
    model: Any, parts: Iterable[tuple[str, Any]], clicks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Figures by source.

    Args:
        model: a Sam2; its mode is left as it was.
        parts: names and inputs (`SegmentInputs`).
        clicks: numbers of clicks, for pictures.

    Returns:
        "NAME.iou_1" and so on: after one click, two ...; for pictures. "NAME.iou_box": after an exact box.
        "NAME.iou": of tracked frames, for clips. "NAME.presence": share of tracked frames on which the object's
        presence is told rightly.
    """
    was_training = model.training
    model.eval()
    figures: dict[str, float] = {}
    for name, inputs in parts:
        frames = inputs.truth.shape[1]
        found = [_score(model, chunk, frames, clicks) for chunk in _chunks(inputs, frames)]
        for figure in found[0] if found else ():
            values = torch.cat([one[figure] for one in found])
            figures[f"{name}.{figure}"] = round(values.float().nanmean().item(), 4)
    model.train(was_training)
    return figures


def _chunks(inputs: Any, frames: int) -> Iterable[Any]:
    """A few clips at a time."""
    clips = len(inputs.pictures) // frames
    pictures = inputs.pictures.unflatten(0, (frames, clips))
    step = max(1, CHUNK // frames)
    for first in range(0, clips, step):
        own = (inputs.which >= first) & (inputs.which < first + step)
        if own.any():
            some = pictures[:, first : first + step].flatten(0, 1)
            yield inputs._replace(pictures=some, truth=inputs.truth[own], which=inputs.which[own] - first)


def _score(model: Any, inputs: Any, frames: int, clicks: Sequence[int]) -> dict[str, Tensor]:
    features = model.encode_image(inputs.pictures)
    dialogue = Interaction(model, features, inputs.which, inputs.truth, CentreUser())
    side = inputs.truth.shape[-1]
    if frames > 1:
        steps = dialogue.run(Plan(frames, {0: "mask"}))
        truth = inputs.truth[:, [step.frame for step in steps]]
        seen = torch.cat([full_size(step.logits, side) for step in steps], 1) > 0
        there = truth.flatten(2).any(2)
        told = torch.cat([step.object_score for step in steps], 1) > 0
        iou = torch.where(there, mask_iou(seen, truth), (~seen.flatten(2).any(2)).float())
        return {"iou": iou.mean(1), "presence": (told == there).float().mean(1)}
    found: dict[str, Tensor] = {}
    for step in dialogue.run(Plan(1, {0: "click"}, frozenset([0]), max(clicks, default=1) - 1)):
        if step.clicks in clicks:
            found[f"iou_{step.clicks}"] = mask_iou(full_size(step.logits, side)[:, 0] > 0, inputs.truth[:, 0])
    (step,) = dialogue.run(Plan(1, {0: "box"}))
    found["iou_box"] = mask_iou(full_size(step.logits, side)[:, 0] > 0, inputs.truth[:, 0])
    return found
