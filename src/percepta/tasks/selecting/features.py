"""The pictures of a probe through a model, all wanted vectors in one pass; what was computed before is not again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from percepta.datasets.picture_sets import Pictures
from percepta.evaluation import Encoded
from percepta.media import Source
from percepta.results import Failure
from percepta.running.backbones import Backbone
from percepta.running.feed import DEFAULT_BATCH
from percepta.running.progress import Progress
from percepta.tasks.encoding import encode_each
from percepta.tasks.selecting.keeping import Kept, picture_key


def keys_of(pictures: Pictures) -> list[str]:
    """For each picture the key of its bytes, or "" for one that cannot be read."""
    found = []
    for source in pictures:
        try:
            found.append("" if isinstance(source, Failure) else picture_key(source))
        except OSError:
            found.append("")
    return found


def features_of(
    backbone: Backbone,
    pictures: Pictures,
    keys: Sequence[str],
    layers: bool,
    batch_size: int | None = None,
    progress: Progress | None = None,
    on_error: str = "collect",
) -> Encoded:
    """The vectors of `Backbone.vectors` of all pictures that can be read.

    Args:
        keys: of `keys_of`.
        layers: whether those of the layers are wanted.
        batch_size, on_error: as of `run_over`; the batch is 8 by default, 32 on a GPU.

    Raises: BadMedia where no picture can be read, or for the first that cannot with on_error="raise".
    """
    kept = Kept(backbone, layers, keys)
    rows = [row for row, key in enumerate(keys) if key not in kept.vectors]
    known = {row: kept.vectors[key] for row, key in enumerate(keys) if key in kept.vectors}
    if not rows:
        return _together(known, {}, ())
    place = next(backbone.model.parameters()).device
    size = DEFAULT_BATCH.get(place.type, 8) if batch_size is None else batch_size
    numbers: dict[str, int] = {}

    def tell(sources: Sequence[Source], vectors: Mapping[str, Tensor]) -> None:
        kept.add([keys[numbers[source.name]] for source in sources], vectors)

    asked = pictures.subset(rows)
    numbered = Pictures(len(asked), lambda wanted: _numbered(asked, rows, wanted, numbers), asked.key)
    try:
        vectors, made, failures = encode_each(
            numbered, backbone.prepare, lambda batch: backbone.vectors(batch, layers), size, progress, on_error, tell
        )
    finally:  # an interruption loses nothing
        kept.write()
    new = {
        rows[row]: {name: values[place] for name, values in vectors.items()} for place, row in enumerate(made.tolist())
    }
    return _together(known, new, failures)


def _numbered(pictures: Pictures, rows: Sequence[int], wanted: Any, numbers: dict[str, int]) -> Any:
    """The pictures as they are, while `numbers` learns which row each name has."""
    for place, source in zip(wanted.tolist(), pictures.read(wanted), strict=True):
        if isinstance(source, Source):
            numbers[source.name] = rows[place]
        yield source


def _together(
    known: Mapping[int, Mapping[str, Tensor]], new: Mapping[int, Mapping[str, Tensor]], failures: Sequence[Failure]
) -> Encoded:
    everything = {**known, **new}
    rows = sorted(everything)
    names = list(everything[rows[0]]) if rows else []
    stacked = {name: torch.stack([everything[row][name] for row in rows]) for name in names}
    return Encoded(stacked, np.array(rows, np.int64), tuple(failures))
