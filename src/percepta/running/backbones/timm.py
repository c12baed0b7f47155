"""Models of timm: their layers by `forward_intermediates`, their own preprocessing, pooling and classes."""

from __future__ import annotations

import importlib.metadata
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from percepta.errors import MissingExtra, MissingWeights, UnknownModel, nearest
from percepta.media import Source
from percepta.media.drawing import to_rgb
from percepta.running.backbones.backbone import (
    OUTPUT,
    PROBABILITIES,
    Backbone,
    averaged,
    in_order,
    parameters_of,
    seeded,
    weighted_depth,
)

PREFIX = "timm/"


def timm_names(pattern: str) -> list[str]:
    """Names with weights that fit a shell pattern, such as "vit_tiny*". Raises: MissingExtra."""
    found: list[str] = _timm().list_models(pattern, pretrained=True)
    return found


def open_timm(name: str, random_weights: bool = False) -> Backbone:
    """A model by timm's name, with or without the tag of its weights; fetched on first use.

    Raises: UnknownModel, MissingWeights, MissingExtra.
    """
    timm = _timm()
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        close = nearest(plain, timm.list_models())
        hint = f"did you mean {' or '.join(PREFIX + one for one in close)}?" if close else "see timm.list_models()."
        raise UnknownModel(f"timm has no model called {name!r}; {hint}")
    try:
        with seeded():
            model = timm.create_model(name, pretrained=not random_weights)
    except Exception as error:  # of many kinds: the hub library's and timm's
        raise MissingWeights(
            f"the weights of {PREFIX}{name} are not at hand ({_short(error)}); run once where there is a network, or "
            "try the model with random weights."
        ) from error
    return timm_backbone(model.eval(), PREFIX + name)


def timm_backbone(model: Any, name: str = "") -> Backbone:
    """A model of timm in hand."""
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    name = name or PREFIX + getattr(model, "default_cfg", {}).get("architecture", type(model).__name__)
    data = resolve_model_data_config(model)
    if (own := getattr(getattr(model, "patch_embed", None), "img_size", None)) is not None:  # built for another size
        data["input_size"] = (3, *own)
    transform = create_transform(**data, is_training=False)
    classes = getattr(model, "num_classes", 0)
    count = _layers(model)
    layers = tuple(f"layer {number}" for number in range(count))

    def encode(pictures: Tensor, wanted: bool) -> dict[str, Tensor]:
        if wanted and count:
            last, maps = model.forward_intermediates(pictures, indices=list(range(count)), output_fmt="NCHW")
            vectors = {layer: averaged(values) for layer, values in zip(layers, maps, strict=True)}
        else:
            last, vectors = model.forward_features(pictures), {}
        vectors[OUTPUT] = model.forward_head(last, pre_logits=True).flatten(1)
        if classes:
            vectors[PROBABILITIES] = model.forward_head(last).softmax(dim=-1)
        return in_order(vectors, (*layers, OUTPUT, PROBABILITIES))

    def prepare(source: Source) -> Tensor:
        tensor: Tensor = transform(to_rgb(source.thing))
        return tensor

    blocks = getattr(model, "blocks", None)
    columnar = isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) == count and hasattr(blocks[0], "attn")
    return Backbone(
        name,
        model,
        layers,
        prepare,
        encode,
        parameters_of(model),
        weighted_depth(model, count if columnar else 0),
        tuple(data["input_size"]),
        model,
        f"timm {importlib.metadata.version('timm')}, {transform}",
        lambda layer: _usage(name, layer),
    )


def _layers(model: Any) -> int:
    """How many maps `forward_intermediates` gives: of the blocks of a transformer, else of the stages."""
    if not hasattr(model, "forward_intermediates"):
        return 0
    return len(getattr(model, "feature_info", None) or ())


def _usage(name: str, layer: str) -> str:
    create = f"timm.create_model({name.removeprefix(PREFIX)!r}, pretrained=True"
    if layer == OUTPUT:
        return f"{create}, num_classes=0).eval()(x)"
    number = layer.removeprefix("layer ")
    return f"{create}).eval().forward_intermediates(x, indices=[{number}], intermediates_only=True)[0].mean(dim=(2, 3))"


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("timm", "train", "A model of timm") from error
    return timm


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
