"""Foreign names of parameters as a table: renames both ways, with the few tensor operations that layouts need.

A table is a list of rules. A rule ties native patterns to one foreign pattern; `{i}` stands for a layer number. The
mechanism knows no model; each family keeps its tables beside the model and hands them in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from percepta.errors import CheckpointMismatch

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """Native patterns, the foreign pattern, and how values cross.

    Attributes:
        native: one pattern, or several whose tensors lie one after the other along axis 0 of the foreign one.
        foreign: the foreign pattern.
        to_foreign, to_native: value changes of a rule with one native pattern.
        shares: relative lengths of several native tensors along axis 0.
    """

    native: tuple[str, ...]
    foreign: str
    to_foreign: Callable[[Tensor], Tensor] = lambda x: x
    to_native: Callable[[Tensor], Tensor] = lambda x: x
    shares: tuple[int, ...] = (1,)


def rename(native: str, foreign: str) -> Rule:
    """The same tensor under another name."""
    return Rule((native,), foreign)


def transposed(native: str, foreign: str) -> Rule:
    """A matrix stored the other way round."""
    return Rule((native,), foreign, lambda x: x.T.contiguous(), lambda x: x.T.contiguous())


def unsqueezed(native: str, foreign: str, axes: int) -> Rule:
    """A tensor with `axes` leading axes of length one in the foreign layout."""
    return Rule((native,), foreign, lambda x: x[(None,) * axes], lambda x: x[(0,) * axes])


def joined(native: Sequence[str], foreign: str, shares: Sequence[int]) -> Rule:
    """Several native tensors joined along axis 0; `shares` are their relative lengths."""
    return Rule(tuple(native), foreign, shares=tuple(shares))


@dataclass(frozen=True)
class KeyMap:
    """A bijection between native and foreign state dicts.

    Attributes:
        rules: first match counts.
        constants: foreign keys that hold no information (such as a zero bias): name → maker from all native tensors.
            They are written on the way out and, on the way in, allowed but not required.
    """

    rules: tuple[Rule, ...]
    constants: Mapping[str, Callable[[Tensors], Tensor]] = field(default_factory=dict)

    def __add__(self, other: KeyMap) -> KeyMap:
        return KeyMap(self.rules + other.rules, {**self.constants, **other.constants})

    def nested(self, native: str, foreign: str) -> KeyMap:
        """The same table for a sub-tree that lies under a prefix on each side."""
        rules = tuple(
            replace(rule, native=tuple(native + name for name in rule.native), foreign=foreign + rule.foreign)
            for rule in self.rules
        )

        def shifted(make: Callable[[Tensors], Tensor]) -> Callable[[Tensors], Tensor]:
            return lambda tensors: make(_subtree(tensors, native))

        return KeyMap(rules, {foreign + key: shifted(make) for key, make in self.constants.items()})

    def to_foreign(self, tensors: Tensors) -> dict[str, Tensor]:
        """Native tensors in the foreign layout; works on the meta device.

        Raises: CheckpointMismatch for a native key that no rule knows, or a group that is incomplete.
        """
        result: dict[str, Tensor] = {}
        used: set[str] = set()
        for rule in self.rules:
            for numbers in _matches(rule.native[0], tensors):
                names = [_fill(pattern, numbers) for pattern in rule.native]
                missing = [name for name in names if name not in tensors]
                if missing:
                    raise CheckpointMismatch("the native state dict", missing=missing)
                if used.intersection(names):
                    continue
                used.update(names)
                parts = [tensors[name] for name in names]
                result[_fill(rule.foreign, numbers)] = (
                    rule.to_foreign(parts[0]) if len(parts) == 1 else torch.cat(parts)
                )
        if left := sorted(set(tensors) - used):
            raise CheckpointMismatch("the native state dict", unexpected=left)
        return result | {key: make(tensors) for key, make in self.constants.items()}

    def to_native(self, tensors: Tensors) -> tuple[dict[str, Tensor], list[str]]:
        """Foreign tensors under native names, and the foreign keys that no rule knows."""
        result: dict[str, Tensor] = {}
        used: set[str] = set()
        for rule in self.rules:
            for numbers in _matches(rule.foreign, tensors):
                key = _fill(rule.foreign, numbers)
                if key in used:
                    continue
                used.add(key)
                names = [_fill(pattern, numbers) for pattern in rule.native]
                result.update(zip(names, _cross(rule, tensors[key]), strict=True))
        return result, [key for key in tensors if key not in used and key not in self.constants]

    def foreign_name(self, native: str) -> str:
        """The foreign key that holds a native key (for messages); the native one if no rule knows it."""
        for rule in self.rules:
            for pattern in rule.native:
                if (numbers := _numbers(pattern, native)) is not None:
                    return _fill(rule.foreign, numbers)
        return native


def _cross(rule: Rule, tensor: Tensor) -> list[Tensor]:
    if len(rule.native) == 1:
        return [rule.to_native(tensor)]
    unit = tensor.shape[0] // sum(rule.shares)
    sizes = [share * unit for share in rule.shares]
    sizes[-1] += tensor.shape[0] - sum(sizes)  # a wrong length is reported as a wrong shape later
    return [part.contiguous() for part in tensor.split(sizes)]


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{i\}", r"(\d+)") + r"\Z")


def _numbers(pattern: str, key: str) -> tuple[str, ...] | None:
    match = _pattern(pattern).match(key)
    return match.groups() if match else None


def _matches(pattern: str, keys: Tensors) -> list[tuple[str, ...]]:
    if "{i}" not in pattern:
        return [()] if pattern in keys else []
    compiled = _pattern(pattern)
    return [match.groups() for key in keys if (match := compiled.match(key))]


def _fill(pattern: str, numbers: tuple[str, ...]) -> str:
    for number in numbers:
        pattern = pattern.replace("{i}", number, 1)
    return pattern


def _subtree(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
