"""What the training of a vision-language model starts from: towers and models of earlier stages, and its chat.

Unusual: a stage may lack what the next one has. Layer scale is inserted between the first stage and the second (its
first value, 0.1, is the config's), a tower ends after the block that feeds the decoder (blocks beyond are ignored), and
its position table is resized where it was trained on smaller pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from percepta.checkpoints import read_metadata, read_tensors
from percepta.errors import BadInput, CheckpointMismatch
from percepta.layers import resize_positions
from percepta.models.perception_lm.chat import ChatTemplate
from percepta.models.perception_lm.chat_files import open_chat
from percepta.running.loading import family_of, open_model
from percepta.training.answering_recipe import AnswerRecipe

MAY_LACK = ("scale1.", "scale2.")
"""Parts of names of the layer scale: a stage without it comes before one with it."""


def packaged_chat(name: str) -> Path | None:
    """The chat file that is packaged for a model's name, or None."""
    import percepta.models.perception_lm as family

    place = Path(family.__path__[0]) / "tokenizers" / f"{name}.json"
    return place if place.is_file() else None


def chat_for(model: Any, name: str, settings: AnswerRecipe) -> ChatTemplate:
    """The chat of a model: the recipe's, or the packaged one.

    Raises: BadInput where there is none, or where it does not fit the model.
    """
    place = settings.chat or packaged_chat(name)
    if not place:
        raise BadInput(
            f"{name} has no packaged chat; set answer.chat to a tokenizer.json, a tokenizer.model or the folder of a "
            "checkpoint, and answer.system where that holds no system text."
        )
    template = open_chat(place, model.config.tokens_per_chunk, settings.system, settings.form)
    if template.tokenizer.vocabulary > model.config.text.vocabulary:
        raise BadInput(
            f"the chat {place} has {template.tokenizer.vocabulary} words; {name} has {model.config.text.vocabulary}."
        )
    if template.image_token != model.config.image_token:
        raise BadInput(
            f"the chat {place} marks pictures by the id {template.image_token}, {name} by {model.config.image_token}."
        )
    return template


@torch.no_grad()
def begin_from(model: Any, sources: Sequence[str]) -> None:
    """Take over the weights of vision towers, language decoders and earlier stages, one after the other.

    Args:
        sources: names of models, files that training wrote, or a decoder's weights in the official layout of Llama 3
            (a file, or a folder of `consolidated.*.pth`).

    Raises:
        CheckpointMismatch: a weight of the part that is taken over is missing, or has another shape.
        BadInput, UnknownModel: a source that is none of these.
    """
    for source in sources:
        place = Path(source).expanduser()
        if place.exists() and (place.is_dir() or "family" not in read_metadata(place)):
            table = family_of(model).layouts(model.config)["official"]
            native, _ = table.to_native(read_tensors(place))
            adopt(model, native, source, parts=("decoder.", "head."))
            continue
        found = open_model(source)
        if hasattr(found, "encode_media"):
            adopt(model, found.state_dict(), source)
        else:
            adopt(model.vision, getattr(found, "vision", found).state_dict(), source)


def adopt(module: Any, tensors: Mapping[str, Tensor], owner: str, parts: tuple[str, ...] = ("",)) -> None:
    """Copy the weights of a module, or of some of its parts, from tensors of the same names; others are ignored."""
    own = {name: value for name, value in module.state_dict().items() if name.startswith(parts)}
    given = {name: _resized(module, tensors[name], name) for name in own if name in tensors}
    missing = [name for name in own if name not in given and not any(part in name for part in MAY_LACK)]
    misshapen = [name for name, value in given.items() if own[name].shape != value.shape]
    if missing or misshapen:
        raise CheckpointMismatch(owner, missing, [], misshapen, "nothing was taken over; choose another model to begin")
    for name, value in given.items():
        own[name].copy_(value)


def _resized(module: Any, value: Tensor, name: str) -> Tensor:
    """A tower's position table for the grid of the tower here, as the official helper resizes it."""
    config = getattr(module, "config", None)
    if name != "positions" or config is None or value.shape[-1] != config.width:
        return value
    return resize_positions(value, (config.grid, config.grid), config.prefix)
