"""One vector for every picture and video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.media import Source
from percepta.results import Embedding
from percepta.running.feed import Stream
from percepta.tasks.encoder import NANO, Encoder


def embed(
    inputs: Any,
    model: str | nn.Module = NANO,
    normalize: bool = True,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
) -> Stream[Embedding]:
    """Embed pictures and videos; results come as they are made, in order.

    Args:
        inputs: a file, folder, glob, picture, array, "-" (names on standard input) or an iterable of these.
        model: a name or a loaded model that pools.
        normalize: scale to length 1, so that a dot product is a cosine; False gives the model's own length.
        weights: a file or folder for the model's name.
        on_error: "collect" (see `failures` of the stream) or "raise" (BadMedia).

    Returns:
        A stream of Embedding; the vector of a video is the mean over 8 frames, first and last included.

    Raises:
        BadInput: inputs that hold nothing, or a model that gives no single vector. UnknownModel, MissingWeights,
        CheckpointMismatch.
    """
    encoder = Encoder(model, device, dtype, weights)

    def compute(batch: Tensor, sources: list[Source]) -> list[Embedding]:
        rows = encoder.embed(batch, normalize).numpy()
        return [Embedding(source.name, row, encoder.name) for source, row in zip(sources, rows, strict=True)]

    return encoder.run(inputs, compute, batch_size, on_error)
