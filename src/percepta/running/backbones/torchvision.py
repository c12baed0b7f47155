"""Models of torchvision: blocks of its transformers, ends of stages of the others, and what its classifiers see."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from percepta.errors import MissingWeights, UnknownModel, nearest
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
    tapped,
    weighted_depth,
)
from percepta.running.modes import evaluating

PREFIX = "torchvision/"
Pool = Callable[[Any], Tensor]


def torchvision_names(pattern: str) -> list[str]:
    """Names of its classifiers of pictures that fit a shell pattern, such as "resnet*"."""
    known = torchvision.models.list_models(module=torchvision.models)
    return [name for name in known if fnmatchcase(name, pattern.lower())]


def open_torchvision(name: str, random_weights: bool = False) -> Backbone:
    """A classifier by torchvision's name with its default weights, fetched on first use.

    Raises: UnknownModel, MissingWeights.
    """
    known = torchvision_names("*")
    if name not in known:
        close = nearest(name, known)
        hint = f"did you mean {' or '.join(PREFIX + one for one in close)}?" if close else f"it has {', '.join(known)}."
        raise UnknownModel(f"torchvision has no classifier called {name!r}; {hint}")
    weights: Any = torchvision.models.get_model_weights(name).DEFAULT
    if not random_weights:
        _need(name, weights)
    try:
        with seeded():
            model = torchvision.models.get_model(name, weights=None if random_weights else weights, **_quick(name))
    except OSError as error:
        raise _missing(name, weights, type(error).__name__) from error
    return torchvision_backbone(model.eval(), PREFIX + name, weights.transforms())


def torchvision_backbone(model: Any, name: str = "", transform: Any = None) -> Backbone:
    """A classifier of torchvision in hand; `transform` is its preprocessing, by default ImageNet's at its own size."""
    from torchvision.transforms._presets import ImageClassification

    name = name or PREFIX + type(model).__name__
    if transform is None:
        side = getattr(model, "image_size", 224)
        transform = ImageClassification(crop_size=side, resize_size=side * 8 // 7)
    place = next(model.parameters())
    picture = torch.zeros(1, 3, transform.crop_size[0], transform.crop_size[0], device=place.device, dtype=place.dtype)
    blocks, taps, last = _taps(model, picture)
    layers = tuple(taps)
    head = next((path for path, part in reversed(list(model.named_modules())) if isinstance(part, nn.Linear)), "")

    def encode(pictures: Tensor, wanted: bool) -> dict[str, Tensor]:
        with tapped(model, taps if wanted else {} if head else last, head) as found:
            logits = model(pictures)
        if OUTPUT not in found:
            found[OUTPUT] = found[layers[-1]]
        if logits.ndim == 2 and logits.shape[1] > 1:
            found[PROBABILITIES] = logits.softmax(dim=-1)
        return in_order(found, (*(layers if wanted else ()), OUTPUT, PROBABILITIES))

    def prepare(source: Source) -> Tensor:
        tensor: Tensor = transform(to_rgb(source.thing))
        return tensor

    return Backbone(
        name,
        model,
        layers,
        prepare,
        encode,
        parameters_of(model),
        weighted_depth(model, blocks),
        tuple(picture.shape[1:]),
        model,
        f"torchvision {importlib.metadata.version('torchvision')}, {transform}",
        lambda layer: _usage(name, layer, {key: path for key, (path, _) in taps.items()}, head, blocks),
    )


@torch.inference_mode()
def _taps(model: Any, picture: Tensor) -> tuple[int, dict[str, tuple[str, Pool]], dict[str, tuple[str, Pool]]]:
    """How many blocks of a transformer there are; what is tapped: all of those, else the last module of each
    resolution; and the last tap alone."""
    chain = _chain(model)
    seen: list[tuple[str, torch.Size]] = []

    def note(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, values: Any) -> None:
            if isinstance(values, Tensor) and values.ndim > 2:
                seen.append((path, values.shape))

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(note(path)) for path in chain]
    try:
        with evaluating(model):
            model(picture)
    finally:
        for hook in hooks:
            hook.remove()
    channels_last = "swin" in type(model).__name__.lower()

    def pool(values: Any) -> Tensor:
        return averaged(values, 1, channels_last)

    blocks = len(seen) if seen and len(seen[0][1]) == 3 else 0
    sides = [None if blocks else shape[1:3] if channels_last else shape[2:] for _, shape in seen]
    ends = [
        path for (path, _), side, coming in zip(seen, sides, [*sides[1:], "none"]) if side is None or side != coming
    ]
    taps: dict[str, tuple[str, Pool]] = {f"layer {number}": (path, pool) for number, path in enumerate(ends)}
    return blocks, taps, {name: taps[name] for name in list(taps)[-1:]}


def _chain(model: Any) -> list[str]:
    """The modules that run one behind the other: blocks of a transformer, parts of `features`, or children."""
    for path in ("encoder.layers", "blocks", "features"):
        owner: Any = model
        for part in path.split("."):
            owner = getattr(owner, part, None)
        if owner is not None:
            return [f"{path}.{name}" for name, _ in owner.named_children()]
    pools = (nn.AdaptiveAvgPool2d, nn.Dropout, nn.Linear)
    return [name for name, part in model.named_children() if not isinstance(part, pools)]


def _quick(name: str) -> dict[str, Any]:
    """Two old models draw their weights from a slow distribution unless told otherwise."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _need(name: str, weights: Any) -> None:
    """Raises MissingWeights where the file is not there and must not be fetched."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if not file.is_file() and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise _missing(name, weights, "HF_HUB_OFFLINE is set")


def _missing(name: str, weights: Any, why: str) -> MissingWeights:
    return MissingWeights(
        f"the weights of {PREFIX}{name} are not on this machine ({why}); fetch {weights.url} into "
        f"{Path(torch.hub.get_dir()) / 'checkpoints'}, or try the model with random weights."
    )


def _usage(name: str, layer: str, paths: dict[str, str], head: str, blocks: int) -> str:
    create = f"torchvision.models.get_model({name.removeprefix(PREFIX)!r}, weights='DEFAULT').eval()"
    if layer == OUTPUT and head:
        return f"model = {create}; model.set_submodule({head!r}, torch.nn.Identity()); model(x)"
    path = paths.get(layer, next(reversed(paths.values()), ""))
    mean = "[:, 1:].mean(dim=1)" if blocks else ".mean(dim=(1, 2))" if "swin" in name else ".mean(dim=(2, 3))"
    return f"create_feature_extractor({create}, {{{path!r}: 'features'}})(x)['features']{mean}"
