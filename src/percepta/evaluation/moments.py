"""The protocol of moments: in videos joined from generated clips, does a caption find the interval of its clip?

The clips of a video follow each other by hard cuts and last 1 to 6 seconds each. Videos are given as files (Matroska
with FFV1: lossless, so the same pixels everywhere), so that the reading of videos is measured too.
Unusual: whoever is measured splits each video as it likes; beside it stand other splits of the very same frames.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar
from typing import Protocol as Structure

import av
import numpy as np
from numpy.typing import NDArray

from percepta.datasets.scenes import SceneConfig, distinct_clips, make_clip
from percepta.datasets.scenes.clips import plan_clip
from percepta.datasets.scenes.dice import Dice
from percepta.errors import BadInput
from percepta.evaluation.protocols import Baseline, Evaluation, Protocol, measured
from percepta.evaluation.scenes import EncodeTexts, details_of, world
from percepta.evaluation.zero_shot import unit

JOIN_STREAM = 41  # of random numbers: how many clips make a video and how long they last
STEPS = (2.0, 5.0, 10.0)
Seen = TypeVar("Seen")


class Found(Structure):
    """A part of a video: seconds, and a unit vector (D,) in the space of the texts."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def vector(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class JoinedVideo:
    """Several clips in one video.

    Attributes:
        file: the bytes of a Matroska file.
        captions: the content caption of each clip.
        edges: (clips + 1,) seconds between which each clip is shown.
    """

    file: bytes
    captions: tuple[str, ...]
    edges: NDArray[np.float64]


def scenes_moments_protocol(
    count: int = 200, size: int = 64, moments: Mapping[str, Any] | None = None, steps: Sequence[float] = STEPS
) -> Protocol:
    """Content caption to the interval of its clip, among `count` clips with distinct content captions.

    Args:
        moments: the settings of whoever splits the videos, since they shape the score.
        steps: seconds of the fixed steps that stand beside it.
    """
    return Protocol(
        "scenes-moments",
        {
            **world(count, size),
            "captions": "content, without motion words",
            "frames a second": 8,
            "seconds of a clip": (1, 6),
            "clips of a video": (4, 8),
            "file": "matroska, ffv1",
            "score": "cosine of the unit vector of a moment and of the text",
            "right": "the best moment overlaps the clip with an intersection over union of",
            "overlap": 0.5,
            "moments": dict(moments or {}),
            "steps": tuple(steps),
        },
    )


def evaluate_scenes_moments(
    look: Callable[[bytes], Seen],
    split: Callable[[Seen], Sequence[Found]],
    encode_text: EncodeTexts,
    others: Mapping[str, Callable[[Seen], Sequence[Found]]] | None = None,
    protocol: Protocol | None = None,
) -> Evaluation:
    """The share of captions whose best moment is the interval of their clip.

    Args:
        look: the bytes of a video file to whatever `split` takes; called once a video.
        split: that to the moments of the video.
        encode_text: B captions → (B, D).
        others: other ways to split, by name; their scores become baselines.
    """
    protocol = protocol or scenes_moments_protocol()
    settings = protocol.settings
    seeds = distinct_clips(settings["first seed"], settings["count"], SceneConfig(settings["size"]))
    splits = {"": split, **(others or {})}
    parts: dict[str, list[Sequence[Found]]] = {name: [] for name in splits}
    captions: list[str] = []
    edges: list[NDArray[np.float64]] = []
    for video in joined_videos(seeds, settings):
        seen = look(video.file)
        captions.extend(video.captions)
        edges.append(video.edges)
        for name, way in splits.items():
            parts[name].append(way(seen))
    texts = unit(encode_text(captions)).numpy()
    least = settings["overlap"]
    tables = {name: _overlaps(found, edges, texts) for name, found in parts.items()}
    own = tables[""]
    names = ("interval found, all videos", "interval found, own video", "some interval fits", "overlap of the best")
    measures = (
        measured(names[0], own.best >= least, float((own.table >= least).mean()), headline=True),
        measured(names[1], own.best_of_own >= least, own.chance_of_own(least), headline=True),
        measured(names[2], own.table.max(axis=1) >= least),
        measured(names[3], own.best),
    )
    baselines = [
        Baseline(name, measure, float((points >= least).mean()), f"{table.table.shape[1]} moments of the same frames")
        for name, table in tables.items()
        if name
        for measure, points in zip(names, (table.best, table.best_of_own), strict=False)
    ]
    details = {"videos": len(edges), "seconds of video": round(sum(float(edge[-1]) for edge in edges), 1)}
    details |= {"moments": own.table.shape[1], "cuts": len(captions) - len(edges)}
    return Evaluation(protocol, measures, tuple(baselines), {**details_of(seeds), **details})


