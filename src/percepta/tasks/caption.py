"""Captions of pictures and videos, one by one; of videos also timed ones (Perception Language Model, arXiv 2504.13180).

Unusual: timed captions are either what the model says of intervals of frames, in seconds, or, with `every`, one caption
for each part of the video, which needs no model that knows intervals.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, PerceptaError, out_of_range
from percepta.media import Source, VideoReader
from percepta.media.chunks import ChunkPreprocess
from percepta.media.sniffing import name_of
from percepta.results import Answer, Failure
from percepta.results.answer import Moment
from percepta.running.feed import Stream
from percepta.tasks.asking import NANO, Drawing, Speaker, View, check_question, speaker_of
from percepta.tasks.asking_media import Looking, Seen, look
from percepta.tasks.asking_prompts import Prompts
from percepta.tasks.asking_words import dense as timed
from percepta.tasks.encoder import sources_of

PARTS = 4  # of a video, where they are to be timed and the model knows no intervals of everything
MOST_PARTS = 1000


def caption(  # noqa: PLR0913 (the front door)
    inputs: Any,
    prompt: str | None = None,
    dense: bool = False,
    about: str | None = None,
    every: float | None = None,
    region: Any = None,
    frames: int | None = None,
    tiles: int | None = None,
    visual_tokens: int | None = None,
    chunk_tokens: int | None = None,
    start: float | None = None,
    end: float | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    model: str | nn.Module | Speaker = NANO,
    system: str | None = None,
    chat: Any = None,
    int8: bool = False,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
) -> Stream[Answer]:
    """Describe pictures and videos; results come as they are made, in order.

    Args:
        inputs: a file, folder, glob, picture, array, "-" (names on standard input) or an iterable of these.
        prompt: what to ask for, instead of the request that the model was trained with.
        dense: of a video, timed captions: `moments` of each Answer, whose text has a line "[seconds, seconds] words"
            for each. Of a picture it changes nothing.
        about: the thing, in words, that timed captions are about.
        every: seconds of the parts into which a video is cut, each with a caption of its own (implies `dense`).
        region, frames, tiles, visual_tokens, chunk_tokens, start, end, temperature, max_tokens, seed: as of `ask`.
        model, system, chat, int8, device, dtype, weights: as of `ask`.
        on_error: "collect" (see `failures` of the stream) or "raise" (BadMedia).

    Returns: a stream of Answers. Raises: as `ask`; BadInput for settings that exclude each other.
    """
    if every is not None and not (isinstance(every, int | float) and math.isfinite(every) and every > 0):
        raise out_of_range("every", every, "seconds, above 0")
    if every is not None and about is not None:
        raise BadInput("about and every exclude each other: parts are captioned as a whole.")
    if about is not None and not dense:
        raise BadInput("about goes with dense=True: it is the thing that timed captions are about.")
    for text in (prompt, about):
        if text is not None:
            check_question(text)
    looking = Looking(frames, tiles, visual_tokens, chunk_tokens, start, end, region)
    drawing = Drawing(1, temperature, max_tokens, seed)
    speaker = speaker_of(model, device, dtype, weights, {"system": system, "chat": chat, "int8": int8})
    viewer = _Viewer(speaker, looking, prompt, (dense or every is not None, about, every))
    if not viewer.in_parts:
        return speaker.over(inputs, viewer.view_of, viewer.finish, drawing, batch_size, on_error)
    sources = sources_of(inputs)
    stream = speaker.over(viewer.parts(sources), viewer.view_of, viewer.part, drawing, batch_size, on_error)
    total = len(sources) if isinstance(sources, Sized) else None
    return Stream(total, viewer.whole(iter(stream)), stream.failures)


@dataclass(frozen=True, slots=True, eq=False)
class Part(Source):
    """A part of a video: from `begin` to `until` in seconds, number `number` of `count`."""

    begin: float = 0.0
    until: float = 0.0
    number: int = 0
    count: int = 1


class _Viewer:
    """What is asked of each input, and what its answers become."""

    def __init__(
        self,
        speaker: Speaker,
        looking: Looking,
        prompt: str | None,
        timing: tuple[bool, str | None, float | None],
    ) -> None:
        self.prompts: Prompts = speaker.prompts
        self.looking, self.prompt = looking, prompt
        self.dense, self.about, self.every = timing
        self.preprocess: ChunkPreprocess = speaker.preprocess(looking)
        self._open = threading.local()

    @property
    def in_parts(self) -> bool:
        """Whether videos are cut into parts: where that is asked for, and where the model knows no other way."""
        if not self.dense or self.every is not None:
            return self.dense
        return not self.prompts.dense and self.about is None and self.looking.region is None and self.prompt is None

    def view_of(self, source: Source) -> tuple[View, Tensor]:
        """What is seen of an input or of a part, and what is asked."""
        looking = self.looking
        if isinstance(source, Part):
            looking = replace(looking, start=source.begin, end=source.until)
            source = replace(source, path=None, data=self._reader(source))
        seen, pixels = look(source, looking, self.preprocess)
        return View(seen, (self._request(seen),)), pixels

    def finish(self, _source: Source, view: View, answers: list[Answer]) -> Answer:
        """The caption of an input, timed where that is asked for."""
        (answer,), timeline = answers, view.seen.timeline
        if not self.dense or timeline is None:
            return answer
        return _timed(answer, timed(answer.said, timeline))

    def part(self, source: Source, _view: View, answers: list[Answer]) -> tuple[Source, Answer]:
        """The caption of a part, with the part."""
        return source, answers[0]

    def parts(self, sources: Iterable[Source | Failure]) -> Iterator[Source | Failure]:
        """Pictures as they are, and for each video its parts."""
        for source in sources:
            if isinstance(source, Failure) or source.kind != "video":
                yield source
                continue
            try:
                bounds = self._bounds(source)
            except (PerceptaError, OSError) as error:
                yield Failure(source.name, str(error))
                continue
            for number, (begin, until) in enumerate(bounds):
                yield Part(
                    source.name, source.kind, source.path, source.data, begin, until, number, len(bounds)
                )  # fmt: skip

    def whole(self, results: Iterator[tuple[Source, Answer]]) -> Iterator[Answer]:
        """One answer for each picture, and for each video of the parts that could be read."""
        held: list[tuple[Part, Answer]] = []
        for source, answer in results:
            if held and not (isinstance(source, Part) and source.number > held[-1][0].number):
                yield _joined(held)
                held = []
            if not isinstance(source, Part):
                yield answer
                continue
            held.append((source, answer))
            if source.number == source.count - 1:
                yield _joined(held)
                held = []
        if held:
            yield _joined(held)

    def _request(self, seen: Seen) -> str:
        if self.prompt is not None:
            return self.prompt
        prompts, boxed = self.prompts, self.looking.region is not None
        if seen.kind != "video":
            return prompts.picture_region if boxed else prompts.picture
        if not self.dense or self.in_parts:
            return prompts.video_region if boxed else prompts.video
        about = prompts.boxed if self.about is None and boxed else self.about
        form = prompts.dense if about is None else prompts.dense_about
        return form.format(about=about, last=seen.chunks - 1, count=seen.chunks)

    def _bounds(self, source: Source) -> list[tuple[float, float]]:
        """Start and end of each part in seconds; a last one of less than half a part belongs to the one before.

        Raises: BadInput for too many, or a beginning after the end. BadMedia.
        """
        begin, until = self.looking.start or 0.0, _duration(source)
        if begin >= until:
            raise BadInput(f"{name_of(source.name)} lasts {until:.2f} s; a clip cannot begin at {begin:g} s.")
        until = until if self.looking.end is None else min(until, self.looking.end)
        length = (until - begin) / PARTS if self.every is None else self.every
        count = max(1, round((until - begin) / length))
        if count > MOST_PARTS:
            raise BadInput(f"every must cut a video into at most {MOST_PARTS:,} parts; {length:g} s makes {count:,}.")
        edges = [begin + number * length for number in range(count)]
        return list(zip(edges, [*edges[1:], until], strict=True))

    def _reader(self, source: Source) -> VideoReader:
        """A reader of this thread, which stays open until another video is read: parts follow each other."""
        if hasattr(source.thing, "iterate"):
            reader: VideoReader = source.thing
            return reader
        open_one, known = getattr(self._open, "reader", None), getattr(self._open, "thing", None)
        if open_one is None or known is not source.thing:
            if open_one is not None:
                open_one.close()
            self._open.reader, self._open.thing = VideoReader(source.thing), source.thing
        found: VideoReader = self._open.reader
        return found


def _joined(parts: list[tuple[Part, Answer]]) -> Answer:
    """The parts of one video as one answer with a moment for each."""
    answers = [answer for _, answer in parts]
    moments = [Moment(part.begin, part.until, " ".join(answer.text.split())) for part, answer in parts]
    whole = replace(
        answers[0],
        said="\n".join(answer.said for answer in answers),
        frames=tuple(second for answer in answers for second in answer.frames),
        span=(moments[0].start, moments[-1].end),
        finish=next((answer.finish for answer in answers if not answer.complete), answers[0].finish),
        visual_tokens=sum(answer.visual_tokens for answer in answers),
        logprob=None,
    )
    return _timed(whole, moments)


def _timed(answer: Answer, moments: Sequence[Moment]) -> Answer:
    text = "\n".join(str(moment) for moment in moments)
    return replace(answer, text=text, samples=(text,), moments=tuple(moments))


def _duration(source: Source) -> float:
    reader = source.thing
    if hasattr(reader, "duration"):
        return float(reader.duration)
    with VideoReader(reader) as opened:
        return opened.duration
