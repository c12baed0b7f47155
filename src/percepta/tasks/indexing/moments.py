"""Videos as moments: a few frames a second become vectors, and vectors stretches that look alike.

Order of this file: the rule, from vectors to moments (pure), the frames of a video piece by piece, videos to vectors
and moments.
Unusual: memory is flat in a video's length but for one vector a sampled frame. Where two sampled frames belong to
different moments, the cut lies where the picture changes most between them (`media.survey`), exact to the frame.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
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
from percepta.running.feed import is_out_of_memory
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
    least: float = 0.3
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
class SeenVideo:
    """The frames of a video that were looked at, as vectors.

    Attributes:
        vectors: (T, D) float32, unit length, T >= 1.
        times: (T,) seconds after the first frame of the video, increasing.
        borders: (T,) seconds: where the part of a frame begins, if it is another moment than the frame before; after
            the time of that frame, and not after its own.
        duration: seconds of the video.
    """

    vectors: NDArray[np.float32]
    times: NDArray[np.float64]
    borders: NDArray[np.float64]
    duration: float

    def __post_init__(self) -> None:
        count = len(self.vectors)
        if self.vectors.ndim != 2 or not count or self.times.shape != (count,) or self.borders.shape != (count,):
            shapes = (*self.vectors.shape, *self.times.shape, *self.borders.shape)
            raise wrong_shape("vectors, times and borders", shapes, "(T, D), (T,) and (T,)", "SeenVideo")


def moments_of(seen: SeenVideo, rule: MomentRule | None = None) -> list[Moment]:
    """The moments of a video, in order; they cover the whole of it."""
    edges = np.r_[0.0, seen.borders[1:], max(seen.duration, seen.borders[-1])]
    firsts = [*segment(seen.vectors, edges, rule or MomentRule()), len(seen.vectors)]
    return [
        Moment(float(edges[first]), float(edges[stop]), mean_direction(seen.vectors[first:stop]))
        for first, stop in pairwise(firsts)
    ]


def mean_direction(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of unit vectors (T, D), scaled to unit length: (D,) float32."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


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
    costs = np.full((count + 1, width), np.inf)  # [t, n - 1]: of the moment of n frames that ends before frame t
    for frames, stops, scatter in _scatters(vectors, width):
        share = (edges[stops] - edges[stops - frames]) / rule.longest
        # Of equally good segmentations the even one: a shot somewhat too long is halved, nothing is chipped off.
        cost = step * scatter + price * (1 + _EVENNESS * share**2)
        costs[stops, frames - 1] = np.where((share <= 1 + 1e-9) | (frames == 1), cost, np.inf)
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


def _scatters(vectors: NDArray[np.float32], width: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """(n, stops, scatter): of the n frames before each stop, the sum of squared distances to their mean; n to `width`.

    By sums over blocks of frames, so that two hours of a wide model need no second table of their size.
    """
    block = max(1024, 2 * width)
    for start in range(0, len(vectors), block):
        first = max(0, start - width)
        sums = np.cumsum(vectors[first : start + block], axis=0, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(sums[:1]), sums])
        stops = np.arange(start + 1, min(start + block, len(vectors)) + 1)
        for frames in range(1, width + 1):
            inside = stops[stops >= frames]
            total = sums[inside - first] - sums[inside - frames - first]
            yield frames, inside, frames - np.einsum("td,td->t", total, total) / frames


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


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some of the frames that are looked at, prepared for the model.

    Attributes:
        pixels: (T, 3, H, W) float32.
        times, borders: (T,) seconds, as in SeenVideo.
        duration: seconds of the whole video.
    """

    pixels: Tensor
    times: NDArray[np.float64]
    borders: NDArray[np.float64]
    duration: float


