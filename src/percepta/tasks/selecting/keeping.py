"""Features that were computed before, kept in the user's cache folder by what they depend on.

One folder for everything that decides a model's vectors (`Backbone.key`), in it parts of some pictures each; a picture
is known by its bytes, so that a renamed file is the same picture and another one under an old name is not. Parts appear
whole or not at all, so a run that is killed goes on behind the last of them. What cannot be read or written changes
nothing but that: it is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from percepta.media import Source
from percepta.running.backbones import Backbone
from percepta.running.machine import cache_file

SCHEMA = 1
TOGETHER = 64  # pictures of a part
MOST_BYTES = 4_000_000_000  # of all folders; those that were not used for longest go first


def features_folder() -> Path:
    """Where features are kept; it may be deleted at any time."""
    return cache_file().parent / f"features-{SCHEMA}"


def picture_key(source: Source) -> str:
    """32 hex digits of a picture's bytes. Raises OSError for a file that cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    if source.path is not None:
        digest.update(source.path.read_bytes())
    elif isinstance(source.data, bytes):
        digest.update(source.data)
    else:
        array = np.asarray(source.data)
        digest.update(f"{array.shape} {array.dtype} {getattr(source.data, 'mode', '')}".encode() + array.tobytes())
    return digest.hexdigest()


class Kept:
    """The vectors of one model that are on disk.

    Args:
        backbone: the model.
        layers: whether its layers are wanted.
        keys: of the pictures that are asked for.
    """

    def __init__(self, backbone: Backbone, layers: bool, keys: Sequence[str]) -> None:
        self.folder = features_folder() / backbone.key(layers)
        self.about = {"schema": SCHEMA, "model": backbone.name, "layers": layers, "recipe": backbone.recipe}
        self.vectors: dict[str, dict[str, Tensor]] = {}
        self._waiting: dict[str, dict[str, Tensor]] = {}
        wanted = set(keys)
        for file in sorted(self.folder.glob("*.safetensors")):
            self._read(file, wanted)

    def add(self, keys: Sequence[str], vectors: Mapping[str, Tensor]) -> None:
        """Vectors of some pictures, (n, D) by name; written as soon as there are enough."""
        for row, key in enumerate(keys):
            if key:
                self._waiting[key] = {name: values[row].clone() for name, values in vectors.items()}
        if len(self._waiting) >= TOGETHER:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        keys, rows = list(self._waiting), list(self._waiting.values())
        tensors = {name: torch.stack([row[name] for row in rows]).contiguous() for name in rows[0]}
        file = self.folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:24]}.safetensors"
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "about.json").write_text(json.dumps(self.about, indent=1) + "\n", encoding="utf-8")
            save_file(tensors, partial, {"pictures": json.dumps(keys)})
            partial.replace(file)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                partial.unlink()
        self._waiting = {}

    def _read(self, file: Path, wanted: set[str]) -> None:
        try:
            with safe_open(file, "pt") as opened:
                held = json.loads(opened.metadata()["pictures"])
                rows = [(row, key) for row, key in enumerate(held) if key in wanted and key not in self.vectors]
                if not rows:
                    return
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
                if any(len(values) != len(held) for values in tensors.values()):
                    return
                for row, key in rows:
                    self.vectors[key] = {name: values[row] for name, values in tensors.items()}
            os.utime(self.folder)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return


def trim(most: int = MOST_BYTES) -> None:
    """Delete the folders of features that were not used for longest, until all together hold at most `most` bytes."""
    sizes: list[tuple[float, int, Path]] = []
    for folder in _listed(features_folder()):
        files = [file for file in _listed(folder) if file.is_file()]
        sizes.append((folder.stat().st_mtime, sum(file.stat().st_size for file in files), folder))
    total = sum(size for _, size, _ in sizes)
    for _, size, folder in sorted(sizes, key=lambda entry: entry[0]):
        if total <= most:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def _listed(folder: Path) -> list[Any]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
