"""The chat that belongs to a model: tokenizer and system text, from the files beside its weights.

Looked for in this order: what is asked for by name, what the model in hand carries, what is packaged, the files beside
the weights, the hub's repository.
Unusual: how many tiles and frames a checkpoint was trained with is read from the same folder (params.json of the
official layout, processor files of the transformers layout), and holds unless one is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from percepta.catalog import MODELS, Card, describe
from percepta.errors import BadInput, MissingWeights, UnknownModel
from percepta.models.perception_lm.chat import ChatTemplate
from percepta.models.perception_lm.chat_files import open_chat
from percepta.running.hub import fetch

TOKENIZERS = ("tokenizer.json", "original/tokenizer.model")
TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def chat_of(model: Any, weights: str | Path | None, chat: Any = None, system: str | None = None) -> ChatTemplate:
    """The chat of a model.

    Args:
        weights: the file or folder that the model was loaded from, or None.
        chat: a ChatTemplate, or a file or folder as of `open_chat`; by default what belongs to the model.
        system: another system text than that of the checkpoint.

    Raises:
        BadInput: nothing is found, no system text is in it, or the tokenizer is not the model's. MissingWeights: it is
            on the hub, which cannot be reached.
    """
    tokens = model.config.tokens_per_chunk
    carried = getattr(model, "chat", None)
    if chat is None and isinstance(carried, ChatTemplate):
        chat = carried
    if isinstance(chat, ChatTemplate):
        found = chat if system is None else replace(chat, system=system)
    else:
        found = open_chat(place_of(model, weights) if chat is None else chat, tokens, system)
    _check(found, model)
    return found


def place_of(model: Any, weights: str | Path | None) -> Path:
    """The file or folder with the chat of a model. Raises as `chat_of`."""
    name = str(getattr(model, "name", ""))
    card = _card(name)
    if weights is None and Path(name).expanduser().exists() and card is None:
        weights = name  # a file that `save` wrote
    if weights is not None:
        found = next(_beside(Path(weights).expanduser()), None)
        if found is not None:
            return found
    if card is not None:
        packaged = MODELS / card.family / "tokenizers" / f"{card.name}.json"
        if packaged.is_file():
            return packaged
        if weights is None and card.hub:
            return _from_hub(card)
    where = f"beside {str(weights)!r}" if weights is not None else f"with {name or 'the model in hand'}"
    raise BadInput(
        f"no tokenizer lies {where}; pass chat, a folder with tokenizer.json or tokenizer.model and the chat template."
    )


def sight_of(place: Path) -> dict[str, int]:
    """What the files of a checkpoint say of "tiles" and "frames"; what they do not say is left out."""
    found: dict[str, int] = {}
    folder = place if place.is_dir() else place.parent
    for name in ("params.json", "original/params.json", "processor_config.json", "preprocessor_config.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            entries = [content, *(content[key] for key in ("data", "image_processor") if key in content)]
            for entry in entries:
                for key, what in (("max_num_tiles", "tiles"), ("max_video_frames", "frames")):
                    if isinstance(entry.get(key), int) and entry[key] > 0:
                        found.setdefault(what, entry[key])
                if entry.get("vision_input_type") == "vanilla":
                    found["tiles"] = 0
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return found


def _card(name: str) -> Card | None:
    try:
        return describe(name)
    except (UnknownModel, BadInput):
        return None


def _beside(weights: Path) -> Iterator[Path]:
    """Files and folders that may hold the chat of weights, the nearest first."""
    if weights.is_file():
        yield from (
            path for path in (weights.with_suffix(".chat.json"), weights.parent / "chat.json") if path.is_file()
        )
        folder = weights.parent
    else:
        yield from (path for path in (weights / "chat.json",) if path.is_file())
        folder = weights
    # The official layout keeps weights and tokenizer in original/, and the template one folder up.
    for home in (folder.parent, folder) if folder.name == "original" else (folder,):
        names = ("tokenizer.json", "tokenizer.model", "original/tokenizer.model")
        if any((home / name).is_file() for name in names):
            yield home


def _from_hub(card: Card) -> Path:
    """The folder of the hub's copy with tokenizer and template. Raises MissingWeights."""
    for number, name in enumerate(TOKENIZERS, start=1):
        try:
            tokenizer = fetch(replace(card, hub_file=name))
            break
        except MissingWeights:
            if number == len(TOKENIZERS):
                raise
    for name in TEMPLATES:
        try:
            fetch(replace(card, hub_file=name))
        except MissingWeights:
            continue
    return tokenizer.parents[1] if tokenizer.parent.name == "original" else tokenizer.parent


def _check(chat: ChatTemplate, model: Any) -> None:
    config, name = model.config, getattr(model, "name", "the model")
    if chat.tokenizer.vocabulary > config.text.vocabulary:
        raise BadInput(
            f"the tokenizer of {name} must have at most {config.text.vocabulary} ids, the rows of its embedding table; "
            f"it has {chat.tokenizer.vocabulary}, so it belongs to another model."
        )
    if chat.image_token != config.image_token:
        raise BadInput(
            f"the tokenizer of {name} must hold the place of pictures by id {config.image_token}; it does by "
            f"{chat.image_token}, so it belongs to another model."
        )
    if chat.tokens_per_chunk != config.tokens_per_chunk:
        raise BadInput(
            f"the chat of {name} must give a chunk {config.tokens_per_chunk} tokens; it gives {chat.tokens_per_chunk}."
        )
