"""Models of transformers: their layers by `output_hidden_states`, from the hub or from a folder."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, MissingWeights
from percepta.media import Source
from percepta.media.drawing import to_rgb
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
from percepta.running.modes import evaluating

PREFIXES = ("hf/", "transformers/")


def open_transformers(place: str, name: str = "", random_weights: bool = False) -> Backbone:
    """A vision model of the hub, "owner/repository", or of a folder that `save_pretrained` wrote.

    A repository of a classifier gives a classifier; of a model of pictures and words, its vision tower.

    Raises: MissingWeights where the repository or a file of it is not at hand; BadInput for a model without pictures.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

    name = name or PREFIXES[0] + place
    where = str(Path(place).expanduser()) if Path(place).expanduser().exists() else place
    try:
        config = AutoConfig.from_pretrained(where)
        classifier = any("ForImageClassification" in one for one in config.architectures or ())
        kind: Any = AutoModelForImageClassification if classifier else AutoModel
        processor: Any = AutoImageProcessor.from_pretrained(where)
        with seeded(), _quiet():
            model = kind.from_config(config) if random_weights else kind.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MissingWeights(
            f"{name} is not at hand ({reason}); name a repository of the hub where there is a network, or a folder "
            "that save_pretrained wrote, with its preprocessor_config.json."
        ) from error
    return transformers_backbone(model.eval(), processor, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a bar for every file that is read."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def transformers_backbone(model: Any, processor: Any, name: str = "") -> Backbone:
    """A vision model in hand with its image processor. Raises: BadInput for one that takes no pictures."""
    name = name or PREFIXES[0] + (getattr(model, "name_or_path", "") or type(model).__name__)
    model, projection = _tower(model, name)
    head = _head(model)

    def encode(pictures: Tensor, wanted: bool) -> dict[str, Tensor]:
        with tapped(model, {}, head) as found:
            given = model(pixel_values=pictures, output_hidden_states=wanted)
        states = (given.hidden_states or ())[1:] if wanted else ()
        vectors = {f"layer {number}": _pooled(state, pictures, model.config) for number, state in enumerate(states)}
        vectors[OUTPUT] = _output(given, found, pictures, model.config, projection)
        if getattr(given, "logits", None) is not None:
            vectors[PROBABILITIES] = given.logits.softmax(dim=-1)
        return vectors

    def prepare(source: Source) -> Tensor:
        tensor: Tensor = processor(images=to_rgb(source.thing), return_tensors="pt")["pixel_values"][0]
        return tensor

    place = next(model.parameters())
    picture = torch.zeros(1, 3, *_size(processor, model.config), device=place.device, dtype=place.dtype)
    with evaluating(model), torch.inference_mode():
        layers = tuple(key for key in encode(picture, True) if key.startswith("layer "))
    columnar = len(layers) == getattr(model.config, "num_hidden_layers", 0)
    return Backbone(
        name,
        model,
        layers,
        prepare,
        encode,
        parameters_of(model, *([] if projection is None else [projection])),
        weighted_depth(model, len(layers) if columnar else 0),
        tuple(picture.shape[1:]),
        lambda x: model(pixel_values=x),
        f"transformers {importlib.metadata.version('transformers')}, {processor.to_json_string()}",
        lambda layer: _usage(name, layer, head),
    )


def _tower(model: Any, name: str) -> tuple[Any, nn.Module | None]:
    """The vision tower of a model, and what projects its pooled output. Raises BadInput."""
    if hasattr(model, "vision_model"):
        return model.vision_model, getattr(model, "visual_projection", None)
    if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise BadInput(f"{name} takes {model.main_input_name}, not pictures; name a vision model.")
    return model, None


def _head(model: Any) -> str:
    """The path of a classifier's last linear layer, "" for a model that does not classify."""
    labels = getattr(model.config, "num_labels", 0) if hasattr(model, "classifier") else 0
    linear = [path for path, part in model.named_modules() if isinstance(part, nn.Linear) and path.startswith("classi")]
    return next((path for path in reversed(linear) if model.get_submodule(path).out_features == labels), "")


def _pooled(state: Tensor, pictures: Tensor, config: Any) -> Tensor:
    """The mean of the patches; what stands in front of them is left out."""
    return averaged(state, _prefix(state, pictures, config)) if state.ndim == 3 else averaged(state)


def _prefix(state: Tensor, pictures: Tensor, config: Any) -> int:
    """Class and register tokens: what is more than the grid of patches."""
    patch = getattr(config, "patch_size", None)
    if patch is None:
        return 0
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    more = state.shape[1] - (pictures.shape[-2] // rows) * (pictures.shape[-1] // columns)
    return max(0, more)


def _output(
    given: Any, found: dict[str, Tensor], pictures: Tensor, config: Any, projection: nn.Module | None
) -> Tensor:
    """The input of the classifier, else the pooled and projected output, else the mean of the last patches."""
    if OUTPUT in found:
        return found[OUTPUT]
    pooled = getattr(given, "pooler_output", None)
    if pooled is None:
        return _pooled(given.last_hidden_state, pictures, config)
    pooled = pooled.flatten(1)
    return pooled if projection is None else projection(pooled)


def _size(processor: Any, config: Any) -> tuple[int, int]:
    """Height and width of what the processor gives, by trying."""
    from PIL import Image

    given = processor(images=Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"]
    return int(given.shape[-2]), int(given.shape[-1])


def _usage(name: str, layer: str, head: str) -> str:
    place = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    load = f"transformers.{'AutoModelForImageClassification' if head else 'AutoModel'}.from_pretrained({place!r})"
    if layer != OUTPUT:
        number = int(layer.removeprefix("layer ")) + 1
        return f"{load}(pixel_values=x, output_hidden_states=True).hidden_states[{number}]"
    if head:
        return f"model = {load}; model.set_submodule({head!r}, torch.nn.Identity()); model(pixel_values=x).logits"
    return f"{load}(pixel_values=x).pooler_output"
