"""The verb `index`: pictures and videos to an index that can be searched, again and again.

A run first compares (`scanning`), then embeds what is new, in the order of the inputs, and commits as it goes. It may
be killed at any moment and run again.
Unusual: a commit stands only where a batch ends, so that a resumed run forms the very batches of an uninterrupted one
and the vectors are the same to the last bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from percepta.errors import BadInput, BadMedia, PerceptaError, one_of, out_of_range
from percepta.media import Source, VideoReader, collect
from percepta.media.pictures import DECODER_ERRORS
from percepta.media.sniffing import name_of
from percepta.results import Failure
from percepta.running.feed import DEFAULT_BATCH, ON_ERROR
from percepta.running.fingerprint import weights_hash
from percepta.running.progress import Progress
from percepta.tasks.encoder import NANO, Encoder
from percepta.tasks.indexing.moments import Moment, MomentRule, videos_moments
from percepta.tasks.indexing.scanning import Changes, Found, changes_of, common_root, content_hash, input_paths
from percepta.tasks.indexing.store import FileRow, Index, Maker, Part

COMMIT_SECONDS = 5.0
WORTH_AN_ESTIMATE = 64  # inputs; below, the work is over before the estimate would be
_MEASURED = 8  # pictures and videos that an estimate looks at
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
    model: str | nn.Module | Encoder = NANO,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    told: Callable[[Estimate | Report], None] | None = None,
) -> Index:
    """Index pictures and videos for `search`; run again, it does only what has changed.

    Args:
        inputs: a file, folder, glob, "-" or an iterable of these; without `to` also pictures and arrays in memory.
        to: the file of the index, made or brought up to date; None keeps the index in memory.
        model: a name, or a loaded model that pools. An index keeps to the model that it was begun with.
        weights: a file or folder for the model's name.
        batch_size: pictures at once; 8 on a CPU.
        on_error: "collect" (see `failures` of the index) or "raise" (BadMedia).
        exclude: shell patterns of names, or of paths below an input folder, that are passed over.
        overwrite: begin anew where there is an index.
        progress: is told of every input.
        told: gets an Estimate before the work and a Report after it.

    Returns:
        The index. A video has an entry for each of its moments, see `indexing.moments`.

    Raises:
        BadInput: inputs that hold nothing; a file that is no index, is damaged, locked, of a newer schema or of another
            model; a disk that is full. UnknownModel, MissingWeights, CheckpointMismatch.
    """
    if on_error not in ON_ERROR:
        raise one_of("on_error", on_error, ON_ERROR)
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise out_of_range("batch_size", batch_size, "a whole number of 1 or more", "index")
    inputs = inputs if isinstance(inputs, Sequence) or not hasattr(inputs, "__iter__") else _listed(inputs)
    encoder = _encoder(model, weights, device, dtype)
    place = None if to is None else Path(to).expanduser()
    began = time.monotonic()
    sources = list(collect(inputs, exclude))  # an empty folder is an error before there is a file
    found = _open(place, common_root(inputs), _maker(encoder, weights), overwrite)
    found.loaded = encoder
    changes = _changes(found, sources, input_paths(inputs))
    if on_error == "raise" and changes.failures:
        raise BadMedia(changes.failures[0].reason)
    found.remove(changes.gone)
    found.rename(changes.moved)
    _keep_bank(found, encoder)
    run = _Run(found, encoder, batch_size or DEFAULT_BATCH.get(encoder.device.type, 8), on_error)
    if told is not None:
        told(estimate(changes.new, run.batch_size, encoder, found.maker.dimension))
    with progress or Progress("index", shown=False) as bar:
        bar.start(len(changes.new))
        run.pictures([item for item in changes.new if item.row.kind == "picture"], bar)
        run.videos([item for item in changes.new if item.row.kind == "video"], bar)
    if told is not None:
        failures = (*changes.failures, *run.failures)
        moved = sum(old != row.source for old, row in changes.moved)
        unchanged = changes.unchanged + len(changes.moved) - moved
        seconds = time.monotonic() - began
        told(Report(run.added, moved, len(changes.gone), unchanged, seconds, failures))
    return found


def estimate(new: Sequence[Found], batch_size: int, encoder: Encoder, dimension: int) -> Estimate:
    """What embedding will take, from the first few pictures and videos; nothing is measured where there is little."""
    pictures = [item.source for item in new if item.row.kind == "picture"]
    videos = [item.source for item in new if item.row.kind == "video"]
    watched = sum(_duration(video) for video in videos[:_MEASURED])
    video_seconds = watched * len(videos) / max(1, len(videos[:_MEASURED]))
    frames = video_seconds * MomentRule().rate
    seconds = None
    if len(pictures) + frames >= WORTH_AN_ESTIMATE:
        seconds = (len(pictures) + frames) * _seconds_a_picture(pictures[:batch_size], encoder)
    rows = len(pictures) + video_seconds / MomentRule().longest * 2
    return Estimate(len(pictures), len(videos), video_seconds, seconds, int(rows * (2 * dimension + 150)))


class _Run:
    """Embeds what is new and commits it."""

    def __init__(self, index: Index, encoder: Encoder, batch_size: int, on_error: str) -> None:
        self.index, self.encoder, self.batch_size, self.on_error = index, encoder, batch_size, on_error
        self.added = 0
        self.failures: list[Failure] = []
        self._waiting: list[tuple[FileRow, Sequence[Part]]] = []
        self._committed = time.monotonic()

    def pictures(self, items: Sequence[Found], progress: Progress) -> None:
        """Embed pictures and keep their vectors."""
        rows = {item.source.name: item.row for item in items}
        facts: dict[str, tuple[bytes | None, float | None]] = {}

        def prepare(source: Source) -> Tensor:
            facts[source.name] = facts_of(source)
            return self.encoder.prepare(source)

        def compute(batch: Tensor, sources: list[Source]) -> list[tuple[str, Any]]:
            vectors = self.encoder.embed(batch).numpy()
            return [(source.name, vector) for source, vector in zip(sources, vectors, strict=True)]

        if not items:
            return
        stream = self.encoder.run([item.source for item in items], compute, self.batch_size, "collect", prepare)
        for number, (name, vector) in enumerate(stream, start=1):
            content, taken = facts.pop(name)
            self._waiting.append((replace(rows[name], content=content, taken=taken), [Part(vector)]))
            self.added += 1
            progress.advance()
            self._failed(stream.failures, rows, progress)
            if number % self.batch_size == 0 and time.monotonic() - self._committed > COMMIT_SECONDS:
                self.commit()
        self._failed(stream.failures, rows, progress)
        self.commit()

    def videos(self, items: Sequence[Found], progress: Progress) -> None:
        """Cut videos into moments and keep their vectors; each is committed by itself."""
        rows = {item.source.name: item.row for item in items}
        partly: dict[str, Failure] = {}
        sources = [item.source for item in items]
        for source, result in videos_moments(
            self.encoder, sources, tell=lambda failure: partly.__setitem__(failure.source, failure)
        ):
            if isinstance(result, Failure):
                self._failed([result], rows, progress)
                self.commit()
                continue
            failure = partly.get(source.name)
            content, taken = facts_of(source)
            reason = None if failure is None else failure.reason
            row = replace(rows[source.name], content=content, taken=taken, failure=reason)
            self._waiting.append((row, [_part(moment) for moment in result]))
            self.added += 1
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

    def _failed(self, failures: list[Failure], rows: dict[str, FileRow], progress: Progress) -> None:
        """Keep failures, so that the next run does not try the same files again; empties the list."""
        for failure in failures:
            progress.fail(failure)
            self.failures.append(failure)
            if self.on_error == "raise":
                self.commit()
                raise BadMedia(failure.reason)
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
            exif = picture.getexif()
            text = exif.get_ifd(_EXIF).get(_TAKEN) if exif else None
        return time.mktime(time.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")) if text else None
    except (ValueError, OverflowError, Image.DecompressionBombError, *DECODER_ERRORS):
        return None


def _part(moment: Moment) -> Part:
    return Part(moment.vector, moment.start, moment.end)


def _encoder(
    model: str | nn.Module | Encoder,
    weights: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
) -> Encoder:
    return model if isinstance(model, Encoder) else Encoder(model, device, dtype, weights)


def _maker(encoder: Encoder, weights: str | Path | None) -> Maker:
    described = asdict(encoder.model.preprocess)
    file = "" if weights is None else str(Path(weights).expanduser().absolute())
    return Maker(
        encoder.name,
        file,
        weights_hash(encoder.model),
        json.dumps(described, sort_keys=True),
        json.dumps(asdict(MomentRule()), sort_keys=True),
        _dimension(encoder),
    )


def _dimension(encoder: Encoder) -> int:
    """D, from one small grey picture. Raises BadInput for models that give no single vector."""
    grey = Image.new("RGB", (32, 32), (127, 127, 127))
    return int(encoder.embed(encoder.model.preprocess(grey)[None]).shape[1])


def _open(place: Path | None, root: Path, maker: Maker, overwrite: bool) -> Index:
    if place is not None and place.is_dir():
        raise BadInput(f"{name_of(place)} is a folder; name a file in it, such as {name_of(place / 'pictures.index')}.")
    if place is None or not place.exists() or not place.stat().st_size:
        return Index.create(place, root, maker)
    known = Index.open(place, write=True)
    if overwrite:
        known.close()
        place.unlink()
        return Index.create(place, root, maker)
    known.maker.check_same(maker, place)
    return known


def _changes(found: Index, sources: Sequence[Source | Failure], inputs: Sequence[str]) -> Changes:
    """What there is to do. Raises BadInput for inputs in memory where the index is a file."""
    changes = changes_of(found.files(), sources, found.root, inputs)
    if found.path is not None:
        memory = next((item for item in changes.new if item.source.path is None), None)
        if memory is not None:
            raise BadInput(f"an index in a file holds files; {memory.source.name!r} came in memory: leave out to=.")
        own = found.path.absolute()
        changes.new = [item for item in changes.new if item.source.path is None or item.source.path.absolute() != own]
    return changes


def _listed(inputs: Iterable[Any]) -> Any:
    """An iterable of inputs as a list, since they are looked at twice; arrays and pictures stay what they are."""
    return inputs if hasattr(inputs, "shape") or hasattr(inputs, "frames") else list(inputs)


def _keep_bank(found: Index, encoder: Encoder) -> None:
    """The vectors of the neutral texts, which probabilities are measured against."""
    try:
        from percepta.calibration import neutral_texts
    except ImportError:
        return

    if encoder.has_words and found.bank is None:
        texts = neutral_texts()
        found.keep_bank(texts, encoder.words(texts))


def _duration(source: Source) -> float:
    try:
        with VideoReader(source.thing) as reader:
            return reader.duration
    except (PerceptaError, OSError):
        return 0.0


def _seconds_a_picture(sources: Sequence[Source], encoder: Encoder) -> float:
    """Of decoding and embedding, which go on side by side: the larger of the two, after one picture to warm up."""
    pixels, decoding = [], 0.0
    for source in sources:
        began = time.perf_counter()
        try:
            pixels.append(encoder.prepare(source))
        except (PerceptaError, OSError, MemoryError):
            continue
        decoding += time.perf_counter() - began
    shape = pixels[0].shape if pixels else encoder.model.preprocess(Image.new("RGB", (32, 32))).shape
    batch = torch.stack([item for item in pixels if item.shape == shape] or [torch.zeros(shape)])
    encoder.embed(batch[:1])
    began = time.perf_counter()
    encoder.embed(batch)
    return max((time.perf_counter() - began) / len(batch), decoding / max(1, len(pixels)) / 2)
