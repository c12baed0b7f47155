"""Clicks on pictures: how good masks become with each one.

The protocols of Segment Anything (arXiv 2304.02643, §7.1 and appendix D) and SAM 2 (2408.00714, appendix F). Order of
this file: the objects of one picture, protocol, a data set of pictures. Videos stand in `clicks_videos`.
Unusual: whoever clicks is simulated from the true mask: the first click is its middle, each further one the middle of
the largest error. All objects of a picture are clicked at once and stay independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from percepta.errors import BadInput, BadMedia, out_of_range, wrong_shape
from percepta.evaluation.metrics import Points
from percepta.evaluation.protocols import Evaluation, Protocol
from percepta.evaluation.regions import Dense, jaccard
from percepta.evaluation.tallies import Tally, ratio
from percepta.evaluation.vos import Video, Watch, checked_size, tally_measure
from percepta.layers.regions import error_centres
from percepta.results import Failure

AT_ONCE = 16  # objects whose masks are held at once
Ask = Callable[[Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor, Tensor]]
"""(points (N, P, 2) in pixels of the picture, labels (N, P), logits to go on from (N, 1, h, w) or None, three masks?) →
logits (N, M, H, W), predicted IoU (N, M), small logits (N, M, h, w). M is 3 or 1."""
LookAt = Callable[[Any], Ask]
"""A picture → what answers clicks on it."""


@dataclass(frozen=True, slots=True, eq=False)
class ClickScores:
    """How well each object of one picture is cut out.

    Attributes:
        ious: (N, K) IoU after 1, 2 ... K clicks.
        best: (N,) of the masks that the first click gave, the IoU of the best one, whichever the model prefers.
    """

    ious: Points
    best: Points


def click_objects(ask: Ask, truths: Dense, clicks: int) -> ClickScores:
    """Click each object of a picture until it has so many clicks, or no error is left.

    The first click asks for three masks and keeps the one of the highest predicted IoU; all others ask for one, and
    give the logits before back as a prompt.

    Args:
        ask: what answers clicks on this picture.
        truths: (N, H, W) bool, none of them empty.

    Raises:
        BadInput: other shapes, an empty mask, or no clicks.
    """
    if truths.ndim != 3 or not truths.size:
        raise wrong_shape("truths", truths.shape, "(N, H, W) with N of at least 1", "click_objects")
    if not truths.any(axis=(1, 2)).all():
        raise BadInput("click_objects needs objects that are seen; one of the masks is empty.")
    if clicks < 1:
        raise out_of_range("clicks", clicks, "1 or more", "click_objects")
    parts = [_click_some(ask, truths[start : start + AT_ONCE], clicks) for start in range(0, len(truths), AT_ONCE)]
    return ClickScores(np.concatenate([part.ious for part in parts]), np.concatenate([part.best for part in parts]))


def _click_some(ask: Ask, truths: Dense, clicks: int) -> ClickScores:
    wanted = torch.from_numpy(np.ascontiguousarray(truths))
    guess = torch.zeros_like(wanted)
    ious, best = np.ones((len(truths), clicks)), np.zeros(len(truths))
    left = torch.arange(len(truths))  # those with errors
    points, labels = torch.zeros(len(truths), 0, 2), torch.zeros(len(truths), 0, dtype=torch.int64)
    before: Tensor | None = None
    for number in range(clicks):
        point, label = error_centres(wanted[left], guess[left])
        points = torch.cat([points, point[:, None]], dim=1)
        labels = torch.cat([labels, label[:, None]], dim=1)
        logits, quality, small = (part.float().cpu() for part in ask(points, labels, before, number == 0))
        if number == 0:
            found = [jaccard(truths, (logits[:, mask] > 0).numpy()) for mask in range(logits.shape[1])]
            best = np.max(found, axis=0)
        rows, chosen = torch.arange(len(left)), quality.argmax(dim=1)
        guess[left] = logits[rows, chosen] > 0
        ious[left.numpy(), number:] = jaccard(wanted[left].numpy(), guess[left].numpy())[:, None]
        wrong = (guess[left] != wanted[left]).flatten(1).any(dim=1)
        points, labels, before = points[wrong], labels[wrong], small[rows, chosen][wrong, None]
        left = left[wrong]
        if not len(left):
            break
    return ClickScores(ious, best)


def clicks_protocol(
    data: str = "masks of objects in videos",
    split: str | None = None,
    clicks: int = 5,
    pictures_of_a_video: int = 1,
) -> Protocol:
    """Mean IoU after 1 to `clicks` clicks, over the objects of pictures.

    Args:
        pictures_of_a_video: how many annotated frames of each video, spread evenly from the first one that shows an
            object.
    """
    return Protocol(
        "clicks",
        {
            "data": data,
            "split": split,
            "resolution": "480p",
            "pictures of a video": pictures_of_a_video,
            **click_settings(clicks),
            "void": "background",
        },
    )


def click_settings(clicks: int) -> dict[str, Any]:
    """The settings of clicks on pictures."""
    return {
        "clicks": clicks,
        "first click": "the middle of the object: the pixel farthest from its edge",
        "next clicks": "the middle of the larger of what is missed and what is too much; the logits before fed back",
        "masks": "three for the first click, the one of the highest predicted IoU; then one",
        "score": "IoU at the size of the picture, mean over objects",
    }


def evaluate_click_pictures(
    pictures: Iterable[tuple[str, Any, Dense]],
    look: LookAt,
    protocol: Protocol,
    watch: Watch | None = None,
    failures: Sequence[Failure] = (),
) -> Evaluation:
    """mIoU by number of clicks over the objects of pictures; the intervals redraw pictures.

    Args:
        pictures: name, picture, and (N, H, W) masks of its objects, one after the other.
        look: a picture → what answers clicks on it.
        failures: what could not be read, complete when the pictures have been gone through.

    Raises:
        BadInput: no pictures.
    """
    clicks = int(protocol.settings["clicks"])
    parts: list[Points] = []
    for _, picture, truths in pictures:
        scores = click_objects(look(picture), truths, clicks)
        parts.append(np.array([*scores.ious.sum(axis=0), scores.best.sum(), len(truths)]))
        if watch is not None:
            watch(1)
    if not parts:
        raise BadInput(f"{protocol.name} needs pictures with masks of objects; got none.")
    table = np.stack(parts)
    count = int(table[:, -1].sum())
    tallies = {click_name(number): Tally(table[:, [number - 1, -1]], ratio, count) for number in range(1, clicks + 1)}
    tallies[f"{click_name(1)}, best of three"] = Tally(table[:, [clicks, -1]], ratio, count)
    heads = (click_name(1), click_name(clicks))
    return Evaluation(
        protocol,
        tuple(tally_measure(name, tally, headline=name in heads) for name, tally in tallies.items()),
        details={"pictures": len(parts), "objects": count},
        failures=tuple(failures),
    )


def click_name(number: int) -> str:
    """The name of a measure, such as "mIoU, 1 click"."""
    return f"mIoU, {number} click{'s' if number > 1 else ''}"


def pictures_of(
    videos: Iterable[Video], count: int, failures: list[Failure] | None = None
) -> Iterator[tuple[str, Any, Dense]]:
    """Pictures of videos with the masks of their objects.

    Args:
        count: frames of each video, spread evenly over the annotated ones from the first that shows an object.
        failures: takes the videos that cannot be read; None raises BadMedia.
    """
    for video in videos:
        try:
            annotated = list(video.annotated)
            checked_size(video)
            while annotated and not video.objects(annotated[0]):
                del annotated[0]
            rows = np.unique(np.linspace(0, max(len(annotated) - 1, 0), count).astype(int))
            for frame in (annotated[row] for row in rows.tolist() if annotated):
                if objects := video.objects(frame):
                    yield f"{video.name}, frame {frame}", video.picture(frame), np.stack(list(objects.values()))
        except BadMedia as error:
            if failures is None:
                raise
            failures.append(Failure(video.name, str(error)))
