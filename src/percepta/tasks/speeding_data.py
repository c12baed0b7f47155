"""The pictures that `speedup` tries a model on: evenly spread, with their classes where those are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.picture_sets import LabelledSet, open_labelled, shard_files, table_files
from percepta.errors import BadInput, BadMedia
from percepta.media import Source
from percepta.results import Failure
from percepta.running.progress import Progress
from percepta.tasks.encoder import Encoder, sources_of
from percepta.tasks.prompts import labels_of

ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True)
class Sample:
    """Preprocessed pictures (N, 3, H, W), and, where they are known, class names and the class of each picture."""

    place: str
    pictures: Tensor
    names: tuple[str, ...] | None
    labels: NDArray[np.int64] | None
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]


def sample_of(
    on: Any, labels: str | Sequence[str] | None, limit: int, progress: Progress | None, encoder: Encoder
) -> Sample:
    """At most `limit` pictures of the data; of a video, the middle frame.

    Args: as of `speedup`.

    Raises: BadInput for no picture, or labels that do not match the classes. BadMedia for data that cannot be read.
    """
    data = _opened(on)
    wanted = labels != "none" and (labels is not None or encoder.has_words)
    if wanted and labels is not None:
        data = _with_labels(data, labels_of(labels))
    if data is None:
        sources, place = list(sources_of(on)), Path(on).name if isinstance(on, str | Path) else "pictures in memory"
    else:
        sources, place = [], data.place
    named = wanted and data is not None and data.named and len(data.names) > 1
    count = len(sources) if data is None else len(data)
    rows = np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64))
    chosen = [sources[row] for row in rows] if data is None else list(data.pictures.subset(rows))
    numbered = {source.name: row for source, row in zip(chosen, rows.tolist()) if isinstance(source, Source)}

    def prepare(source: Source) -> Tensor:
        if source.kind == "video":
            return encoder.model.preprocess.video(source.thing, 1)[0]
        picture: Tensor = encoder.model.preprocess(source.thing)
        return picture

    def compute(batch: Tensor, given: list[Source]) -> list[tuple[str, Tensor]]:
        return [(source.name, tensor) for source, tensor in zip(given, batch, strict=True)]

    stream = encoder.run(chosen, compute, prepare=prepare)
    found = list(stream.watched(progress))
    if len(found) < 2:
        why = f": {stream.failures[0].reason}" if stream.failures else "."
        raise BadInput(f"speedup needs two pictures at least; {place} holds {len(found)} that can be read{why}")
    if len({tensor.shape for _, tensor in found}) > 1:
        raise BadInput("speedup needs a model that brings all pictures to one size.")
    pictures, failures = torch.stack([tensor for _, tensor in found]), tuple(stream.failures)
    if data is None or not named:
        return Sample(place, pictures, None, None, (), failures)
    kept = data.labels[[numbered[name] for name, _ in found]]
    notes = (f"classes are the {len(data.names)} names in {place}, such as {', '.join(data.names[:4])}.",)
    return Sample(place, pictures, data.names, kept, notes, failures)


def _opened(on: Any) -> LabelledSet | None:
    """The data with their classes; None for pictures without. Raises BadMedia for tables and tar files without."""
    if not isinstance(on, str | Path) or str(on) == "-":
        return None
    try:
        return open_labelled(on)
    except BadMedia:
        path = Path(on).expanduser()
        if shard_files(path) or table_files(path):
            raise
        return None


def _with_labels(data: LabelledSet | None, names: Sequence[str]) -> LabelledSet:
    if data is None:
        raise BadInput("labels need data with classes: a folder with one sub-folder a class, tar files or parquet.")
    return _matched(data, names) if data.named else data.renamed(names)


def _matched(data: LabelledSet, names: Sequence[str]) -> LabelledSet:
    """The pictures of the classes that the labels name, with the labels for names."""
    classes = {_plain(name): number for number, name in enumerate(data.names)}
    for name in names:
        if _plain(name) not in classes:
            raise BadInput(f"labels must be classes of {data.place} ({', '.join(data.names[:12])}); got {name!r}.")
    numbers = {classes[_plain(name)]: place for place, name in enumerate(names)}
    kept = data.subset(np.flatnonzero(np.isin(data.labels, list(numbers))))
    renumbered = np.array([numbers[label] for label in kept.labels.tolist()], np.int64)
    return LabelledSet(data.place, kept.pictures, renumbered, tuple(names))


def _plain(name: str) -> str:
    """A name without its article, in small letters, with blanks for underscores."""
    text = " ".join(name.lower().replace("_", " ").split())
    return next((text.removeprefix(article) for article in ARTICLES if text.startswith(article)), text)
