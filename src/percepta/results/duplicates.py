"""Pictures and videos that are there more than once: groups, which one of each to keep, and what that would save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

from percepta.errors import one_of
from percepta.results.failures import Failure

KINDS = ("exact", "near", "burst")
"""From the most to the least alike: the same bytes or pixels; copies that were encoded anew, resized or cropped a
little; different shots of one sight, taken within seconds."""


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """What shows the same.

    Attributes:
        kind: one of KINDS.
        keep: the name of the one to keep.
        why: why that one, such as "most pixels: 12,000,000".
        others: the names of the others, each compared with the kept one itself.
        savings: bytes of the others on the disk.
    """

    kind: str
    keep: str
    why: str
    others: tuple[str, ...]
    savings: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise one_of("kind", self.kind, KINDS, "DuplicateGroup")

    def __len__(self) -> int:
        return 1 + len(self.others)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: kind, keep, why, others, savings."""
        return {
            "kind": self.kind,
            "keep": self.keep,
            "why": self.why,
            "others": list(self.others),
            "savings": self.savings,
        }


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The groups among some inputs, those that save most first within each kind; iterable, and a slice is a tuple.

    No input is among the `others` of two groups; the kept one of an exact group may be among the others of a near one,
    where a better copy is there. Nothing has been, or will be, deleted.

    Attributes:
        source: what was looked through.
        groups: exact ones first, then near ones, then bursts.
        count: how many pictures and videos were compared.
        failures: those that could not be read.
    """

    source: str
    groups: tuple[DuplicateGroup, ...]
    count: int
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        key = lambda group: (KINDS.index(group.kind), -group.savings, group.keep)  # noqa: E731
        object.__setattr__(self, "groups", tuple(sorted(self.groups, key=key)))

    @property
    def others(self) -> tuple[str, ...]:
        """The names of all that need not be kept, group by group."""
        return tuple(name for group in self.groups for name in group.others)

    @property
    def savings(self) -> int:
        """Bytes of all that need not be kept."""
        return sum(group.savings for group in self.groups)

    def of(self, kind: str) -> tuple[DuplicateGroup, ...]:
        """The groups of one kind. Raises BadInput for an unknown one."""
        if kind not in KINDS:
            raise one_of("kind", kind, KINDS, "Duplicates")
        return tuple(group for group in self.groups if group.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, count, savings, groups, failures."""
        return {
            "source": self.source,
            "count": self.count,
            "savings": self.savings,
            "groups": [group.to_dict() for group in self.groups],
            "failures": [{"source": failure.source, "reason": failure.reason} for failure in self.failures],
        }

    def __iter__(self) -> Iterator[DuplicateGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> DuplicateGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DuplicateGroup, ...]: ...
    def __getitem__(self, index: int | slice) -> DuplicateGroup | tuple[DuplicateGroup, ...]:
        return self.groups[index]

    def __repr__(self) -> str:
        found = ", ".join(f"{len(self.of(kind))} {kind}" for kind in KINDS)
        return f"Duplicates({self.source!r}: {self.count} compared; {found}; {self.savings} bytes could be saved)"
