"""Frames of a video by number, exact and fast, through PyAV.

Order of this file: the reader, the plan (where each frame lies), walking through wanted frames, small helpers.
Unusual: the file is demuxed once without decoding (or its index is read, where that says enough), which gives the true
number of frames and every timestamp. Wanted frames are then grouped by the key frame from which they can be decoded
and each group is decoded once. Seeking to every frame is several times slower on web clips with few key frames,
decoding everything is slower where key frames are dense; this plan loses to neither and is exact with B-frames.
"""

from __future__ import annotations

import contextlib
import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.errors import BadInput, BadMedia, out_of_range
from percepta.media.pictures import DECODER_ERRORS, one_line, unreadable
from percepta.media.sniffing import is_video, name_of

_AV_ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError, RuntimeError, MemoryError)
_PIXEL_LIMIT = 200_000_000
# Containers whose packets carry true presentation times and which seek exactly; AVI does so without reordered frames.
_TIMED_FORMATS = ("mov", "matroska", "webm", "flv", "gif")
# Pixels decoded in one go from which threads pay; below, starting and draining them costs more than it saves.
_THREADED_PIXELS = 16_000_000
_SEEK_GAP = 8  # frames between the cursor and the next key frame below which decoding on is cheaper than a seek
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the frames of a video lie, in the order in which they are shown.

    Attributes:
        pts: presentation time of each frame in units of the time base; empty where packets carry none.
        keys: for each frame the number (in `key_pts`) of the key frame from which it can be decoded.
        key_pts: presentation time of each key frame.
        count: number of frames.
    """

    pts: tuple[int, ...]
    keys: tuple[int, ...]
    key_pts: tuple[int, ...]
    count: int


class VideoReader:
    """The frames of one video file, upright, by number or one after the other.

    `reader.read([0, 10, 5, 5])` gives four RGB pictures; `for picture in reader.iterate(step=10)` holds one at a time.
    Use it as a context manager, or call `close`. One reader belongs to one thread.

    Args:
        source: a path, or the bytes of a file. MP4, MOV, WebM, MKV, AVI, GIF and what else FFmpeg plays, recognised
            by content.

    Attributes:
        name: what messages call it.
        frames: the number of frames that can be read (in a damaged file: that are left).
        damaged: numbers of frames that could not be decoded when they were asked for; the nearest earlier frame (or
            the next one, where there is none) was given in their place.

    Raises:
        BadMedia: the file is missing, no video, damaged beyond use, or has no picture in it.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        if not isinstance(source, str | bytes | os.PathLike):
            raise BadInput(f"a video must be a path or bytes; got {type(source).__name__}.")
        self.source = f"the video of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
        self.name = self.source if isinstance(source, bytes) else name_of(self.source)
        self._given = source
        self._container = _open(source, self.name)
        try:
            self._stream = _video_stream(self._container, self.name)
            self._plan = self._make_plan(_file_size(source))
        except BaseException:
            self._container.close()
            raise
        self.frames = self._plan.count
        self.damaged: set[int] = set()
        self._size: tuple[int, int] | None = None

    @property
    def rate(self) -> float:
        """Frames a second, on average."""
        rate = self._stream.average_rate or self._stream.guessed_rate or self._stream.base_rate
        if rate:
            return float(rate)
        pts = self._plan.pts
        span = (pts[-1] - pts[0]) * float(self._stream.time_base or 0) if len(pts) > 1 else 0.0
        return (len(pts) - 1) / span if span > 0 else 25.0

    @property
    def timestamps(self) -> NDArray[np.float64]:
        """(T,) float64: when each frame is shown, in seconds after the first one. Steps may vary."""
        if not self._plan.pts or not self._stream.time_base:
            return np.arange(self.frames) / self.rate
        pts = np.array(self._plan.pts, dtype=np.float64)
        return (pts - pts[0]) * float(self._stream.time_base)

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self.timestamps[-1]) + 1 / self.rate

    @property
    def lost(self) -> int:
        """Frames that the file declares but that cannot be read, as in one that was cut; 0 where it declares none."""
        return max(0, int(self._stream.frames or 0) - self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as seen, rotation applied, as PIL gives it."""
        if self._size is None:
            self._size = next(self.iterate(0, 1)).size
        return self._size

    def read(self, indices: Iterable[int]) -> list[Image.Image]:
        """RGB pictures of some frames, in the order asked for.

        Args:
            indices: frame numbers, in any order, with repeats (a repeated frame is the same object); negative numbers
                count from the end.

        Raises:
            BadInput: a number out of range. BadMedia: nothing can be decoded.
        """
        wanted = [self._checked(index) for index in indices]
        found: dict[int, Image.Image] = {}
        for index, frame in self.walk(sorted(set(wanted))):
            found[index] = as_picture(frame, self.name)
        return [found[index] for index in wanted]

    def iterate(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Image.Image]:
        """RGB pictures of frames start, start + step, ... below stop, decoded as they are taken, one held at a time.

        Raises:
            BadInput: a negative start or a step below 1. BadMedia: nothing can be decoded.
        """
        if step < 1 or start < 0:
            raise out_of_range("start and step", (start, step), "0 or more, and 1 or more", owner="iterate")
        end = self.frames if stop is None else min(stop if stop >= 0 else self.frames + stop, self.frames)
        for _, frame in self.walk(range(start, end, step)):
            yield as_picture(frame, self.name)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[Image.Image]:
        return self.iterate()

    def __repr__(self) -> str:
        return f"VideoReader({self.source!r}: {self.frames} frames, {self.rate:.3g} a second)"

    def _checked(self, index: int) -> int:
        number = int(index)
        if number != index or not -self.frames <= number < self.frames:
            allowed = f"0 to {self.frames - 1} or {-self.frames} to -1"
            raise out_of_range("frame", index, allowed, owner=self.name)
        return number % self.frames

    @property
    def _format(self) -> str:
        return str(self._container.format.name.split(",")[0])

    @property
    def _timed(self) -> bool:
        """Whether packets of this container can be trusted to say when their frame is shown."""
        return self._format in _TIMED_FORMATS or (self._format == "avi" and not self._stream.codec_context.has_b_frames)

    # The plan

    def _make_plan(self, file_size: int | None) -> Plan:
        plan = self._plan_from_index(file_size) or self._plan_from_packets()
        if plan.count == 0:
            raise BadMedia(f"{self.name} is damaged: no frame of it can be decoded.")
        return plan

    def _plan_from_index(self, file_size: int | None) -> Plan | None:
        """From the container's index, which holds decoding times only: enough where no frame is reordered."""
        entries = getattr(self._stream, "index_entries", ())
        context = self._stream.codec_context
        if self._format != "mov" or context is None or context.has_b_frames or file_size is None:
            return None
        if not len(entries) or len(entries) != self._stream.frames:
            return None
        last = entries[len(entries) - 1]
        kept = [entry for entry in entries if not entry.is_discard]
        first = self._first_packet()
        if last.pos + last.size > file_size or len(kept) != len(entries) or first is None:
            return None
        if first.pts != first.dts or first.pts != kept[0].timestamp or not kept[0].is_keyframe:
            return None
        pts = [entry.timestamp for entry in kept]
        if any(late <= early for early, late in pairwise(pts)):
            return None
        return _plan([(entry.timestamp, entry.is_keyframe) for entry in kept])

    def _first_packet(self) -> Any:
        try:
            return next(iter(self._container.demux(self._stream)), None)
        except _AV_ERRORS:
            return None

    def _plan_from_packets(self) -> Plan:
        packets: list[tuple[int | None, bool]] = []
        whole, hides = True, self._stream.codec_context.name in ("vp8", "libvpx")
        self._rewind()
        try:
            for packet in self._container.demux(self._stream):
                whole = whole and not packet.is_corrupt
                if packet.size == 0 or packet.is_discard or (hides and not bytes(packet)[0] >> 4 & 1):
                    continue
                packets.append((packet.pts, packet.is_keyframe))
        except _AV_ERRORS:
            whole = False
        times = {pts for pts, _ in packets}
        whole = whole and len(packets) >= self._stream.frames
        if whole and self._format == "avi" and not self._timed:  # times are missing, but one packet is one frame
            return Plan((), (), (), len(packets))
        if whole and self._timed and None not in times and len(times) == len(packets) and packets and packets[0][1]:
            return _plan([(pts, key) for pts, key in packets if pts is not None])
        return self._plan_from_frames(packets)

    def _plan_from_frames(self, packets: list[tuple[int | None, bool]]) -> Plan:
        """From one decode of everything: for damaged files, and containers that do not time their packets."""
        if not packets:
            return Plan((), (), (), 0)
        self._rewind()
        self._stream.thread_type = "AUTO"
        times = [frame.pts for frame in self._decode()]
        known = [pts for pts in times if pts is not None]
        ordered = len(known) == len(times) and all(a < b for a, b in pairwise(known))
        timed = [(pts, key) for pts, key in packets if pts is not None]
        if not self._timed or not ordered or len(timed) != len(packets) or not timed or not timed[0][1]:
            return Plan((), (), (), len(times))
        decodable = set(known)
        full = _plan(timed)
        kept = [(pts, key) for pts, key in zip(full.pts, full.keys, strict=True) if pts in decodable]
        if len(kept) != len(decodable):
            return Plan((), (), (), len(times))
        return Plan(tuple(p for p, _ in kept), tuple(k for _, k in kept), full.key_pts, len(kept))

    # Walking

    def walk(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(number, PyAV's frame) for increasing frame numbers; seeks where that saves decoding.

        For those who look at far more frames than they keep; `as_picture` makes a picture of one.

        Raises:
            BadMedia: nothing can be decoded.
        """
        if not self._plan.pts:
            yield from self._count_through(wanted)
            return
        plan, cursor = self._plan, _Cursor()
        self._choose_threads(len(wanted))
        for index in wanted:
            target, key = plan.pts[index], plan.keys[index]
            if cursor.behind(target) and (cursor.frames is None or self._worth_seeking(cursor, key)):
                cursor.restart(self._decode_from(key, target))
            if not cursor.advance(target):
                self.damaged.add(index)
            frame = cursor.at_or_before(target)
            if frame is None:
                raise BadMedia(f"{self.name} is damaged: no frame of it can be decoded.")
            yield index, frame

    def _choose_threads(self, wanted: int) -> None:
        """Decoder threads where long runs of large frames will be decoded; can be set before the first frame only."""
        context = self._stream.codec_context
        if not context.is_open:
            without_seeks = wanted * _SEEK_GAP >= self._plan.count or not self._plan.key_pts
            run = self._plan.count / (1 if without_seeks else len(self._plan.key_pts))
            self._stream.thread_type = "AUTO" if run * context.width * context.height > _THREADED_PIXELS else "NONE"

    def _worth_seeking(self, cursor: _Cursor, key: int) -> bool:
        plan = self._plan
        shown = bisect_right(plan.pts, cursor.last)
        return bisect_right(plan.pts, plan.key_pts[key]) - shown > _SEEK_GAP

    def _count_through(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Frames of a video whose packets carry no usable times: decoded from the start and counted."""
        self._choose_threads(len(wanted))
        targets = iter(wanted)
        target, last = next(targets, None), None
        for number, frame in enumerate(self._decode_from(None, None)):
            last = frame
            while target is not None and number == target:
                yield target, frame
                target = next(targets, None)
            if target is None:
                return
        while target is not None and last is not None:
            self.damaged.add(target)
            yield target, last
            target = next(targets, None)
        if target is not None:
            raise BadMedia(f"{self.name} is damaged: no frame of it can be decoded.")

    def _decode_from(self, key: int | None, target: int | None) -> Iterator[Any]:
        """Decoded frames from key frame number `key` on; from an earlier one if the seek went past the target."""
        while key is not None and key > 0 and target is not None:
            try:
                self._container.seek(self._plan.key_pts[key], stream=self._stream, backward=True, any_frame=False)
            except _AV_ERRORS:
                break
            frames = self._decode()
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= target:
                yield first
                yield from frames
                return
            key -= 1
        self._rewind()
        yield from self._decode()

    def _rewind(self) -> None:
        """Back to the first packet. Without an index, or after damage, that means to open the file again."""
        if self._timed:
            with contextlib.suppress(*_AV_ERRORS):
                self._container.seek(self._stream.start_time or 0, stream=self._stream, backward=True)
                return
        self._container.close()
        self._container = _open(self._given, self.name)
        self._stream = _video_stream(self._container, self.name)

    def _decode(self) -> Iterator[Any]:
        """Frames from where the container stands; damaged packets are passed over."""
        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                except av.error.EOFError:
                    return
                except _AV_ERRORS:
                    continue
        except _AV_ERRORS:
            return


class _Cursor:
    """Where a walk stands: the last frame taken, and one that was decoded ahead."""

    def __init__(self) -> None:
        self.frames: Iterator[Any] | None = None
        self.current: Any = None
        self.ahead: Any = None
        self.last = -(1 << 62)

    def behind(self, target: int) -> bool:
        return self.last < target and (self.ahead is None or self.ahead.pts < target)

    def restart(self, frames: Iterator[Any]) -> None:
        self.frames, self.ahead = frames, None

    def advance(self, target: int) -> bool:
        """Move on to the frame shown at `target`; False where the decoder does not deliver it."""
        while self.last < target:
            if self.ahead is None and self.frames is not None:
                self.ahead = next((frame for frame in self.frames if frame.pts is not None), None)
            if self.ahead is None or self.ahead.pts > target:
                return False
            self.current, self.last, self.ahead = self.ahead, self.ahead.pts, None
        return self.last == target

    def at_or_before(self, target: int) -> Any:
        return self.current if self.current is not None else self.ahead


def _plan(packets: list[tuple[int, bool]]) -> Plan:
    """The plan of packets in decoding order: (presentation time, is a key frame)."""
    key_pts: list[int] = []
    rows: list[tuple[int, int]] = []
    for pts, key in packets:
        if key:
            key_pts.append(pts)
        number = len(key_pts) - 1
        # A frame that is stored after a key frame but shown before it needs frames from before that key frame.
        while number > 0 and pts < key_pts[number]:
            number -= 1
        rows.append((pts, number))
    rows.sort()
    return Plan(tuple(p for p, _ in rows), tuple(k for _, k in rows), tuple(key_pts), len(rows))


def _open(source: str | os.PathLike[str] | bytes, name: str) -> Any:
    """The container; local files only, and only what looks like a video by content."""
    head, target = _head_and_target(source, name)
    if not head:
        raise BadMedia(f"{name} is empty (zero bytes).")
    if not is_video(head):
        raise BadMedia(f"{name} is no video that can be read here.")
    try:
        return av.open(target, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except _AV_ERRORS as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise BadMedia(f"{name} is damaged: it starts like a video, but {one_line(reason).lower()}.") from None


def _head_and_target(source: str | os.PathLike[str] | bytes, name: str) -> tuple[bytes, Any]:
    if isinstance(source, bytes):
        return source[:512], io.BytesIO(source)
    try:
        path = Path(os.fspath(source)).expanduser()
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError, RuntimeError) as error:
        raise unreadable(name, error) from None
    # A plain name could be taken for an address ("a:b.mp4") or a pattern; this form never is.
    return head, "file:" + os.path.abspath(path)


def _file_size(source: str | os.PathLike[str] | bytes) -> int | None:
    return len(source) if isinstance(source, bytes) else Path(os.fspath(source)).expanduser().stat().st_size


def _video_stream(container: Any, name: str) -> Any:
    if not container.streams.video:
        raise BadMedia(f"{name} holds no video stream.")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise BadMedia(f"{name} holds a video stream that no decoder here can read.")
    if context.width * context.height > _PIXEL_LIMIT:
        raise BadMedia(f"{name} is absurdly large: {context.width}x{context.height} pixels a frame.")
    return stream


def as_picture(frame: Any, name: str) -> Image.Image:
    """A decoded frame as an upright RGB picture. Raises BadMedia for pixels of a kind that cannot be converted."""
    with converting_frame(frame, name):
        picture: Image.Image = frame.to_image()
    turn = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
    return picture if turn is None else picture.transpose(turn)


@contextlib.contextmanager
def converting_frame(frame: Any, name: str) -> Iterator[None]:
    """Around a conversion of PyAV's frame. Raises BadMedia naming the video, whatever FFmpeg raises."""
    try:
        yield
    except MemoryError:
        raise BadMedia(f"{name} does not fit into memory.") from None
    except (*_AV_ERRORS, *DECODER_ERRORS) as error:
        reason = one_line(getattr(error, "strerror", None) or error) or type(error).__name__
        raise BadMedia(f"{name} holds frames ({frame.format.name}) that cannot be converted: {reason}.") from None
