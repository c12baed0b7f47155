"""The protocols of video segmentation for a promptable model: data sets in their published layouts, and scenes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from percepta import evaluation
from percepta.datasets.vos import MaskedVideo, layout_of, open_vos
from percepta.evaluation import Evaluation, Protocol
from percepta.models.sam2.bank import Recollection
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.segment import Segmenter

VIDEOS = (
    "videos with masks: the folder of DAVIS (JPEGImages, Annotations, ImageSets), of MOSE, YouTube-VOS or LVOS "
    "(JPEGImages, Annotations), or of SA-V (JPEGImages_24fps, Annotations_6fps)"
)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFrames:
    """The frames of a video as the model takes them, each when it is asked for."""

    video: Any
    segmenter: Segmenter

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, frame: int) -> Tensor:
        picture = self.video.picture(frame)
        return self.segmenter.frame(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))


def sessions(segmenter: Segmenter, model: Any = None) -> Callable[..., Any]:
    """What starts a session over the frames of a video, without any work on the masks afterwards.

    Args:
        model: one to be used in place of the segmenter's own.
    """

    def start(video: Any, **settings: Any) -> Any:
        chosen = segmenter.model if model is None else model
        return chosen.session(PreparedFrames(video, segmenter), video.size(), fill_holes=0, **settings)

    return start


def without_memory(model: Any) -> Any:
    """The same weights as a model that sees each frame by itself: whatever is remembered, it looks at nothing."""
    alone = copy.copy(model)

    def condition(coarse: Tensor, seen: Sequence[Recollection], reach: int) -> Tensor:
        nothing: Tensor = model.condition(coarse, [Recollection([], [])] * len(seen), reach)
        return nothing

    alone.condition = condition
    return alone


@contextmanager
def at_work(batches: Batches, what: str) -> Iterator[tuple[Segmenter, Callable[[int], None]]]:
    """The model in evaluation mode, and what is told of each step."""
    segmenter = Segmenter(batches.encoder.model)
    with segmenter.evaluating(), batches.watch(what) as progress:
        progress.start(None)
        yield segmenter, progress.advance


def videos_of(protocol: Protocol, data: Mapping[str, Path]) -> Sequence[MaskedVideo]:
    """The videos that a protocol's settings name."""
    return open_vos(data["data"], protocol.settings["split"], protocol.settings["resolution"])


def with_layout(found: Evaluation, protocol: Protocol, data: Mapping[str, Path]) -> Evaluation:
    """An evaluation that says which layout its data have."""
    layout = layout_of(data["data"], protocol.settings["split"])
    return replace(found, details={"data": f"{data['data'].name} ({layout})", **found.details})


def run_vos(protocol: Protocol, batches: Batches, data: Mapping[str, Path]) -> Evaluation:
    """Objects prompted where they first appear."""
    videos = videos_of(protocol, data)
    with at_work(batches, protocol.name) as (segmenter, told):
        found = evaluation.evaluate_vos(videos, sessions(segmenter), protocol, batches.on_error, told)
    return with_layout(found, protocol, data)


def run_vos_interactive(protocol: Protocol, batches: Batches, data: Mapping[str, Path]) -> Evaluation:
    """Objects clicked again where they go wrong."""
    videos = videos_of(protocol, data)
    with at_work(batches, protocol.name) as (segmenter, told):
        found = evaluation.evaluate_vos_interactive(videos, sessions(segmenter), protocol, batches.on_error, told)
    return with_layout(found, protocol, data)


def run_scenes_vos(protocol: Protocol, batches: Batches) -> Evaluation:
    """Generated clips, beside the same model without its memory."""
    with at_work(batches, protocol.name) as (segmenter, told):
        off = sessions(segmenter, without_memory(segmenter.model))
        return evaluation.evaluate_scenes_vos(sessions(segmenter), off, protocol, told)
