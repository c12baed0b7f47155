"""The patch features of any layers, for pictures of what a network sees, and of which patches it could treat as one.

Unusual: where tokens are to be merged, a second tower that shares all parts with the model's own is told so; a model
in hand stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, out_of_range
from percepta.layers.token_merging import restored
from percepta.media import Source
from percepta.results import FeatureMap
from percepta.running.feed import Stream
from percepta.speedups import merge_tokens
from percepta.tasks.encoder import NANO, Encoder


def features(  # noqa: PLR0913 (the front door)
    inputs: Any,
    layers: int | Sequence[int] = -1,
    model: str | nn.Module = NANO,
    size: int | None = None,
    norm: bool = False,
    merge: int | float | str | None = None,
    strategy: str = "bipartite",
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
) -> Stream[FeatureMap]:
    """Feature maps; for every input one map a layer, in the order of `layers`, as they are made.

    Args:
        inputs: a file, folder, glob, picture, array, "-" (names on standard input) or an iterable of these. Of a
            video, the middle frame is taken; hand over `VideoReader(...).iterate()` for all of them.
        layers: 0-based, negative from the end.
        model: a name or a loaded encoder.
        size: side in pixels to which pictures are brought first; None is the model's own. Larger gives finer maps.
        norm: apply the model's final norm.
        merge: merge tokens on the way (see `merge_tokens`), and say in `groups` which: 16 or "16" for so many in each
            block, 0.5 or "50%" for that share of the multiply-adds at this size. None leaves the model as it is.
        strategy: how they are chosen, a name of `percepta.speedups.STRATEGIES`.
        weights: a file or folder for the model's name.
        on_error: "collect" (see `failures` of the stream) or "raise" (BadMedia).

    Raises:
        BadInput (a layer, size or merge out of range, no inputs), UnknownModel, MissingWeights, CheckpointMismatch.
    """
    amount = None if merge is None else amount_of(merge)
    encoder = Encoder(model, device, dtype, weights)
    wanted, name = layers_of(encoder, layers), encoder.name
    side = _side(encoder, size)
    tower = None if amount is None else _merging(encoder.model, amount, strategy, side)

    def prepare(source: Source) -> Tensor:
        if source.kind == "video":
            return encoder.model.preprocess.video(source.thing, 1, size=side)[0]
        tensor: Tensor = encoder.model.preprocess(source.thing, side)
        return tensor

    def compute(batch: Tensor, sources: list[Source]) -> list[list[FeatureMap]]:
        pictures = batch.to(encoder.device, encoder.dtype)
        with encoder.evaluating():
            maps, groups = _maps(encoder.model if tower is None else tower, tower is not None, pictures, wanted, norm)
        arrays = [values.float().cpu().numpy() for values in maps]
        return [
            [
                FeatureMap(source.name, layer, array[row], name, group[row])
                for layer, array, group in zip(wanted, arrays, groups, strict=True)
            ]
            for row, source in enumerate(sources)
        ]

    nested = encoder.run(inputs, compute, batch_size, on_error, prepare)
    total = None if nested.total is None else nested.total * len(wanted)
    return Stream(total, (entry for maps in nested for entry in maps), nested.failures)


def amount_of(merge: int | float | str) -> dict[str, Any]:
    """{"r": 16} of 16 or "16", {"flops": 0.5} of 0.5 or "50%", as `merge_tokens` takes them. Raises BadInput."""
    amount = _number(merge.strip()) if isinstance(merge, str) else merge
    if isinstance(amount, float) and 0 < amount <= 1:
        return {"flops": amount}
    if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 1:
        return {"r": amount}
    allowed = 'tokens for each block, such as 16, or a share of the multiply-adds above 0, such as "50%"'
    raise out_of_range("merge", merge, allowed)


def _number(text: str) -> float:
    """A whole number, a share with its sign, or NaN."""
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else int(text)
    except ValueError:
        return float("nan")


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


def _side(encoder: Encoder, size: int | None) -> int:
    patch = encoder.model.config.patch_size
    side = encoder.model.config.image_size if size is None else size
    if isinstance(side, bool) or not isinstance(side, int) or not patch <= side <= 4096:
        raise out_of_range("size", size, f"a whole number from {patch} to 4096", encoder.name)
    return side


def _merging(model: Any, amount: dict[str, Any], strategy: str, side: int) -> Any:
    """A tower that shares all parts with the model's and merges tokens, of pictures of this side."""
    tower = getattr(model, "vision", model)
    patch = tower.config.patch_size
    sized = tower.truncated(-1)  # only asked for its schedule: other towers place patches by the size of their config
    sized.config = replace(sized.config, image_size=side // patch * patch)
    merging = tower.truncated(-1)
    merge_tokens(merging, schedule=merge_tokens(sized, **amount, strategy=strategy).removed, strategy=strategy)
    return merging


def _maps(
    model: Any, merged: bool, pictures: Tensor, layers: Sequence[int], norm: bool
) -> tuple[list[Tensor], list[Any]]:
    """For each layer (B, h, w, D) features, and of a tower that merges (B, h, w) numbers of tokens, else Nones."""
    if not merged:
        nothing = [None] * len(pictures)
        return model.intermediates(pictures, layers, layout="NHWC", norm=norm), [nothing] * len(layers)
    patch, prefix = model.config.patch_size, model.config.prefix
    grid = (pictures.shape[-2] // patch, pictures.shape[-1] // patch)
    maps, groups = [], []
    for tokens in model.tokens_after(pictures, layers):
        values = restored(model.norm_post(tokens.x) if norm else tokens.x, tokens.group)[:, prefix:]
        group = tokens.group
        if group is None:  # nothing was merged so far
            group = torch.arange(values.shape[1] + prefix).expand(len(values), -1)
        maps.append(values.unflatten(1, grid))
        groups.append((group[:, prefix:] - prefix).clamp_min(-1).unflatten(1, grid).cpu().numpy())
    return maps, groups
