"""State dicts that are read, and written, one tensor at a time.

Order of this file: reading, the models of a merge side by side, writing.
Unusual: what is merged is never held as a whole. Keys and shapes come from the files' headers, a method is a function
from a key to its merged tensor, and the file is written in the order in which these are made.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from percepta.checkpoints.files import DAMAGE, SUFFIXES, find_file, read_metadata, read_tensors
from percepta.errors import BadInput, CheckpointMismatch

State = Mapping[str, Tensor] | str | Path
"""A state dict in memory, or the file or folder that holds one."""
Form = tuple[torch.dtype, tuple[int, ...]]
"""Type and shape of a tensor."""
KeyRule = Callable[[str], Tensor]
"""From a key to its merged tensor."""
STATISTICS = ("running_mean", "running_var")
"""How the keys of batch statistics end. Variances that are added or trimmed can fall below zero: they are averaged."""
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What a safetensors header calls the types that are written."""
TYPES = {name: dtype for dtype, name in NAMES.items()}
NATIVE = ("family", "layout", "config")
"""What two files of ours must agree on to be of one architecture."""


class StateFile(Mapping[str, Tensor]):
    """The state dict of a safetensors file: every access reads one tensor, and nothing is kept.

    Args:
        path: a file, or a folder that holds one.

    Attributes:
        path: the file.
        forms: types and shapes by key, from the header alone.
        metadata: the strings of the header.

    Raises: MissingWeights for no such file, CheckpointMismatch for one that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = find_file(path)
        try:
            with self._opened() as file:
                self.forms: dict[str, Form] = {key: _form(file, key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                self.metadata: dict[str, str] = dict(file.metadata() or {})
        except DAMAGE as error:
            hint = "it must be a safetensors file, and is damaged or is none"
            raise CheckpointMismatch(str(self.path), hint=hint) from error

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.forms:
            raise KeyError(key)
        with self._opened() as file:
            return file.get_tensor(key)

    def _opened(self) -> Any:
        """The file for one access. A map of it that stayed would in time hold all that was read."""
        return safe_open(self.path, framework="pt")

    def __iter__(self) -> Iterator[str]:
        return iter(self.forms)

    def __len__(self) -> int:
        return len(self.forms)

    def __contains__(self, key: object) -> bool:
        return key in self.forms


def open_state(state: State) -> Mapping[str, Tensor]:
    """A state dict as it is, a safetensors file as a `StateFile`; other files and parts of one checkpoint are mapped.

    Raises: MissingWeights, CheckpointMismatch.
    """
    if isinstance(state, Mapping):
        return state
    folder = Path(state).expanduser()
    if folder.is_dir() and len([file for file in folder.iterdir() if file.suffix in SUFFIXES]) > 1:
        return read_tensors(folder)
    file = find_file(folder)
    return StateFile(file) if file.suffix == ".safetensors" else read_tensors(file)


class FineTunes:
    """The models of a merge, and what they were tuned from: of one architecture, checked, read tensor by tensor.

    Args:
        states: the models; paths are opened.
        base: their ancestor, for methods that need one.
        method: for errors. least: how many models the method needs.

    Raises: BadInput for too few models, and keys or shapes that differ, with the first of them.
    """

    def __init__(self, states: Sequence[State], base: State | None = None, method: str = "merging", least: int = 1):
        if isinstance(states, Mapping | str | Path):
            raise BadInput(f"{method} takes a list of models; got one {type(states).__name__}.")
        if len(states) < least:
            raise BadInput(f"{method} needs at least {least} model{'s' if least > 1 else ''}; got {len(states)}.")
        self.states = tuple(open_state(state) for state in states)
        self.base = None if base is None else open_state(base)
        self.method = method
        self.forms = forms_of(self.states[0])
        for number, state in enumerate(self.states[1:], start=2):
            _check_alike(self.forms, forms_of(state), f"model {number}")
        if self.base is not None:
            _check_alike(self.forms, forms_of(self.base), "the base")

    def __len__(self) -> int:
        return len(self.states)

    def keys(self) -> list[str]:
        """All keys, in the order of the first model."""
        return list(self.forms)

    def weights(self) -> list[str]:
        """The keys of task vectors: all that is neither an integer nor a batch statistic, which are averaged."""
        return [key for key in self.forms if self.is_weight(key)]

    def is_weight(self, key: str) -> bool:
        """Whether a tensor is merged by the method."""
        return self.forms[key][0].is_floating_point and not key.endswith(STATISTICS)

    def value(self, model: int, key: str) -> Tensor:
        """The tensor of one model in float32 (float64 stays). Raises BadInput for NaN and infinite values."""
        return self._read(self.states[model], key, f"model {model + 1}")

    def origin(self, key: str) -> Tensor:
        """The tensor of the ancestor, likewise."""
        assert self.base is not None
        return self._read(self.base, key, "the base")

    def delta(self, model: int, key: str) -> Tensor:
        """A task vector's part: what tuning added."""
        return self.value(model, key) - self.origin(key)

    def mean(self, key: str, weights: Sequence[float] | None = None) -> Tensor:
        """The mean over the models, wide; of integers and booleans, the plain mean, rounded.

        Kept as a running mean: it needs two tensors however many models there are, and is exact for equal ones.
        """
        dtype = self.forms[key][0]
        if not (dtype.is_floating_point or dtype.is_complex):
            total = sum((state[key].double() for state in self.states), start=torch.zeros(()))
            return (total / len(self)).round()
        mean, weight = torch.zeros(()), 0.0
        for model, share in enumerate(weights or [1.0] * len(self)):
            if share:
                weight += share
                value = self.value(model, key)
                mean = value.clone() if weight == share else mean.add_(value.sub_(mean), alpha=share / weight)
        return mean

    def rule(self, merged: KeyRule, weights: Sequence[float] | None = None) -> KeyRule:
        """A rule for all keys from one for weights: the rest by their mean, everything in the type of the first."""

        def of(key: str) -> Tensor:
            dtype = self.forms[key][0]
            found = (merged(key) if self.is_weight(key) else self.mean(key, weights)).to(dtype)
            if dtype.is_floating_point and not finite(found):
                raise BadInput(f"{self.method} takes {key} beyond the range of {dtype}; use a smaller scale.")
            return found

        return of

    def build(self, rule: KeyRule) -> dict[str, Tensor]:
        """The merged state dict in memory."""
        return {key: rule(key) for key in self.keys()}

    def _read(self, state: Mapping[str, Tensor], key: str, owner: str) -> Tensor:
        value = state[key].detach()
        if value.is_complex() or value.dtype == torch.float64:
            wide = value.clone()
        elif value.is_floating_point():
            wide = value.to(torch.float32, copy=True)
        else:
            raise BadInput(f"{key} of {owner} is {value.dtype}, but of a floating-point type in the first model.")
        if not finite(wide):
            raise BadInput(f"{key} of {owner} holds NaN or infinite values; merging needs numbers.")
        return wide


