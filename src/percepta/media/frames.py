"""Frames of anything that holds a video, one at a time: a file, a folder of pictures, an array, a list, a camera.

Order of this file: the frames, opening them, one reader a kind, names in order, times in words.
Unusual: nothing is decoded before it is asked for and only a few pictures are held. A frame that cannot be read is
named in `failures`, and the last one that could be read stands in for it, so that whoever looks at all frames goes on.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from percepta.errors import BadInput, BadMedia, PerceptaError, out_of_range, wrong_shape
from percepta.media.inputs import COMPANIONS, LEFTOVERS
from percepta.media.pictures import open_picture, unreadable
from percepta.media.sniffing import kind_of, name_of, read_head
from percepta.media.videos import VideoReader

HELD = 2  # pictures that stay at hand, as a frame is looked at, tracked and painted
BACKWARDS = 8  # frames decoded at once where a file is gone through backwards
SEARCHED = 500  # frames that are tried before a video without any readable one is given up


class _Reader(Protocol):
    """What gives pictures by number; raises PerceptaError for one that cannot be read, IndexError after the end."""

    @property
    def length(self) -> int | None: ...

    def read(self, index: int) -> Image.Image: ...

    def close(self) -> None: ...


class Frames:
    """The frames of one video by number, upright, RGB, all of one size; made by `open_frames`.

    Going forward one by one is fastest; going back, or to any frame, works for all but endless sources.

    Attributes:
        name: what messages and results call the video.
        size: (height, width) as seen, of the first frame that can be read.
        rate: frames a second, on average; None where it is not known.
        failures: number → one sentence, of every frame that could not be read when it was asked for.
        lost: frames that a file declares but that are not in it, as in one that was cut.
    """

    def __init__(self, name: str, reader: _Reader, rate: float | None, times: Sequence[float] | None = None) -> None:
        self.name, self.rate = name, rate
        self.failures: dict[int, str] = {}
        self.lost = int(getattr(reader, "lost", 0))
        self._reader, self._times = reader, times
        self._held: dict[int, Image.Image] = {}
        self._good: Image.Image | None = None
        self.size = (0, 0)
        first = self._first_good()
        self.size = (first.height, first.width)

    @property
    def length(self) -> int | None:
        """The number of frames; None for a source that may go on for ever, until it has ended."""
        return self._reader.length

    def __getitem__(self, index: int) -> Image.Image:
        """The RGB picture of a frame; the last one that was read where it cannot be.

        Raises:
            IndexError: there is no such frame. BadInput: it has passed (of a source that only goes forward).
        """
        if index in self._held:
            return self._held[index]
        self.check(index)
        if index in self.failures and self._good is not None:
            return self._good
        try:
            picture = _rgb(self._reader.read(index))
            if self.size != (0, 0) and (picture.height, picture.width) != self.size:
                raise BadMedia(
                    f"frame {index} of {self.name} is {picture.width}x{picture.height}, and the others are "
                    f"{self.size[1]}x{self.size[0]}; it is left out."
                )
        except (_Passed, NoSuchFrame):
            raise
        except PerceptaError as error:
            self.failures[index] = _named(index, self.name, str(error))
            if self._good is None:
                raise
            picture = self._good
        else:
            self._good = picture
        while len(self._held) >= HELD:
            del self._held[next(iter(self._held))]
        self._held[index] = picture
        return picture

    def __iter__(self) -> Iterator[Image.Image]:
        index = 0
        while self.length is None or index < self.length:
            try:
                yield self[index]
            except IndexError:
                return
            index += 1

    def check(self, index: int) -> None:
        """Raises IndexError (which is a BadInput too) for a frame that is not there, as far as that is known."""
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or index < 0:
            raise NoSuchFrame(f"a frame of {self.name} must be a whole number, 0 or more; got {index!r}.")
        if self.length is not None and index >= self.length:
            raise NoSuchFrame(f"a frame of {self.name} must be 0 to {self.length - 1}; got {index}.")

    def time(self, index: int) -> float | None:
        """When a frame is shown, in seconds after the first one; None where neither times nor a rate are known."""
        if self._times is not None:
            return float(self._times[index])
        return None if self.rate is None else index / self.rate

    def frame_at(self, place: int | float | str) -> int:
        """A frame number from a number (as it is), seconds as a float, or a time such as "00:05" or "1:02:03.5".

        A time gives the first frame that is shown then or later; that may lie behind the last one.

        Raises: BadInput for what is no time, or a time in a source without a rate.
        """
        if isinstance(place, int | np.integer) and not isinstance(place, bool):
            if place < 0:
                raise out_of_range("a frame", place, "0 or more", self.name)
            return int(place)
        seconds = seconds_of(place)
        if self._times is not None:
            return bisect_left(self._times, seconds - 1e-6)
        if self.rate is None:
            raise BadInput(f"{self.name} has no times; give a frame number instead of {place!r}, or its rate.")
        return int(np.ceil(seconds * self.rate - 1e-6))

    def close(self) -> None:
        """Let go of the file."""
        self._held.clear()
        self._reader.close()

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        count = "endless" if self.length is None else f"{self.length} frames"
        return f"Frames({self.name!r}: {count}, {self.size[1]}x{self.size[0]})"

    def _first_good(self) -> Image.Image:
        """The first frame that can be read; it stands in for those before it."""
        last: PerceptaError | None = None
        for index in range(SEARCHED if self.length is None else min(self.length, SEARCHED)):
            try:
                return self[index]
            except IndexError:
                break
            except PerceptaError as error:
                last = error
        self.close()
        if last is None:
            raise BadInput(f"{self.name} holds no frame.")
        raise BadMedia(f"no frame of {self.name} can be read; the last one that was tried: {last}")


class NoSuchFrame(BadInput, IndexError):
    """A frame number beyond the end, or below 0."""


class _Passed(BadInput):
    """A frame of a source that only goes forward, which was let go of."""


def open_frames(video: Any, rate: float | None = None) -> Frames:
    """The frames of a video.

    Args:
        video: a video file (path or bytes) or an open VideoReader; a folder of pictures, taken in natural order (2
            before 10); a list of pictures, each whatever `open_picture` takes; an array (T, H, W, 3); or an iterator of
            pictures, which may be endless (a camera) and can only be gone through forward.
        rate: frames a second of what carries no times of its own; for a video file its own times hold.

    Raises:
        BadInput: something else, or nothing in it, or a rate that is not above 0. BadMedia: nothing in it can be read.
    """
    if rate is not None and not 0 < rate <= 1000:
        raise out_of_range("rate", rate, "above 0 and at most 1000", "open_frames")
    if isinstance(video, VideoReader):
        return _of_reader(video, close=False)
    if isinstance(video, str | os.PathLike):
        path = Path(os.fspath(video)).expanduser()
        if path.is_dir():
            return Frames(os.fspath(video), _Pictures(pictures_in(path)), rate)
        return _of_reader(VideoReader(video), close=True)
    if isinstance(video, bytes):
        return _of_reader(VideoReader(video), close=True)
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[-1] not in (1, 3, 4):
            raise wrong_shape("a video array", video.shape, "(T, H, W, 3)")
        return _of_pictures("the array", video, rate)
    if isinstance(video, list | tuple):
        return _of_pictures("the list of pictures", video, rate)
    if isinstance(video, Iterable) and not isinstance(video, dict | set | Image.Image):
        return Frames("the stream", _Flow(iter(video), "the stream"), rate)
    raise BadInput(
        "a video must be a file, a folder of pictures, a list or array of frames, or an iterator of them; "
        f"got {type(video).__name__}."
    )


def _of_reader(reader: VideoReader, close: bool) -> Frames:
    name = reader.source if isinstance(reader.source, str) else reader.name
    try:
        return Frames(name, _File(reader, close), reader.rate, reader.timestamps.tolist())
    except BaseException:
        if close:
            reader.close()
        raise


def _of_pictures(name: str, pictures: Any, rate: float | None) -> Frames:
    if not len(pictures):
        raise BadInput(f"{name} holds no frame; a video needs at least one.")
    return Frames(name, _Pictures(pictures), rate)


class _File:
    """A video file, decoded as it is asked for; backwards a few frames at once."""

    def __init__(self, reader: VideoReader, close: bool) -> None:
        self.reader, self.length, self.lost, self._closes = reader, reader.frames, reader.lost, close
        self._walk: Iterator[Image.Image] | None = None
        self._next, self._last = 0, -1
        self._block: dict[int, Image.Image] = {}

    def read(self, index: int) -> Image.Image:
        picture = self._backwards(index) if index == self._last - 1 or index in self._block else self._forward(index)
        self._last = index
        if index in self.reader.damaged:
            raise BadMedia(f"frame {index} of {self.reader.name} is damaged; it is left out.")
        return picture

    def _forward(self, index: int) -> Image.Image:
        self._block.clear()
        if self._walk is None or index != self._next:
            self._walk = self.reader.iterate(index)
        self._next = index + 1
        picture = next(self._walk, None)
        if picture is None:
            raise BadMedia(f"frame {index} of {self.reader.name} cannot be decoded; it is left out.")
        return picture

    def _backwards(self, index: int) -> Image.Image:
        if index not in self._block:
            self._walk = None
            numbers = range(max(0, index + 1 - BACKWARDS), index + 1)
            self._block = dict(zip(numbers, self.reader.read(numbers), strict=True))
        return self._block[index]

    def close(self) -> None:
        self._walk = None
        self._block.clear()
        if self._closes:
            self.reader.close()


class _Pictures:
    """Pictures that can be had in any order: files of a folder, a list, the rows of an array."""

    def __init__(self, pictures: Any) -> None:
        self.pictures = pictures
        self.length = len(pictures)

    def read(self, index: int) -> Image.Image:
        return open_picture(self.pictures[index])

    def close(self) -> None:
        self.pictures = ()


class _Flow:
    """Pictures that come once, one after the other; the end is known when it is there."""

    def __init__(self, pictures: Iterator[Any], name: str) -> None:
        self.pictures, self.name = pictures, name
        self.length: int | None = None
        self._next = 0

    def read(self, index: int) -> Image.Image:
        if index < self._next:
            raise _Passed(f"frame {index} of {self.name} has passed; only frames from {self._next} on can be had.")
        while True:
            try:
                thing = next(self.pictures)
            except StopIteration:
                self.length = self._next
                raise NoSuchFrame(f"{self.name} ended after {self._next} frames.") from None
            self._next += 1
            if self._next > index:
                return open_picture(thing)

    def close(self) -> None:
        close = getattr(self.pictures, "close", None)
        if close is not None:
            close()


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: by name where that says so, else by their first bytes.

    Hidden files, leftovers of other programs and files of other well-known kinds are passed over; a damaged picture
    stays, so that numbers do not shift.

    Raises: BadInput for a folder without a picture, BadMedia for one that cannot be looked into.
    """
    try:
        files = [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        raise unreadable(name_of(folder), error) from None
    Image.init()
    found = []
    for path in files:
        ending = path.suffix.lower()
        if path.name.startswith(".") or path.name in LEFTOVERS or ending in COMPANIONS:
            continue
        if ending in Image.EXTENSION or _is_picture(path):
            found.append(path)
    if not found:
        raise BadInput(f"the folder {name_of(folder)} holds no picture; give a video file, or a folder of its frames.")
    return sorted(found, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> tuple[Any, ...]:
    """A key that sorts names as people count: frame2 before frame10, letters whatever their case."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    keys = [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
    return (*keys, (-1, 0, name))


def seconds_of(place: float | str) -> float:
    """Seconds from a number, or from a time such as "5", "00:05", "1:02:03.5". Raises BadInput."""
    if isinstance(place, float | int) and not isinstance(place, bool):
        if place >= 0:
            return float(place)
    elif isinstance(place, str) and re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", place.strip()):
        total = 0.0
        for part in place.strip().split(":"):
            total = 60 * total + float(part)
        return total
    raise BadInput(f'a time must be seconds, or text such as "00:05" or "1:02:03.5"; got {place!r}.')


def _rgb(picture: Image.Image) -> Image.Image:
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _is_picture(path: Path) -> bool:
    try:
        return kind_of(read_head(path)) == "picture"
    except (OSError, ValueError):
        return False


def _named(index: int, name: str, reason: str) -> str:
    """The sentence, saying which frame where it does not."""
    return reason if reason.startswith(f"frame {index} ") else f"frame {index} of {name} is left out: {reason}"
