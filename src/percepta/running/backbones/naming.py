"""Names of models: which ones a pattern means, and where each is opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from percepta import catalog
from percepta.errors import BadInput, UnknownModel, nearest
from percepta.running import loading, preparing
from percepta.running.backbones.backbone import Backbone
from percepta.running.backbones.ours import FAMILIES, open_ours, our_backbone
from percepta.running.modes import homes_of

TIMM, TORCHVISION, TRANSFORMERS = "timm/", "torchvision/", ("hf/", "transformers/")
_PATTERN = set("*?[")


def expand(names: Iterable[str]) -> list[str]:
    """Names and patterns to names, each once, in the order given; a pattern never means what cannot see a picture.

    Args:
        names: of `list_models()` or files; "timm/NAME", "torchvision/NAME", "hf/OWNER/NAME" or "hf/FOLDER". Patterns
            such as "pe-*", "timm/vit_tiny*" or "torchvision/resnet*" stand for all that fit.

    Raises: UnknownModel for a pattern that fits nothing; BadInput for no name at all, or a pattern of the hub.
    """
    found = [one for name in names for one in (_fitting(name) if _is_pattern(name) else [name]) if one]
    if not found:
        raise BadInput("models must name at least one, such as pe-core-nano or timm/resnet18.a1_in1k; got none.")
    return list(dict.fromkeys(found))


def open_backbone(
    name: str | Path | nn.Module,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    random_weights: bool = False,
) -> Backbone:
    """A model by name, or one in hand, which stays where and as it is.

    Args:
        name: as of `expand`, without patterns; or a module of percepta, timm or torchvision.
        weights: a file or folder for one of our models.
        device, dtype: where and how precise, float32 by default; on the CPU its linear layers are prepared.
        random_weights: the architecture alone, under seed 0: to try a run where there are no weights.

    Raises: UnknownModel, MissingWeights, CheckpointMismatch, MissingExtra, BadInput.
    """
    if isinstance(name, nn.Module):
        return _in_hand(name)
    text = str(name)
    if weights is not None and _is_foreign(text):
        raise BadInput(f"weights are for models of percepta; {text} brings its own.")
    if not _is_foreign(text):
        return open_ours(name, weights, device, dtype, random_weights)
    place, precision = loading.as_device(device), loading.as_dtype(dtype) or torch.float32
    found = _open_foreign(text, random_weights)
    found.model.to(device=place, dtype=precision)
    if place.type == "cpu" and precision == torch.float32:
        preparing.prepare(found.model)
    return found


def _open_foreign(name: str, random_weights: bool) -> Backbone:
    if name.startswith(TIMM):
        from percepta.running.backbones.timm import open_timm

        return open_timm(name.removeprefix(TIMM), random_weights)
    if name.startswith(TORCHVISION):
        from percepta.running.backbones.torchvision import open_torchvision

        return open_torchvision(name.removeprefix(TORCHVISION), random_weights)
    from percepta.running.backbones.transformers import open_transformers

    return open_transformers(name.split("/", 1)[1], name, random_weights)


def _in_hand(model: nn.Module) -> Backbone:
    homes = homes_of(model)
    if "percepta" in homes:
        return our_backbone(model)
    if "timm" in homes:
        from percepta.running.backbones.timm import timm_backbone

        return timm_backbone(model)
    if "torchvision" in homes:
        from percepta.running.backbones.torchvision import torchvision_backbone

        return torchvision_backbone(model)
    raise BadInput(
        "a model in hand must be of percepta, timm or torchvision; save one of transformers into a folder and name it "
        f"hf/FOLDER; got {type(model).__module__}.{type(model).__name__}."
    )


def _is_pattern(name: str) -> bool:
    return bool(_PATTERN & set(name)) and not Path(name).expanduser().exists()


def _is_foreign(name: str) -> bool:
    return name.startswith((TIMM, TORCHVISION, *TRANSFORMERS))


def _fitting(pattern: str) -> list[str]:
    if pattern.startswith(TRANSFORMERS):
        raise BadInput(f"patterns are not for the hub, which has too many models; name one instead of {pattern!r}.")
    found: list[str]
    if pattern.startswith(TIMM):
        from percepta.running.backbones.timm import timm_names

        found = [TIMM + name for name in timm_names(pattern.removeprefix(TIMM))]
    elif pattern.startswith(TORCHVISION):
        from percepta.running.backbones.torchvision import torchvision_names

        found = [TORCHVISION + name for name in torchvision_names(pattern.removeprefix(TORCHVISION))]
    else:
        found = [name for name in catalog.list_models(pattern) if _sees(name)]
    if not found:
        plain = pattern.strip("*?")
        close = nearest(plain, [name for name in catalog.list_models() if _sees(name)])
        hint = f"; near it are {', '.join(close)}" if close and "/" not in pattern else ""
        raise UnknownModel(
            f"no encoder of pictures is called {pattern!r}{hint}; other libraries' are timm/NAME, torchvision/NAME and "
            "hf/OWNER/NAME."
        )
    return found


def _sees(name: str) -> bool:
    """Whether a card is of an encoder of single pictures that has weights anywhere."""
    card = catalog.describe(name)
    return card.family in FAMILIES and not card.config.get("frames") and bool(card.hub or card.packaged or card.setting)