def same_architecture(states: Sequence[Mapping[str, Tensor]]) -> None:
    """Raises BadInput where two files of ours, of one set of shapes, are of different configurations."""
    entries = [
        (state.path, read_metadata(state.path))
        for state in states
        if isinstance(state, StateFile) and "percepta" in state.metadata
    ]
    for path, entry in entries[1:]:
        for name in NATIVE:
            if entry.get(name) != entries[0][1].get(name):
                raise BadInput(
                    f"models to merge must be of one architecture; {str(path)!r} has another {name} than "
                    f"{str(entries[0][0])!r}."
                )


def write_stream(
    path: str | Path,
    forms: Mapping[str, Form],
    rule: KeyRule,
    metadata: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a safetensors file tensor by tensor; it appears whole or not at all.

    Args:
        path: the file.
        forms: the keys, types and shapes to write.
        rule: gives each tensor, of just these.
        metadata: strings for the header.
        progress: called with 1 after each tensor.

    Returns: the path. Raises: BadInput for a folder, and for a type that safetensors has no name for.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise BadInput(f"the merged model goes into a file; {str(path)!r} is a folder.")
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    # The widest types first, so that every tensor begins at a multiple of its width.
    for key, (dtype, shape) in sorted(forms.items(), key=lambda entry: -entry[1][0].itemsize):
        if dtype not in NAMES:
            raise BadInput(f"{key} is {dtype}, which a safetensors file cannot hold.")
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[key] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as opened:
            opened.write(struct.pack("<Q", len(text)) + text)
            for key in list(header)[1:]:
                _append(opened, rule(key))
                if progress is not None:
                    progress(1)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _append(opened: Any, value: Tensor) -> None:
    if value.numel():
        flat = value.detach().cpu().contiguous().reshape(-1)
        opened.write(flat.view(torch.uint8).numpy())


def forms_of(state: Mapping[str, Tensor]) -> dict[str, Form]:
    """Types and shapes of a state dict; of a file, without reading a tensor."""
    if isinstance(state, StateFile):
        return dict(state.forms)
    return {key: (value.dtype, tuple(value.shape)) for key, value in state.items()}


def finite(value: Tensor) -> bool:
    """Whether all numbers are. NaN and infinities pass into the sum, which is several times faster to take; numbers so
    large that it is infinite without them are looked at one by one."""
    wide = value.is_complex() or value.dtype == torch.float64
    total = value.sum() if wide else value.sum(dtype=torch.float32)
    return bool(total.isfinite()) or bool(value.isfinite().all())


def _form(file: Any, key: str) -> Form:
    entry = file.get_slice(key)
    dtype = TYPES.get(entry.get_dtype())
    return (file.get_tensor(key).dtype if dtype is None else dtype), tuple(entry.get_shape())


def _check_alike(first: Mapping[str, Form], other: Mapping[str, Form], owner: str) -> None:
    for key in (*first, *other):
        if key not in first or key not in other or first[key][1] != other[key][1]:
            shapes = [str(forms[key][1]) if key in forms else "missing" for forms in (first, other)]
            raise BadInput(
                f"models to merge must be of one architecture; {key} is {shapes[0]} in the first model and {shapes[1]} "
                f"in {owner}; leave out what differs, such as heads for other classes."
            )
