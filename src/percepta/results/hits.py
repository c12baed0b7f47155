"""What a search found, best first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, overload

from percepta.results.checking import plain


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture or video that a search found, with its score (see Hits.score_kind)."""

    source: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, score."""
        return {"source": self.source, "score": float(self.score)}


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits of one query, sorted best first; iterable, and a slice is again Hits.

    Attributes:
        query: the words, or the name of the picture, that were searched for.
        hits: the hits.
        score_kind: what a score is, such as "cosine".
    """

    query: str
    hits: tuple[Hit, ...]
    score_kind: str

    def __post_init__(self) -> None:
        ordered: Iterable[Hit] = sorted(self.hits, key=lambda hit: -hit.score)
        object.__setattr__(self, "hits", tuple(ordered))

    @property
    def source(self) -> str:
        """The query, so that every record has a source."""
        return self.query

    def above(self, threshold: float) -> Hits:
        """The hits that score at least `threshold`."""
        return Hits(self.query, tuple(hit for hit in self.hits if hit.score >= threshold), self.score_kind)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: query, hits (a list of source and score), score_kind."""
        return {"query": self.query, "hits": plain([hit.to_dict() for hit in self]), "score_kind": self.score_kind}

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        if isinstance(index, slice):
            return Hits(self.query, self.hits[index], self.score_kind)
        return self.hits[index]

    def __repr__(self) -> str:
        best = f", best {self.hits[0].source!r} {self.hits[0].score:.3f}" if self.hits else ""
        return f"Hits({self.query!r}: {len(self)}{best}; {self.score_kind})"
