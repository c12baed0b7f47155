"""The model cards: package data, read by path, importing no model and no torch."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from percepta.errors import UnknownModel, nearest

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Card:
    """What there is to know about a model before loading it.

    Attributes:
        name: as printed by `percepta models`: family, size, patch, resolution, tag.
        family: the folder under `percepta.models` that builds it.
        kind: what it is for: "core" (pictures, videos and words), "lang" or "spatial" (features).
        summary: one sentence.
        parameters: of the whole model.
        inputs: what goes in and what comes out.
        licence, paper: of the weights and of the method.
        config: fields of the family's config class.
        preprocess: fields of `percepta.media.Preprocess`.
        aliases: official names, accepted everywhere.
        hub: "owner/repository" on the Hugging Face hub, or "" for packaged models.
        hub_file: the file in it.
        packaged: path of weights inside the package, or "".
        trained_on, scores, limits: of packaged models: on what, how good on held-out data, what it cannot do.
    """

    name: str
    family: str
    kind: str
    summary: str
    parameters: int
    inputs: str
    licence: str
    paper: str
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    aliases: tuple[str, ...] = ()
    hub: str = ""
    hub_file: str = ""
    packaged: str = ""
    trained_on: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    limits: str = ""

    @property
    def packaged_file(self) -> Path | None:
        """The packaged weights, if this model has any."""
        return MODELS / self.family / self.packaged if self.packaged else None

    @property
    def weights(self) -> str:
        """Where the weights are: "packaged", "cached", "on the hub" or "none"."""
        if self.packaged_file is not None and self.packaged_file.is_file():
            return "packaged"
        if not self.hub:
            return "none"
        from huggingface_hub import try_to_load_from_cache

        return "cached" if isinstance(try_to_load_from_cache(self.hub, self.hub_file), str) else "on the hub"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        fields = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return fields | {"aliases": list(self.aliases), "weights": self.weights}

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.kind}): {self.summary}"]
        rows = {
            "parameters": f"{self.parameters / 1e6:,.1f} M",
            "inputs": self.inputs,
            "weights": f"{self.weights}{f' ({self.hub})' if self.hub else ''}",
            "licence": self.licence,
            "paper": self.paper,
            "also called": ", ".join(self.aliases),
            "trained on": self.trained_on,
            "scores": "; ".join(f"{key} {value}" for key, value in self.scores.items()),
            "limits": self.limits,
        }
        return "\n".join(lines + [f"  {key:<12} {value}" for key, value in rows.items() if value])


@functools.lru_cache(maxsize=1)
def cards() -> dict[str, Card]:
    """All cards by name, in the order of the card files."""
    found: dict[str, Card] = {}
    for file in sorted(MODELS.glob("*/cards.toml")):
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        shared = content.get("shared", {})
        for name, entry in content["models"].items():
            fields = {**shared, **entry, "name": name, "family": file.parent.name}
            fields["aliases"] = tuple(fields.get("aliases", ()))
            found[name] = Card(**fields)
    return found


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models whose name fits a shell pattern such as "pe-core-*", in the order of the cards."""
    return [name for name in cards() if fnmatchcase(name, pattern.lower())]


def describe(name: str) -> Card:
    """The card of a model, by its name or an official alias, upper or lower case.

    Raises: UnknownModel with the closest names.
    """
    wanted = name.lower().removeprefix("facebook/")
    for card in cards().values():
        if wanted in (card.name, *(alias.lower() for alias in card.aliases)):
            return card
    close = nearest(wanted, cards())
    hint = f"did you mean {' or '.join(close)}?" if close else "see percepta.list_models()."
    raise UnknownModel(f"there is no model called {name!r}; {hint}")
