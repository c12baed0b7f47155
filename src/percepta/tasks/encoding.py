"""All pictures of some data through a model, each read once: vectors by name, and the pictures that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.picture_sets import Pictures
from percepta.errors import BadMedia
from percepta.media import Source
from percepta.results import Failure
from percepta.running.feed import run_over
from percepta.running.progress import Progress

Found = tuple[dict[str, Tensor], NDArray[np.int64], tuple[Failure, ...]]
Tell = Callable[[Sequence[Source], Mapping[str, Tensor]], None]


def encode_each(
    pictures: Pictures,
    prepare: Callable[[Source], Tensor],
    compute: Callable[[Tensor], Mapping[str, Tensor]],
    batch_size: int | None,
    progress: Progress | None,
    on_error: str = "collect",
    tell: Tell | None = None,
) -> Found:
    """Vectors (M, ...) by name of the pictures that can be read, the (M,) ascending row numbers of these, the others.

    Args:
        prepare: a picture to its tensor, called in threads.
        compute: a batch of B tensors to (B, ...) vectors by name.
        batch_size, on_error: as of `run_over`.
        tell: called with the pictures of every batch and their vectors as they are made.

    Raises: BadMedia for the first picture that cannot be read with on_error="raise".
    """
    rows: dict[str, int] = {}

    def numbered() -> Iterator[Source | Failure]:
        for row, source in enumerate(pictures):
            rows[source.name if isinstance(source, Source) else source.source] = row
            yield source

    def prepared(source: Source) -> Tensor:
        try:
            return prepare(source)
        except BadMedia as error:  # what lies in a table or a tar file has no name of its own
            raise error if source.path is not None else BadMedia(f"{source.name}: {error}") from None

    def named(views: Tensor, sources: list[Source]) -> list[tuple[str, dict[str, Tensor]]]:
        vectors = compute(views)
        if tell is not None:
            tell(sources, vectors)
        return [
            (source.name, {name: values[row] for name, values in vectors.items()}) for row, source in enumerate(sources)
        ]

    stream = run_over(numbered(), prepared, named, batch_size, on_error=on_error)
    stream.total = len(pictures)
    found: dict[str, list[Tensor]] = {}
    kept: list[int] = []
    for name, vectors in stream.watched(progress):
        kept.append(rows.pop(name))
        for key, values in vectors.items():
            found.setdefault(key, []).append(values)
    stacked = {key: torch.stack(values) for key, values in found.items()}
    return stacked, np.array(kept, np.int64), tuple(stream.failures)
