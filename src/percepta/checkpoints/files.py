"""Checkpoint files: read without running code in them, written so that a crash leaves no half file."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from percepta.errors import BadInput, CheckpointMismatch, MissingWeights

WRAPPERS = ("state_dict", "weights", "model", "model_state", "model_state_dict")
RESULT = "model.safetensors"
SHARD = re.compile(r"consolidated\.\d+\.pth?|.+-\d+-of-(\d+)\.(?:safetensors|bin)")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# What readers raise on damaged bytes: the restricted unpickler walks whatever it is given.
DAMAGE = (
    SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, EOFError, OSError,
    ValueError, LookupError, AttributeError, TypeError, AssertionError, OverflowError, MemoryError,
)  # fmt: skip


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, or of a folder that holds exactly one, memory-mapped where possible.

    Wrappers ("state_dict", "weights") are opened and a leading "module." is dropped. `.pt` files are read with
    weights_only=True: code in a pickle is refused, never run. A folder with the parts of one checkpoint
    (`consolidated.00.pth` ..., `model-00001-of-00002.safetensors` ...) is read as their union.

    Raises: MissingWeights when there is no such file, CheckpointMismatch when it holds no tensors or cannot be read.
    """
    shards = _shards(Path(path).expanduser())
    if shards:
        return _merged([read_tensors(file) for file in shards], str(path))
    file = find_file(path)
    try:
        content: Any = _read_safetensors(file) if _is_safetensors(file) else _read_torch(file)
    except DAMAGE as error:
        raise _damaged(file, error) from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise CheckpointMismatch(str(file), hint="it holds no tensors")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The `percepta` entry of a safetensors header (name, config, schema number), or an empty dictionary."""
    file = find_file(path)
    if not _is_safetensors(file):
        return {}
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
        return dict(json.loads(header["percepta"])) if "percepta" in header else {}
    except DAMAGE as error:
        raise _damaged(file, error) from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None, key: str = "percepta"
) -> None:
    """Write tensors, and `metadata` as JSON under `key`, to one file that appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    header = {"format": "pt"} | ({key: json.dumps(metadata)} if metadata is not None else {})
    try:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, metadata=header
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_torch(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a plain state dict as a `.pt` file, for code that reads nothing else."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        torch.save({key: value.detach().contiguous() for key, value in tensors.items()}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def find_file(path: str | Path) -> Path:
    """The checkpoint file that a path means: the file itself, or a folder's `model.safetensors` or only one."""
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingWeights(f"weights must be a file or a folder; {str(path)!r} does not exist.")
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not found:
        raise MissingWeights(f"{str(path)!r} holds no checkpoint; expected one file ending in {', '.join(SUFFIXES)}.")
    if path / RESULT in found:
        return path / RESULT
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise BadInput(f"{str(path)!r} holds {len(found)} checkpoints ({names}); name one of them.")
    return found[0]


def _shards(folder: Path) -> list[Path]:
    """The files of a folder that are parts of one checkpoint, all of them there; [] where there are none."""
    names = sorted(file for file in folder.iterdir() if SHARD.fullmatch(file.name)) if folder.is_dir() else []
    if len(names) < 2 or (folder / RESULT).exists():
        return []
    counts = {match[1] for file in names if (match := SHARD.fullmatch(file.name))}
    if len(counts) > 1 or not counts <= {None, f"{len(names):05}"}:
        raise MissingWeights(
            f"{str(folder)!r} holds {len(names)} parts of a checkpoint, not all of it; fetch the rest."
        )
    return names


def _merged(parts: list[dict[str, Tensor]], owner: str) -> dict[str, Tensor]:
    """The union of parts. Raises CheckpointMismatch where two of them hold different tensors of one name."""
    union: dict[str, Tensor] = {}
    for part in parts:
        clash = [key for key in part if key in union and not torch.equal(union[key], part[key])]
        if clash:
            hint = "parts of one checkpoint must not disagree; these are slices of tensors, or of two checkpoints"
            raise CheckpointMismatch(owner, unexpected=clash, hint=hint)
        union |= part
    return union


def _damaged(file: Path, error: BaseException) -> CheckpointMismatch:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    hint = "it was refused, since it is damaged or holds more than tensors"
    return CheckpointMismatch(f"{file} ({reason})", hint=hint)


def _is_safetensors(file: Path) -> bool:
    """By content, not by name: a header length, then a JSON object."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return len(start) == 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dictionary)


def _read_torch(file: Path) -> Any:
    mapped = zipfile.is_zipfile(file)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
