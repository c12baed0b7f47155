"""Our own encoders: every block of the vision tower, its pooled output, and the classes of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers.token_merging import restored
from percepta.media import Source
from percepta.running import loading, preparing
from percepta.running.backbones.backbone import (
    OUTPUT,
    PROBABILITIES,
    Backbone,
    averaged,
    parameters_of,
    seeded,
    tapped,
    weighted_depth,
)

FAMILIES = ("perception_encoder", "hiera")
"""Those whose models are encoders of single pictures."""


def open_ours(
    name: str | Path,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    random_weights: bool = False,
) -> Backbone:
    """A name of `list_models()`, or a file that `save` wrote; arguments as of `load`.

    Raises: UnknownModel, MissingWeights, CheckpointMismatch; BadInput for a model that is no encoder of pictures.
    """
    if random_weights:
        with seeded():
            model = loading.build(str(name)).to(loading.as_device(device), loading.as_dtype(dtype) or torch.float32)
        return our_backbone(model.eval(), str(name))
    precision = loading.as_dtype(dtype)
    on_cpu = loading.as_device(device).type == "cpu" and (precision or torch.float32) in preparing.PRECISIONS
    model = loading.load(name, weights, device, None if on_cpu else dtype)
    found = our_backbone(model, str(name))
    if on_cpu and getattr(model, "setting", None) is None:
        preparing.prepare(model, precision)
        if precision is not None and preparing.precision_of(model) != precision:
            preparing.unprepare(model).to(precision)
    return found


def our_backbone(model: Any, name: str = "") -> Backbone:
    """One of our encoders in hand. Raises: BadInput for a model that is none, or of videos."""
    name = name or getattr(model, "name", type(model).__name__)
    config = model.config
    if loading.family_of(model).__name__.rsplit(".", 1)[-1] not in FAMILIES or getattr(config, "frames", None):
        raise BadInput(f"{name} is no encoder of single pictures; use a pe-... or hiera-... model.")
    root = "vision." if hasattr(model, "vision") else ""
    tower = getattr(model, "vision", model)
    prefix = getattr(tower.config, "prefix", 0)
    layers = tuple(f"layer {number}" for number in range(config.depth))

    def pool(values: Any) -> Tensor:
        """`Tokens` of the Perception Encoder, or (B, units, tokens of a unit, D) of Hiera."""
        return averaged(restored(values.x, values.group), prefix) if hasattr(values, "group") else _of_units(values)

    taps = {layer: (f"{root}blocks.{number}", pool) for number, layer in enumerate(layers)}
    head = "projection" if getattr(config, "classes", None) else ""

    def encode(pictures: Tensor, wanted: bool) -> dict[str, Tensor]:
        with tapped(model, taps if wanted else {}, head) as found:
            values = tower(pictures)
        vectors = {layer: found[layer] for layer in layers if layer in found}
        if not head:
            return vectors | {OUTPUT: averaged(values, prefix)}
        return vectors | {OUTPUT: found[OUTPUT], PROBABILITIES: values if config.softmax else values.softmax(dim=-1)}

    def prepare(source: Source) -> Tensor:
        tensor: Tensor = model.preprocess(source.thing)
        return tensor

    side = config.image_size
    return Backbone(
        name,
        model,
        layers,
        prepare,
        encode,
        parameters_of(tower),
        weighted_depth(tower, config.depth),
        (3, *((side, side) if isinstance(side, int) else side)),
        tower,
        repr(model.preprocess),
        lambda layer: _usage(name, model, layer),
    )


def _of_units(values: Tensor) -> Tensor:
    return averaged(values.flatten(1, 2))


def _usage(name: str, model: nn.Module, layer: str) -> str:
    if layer == OUTPUT:
        call = "encode_image(x)" if hasattr(model, "encode_image") else "(x).mean(dim=1)"
        return f"percepta.load({name!r}).{call}".replace(".(x)", "(x)")
    return f"percepta.load({name!r}).intermediates(x, [{layer.removeprefix('layer ')}])[0].mean(dim=1)"
