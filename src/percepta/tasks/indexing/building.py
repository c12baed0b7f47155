"""The verb `index`: pictures and videos to an index that can be searched, again and again.

A run first compares (`scanning`), then embeds what is new, in the order of the inputs, and commits as it goes. It may
be killed at any moment and run again.
Unusual: a commit stands only where all that was computed has come out, so that a resumed run forms the very batches of
an uninterrupted one and the vectors are the same to the last bit.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from percepta import catalog
from percepta.calibration import neutral_texts
from percepta.errors import BadInput, BadMedia, PerceptaError, UnknownModel, one_of, out_of_range
from percepta.media import Source, VideoReader, collect
from percepta.media.pictures import DECODER_ERRORS, unreadable
from percepta.media.sniffing import name_of
from percepta.results import Failure
from percepta.running.feed import DEFAULT_BATCH, ON_ERROR
from percepta.running.fingerprint import weights_hash
from percepta.running.progress import Progress
from percepta.tasks.encoder import NANO, Encoder
from percepta.tasks.indexing import schema
from percepta.tasks.indexing.moments import Moment, MomentRule, videos_moments
from percepta.tasks.indexing.places import common_folder, common_root, input_paths
from percepta.tasks.indexing.scanning import Changes, Found, changes_of, classify_known, content_hash
from percepta.tasks.indexing.store import FileRow, Index, Maker, Part

COMMIT_SECONDS = 5.0
WORTH_AN_ESTIMATE = 256  # pictures and frames; below, measuring would be a good part of the work
_MEASURED = 4  # pictures that are measured, videos whose length is looked up
_EXIF, _TAKEN = 0x8769, 0x9003


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run is about to do, and what that will take.

    Attributes:
        pictures, videos: how many are to be embedded.
        video_seconds: how long the videos last together, about.
        seconds: how long embedding will take, about; None where there is too little to do to measure it.
        bytes: by how much the index will grow, about.
    """

    pictures: int
    videos: int
    video_seconds: float
    seconds: float | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did: how many files were added, moved, removed and unchanged, and what could not be used."""

    added: int
    moved: int
    removed: int
    unchanged: int
    seconds: float
    failures: tuple[Failure, ...]


def index(  # noqa: PLR0913 (the front door)
    inputs: Any,
    to: str | Path | None = None,
    model: str | nn.Module | Encoder | None = None,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    exclude: Sequence[str] = (),
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    told: Callable[[Estimate | Report], None] | None = None,
) -> Index:
    """Index pictures and videos for `search`; run again, it does only what has changed.

    Args:
        inputs: a file, folder, glob, "-" or an iterable of these; without `to` also pictures and arrays in memory.
        to: the file of the index, made or brought up to date; None keeps the index in memory.
        model: a name, or a loaded model that pools; None is the model that the index was begun with, at first the nano
            model. An index keeps to its model.
        weights: a file or folder for the model's name.
        batch_size: pictures at once; 8 on a CPU.
        on_error: "collect" (see `failures` of the index) or "raise" (BadMedia).
        exclude: shell patterns of names, or of paths below an input folder, that are passed over.
        limit: look at so many files only.
        overwrite: begin anew where there is an index.
        progress: is told of every input.
        told: gets an Estimate before the work and a Report after it.

    Returns:
        The index. A video has an entry for each of its moments, see `indexing.moments`.

    Raises:
        BadInput: inputs that hold nothing; a file that is no index, is damaged, locked, of a newer schema or of another
            model; a disk that is full. UnknownModel, MissingWeights, CheckpointMismatch.
    """
    _check(on_error, batch_size=batch_size, limit=limit)
    inputs = inputs if isinstance(inputs, Sequence) or not hasattr(inputs, "__iter__") else _listed(inputs)
    began = time.monotonic()
    place = None if to is None else Path(to).expanduser()
    found = _existing(place, overwrite)
    encoder = _encoder(model, weights, device, dtype, found)
    maker = _maker(encoder, weights)
    sources = _sources(inputs, exclude, limit, found, place)  # an empty folder is an error before there is a file
    found = _ready(found, place, overwrite, maker, common_root(inputs, sources))
    found.loaded = encoder
    changes = changes_of(found.files(), sources, found.root, input_paths(inputs) if limit is None else ())
    if on_error == "raise" and changes.failures:
        raise BadMedia(changes.failures[0].reason)
    _bring_up_to_date(found, changes, encoder)
    if told is not None:
        told(estimate(changes.new, encoder, maker.dimension))
    run = _Run(found, encoder, batch_size or DEFAULT_BATCH.get(encoder.device.type, 8), on_error)
    run.all(changes.new, progress or Progress("index", shown=False))
    if told is not None:
        told(_report(changes, run, time.monotonic() - began))
    return found


def estimate(new: Sequence[Found], encoder: Encoder, dimension: int) -> Estimate:
    """What embedding will take, from the first few pictures and videos; nothing is measured where there is little."""
    pictures = [item.source for item in new if item.row.kind == "picture"]
    videos = [item.source for item in new if item.row.kind == "video"]
    watched = sum(_duration(video) for video in videos[:_MEASURED])
    video_seconds = watched * len(videos) / max(1, len(videos[:_MEASURED]))
    frames = video_seconds * MomentRule().rate
    seconds = None
    if len(pictures) + frames >= WORTH_AN_ESTIMATE:
        seconds = (len(pictures) + frames) * _seconds_a_picture(pictures[:_MEASURED], encoder)
    rows = len(pictures) + video_seconds / MomentRule().longest * 2
    return Estimate(len(pictures), len(videos), video_seconds, seconds, int(rows * (2 * dimension + 150)))


class _Run:
    """Embeds what is new and commits it."""

    def __init__(self, index: Index, encoder: Encoder, batch_size: int, on_error: str) -> None:
        self.index, self.encoder, self.batch_size, self.on_error = index, encoder, batch_size, on_error
        self.added = self.computed = 0
        self.failures: list[Failure] = []
        self._waiting: list[tuple[FileRow, Sequence[Part]]] = []
        self._committed = time.monotonic()

    def all(self, items: Sequence[Found], progress: Progress) -> None:
        """Pictures first, which are quickly done, then videos."""
        with progress:
            progress.start(len(items))
            self.pictures([item for item in items if item.row.kind == "picture"], progress)
            self.videos([item for item in items if item.row.kind == "video"], progress)

    def pictures(self, items: Sequence[Found], progress: Progress) -> None:
        """Embed pictures and keep their vectors."""
        rows = {item.source.name: item.row for item in items}
        facts: dict[str, tuple[bytes | None, float | None]] = {}
        broken: set[str] = set()

        def prepare(source: Source) -> Tensor:
            try:
                pixels = self.encoder.prepare(source)
            except BadMedia:
                facts_of(source)  # raises OSError where not the contents are to blame
                broken.add(source.name)
                raise
            facts[source.name] = facts_of(source)
            return pixels

        def compute(batch: Tensor, sources: list[Source]) -> list[tuple[str, Any]]:
            vectors = self.encoder.embed(batch).numpy()
            self.computed += len(sources)
            return [(source.name, vector) for source, vector in zip(sources, vectors, strict=True)]

        if not items:
            return
        stream = self.encoder.run([item.source for item in items], compute, self.batch_size, "collect", prepare)
        for name, vector in stream:
            content, taken = facts.pop(name)
            self._waiting.append((replace(rows[name], content=content, taken=taken), [Part(vector)]))
            self.added += 1
            progress.advance()
            self._failed(stream.failures, rows, broken, progress)
            if self.added == self.computed and time.monotonic() - self._committed > COMMIT_SECONDS:
                self.commit()
        self._failed(stream.failures, rows, broken, progress)
        self.commit()

    def videos(self, items: Sequence[Found], progress: Progress) -> None:
        """Cut videos into moments and keep their vectors; each is committed by itself."""
        rows = {item.source.name: item.row for item in items}
        partly: dict[str, Failure] = {}
        sources = [item.source for item in items]
        for source, result in videos_moments(
            self.encoder, sources, tell=lambda failure: partly.__setitem__(failure.source, failure)
        ):
            failure = partly.get(source.name)
            try:
                content, taken = facts_of(source)
            except OSError as error:
                self._failed([Failure(source.name, str(unreadable(name_of(source.name), error)))], rows, (), progress)
                continue
            if isinstance(result, Failure):
                self._failed([result], rows, rows, progress)
                self.commit()
                continue
            reason = None if failure is None else failure.reason
            row = replace(rows[source.name], content=content, taken=taken, failure=reason)
            self._waiting.append((row, [_part(moment) for moment in result]))
            self.added += 1
            self.computed += 1
            progress.advance()
            if failure is not None:
                self.failures.append(failure)
            self.commit()

    def commit(self) -> None:
        """Write what waits, in one transaction."""
        if self._waiting:
            self.index.add(self._waiting)
        self._waiting = []
        self._committed = time.monotonic()

    def _failed(
        self, failures: list[Failure], rows: dict[str, FileRow], broken: Container[str], progress: Progress
    ) -> None:
        """Tell failures and empty the list; of broken files keep them, so that the next run does not try them again.

        What failed for another reason, such as a missing drive or package, is tried again.
        """
        for failure in failures:
            progress.fail(failure)
            self.failures.append(failure)
            if self.on_error == "raise":
                self.commit()
                raise BadMedia(failure.reason)
            if failure.source in broken:
                self._waiting.append((replace(rows[failure.source], failure=failure.reason), []))
        failures.clear()


def facts_of(source: Source) -> tuple[bytes | None, float | None]:
    """The hash of a file's contents, and the time when it was taken: its EXIF date, else that of its last change."""
    if source.path is None:
        return None, None
    content, changed = content_hash(source.path), source.path.stat().st_mtime
    return content, (_exif_time(source.path) if source.kind == "picture" else None) or changed