def joined_videos(seeds: NDArray[np.int64], settings: Mapping[str, Any]) -> Iterator[JoinedVideo]:
    """The clips of the seeds in turn, so many to a video; made one by one."""
    dice = Dice(settings["first seed"], JOIN_STREAM)
    rate, config = settings["frames a second"], SceneConfig(settings["size"])
    (fewest, most), (shortest, longest) = settings["clips of a video"], settings["seconds of a clip"]
    start = 0
    while start < len(seeds):
        chosen = seeds[start : start + fewest + dice.below(most - fewest + 1)].tolist()
        start += len(chosen)
        yield join_clips(chosen, [round(rate * dice.between(shortest, longest)) for _ in chosen], rate, config)


def join_clips(seeds: Sequence[int], frames: Sequence[int], rate: int, config: SceneConfig) -> JoinedVideo:
    """The clips of `seeds`, each of so many frames, one after the other at `rate` frames a second."""
    clips = (make_clip(seed, config, count).frames for seed, count in zip(seeds, frames, strict=True))
    captions = tuple(plan_clip(seed, config).content_caption for seed in seeds)
    return JoinedVideo(film(clips, rate), captions, np.r_[0.0, np.cumsum(frames)] / rate)


def film(parts: Iterable[NDArray[np.uint8]], rate: int) -> bytes:
    """The bytes of a lossless Matroska file of frames: arrays (T, H, W, 3) uint8 of one size, one after the other."""
    file = io.BytesIO()
    stream: Any = None
    with av.open(file, "w", format="matroska") as container:
        for part in parts:
            if stream is None:
                stream = container.add_stream("ffv1", rate=Fraction(rate))
                stream.height, stream.width, stream.pix_fmt = *part.shape[1:3], "bgr0"
            for frame in part:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is None:
            raise BadInput("a film needs at least one part; got none.")
        container.mux(stream.encode(None))
    return file.getvalue()


def overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M): intersection over union of the intervals (N, 2) and (M, 2), seconds."""
    starts, ends = np.maximum(first[:, None, 0], second[None, :, 0]), np.minimum(first[:, None, 1], second[None, :, 1])
    shared = np.clip(ends - starts, 0.0, None)
    union = np.diff(first, axis=1) + np.diff(second, axis=1).T - shared
    return np.asarray(shared / np.maximum(union, 1e-12))


@dataclass(frozen=True, slots=True, eq=False)
class _Overlaps:
    """Of one way to split: how clips (rows) and moments (columns) of all videos overlap, and what the captions find.

    Attributes:
        table: (clips, moments), 0 in different videos.
        same: (clips, moments) whether both belong to one video.
        best, best_of_own: (clips,) the overlap of the moment of highest score, of all and of those of its video.
    """

    table: NDArray[np.float64]
    same: NDArray[np.bool_]
    best: NDArray[np.float64]
    best_of_own: NDArray[np.float64]

    def chance_of_own(self, least: float) -> float:
        """What a random moment of the right video gives."""
        return float(((self.table >= least).sum(axis=1) / self.same.sum(axis=1)).mean())


def _overlaps(
    parts: Sequence[Sequence[Found]], edges: Sequence[NDArray[np.float64]], texts: NDArray[np.float32]
) -> _Overlaps:
    moments = np.array([(moment.start, moment.end) for video in parts for moment in video], np.float64)
    clips = np.concatenate([np.stack([edge[:-1], edge[1:]], axis=1) for edge in edges])
    of_moment = np.repeat(np.arange(len(parts)), [len(video) for video in parts])
    of_clip = np.repeat(np.arange(len(edges)), [len(edge) - 1 for edge in edges])
    same = of_clip[:, None] == of_moment[None, :]
    table = np.where(same, overlap(clips, moments), 0.0)
    scores = texts @ np.stack([moment.vector for video in parts for moment in video]).T
    rows = np.arange(len(clips))
    best_of_own = table[rows, np.where(same, scores, -np.inf).argmax(axis=1)]
    return _Overlaps(table, same, table[rows, scores.argmax(axis=1)], best_of_own)
