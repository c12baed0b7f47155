"""Videos as moments: a few frames a second become vectors, vectors become shots, and long shots are cut.

Order of this file: the rule, from vectors to moments (pure), the frames of a video piece by piece, videos to moments.
Unusual: memory is flat in a video's length but for one vector a sampled frame. Where two sampled frames belong to
different shots, the cut lies where the picture changes most between them (`media.survey`), exact to the frame.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
Item = TypeVar("Item")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MomentRule:
    """How a video becomes moments; the defaults were chosen by measurement (`docs/results.md`).

    Attributes:
        rate: frames a second that are looked at, above 0.
        fewest: frames of a shorter video that are looked at, where it has so many, 1 or more.
        least: a fall of similarity (1 - cosine) below this is never a cut.
        factor: a cut falls at least so many times as far as is usual in its neighbourhood.
        longest: seconds after which a shot is cut into equal parts, above 0.
    """

    rate: float = 2.0
    fewest: int = 4
    least: float = 0.1
    factor: float = 2.5
    longest: float = 10.0

    def __post_init__(self) -> None:
        for what in ("rate", "least", "factor", "longest"):
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
        borders: (T,) seconds: where the part of a frame begins, if it is another shot than the frame before.
        duration: seconds of the whole video.
    """

    pixels: Tensor
    borders: NDArray[np.float64]
    duration: float


def moments_of(
    vectors: NDArray[np.float32], borders: Sequence[float] | NDArray[np.float64], duration: float, rule: MomentRule
) -> list[Moment]:
    """The moments of a video from those of its frames that were looked at; together they cover the whole of it.

    Args:
        vectors: (T, D) unit float32, T >= 1.
        borders: (T,) seconds, increasing: where the part of each frame begins; the first counts as 0.
        duration: seconds of the video.

    Raises:
        BadInput: shapes that do not fit.
    """
    vectors, edges = np.asarray(vectors, np.float32), np.asarray(borders, np.float64)
    if vectors.ndim != 2 or not len(vectors) or edges.shape != vectors.shape[:1]:
        raise wrong_shape("vectors and borders", (*vectors.shape, *edges.shape), "(T, D) and (T,)", "moments_of")
    first = [0, *(np.flatnonzero(cuts(vectors, rule)) + 1).tolist()]
    found: list[Moment] = []
    for start, stop in zip(first, [*first[1:], len(vectors)], strict=True):
        begin = 0.0 if start == 0 else float(edges[start])
        end = float(edges[stop]) if stop < len(vectors) else max(duration, begin)
        found.extend(_parts(vectors[start:stop], edges[start:stop], begin, end, rule.longest))
    return found


def cuts(vectors: NDArray[np.float32], rule: MomentRule, around: int = 4) -> NDArray[np.bool_]:
    """(T - 1,): whether a new shot begins between a frame and the next: a fall of similarity that stands out.

    The usual fall is the median over `around` neighbours to each side.
    """
    falls = 1 - (vectors[1:] * vectors[:-1]).sum(axis=1)
    others = [np.r_[falls[max(0, i - around) : i], falls[i + 1 : i + 1 + around]] for i in range(len(falls))]
    usual = np.array([np.median(near) if len(near) else 0.0 for near in others])
    return np.asarray((falls >= rule.least) & (falls >= rule.factor * usual), np.bool_)


def _parts(
    vectors: NDArray[np.float32], edges: NDArray[np.float64], begin: float, end: float, longest: float
) -> Iterator[Moment]:
    """One shot, cut into equal parts of at most `longest` seconds, none without a frame."""
    count = min(len(vectors), max(1, int(np.ceil((end - begin) / longest - 1e-9))))
    ends = begin + (end - begin) * np.arange(1, count + 1) / count
    part = np.searchsorted(ends[:-1], edges, side="right")
    part[0] = 0
    for number in range(count):
        members = vectors[part == number]
        if not len(members):  # frames that stand still for long; the nearest earlier one is what is seen
            members = vectors[part < number][-1:]
        mean = members.mean(axis=0, dtype=np.float64)
        unit = mean / max(float(np.linalg.norm(mean)), 1e-12)
        yield Moment(begin if number == 0 else float(ends[number - 1]), float(ends[number]), unit.astype(np.float32))


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
