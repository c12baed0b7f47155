"""Segmentation and tracking of generated scenes: clicks on pictures, and objects followed through clips that hide them.

Nothing here was trained on: seeds from 1,000,000. Order of this file: clicks; clips as videos, the two sets of clips,
hidden frames, the evaluation.
Unusual: of tracking two things are asked apart: how well an object is followed where others pass before it (J&F, on
clips with occlusion), and whether the model knows when it is not to be seen (on clips that hide one altogether).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.scenes import TEST_SEED_START, VERSION, SceneConfig, fingerprint, make_clip, make_scene
from percepta.datasets.scenes.scene import Clip
from percepta.errors import BadInput, out_of_range, wrong_shape
from percepta.evaluation.clicks import LookAt, click_settings, evaluate_click_pictures
from percepta.evaluation.metrics import LEVEL, RESAMPLES, Points
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol
from percepta.evaluation.regions import Dense, VideoScore
from percepta.evaluation.tallies import Tally, ratio
from percepta.evaluation.vos import (
    KEPT,
    StartSession,
    Watch,
    follow,
    jf_tallies,
    kept_baselines,
    score_followed,
    shared_settings,
    tally_measure,
    video_measures,
)

MEMORY_OFF = "memory off"
PRESENT, EMPTY, FOUND = "object-present AUC", "hidden frames left empty", "seen frames not left empty"
LEAST_AREA = 16  # pixels of an object that is clicked


def scenes_clicks_protocol(count: int = 300, size: int = 128, clicks: int = 5) -> Protocol:
    """mIoU after 1 to 5 clicks on the objects of scenes."""
    return Protocol(
        "scenes-clicks",
        {
            **_world(count, size),
            **click_settings(clicks),
            "objects": f"what is seen of each; those of fewer than {LEAST_AREA} pixels are left out",
        },
    )


def evaluate_scenes_clicks(look: LookAt, protocol: Protocol | None = None, watch: Watch | None = None) -> Evaluation:
    """mIoU by number of clicks over the objects of scenes; the intervals redraw scenes.

    Args:
        look: a picture (H, W, 3) uint8 → what answers clicks on it.
        watch: told of every scene.
    """
    protocol = protocol or scenes_clicks_protocol()
    settings = protocol.settings
    config, first = SceneConfig(settings["size"]), settings["first seed"]

    def pictures() -> Iterator[tuple[str, np.ndarray, Dense]]:
        for seed in range(first, first + settings["count"]):
            scene = make_scene(seed, config)
            large = scene.visible_masks.sum(axis=(1, 2)) >= LEAST_AREA
            if large.any():
                yield str(seed), scene.picture, scene.visible_masks[large]

    found = evaluate_click_pictures(pictures(), look, protocol, watch)
    return replace(found, details={**_details(), **found.details})


def scenes_vos_protocol(
    count: int = 100, hiding: int = 50, size: int = 128, frames: int = 16, prompt: str = "mask"
) -> Protocol:
    """J&F of objects followed from their first frame, and whether the model knows when they are hidden.

    Args:
        count: clips in which an object is covered in part by another, for J&F.
        hiding: clips in which an object that was seen is altogether out of sight in some later frame.
        prompt: as of `vos_protocol`.
    """
    return Protocol(
        "scenes-vos",
        {
            **_world(count, size),
            "clips": "the first seeds in which another object covers at least a tenth of one in some frame",
            "count hiding": hiding,
            "clips hiding": "the first seeds in which an object has no visible pixel in a frame after its first one",
            "frames of a clip": frames,
            "prompt": prompt,
            **shared_settings(),
            "skipped": "the first and the last frame of a clip (J&F alone)",
            "overlap": "each pixel to the largest logit",
            "present": "AUC of the object's score over all objects and frames after the first one that shows it",
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class ClipVideo:
    """A generated clip as the protocols of videos take it; objects are numbered from 1."""

    clip: Clip

    @property
    def name(self) -> str:
        """Its seed."""
        return str(self.clip.seed)

    @property
    def annotated(self) -> Sequence[int]:
        """All frames."""
        return range(len(self.clip.frames))

    def __len__(self) -> int:
        return len(self.clip.frames)

    def picture(self, frame: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return np.asarray(self.clip.frames[frame])

    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.clip.frames.shape[1:3]
        return height, width

    def masks(self, frame: int) -> NDArray[np.int64]:
        """(H, W) numbers of objects."""
        labels = np.zeros(self.size(), np.int64)
        for number, mask in self.objects(frame).items():
            labels[mask] = number
        return labels

    def objects(self, frame: int) -> dict[int, Dense]:
        """The objects of which something is seen."""
        shown = ((number, track.visible_masks[frame]) for number, track in enumerate(self.clip.tracks, start=1))
        return {number: mask for number, mask in shown if mask.any()}


def occluded_clips(first: int, count: int, size: int, frames: int) -> Iterator[ClipVideo]:
    """The first clips in which one object covers at least a tenth of another."""
    return _chosen(first, count, size, frames, hiding=False)


def hiding_clips(first: int, count: int, size: int, frames: int) -> Iterator[ClipVideo]:
    """The first clips in which an object that was seen is out of sight in a later frame."""
    return _chosen(first, count, size, frames, hiding=True)


def _chosen(first: int, count: int, size: int, frames: int, hiding: bool) -> Iterator[ClipVideo]:
    seed, found = first, 0
    config = SceneConfig(size)
    while found < count:
        clip = make_clip(seed, config, frames)
        seed += 1
        if clip.hides if hiding else clip.has_occlusion:
            found += 1
            yield ClipVideo(clip)


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """What a model says of every object in the frames after its first one, of one clip.

    Attributes:
        seen: (N,) whether it is there to be seen.
        scores: (N,) the object's score; larger is surer.
        empty: (N,) whether the mask of that frame is empty.
    """

    seen: NDArray[np.bool_]
    scores: Points
    empty: NDArray[np.bool_]


def presence(session: Any, video: ClipVideo, how: str = "mask", watch: Watch | None = None) -> Presence:
    """Follow the objects of a clip and ask of each frame whether they are there."""
    rows: list[tuple[bool, float, bool]] = []
    for one in follow(session, video, how):
        masks, shown = one.masks(), video.objects(one.frame)
        rows += [
            (number in shown, score, not masks[number].any())
            for number, score in one.scores.items()
            if number not in one.prompted
        ]
        if watch is not None:
            watch(1)
    seen, scores, empty = (np.array(column) for column in zip(*rows, strict=True))
    return Presence(seen, scores.astype(np.float64), empty)


def area_under_curve(scores: Points, positive: NDArray[np.bool_]) -> float:
    """The probability that a positive has a higher score than a negative, ties as one half.

    Raises:
        BadInput: other shapes than two of (N,), or positives or negatives missing.
    """
    if scores.ndim != 1 or positive.shape != scores.shape:
        raise wrong_shape("positive", positive.shape, f"{scores.shape}, as scores has", "area_under_curve")
    if positive.all() or not positive.any():
        raise BadInput("area_under_curve needs positives and negatives; one of them is missing.")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    above = ranks[place][positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(above / (positive.sum() * (~positive).sum()))


def evaluate_scenes_vos(
    start: StartSession,
    without: StartSession | None = None,
    protocol: Protocol | None = None,
    watch: Watch | None = None,
) -> Evaluation:
    """J&F, the AUC of the object's score, and how often masks are empty where they should be and where not.

    Beside J&F: the first mask kept, and the same model without its memory.

    Args:
        start: makes a session over the frames of a clip.
        without: the same for the model with its memory switched off, so that each frame is seen by itself.
        watch: told of every frame.
    """
    protocol = protocol or scenes_vos_protocol()
    settings = protocol.settings
    world = (settings["size"], settings["frames of a clip"])
    scores: list[VideoScore] = []
    kept: list[VideoScore] = []
    off: list[VideoScore] = []
    for clip in occluded_clips(settings["first seed"], settings["count"], *world):
        both = score_followed(start(clip), clip, settings["prompt"], watch)
        scores.append(both["model"])
        kept.append(both[KEPT])
        if without is not None:
            off.append(score_followed(without(clip), clip, settings["prompt"], watch)["model"])
    told = [
        presence(start(clip), clip, settings["prompt"], watch)
        for clip in hiding_clips(settings["first seed"], settings["count hiding"], *world)
    ]
    note = "the same weights, each frame by itself: the network is given nothing of the frames before"
    beside = [Baseline(MEMORY_OFF, name, tally.value, note) for name, tally in jf_tallies(off).items()] if off else []
    return Evaluation(
        protocol,
        (*video_measures(scores), *presence_measures(told)),
        (*kept_baselines(kept), *beside),
        {**_details(), "hidden frames": int(sum((~one.seen).sum() for one in told))},
    )


def presence_measures(told: Sequence[Presence]) -> tuple[Measure, ...]:
    """The three figures of hidden objects, with intervals over clips.

    Raises: BadInput where no frame hides, or none shows, an object.
    """
    seen, scores = (np.concatenate([getattr(one, name) for one in told]) for name in ("seen", "scores"))
    value = area_under_curve(scores, seen)
    random = np.random.default_rng(0)
    drawn: list[float] = []
    while len(drawn) < RESAMPLES:
        some = [told[row] for row in random.integers(len(told), size=len(told))]
        flags = np.concatenate([one.seen for one in some])
        if not flags.all():
            drawn.append(area_under_curve(np.concatenate([one.scores for one in some]), flags))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    hidden = np.array([[(one.empty & ~one.seen).sum(), (~one.seen).sum()] for one in told], np.float64)
    shown = np.array([[(~one.empty & one.seen).sum(), one.seen.sum()] for one in told], np.float64)
    return (
        Measure(PRESENT, value, float(low), float(high), len(seen), 0.5, headline=True),
        tally_measure(EMPTY, Tally(hidden, ratio, int(hidden[:, 1].sum())), headline=True),
        tally_measure(FOUND, Tally(shown, ratio, int(shown[:, 1].sum()))),
    )


def _world(count: int, size: int) -> dict[str, Any]:
    if count < 1:
        raise out_of_range("count", count, "1 or more", "a protocol on scenes")
    return {
        "generator": f"percepta scenes {VERSION}",
        "fingerprint": fingerprint(),
        "first seed": TEST_SEED_START,
        "count": count,
        "size": size,
        "preprocessing": "the model's own",
    }


def _details() -> Mapping[str, Any]:
    return {"generator": VERSION, "fingerprint": fingerprint()}
