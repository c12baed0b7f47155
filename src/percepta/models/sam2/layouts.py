"""Every foreign layout of SAM 2 checkpoints."""

from __future__ import annotations

from percepta.checkpoints.keymap import KeyMap
from percepta.models.sam2.config import Sam2Config
from percepta.models.sam2.keys import official
from percepta.models.sam2.keys_transformers import transformers


def layouts(config: Sam2Config) -> dict[str, KeyMap]:
    """By name: "official" and "transformers"."""
    return {"official": official(config), "transformers": transformers(config)}


def subtrees(config: Sam2Config) -> dict[str, str]:
    """A SAM 2 is never a part of a larger checkpoint."""
    return {}