def _exif_time(path: Path) -> float | None:
    try:
        with Image.open(path) as picture:
            if picture.format == "PNG" and "exif" not in picture.info:
                return None  # to look for a late one, the whole picture would be decoded
            exif = picture.getexif()
            text = exif.get_ifd(_EXIF).get(_TAKEN) if exif else None
        return time.mktime(time.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")) if text else None
    except (ValueError, OverflowError, Image.DecompressionBombError, *DECODER_ERRORS):
        return None


def _part(moment: Moment) -> Part:
    return Part(moment.vector, moment.start, moment.end)


def _check(on_error: str, **numbers: int | None) -> None:
    if on_error not in ON_ERROR:
        raise one_of("on_error", on_error, ON_ERROR)
    for what, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise out_of_range(what, number, "a whole number of 1 or more", "index")


def _listed(inputs: Iterable[Any]) -> Any:
    """An iterable of inputs as a list, since they are looked at twice; arrays and pictures stay what they are."""
    return inputs if hasattr(inputs, "shape") or hasattr(inputs, "frames") else list(inputs)


def _existing(place: Path | None, overwrite: bool) -> Index | None:
    """The index that is there and is to be kept. Raises BadInput for a place where none can be."""
    if place is None or not place.exists():
        return None
    if place.is_dir():
        raise BadInput(f"{name_of(place)} is a folder; name a file in it, such as {name_of(place / 'pictures.index')}.")
    if not place.stat().st_size:
        return None
    if not overwrite:
        return Index.open(place)
    if not schema.is_index(place):
        raise schema.foreign(place)
    return None


def _encoder(
    model: str | nn.Module | Encoder | None,
    weights: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    found: Index | None,
) -> Encoder:
    if isinstance(model, Encoder):
        return model
    if model is None and weights is None and found is not None:
        return found.maker.load(device, dtype)
    if found is not None and isinstance(model, str):  # before its weights are fetched
        found.maker.check_same(replace(found.maker, model=_name_of_model(model, weights)[0]), found.path)
    return Encoder(NANO if model is None else model, device, dtype, weights)


def _maker(encoder: Encoder, weights: str | Path | None) -> Maker:
    model, file = _name_of_model(encoder.name, weights)
    return Maker(
        model,
        file,
        weights_hash(encoder.model),
        json.dumps(asdict(encoder.model.preprocess), sort_keys=True),
        json.dumps(asdict(MomentRule()), sort_keys=True),
        _dimension(encoder),
    )


def _name_of_model(name: str, weights: str | Path | None) -> tuple[str, str]:
    """A model's name as its card has it, or that of the file that says what it is, and where its weights lie."""
    file = "" if weights is None else str(weights)
    try:
        name = catalog.describe(name).name
    except UnknownModel:
        if not file and Path(name).expanduser().exists():
            name, file = Path(name).name, name
    return name, os.path.abspath(os.path.expanduser(file)) if file else ""


def _dimension(encoder: Encoder) -> int:
    """D, from one small grey picture. Raises BadInput for models that give no single vector."""
    grey = Image.new("RGB", (32, 32), (127, 127, 127))
    return int(encoder.embed(encoder.model.preprocess(grey)[None]).shape[1])


def _sources(
    inputs: Any, exclude: Sequence[str], limit: int | None, found: Index | None, place: Path | None
) -> list[Source | Failure]:
    """What the inputs hold, but for the index itself. Raises BadInput for inputs in memory where it is a file."""
    classify = None if found is None else classify_known(found.files(), found.root)
    sources = list(itertools.islice(collect(inputs, exclude, classify), limit))
    if place is None:
        return sources
    memory = next((item for item in sources if isinstance(item, Source) and item.path is None), None)
    if memory is not None:
        raise BadInput(f"an index in a file holds files; {memory.name!r} came in memory: leave out to.")
    own = {os.path.abspath(place), os.path.abspath(place) + "-journal"}
    sources = [item for item in sources if os.path.abspath(_place_of(item)) not in own]
    if found is None and not any(isinstance(item, Source) for item in sources):
        raise BadInput(
            sources[0].reason if sources and isinstance(sources[0], Failure) else "there is nothing to index."
        )
    return sources


def _place_of(item: Source | Failure) -> str:
    return item.source if isinstance(item, Failure) else item.name if item.path is None else os.fspath(item.path)


def _ready(found: Index | None, place: Path | None, overwrite: bool, maker: Maker, root: Path) -> Index:
    """The index with its root, which must hold all inputs: a new one, or the one that is there."""
    if found is None:
        if place is not None and place.exists() and place.stat().st_size and overwrite:
            schema.delete(place)
        return Index.create(place, root, maker)
    found.maker.check_same(maker, place)
    weights = maker.weights or found.maker.weights
    if os.path.isdir(found.root):
        found.settle(common_folder([found.root.absolute(), root.absolute()]), weights)
    elif any(os.path.exists(root / name) for name in itertools.islice(found.files(), 100)):
        found.root = root  # the folder has moved: its first files are there
        found.settle(root, weights)
    return found


def _bring_up_to_date(found: Index, changes: Changes, encoder: Encoder) -> None:
    """All but what is to be embedded: what is gone, what has moved, the neutral texts that probabilities need."""
    if changes.gone:
        found.remove(changes.gone)
    if changes.moved:
        found.rename(changes.moved)
    if encoder.has_words and found.bank_texts != (texts := neutral_texts()):
        found.keep_bank(texts, encoder.words(texts))


def _report(changes: Changes, run: _Run, seconds: float) -> Report:
    moved = sum(old != row.source for old, row in changes.moved)
    unchanged = changes.unchanged + len(changes.moved) - moved
    return Report(run.added, moved, len(changes.gone), unchanged, seconds, (*changes.failures, *run.failures))


def _duration(source: Source) -> float:
    try:
        with VideoReader(source.thing) as reader:
            return reader.duration
    except (PerceptaError, OSError):
        return 0.0


def _seconds_a_picture(sources: Sequence[Source], encoder: Encoder) -> float:
    """Of decoding and embedding, which go on side by side: on a CPU they share its cores, elsewhere the longer counts.

    The first embedding warms up and is not counted.
    """
    pixels, began = [], time.thread_time()
    for source in sources:
        try:
            pixels.append(encoder.prepare(source))
        except (PerceptaError, OSError, MemoryError):
            continue
    decoding = (time.thread_time() - began) / max(1, len(pixels)) / torch.get_num_threads()
    grey = encoder.model.preprocess(Image.new("RGB", (32, 32)))
    batch = torch.stack([item for item in pixels if item.shape == grey.shape] or [grey])
    encoder.embed(batch[:1])
    began = time.perf_counter()
    encoder.embed(batch)
    embedding = (time.perf_counter() - began) / len(batch)
    return embedding + decoding if encoder.device.type == "cpu" else max(embedding, decoding)
