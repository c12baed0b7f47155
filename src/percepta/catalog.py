"""The model cards: package data, read by path, importing no model and no torch.

Beside them stand the settings that `percepta speedup --save NAME` keeps in the user's folder, one file a name: a card
of an older model under a new name, with what makes it faster.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from percepta.errors import BadInput, UnknownModel, nearest

MODELS = Path(__file__).parent / "models"
SETTING_SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


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
        setting: of a saved setting: what its file holds, see `save_setting`; empty for a model.
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
    setting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def packaged_file(self) -> Path | None:
        """The packaged weights, if this model has any; of a saved setting its own file, where it was made with one."""
        if self.setting.get("weights"):
            return Path(self.setting["weights"])
        return MODELS / self.family / self.packaged if self.packaged else None

    @property
    def weights(self) -> str:
        """Where the weights are: "packaged", "cached", "on the hub", "a file" (of a saved setting) or "none"."""
        if self.setting.get("weights"):
            return "a file" if Path(self.setting["weights"]).exists() else "none"
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
    """Names of the models whose name fits a shell pattern such as "pe-core-*", in the order of the cards; then those of
    saved settings."""
    return [name for name in (*cards(), *saved_settings()) if fnmatchcase(name, pattern.lower())]


def describe(name: str) -> Card:
    """The card of a model, by its name or an official alias, upper or lower case, or by the name of a saved setting.

    Raises: UnknownModel with the closest names; BadInput for a saved setting whose file is damaged.
    """
    wanted = name.lower().removeprefix("facebook/")
    for card in cards().values():
        if wanted in (card.name, *(alias.lower() for alias in card.aliases)):
            return card
    if _NAME.fullmatch(wanted) and setting_file(wanted).is_file():
        return _saved_card(wanted)
    close = nearest(wanted, (*cards(), *saved_settings()))
    hint = f"did you mean {' or '.join(close)}?" if close else "see percepta.list_models()."
    raise UnknownModel(f"there is no model called {name!r}; {hint}")


def user_folder() -> Path:
    """Where what belongs to an account lies: `$XDG_DATA_HOME/percepta`, or the place that the system has for it."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "percepta"


def setting_file(name: str) -> Path:
    """Where a saved setting lies. Raises BadInput for a name that cannot be used."""
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"a name to save under must be small letters, digits, dots, - and _ (64 at most), such as fast-nano; "
            f"got {name!r}."
        )
    return user_folder() / "settings" / f"{name}.json"


def saved_settings() -> list[str]:
    """Names of the saved settings, sorted; their files are not read."""
    return sorted(path.stem for path in (user_folder() / "settings").glob("*.json") if _NAME.fullmatch(path.stem))


def save_setting(name: str, content: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Keep a setting under a name that `load` and every verb take as a model.

    Args:
        name: small letters, digits, dots, "-" and "_"; no name of a model.
        content: {"of": the model's name; "weights": a file or ""; "setting": the fields of `running.settings.Setting`;
            "summary": one line}, and whatever else is worth keeping. JSON-ready.
        overwrite: replace a setting of this name.

    Returns: the file; it appears whole or not at all. Raises: BadInput.
    """
    path = setting_file(name)
    if any(name in (card.name, *(alias.lower() for alias in card.aliases)) for card in cards().values()):
        raise BadInput(f"{name!r} is the name of a model; save the setting under another one.")
    if path.exists() and not overwrite:
        raise BadInput(f"a setting called {name!r} exists; pass overwrite to replace it, or another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps({"schema": SETTING_SCHEMA, **content}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _saved_card(name: str) -> Card:
    """Raises BadInput for a file that is damaged, newer than this version, or of a model that is unknown here."""
    path = setting_file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema, base, summary = content["schema"], content["of"], str(content["summary"])
        whole = isinstance(content["setting"], dict) and isinstance(base, str) and isinstance(content["weights"], str)
    except (OSError, ValueError, KeyError, TypeError):
        schema, base, summary, whole = SETTING_SCHEMA, "", "", False
    if schema != SETTING_SCHEMA:
        raise BadInput(f"the saved setting {name!r} has schema {schema}, written by another version; update percepta.")
    if not whole or base not in cards():
        raise BadInput(f"the saved setting {name!r} cannot be used: {str(path)!r} is damaged; delete it and save anew.")
    return replace(cards()[base], name=name, aliases=(), summary=summary, setting=content)
