"""Pictures of any data through a model, once: vectors by preprocessing, or of any layers.

Unusual: a square picture is the same under squash and centre crop, and is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from percepta.datasets.picture_sets import Pictures
from percepta.errors import BadInput, one_of
from percepta.evaluation import Encoded, EncodePictures
from percepta.media import Source, open_picture
from percepta.tasks.encoder import Encoder
from percepta.tasks.encoding import encode_each
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.features import layers_of

LAYER_WORDS = ("last", "all", "output")
KEPT = 2  # a training and a test part
OWN = "the model's own"


def by_resize(batches: Batches, resizes: Sequence[str]) -> EncodePictures:
    """Pictures to their unit vectors, by the name of each resize rule ("squash", ..., or "the model's own").

    Raises: BadInput for an unknown rule.
    """
    own = batches.encoder.model.preprocess
    rules = {name: own if name == OWN else replace(own, resize=name) for name in resizes}
    square_alike = len(rules) > 1 and all(rule.resize != "none" for rule in rules.values())

    def prepare(source: Source) -> Tensor:
        picture = open_picture(source.thing)
        alike = square_alike and picture.width == picture.height
        return torch.stack([rule(picture) for rule in list(rules.values())[: 1 if alike else None]])

    def compute(views: Tensor) -> dict[str, Tensor]:
        vectors = batches.encoder.embed(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return dict(zip(rules, vectors.expand(-1, len(rules), -1).unbind(1), strict=True))

    return lambda pictures: _encoded(batches, pictures, prepare, compute)


def by_layer(batches: Batches, layers: Sequence[int | str], pooling: str = "mean", norm: bool = True) -> EncodePictures:
    """Pictures to one vector a layer, by the names "layer 3" and "output", all from one pass.

    Args:
        layers: as of `layers_named`.
        pooling: of the tokens of a layer: "mean" of the patches, the "class" token, or the model's own "attention"
            pooling (before its projection).
        norm: apply the model's final norm first.

    What was computed last is kept, so that several probes on the same features cost one pass.

    Raises: BadInput for a layer out of range, or a pooling that the model does not have.
    """
    encoder = batches.encoder
    names = layers_named(encoder, layers)
    blocks = {name: number for name, number in names.items() if number is not None}
    pool = _pooling(encoder, pooling)

    def prepare(source: Source) -> Tensor:
        tensor: Tensor = encoder.model.preprocess(source.thing)
        return tensor

    finish = _finish(encoder) if blocks and norm and "output" in names else None
    wanted = [*blocks.values(), *([encoder.model.config.depth - 1] if finish is not None else [])]

    @torch.inference_mode()
    def compute(views: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if blocks:
            pictures = views.to(encoder.device, encoder.dtype)
            tokens = encoder.model.intermediates(pictures, wanted, norm=norm, prefix=True)
            found = {name: pool(values).float().cpu() for name, values in zip(blocks, tokens, strict=False)}
            if finish is not None:
                found["output"] = finish(tokens[-1]).float().cpu()
        return {name: found[name] if name in found else encoder.embed(views, normalize=False) for name in names}

    def encode(pictures: Pictures) -> Encoded:
        key = (pictures.key, tuple(names), pooling, norm)
        if key not in batches.kept:
            while len(batches.kept) >= KEPT:
                batches.kept.pop(next(iter(batches.kept)))
            batches.kept[key] = _encoded(batches, pictures, prepare, compute)
        found: Encoded = batches.kept[key]
        return found

    return encode


def layers_named(encoder: Encoder, layers: Sequence[int | str]) -> dict[str, int | None]:
    """Names to block numbers, None for "output".

    Args:
        layers: 0-based block numbers, negative from the end, "last", "all" for every block and the output, or "output"
            for the vector that the model itself gives of a picture (not scaled).

    Raises: BadInput for none, another word, or a number out of range.
    """
    depth = encoder.model.config.depth
    found: dict[str, int | None] = {}
    for layer in [layers] if isinstance(layers, int | str) else layers:
        if layer == "output":
            found["output"] = None
        elif layer == "all":
            every = range(depth)
            found |= {f"layer {number}": number for number in every} | ({"output": None} if _gives(encoder) else {})
        elif isinstance(layer, str) and layer != "last":
            raise one_of("layer", layer, (f"0 to {depth - 1}", f"-{depth} to -1", *LAYER_WORDS), encoder.name)
        else:
            (number,) = layers_of(encoder, -1 if isinstance(layer, str) else layer)
            found[f"layer {number}"] = number
    if not found:
        raise BadInput(f"layers must name at least one layer, or one of {', '.join(LAYER_WORDS)}; got none.")
    if "output" in found and not _gives(encoder):
        raise BadInput(
            f"{encoder.name} gives no single vector for a picture; pass layers (on the command line --layers last)."
        )
    return found


def _gives(encoder: Encoder) -> bool:
    return hasattr(encoder.model, "encode_image") or getattr(encoder.model, "pooled", False)


def _finish(encoder: Encoder) -> Callable[[Tensor], Tensor] | None:
    """Normed tokens of the last block → the model's own vector, where it is known how; else a second pass gives it."""
    tower = getattr(encoder.model, "vision", encoder.model)
    if getattr(encoder.model.config, "pooling", None) != "attention" or not hasattr(tower, "pool"):
        return None
    projection = getattr(tower, "projection", None)
    return lambda tokens: tower.pool(tokens) if projection is None else tower.pool(tokens) @ projection


def _pooling(encoder: Encoder, pooling: str) -> Callable[[Tensor], Tensor]:
    """(B, N, D) tokens with the class token in front → (B, D)."""
    tower = getattr(encoder.model, "vision", encoder.model)
    prefix = getattr(encoder.model.config, "prefix", 0)
    attention = getattr(tower, "pool", None)
    at_hand = ["mean", *(["class"] if prefix else []), *(["attention"] if attention is not None else [])]
    if pooling not in at_hand:
        raise one_of("pooling", pooling, at_hand, encoder.name)
    if pooling == "attention" and attention is not None:
        return attention
    if pooling == "class":
        return lambda tokens: tokens[:, 0]
    return lambda tokens: tokens[:, prefix:].mean(dim=1)


def _encoded(
    batches: Batches,
    pictures: Pictures,
    prepare: Callable[[Source], Tensor],
    compute: Callable[[Tensor], Mapping[str, Tensor]],
) -> Encoded:
    """All pictures, each read once; those that fail are left out and named."""
    return Encoded(*encode_each(pictures, prepare, compute, batches.size, batches.watch("pictures"), batches.on_error))
