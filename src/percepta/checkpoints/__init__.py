"""Read, recognise, rename, save: the mechanism; key tables are handed in by the families."""

from percepta.checkpoints.files import find_file, read_metadata, read_tensors, write_safetensors, write_torch
from percepta.checkpoints.keymap import KeyMap, Rule, joined, rename, transposed, unsqueezed
from percepta.checkpoints.recognise import recognise

__all__ = [
    "KeyMap",
    "Rule",
    "find_file",
    "joined",
    "read_metadata",
    "read_tensors",
    "recognise",
    "rename",
    "transposed",
    "unsqueezed",
    "write_safetensors",
    "write_torch",
]
