"""Search by words or by picture over pictures and videos, held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from percepta.errors import BadInput, BadMedia, out_of_range
from percepta.media import Source, collect
from percepta.results import Failure, Hit, Hits
from percepta.running.progress import Progress
from percepta.tasks.embed import embed
from percepta.tasks.encoder import NANO, Encoder


@dataclass(frozen=True, eq=False)
class PictureIndex:
    """Pictures and videos by their vectors.

    Attributes:
        names: N names.
        vectors: (N, D) float32 of length 1.
        model: name of the model that made them.
        failures: inputs that could not be used.
    """

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    model: str
    failures: tuple[Failure, ...] = ()
    encoder: Encoder | None = field(default=None, repr=False)

    def nearest(self, query: str, vector: NDArray[np.float32], limit: int) -> Hits:
        """The `limit` entries whose cosine with a unit vector is largest."""
        scores = self.vectors @ vector
        best = np.argsort(-scores, kind="stable")[:limit]
        return Hits(query, tuple(Hit(self.names[row], float(scores[row])) for row in best), "cosine")

    def __len__(self) -> int:
        return len(self.names)


def index(
    inputs: Any,
    model: str | nn.Module | Encoder = NANO,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    progress: Progress | None = None,
) -> PictureIndex:
    """An index in memory of all pictures and videos in `inputs`; see `search`.

    Raises: BadInput, UnknownModel, MissingWeights, CheckpointMismatch; BadMedia with on_error="raise".
    """
    encoder = model if isinstance(model, Encoder) else Encoder(model, device, dtype)
    stream = embed(inputs, encoder.model, batch_size=batch_size, on_error=on_error).watched(progress)
    found = list(stream)
    vectors = np.stack([entry.vector for entry in found]) if found else np.zeros((0, 1), dtype=np.float32)
    return PictureIndex(tuple(entry.source for entry in found), vectors, encoder.name, tuple(stream.failures), encoder)


def search(
    where: Any,
    query: Any,
    limit: int = 20,
    model: str | nn.Module = NANO,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
) -> Hits:
    """What is most like the query, best first.

    Args:
        where: an index, or inputs (file, folder, glob, iterable ...) that are indexed now.
        query: words, or a picture or video: a path, or whatever `open_picture` takes. A text that is the name of a
            file means that file.
        limit: at most so many hits.
        model, device, dtype, batch_size, on_error: as for `index`; an index brings its own model.

    Raises:
        BadInput: empty words, a limit below 1, inputs that hold nothing. BadMedia: the query's picture is unreadable.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise out_of_range("limit", limit, "a whole number of 1 or more", "search")
    if isinstance(query, str) and not query.strip():
        raise BadInput("the query must be words or a picture; got an empty text.")
    if not isinstance(where, PictureIndex):
        encoder = Encoder(model, device, dtype)
        if not _is_picture(query):
            encoder.need_words("search by words")
        where = index(where, encoder, batch_size=batch_size, on_error=on_error)
    elif where.encoder is None:
        where = replace(where, encoder=Encoder(where.model, device, dtype))
    assert where.encoder is not None
    name, vector = _query_vector(where.encoder, query)
    if not len(where):
        return Hits(name, (), "cosine")
    return where.nearest(name, vector, limit)


def _is_picture(query: Any) -> bool:
    if not isinstance(query, str):
        return True
    try:
        return Path(query).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # words that no file can be called
        return False


def _query_vector(encoder: Encoder, query: Any) -> tuple[str, NDArray[np.float32]]:
    if not _is_picture(query):
        encoder.need_words("search by words")
        return query, encoder.words([query])[0].numpy()
    source = next(collect(query))
    if not isinstance(source, Source):
        raise BadMedia(source.reason)
    return source.name, encoder.embed(encoder.prepare(source)[None])[0].numpy()