def pieces(
    thing: Any, prepare: Callable[[Any], Tensor], rule: MomentRule, size: int = PIECE, tell: Tell | None = None
) -> Iterator[Piece]:
    """The frames of a video that are looked at, at most `size` at once, decoded as they are taken.

    Args:
        thing: a path, bytes or an open VideoReader.
        prepare: a picture to its tensor (3, H, W).
        tell: called with half a sentence when the file is damaged, but something of it can be read.

    Raises:
        BadMedia: nothing can be read.
    """
    reader = thing if isinstance(thing, VideoReader) else VideoReader(thing)
    try:
        times, duration = reader.timestamps, reader.duration
        rows: list[tuple[Tensor, int, int]] = []

        def piece() -> Piece:
            pixels, frames, borders = zip(*rows, strict=True)
            return Piece(torch.stack(pixels), times[list(frames)], times[list(borders)], duration)

        for found in survey(reader, sampled(times, duration, rule)):
            pixels = prepare(found.picture)
            if len(rows) == size or (rows and rows[-1][0].shape != pixels.shape):
                yield piece()
                rows.clear()
            rows.append((pixels, found.frame, found.border))
        if rows:
            yield piece()
        if tell is not None and reader.lost:
            tell(f"is cut short: {reader.lost} of {reader.lost + reader.frames} frames are missing; the rest is used.")
        elif tell is not None and reader.damaged:
            tell("is damaged: some frames cannot be decoded; the rest is used.")
    finally:
        if reader is not thing:
            reader.close()


def videos_seen(
    encoder: Encoder,
    sources: Iterable[Source],
    rule: MomentRule | None = None,
    tell: Callable[[Failure], None] | None = None,
    size: int = PIECE,
) -> Iterator[tuple[Source, SeenVideo | Failure]]:
    """For each video, in order, its frames as vectors or why there are none; a thread decodes ahead, videos too.

    Args:
        sources: of the kind "video".
        tell: called (before the video's result comes) with the failure of a video of which something could be used.
        size: frames at once, 1 or more; halved where memory runs out.
    """
    rule = rule or MomentRule()
    vectors: list[NDArray[np.float32]] = []
    read: list[Piece] = []
    for source, item in _ahead(lambda: _decode(encoder, sources, rule, size), _AHEAD):
        if isinstance(item, Piece):
            vectors.append(_embed(encoder, item.pixels))
            read.append(replace(item, pixels=torch.empty(0)))  # a slice would keep all pixels in memory
            continue
        if not read:
            yield source, item or Failure(source.name, f"{name_of(source.name)} holds no frame that can be read.")
            continue
        if item is not None and tell is not None:
            tell(item)
        times, borders = (np.concatenate([getattr(part, what) for part in read]) for what in ("times", "borders"))
        yield source, SeenVideo(np.concatenate(vectors), times, borders, read[-1].duration)
        vectors, read = [], []


def videos_moments(
    encoder: Encoder,
    sources: Iterable[Source],
    rule: MomentRule | None = None,
    tell: Callable[[Failure], None] | None = None,
    size: int = PIECE,
) -> Iterator[tuple[Source, list[Moment] | Failure]]:
    """For each video, in order, its moments or why there are none; arguments as for `videos_seen`."""
    for source, seen in videos_seen(encoder, sources, rule, tell, size):
        yield source, seen if isinstance(seen, Failure) else moments_of(seen, rule)


def look_at(
    encoder: Encoder, source: Source, rule: MomentRule | None = None, tell: Callable[[Failure], None] | None = None
) -> SeenVideo:
    """The frames of one video as vectors. Raises BadMedia when nothing of it can be used."""
    _, seen = next(iter(videos_seen(encoder, [source], rule, tell)))
    if isinstance(seen, Failure):
        raise BadMedia(seen.reason)
    return seen


def video_moments(
    encoder: Encoder, source: Source, rule: MomentRule | None = None, tell: Callable[[Failure], None] | None = None
) -> list[Moment]:
    """The moments of one video, in order. Raises BadMedia when nothing of it can be used."""
    return moments_of(look_at(encoder, source, rule, tell), rule)


def _embed(encoder: Encoder, pixels: Tensor) -> NDArray[np.float32]:
    """(T, 3, H, W) → (T, D) unit vectors; in halves where memory runs out."""
    try:
        return np.asarray(encoder.embed(pixels).numpy())
    except (RuntimeError, MemoryError) as error:
        if len(pixels) == 1 or not is_out_of_memory(error):
            raise
    return np.concatenate([_embed(encoder, half) for half in pixels.tensor_split(2)])


def _decode(
    encoder: Encoder, sources: Iterable[Source], rule: MomentRule, size: int
) -> Iterator[tuple[Source, Piece | Failure | None]]:
    """The pieces of each video, then None, or the failure that it had."""
    for source in sources:
        told: list[str] = []
        failure = None
        try:
            for piece in pieces(source.thing, encoder.model.preprocess, rule, size, told.append):
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
