"""The protocols of clicks on pictures for a promptable model: frames of videos with masks, and scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from percepta import evaluation
from percepta.evaluation import Evaluation, Protocol
from percepta.models.sam2.pictures import predict_picture
from percepta.results import Failure
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.evaluating.vos import at_work, videos_of, with_layout
from percepta.tasks.segment import Segmenter


def looking(segmenter: Segmenter) -> Callable[[Any], Callable[..., tuple[Tensor, Tensor, Tensor]]]:
    """A picture → what answers clicks on it, as `percepta.evaluation` takes it; the picture is encoded once."""

    def look(picture: Any) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        size = (picture.height, picture.width) if hasattr(picture, "height") else picture.shape[:2]
        pixels = segmenter.model.preprocess(picture)[None].to(segmenter.device, segmenter.dtype)
        features = segmenter.model.encode_image(pixels)

        def ask(points: Tensor, labels: Tensor, before: Tensor | None, several: bool) -> tuple[Tensor, Tensor, Tensor]:
            places, kinds = points.to(segmenter.device), labels.to(segmenter.device)
            fed = None if before is None else before.to(segmenter.device, segmenter.dtype)
            found = predict_picture(segmenter.model, features, size, places, kinds, None, fed, several)
            return found.logits, found.iou, found.small

        return ask

    return look


def run_clicks(protocol: Protocol, batches: Batches, data: Mapping[str, Path]) -> Evaluation:
    """Clicks on frames of videos with masks."""
    failures: list[Failure] = []
    videos = videos_of(protocol, data)
    kept = failures if batches.on_error == "collect" else None
    pictures = evaluation.pictures_of(videos, protocol.settings["pictures of a video"], kept)
    with at_work(batches, protocol.name) as (segmenter, told):
        found = evaluation.evaluate_click_pictures(pictures, looking(segmenter), protocol, told, failures)
    return with_layout(found, protocol, data)


def run_scenes_clicks(protocol: Protocol, batches: Batches) -> Evaluation:
    """Clicks on generated scenes."""
    with at_work(batches, protocol.name) as (segmenter, told):
        return evaluation.evaluate_scenes_clicks(looking(segmenter), protocol, told)
