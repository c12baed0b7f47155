"""Videos as moments: a few frames a second become vectors, and vectors stretches that look alike.

Order of this file: the rule, from vectors to moments (pure), the frames of a video piece by piece, videos to moments.
Unusual: memory is flat in a video's length but for one vector a sampled frame. Where two sampled frames belong to
different moments, the cut lies where the picture changes most between them (`media.survey`), exact to the frame.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.errors import BadMedia, PerceptaError, out_of_range, wrong_shape
from percepta.media import Source, VideoReader
from percepta.media.sniffing import name_of
from percepta.media.survey import survey
from percepta.results import Failure
from percepta.tasks.encoder import Encoder

PIECE = 32  # frames that are decoded and embedded together
_AHEAD = 2  # pieces that may wait while the model computes
_EVENNESS = 0.1  # of the price of a moment that its length may add
Item = TypeVar("Item")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MomentRule:
    """How a video becomes moments; the defaults were chosen by measurement (`docs/results.md`).

    Attributes:
        rate: frames a second that are looked at, above 0.
        fewest: frames of a shorter video that are looked at, where it has so many, 1 or more.
        worth: seconds of full difference that a further moment must explain, above 0.
        least: what counts as full difference (1 - cosine) at the least, above 0. In a video of many scenes it is the
            mean difference of its frames, so that models that crowd all pictures into a cone cut like others.
        longest: seconds that a moment lasts at most, above 0; one frame that stands still may last longer.
    """

    rate: float = 2.0
    fewest: int = 4
    worth: float = 0.5
    least: float = 0.4
    longest: float = 10.0

    def __post_init__(self) -> None:
        for what in ("rate", "worth", "least", "longest"):
            if not 0 < getattr(self, what) < float("inf"):
                raise out_of_range(what, getattr(self, what), "a number above 0", "MomentRule")
        if self.fewest < 1:
            raise out_of_range("fewest", self.fewest, "1 or more", "MomentRule")


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A part of a video and what it looks like.

    Attributes:
        start, end: seconds after the first frame.
        vector: (D,) float32, unit length: the direction of the mean of its frames' unit embeddings.
    """

    start: float
    end: float
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some sampled frames of a video, prepared for the model.

    Attributes:
        pixels: (T, 3, H, W) float32.
        borders: (T,) seconds: where the part of a frame begins, if it is another moment than the frame before.
        duration: seconds of the whole video.
    """

    pixels: Tensor
    borders: NDArray[np.float64]
    duration: float


def moments_of(
    vectors: NDArray[np.float32],
    borders: Sequence[float] | NDArray[np.float64],
    duration: float,
    rule: MomentRule | None = None,
) -> list[Moment]:
    """The moments of a video from those of its frames that were looked at; together they cover the whole of it.

    Args:
        vectors: (T, D) unit float32, T >= 1.
        borders: (T,) seconds, increasing: where the part of each frame begins; the first counts as 0.
        duration: seconds of the video.

    Raises:
        BadInput: shapes that do not fit.
    """
    vectors, starts = np.asarray(vectors, np.float32), np.asarray(borders, np.float64)
    if vectors.ndim != 2 or not len(vectors) or starts.shape != vectors.shape[:1]:
        raise wrong_shape("vectors and borders", (*vectors.shape, *starts.shape), "(T, D) and (T,)", "moments_of")
    edges = np.r_[0.0, starts[1:], max(duration, starts[-1])]
    firsts = [*segment(vectors, edges, rule or MomentRule()), len(vectors)]
    found = []
    for first, stop in pairwise(firsts):
        mean = vectors[first:stop].mean(axis=0, dtype=np.float64)
        unit = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
        found.append(Moment(float(edges[first]), float(edges[stop]), unit))
    return found


def segment(vectors: NDArray[np.float32], edges: NDArray[np.float64], rule: MomentRule) -> list[int]:
    """The first frame of each moment: the segmentation of least scatter, where every further moment costs.

    Kernel change-point detection with the linear kernel of unit vectors (Harchaoui and Cappe, 2007), by dynamic
    programming over moments of at most `rule.longest` seconds: O(T x frames in the longest moment).

    Args:
        vectors: (T, D) unit vectors.
        edges: (T + 1,) seconds between which each frame stands.
    """
    count = len(vectors)
    step = (edges[-1] - edges[0]) / count
    price = rule.worth * max(rule.least, spread(vectors))
    width = min(count, int(rule.longest / step) + 2) if step > 0 else count
    sums = np.concatenate([np.zeros((1, vectors.shape[1])), np.cumsum(vectors, axis=0, dtype=np.float64)])
    costs = np.full((count + 1, width), np.inf)  # [t, n - 1]: of the moment of n frames that ends before frame t
    for frames in range(1, width + 1):
        scatter = frames - np.square(sums[frames:] - sums[:-frames]).sum(axis=1) / frames
        share = (edges[frames:] - edges[:-frames]) / rule.longest
        # Of equally good segmentations the even one: a shot somewhat too long is halved, nothing is chipped off.
        cost = step * scatter + price * (1 + _EVENNESS * share**2)
        costs[frames:, frames - 1] = np.where((share <= 1 + 1e-9) | (frames == 1), cost, np.inf)
    best, back = np.zeros(count + 1), np.zeros(count + 1, np.int64)
    for stop in range(1, count + 1):
        reach = min(width, stop)
        totals = best[stop - reach : stop][::-1] + costs[stop, :reach]
        back[stop] = stop - 1 - int(np.argmin(totals))
        best[stop] = totals.min()
    firsts, stop = [], count
    while stop:
        stop = int(back[stop])
        firsts.append(stop)
    return firsts[::-1]


def spread(vectors: NDArray[np.float32]) -> float:
    """The mean of 1 - cosine over all pairs of the unit vectors (T, D); 0 for one."""
    count = len(vectors)
    if count < 2:
        return 0.0
    mean = vectors.mean(axis=0, dtype=np.float64)
    return float((1 - mean @ mean) * count / (count - 1))


def sampled(times: NDArray[np.float64], duration: float, rule: MomentRule) -> list[int]:
    """Which frames to look at: those shown in the middle of equal steps, each once. `times` are seconds (T,)."""
    steps = max(rule.fewest, int(np.ceil(duration * rule.rate - 1e-9)))
    middles = (np.arange(steps) + 0.5) * duration / steps
    return np.unique(np.searchsorted(times, middles, side="right") - 1).clip(0).tolist()


def pieces(
    thing: Any, prepare: Callable[[Any], Tensor], rule: MomentRule, size: int = PIECE, tell: Tell | None = None
) -> Iterator[Piece]:
    """The frames of a video that are looked at, at most `size` at once, decoded as they are taken.

    Args:
        thing: a path, bytes or an open VideoReader.
        prepare: a picture to its tensor (3, H, W).
        tell: called with a sentence when the file is damaged, but something of it can be read.

    Raises:
        BadMedia: nothing can be read.
    """
    reader = thing if isinstance(thing, VideoReader) else VideoReader(thing)
    try:
        times, duration = reader.timestamps, reader.duration
        pixels: list[Tensor] = []
        borders: list[float] = []
        for found in survey(reader, sampled(times, duration, rule)):
            pixels.append(prepare(found.picture))
            borders.append(float(times[found.border]))
            if len(pixels) == size:
                yield Piece(torch.stack(pixels), np.array(borders), duration)
                pixels, borders = [], []
        if pixels:
            yield Piece(torch.stack(pixels), np.array(borders), duration)
        if tell is not None and reader.lost:
            tell(f"is cut short: {reader.lost} of {reader.lost + reader.frames} frames are missing; the rest is used.")
        elif tell is not None and reader.damaged:
            tell("is damaged: some frames cannot be decoded; the rest is used.")
    finally:
        if reader is not thing:
            reader.close()


def video_moments(
    encoder: Encoder, source: Source, rule: MomentRule | None = None, tell: Callable[[Failure], None] | None = None
) -> list[Moment]:
    """The moments of one video, in order; they cover all of it.

    Args:
        source: of the kind "video".
        tell: called with a failure of a damaged video of which something could be used.

    Raises:
        BadMedia: nothing of it can be used.
    """
    for _, found in videos_moments(encoder, [source], rule, tell):
        if isinstance(found, Failure):
            raise BadMedia(found.reason)
        return found
    raise AssertionError("one video gives one result")


def videos_moments(
    encoder: Encoder,
    sources: Iterable[Source],
    rule: MomentRule | None = None,
    tell: Callable[[Failure], None] | None = None,
) -> Iterator[tuple[Source, list[Moment] | Failure]]:
    """For each video, in order, its moments or why there are none; a thread decodes ahead, across videos too.

    Args:
        tell: called (before the video's result comes) with a failure of a video of which something could be used.
    """
    rule = rule or MomentRule()
    vectors: list[NDArray[np.float32]] = []
    borders: list[NDArray[np.float64]] = []
    duration = 0.0
    for source, item in _ahead(lambda: _decode(encoder, sources, rule), _AHEAD):
        if isinstance(item, Piece):
            vectors.append(encoder.embed(item.pixels).numpy())
            borders.append(item.borders)
            duration = item.duration
            continue
        if item is not None and vectors and tell is not None:
            tell(item)
        if vectors:
            yield source, moments_of(np.concatenate(vectors), np.concatenate(borders), duration, rule)
        else:
            yield source, item or Failure(source.name, f"{name_of(source.name)} holds no frame that can be read.")
        vectors, borders = [], []


def _decode(
    encoder: Encoder, sources: Iterable[Source], rule: MomentRule
) -> Iterator[tuple[Source, Piece | Failure | None]]:
    """The pieces of each video, then None, or the failure that it had."""
    for source in sources:
        told: list[str] = []
        failure = None
        try:
            for piece in pieces(source.thing, encoder.model.preprocess, rule, tell=told.append):
                yield source, piece
        except MemoryError:
            failure = Failure(source.name, f"{name_of(source.name)} does not fit into memory.")
        except (PerceptaError, OSError) as error:
            failure = Failure(source.name, str(error))
        if told:
            failure = Failure(source.name, f"{name_of(source.name)} {told[0]}")
        yield source, failure


def _ahead(make: Callable[[], Iterator[Item]], depth: int) -> Iterator[Item]:
    """The items of an iterator that runs in a thread of its own, at most `depth` items ahead."""
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in make():
                if not put((item, None)):
                    return
        except BaseException as error:  # noqa: BLE001 (raised again in the consumer's thread)
            put((None, error))
        else:
            put(None)

    thread = threading.Thread(target=work, name="percepta-moments", daemon=True)
    thread.start()
    try:
        while (entry := waiting.get()) is not None:
            item, error = entry
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
