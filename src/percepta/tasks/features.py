"""The patch features of any layers, for pictures of what a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, out_of_range
from percepta.media import Source
from percepta.results import FeatureMap
from percepta.running.feed import Stream
from percepta.tasks.encoder import NANO, Encoder


def features(
    inputs: Any,
    layers: int | Sequence[int] = -1,
    model: str | nn.Module = NANO,
    size: int | None = None,
    norm: bool = False,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
) -> Stream[FeatureMap]:
    """Feature maps; for every input one map a layer, in the order of `layers`, as they are made.

    Args:
        inputs: a file, folder, glob, picture, array, "-" (names on standard input) or an iterable of these. Of a
            video, the middle frame is taken.
        layers: 0-based, negative from the end.
        model: a name or a loaded encoder.
        size: side in pixels to which pictures are brought first; None is the model's own. Larger gives finer maps.
        norm: apply the model's final norm.
        weights: a file or folder for the model's name.
        on_error: "collect" (see `failures` of the stream) or "raise" (BadMedia).

    Raises:
        BadInput: a layer or size out of range, inputs that hold nothing. UnknownModel, MissingWeights,
        CheckpointMismatch.
    """
    encoder = Encoder(model, device, dtype, weights)
    wanted, name = layers_of(encoder, layers), encoder.name
    patch = encoder.model.config.patch_size
    side = encoder.model.config.image_size if size is None else size
    if isinstance(side, bool) or not isinstance(side, int) or not patch <= side <= 4096:
        raise out_of_range("size", size, f"a whole number from {patch} to 4096", encoder.name)

    def prepare(source: Source) -> Tensor:
        if source.kind == "video":
            return encoder.model.preprocess.video(source.thing, 1, size=side)[0]
        tensor: Tensor = encoder.model.preprocess(source.thing, side)
        return tensor

    def compute(batch: Tensor, sources: list[Source]) -> list[list[FeatureMap]]:
        with encoder.evaluating():
            pictures = batch.to(encoder.device, encoder.dtype)
            maps = encoder.model.intermediates(pictures, wanted, layout="NHWC", norm=norm)
        arrays = [values.float().cpu().numpy() for values in maps]
        return [
            [FeatureMap(source.name, layer, array[row], name) for layer, array in zip(wanted, arrays, strict=True)]
            for row, source in enumerate(sources)
        ]

    nested = encoder.run(inputs, compute, batch_size, on_error, prepare)
    total = None if nested.total is None else nested.total * len(wanted)
    return Stream(total, (entry for maps in nested for entry in maps), nested.failures)


def layers_of(encoder: Encoder, layers: int | Sequence[int]) -> list[int]:
    """0-based layer indices, checked against the depth of the model. Raises BadInput."""
    given = [layers] if isinstance(layers, int) else list(layers)
    depth = encoder.model.config.depth
    if not given:
        raise BadInput("layers must name at least one layer; got none.")
    for layer in given:
        if isinstance(layer, bool) or not isinstance(layer, int) or not -depth <= layer < depth:
            raise out_of_range("layer", layer, f"0 to {depth - 1} or -{depth} to -1", encoder.name)
    return [layer % depth for layer in given]
