"""What a search found, best first, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

from percepta.results.checking import plain

LIKELY, POSSIBLE = 0.5, 0.1
"""A hit is likely from the first probability up, possible from the second."""
UNCALIBRATED = "uncalibrated"


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture, video or moment of a video that a search found.

    Attributes:
        source: its name.
        score: see Hits.score_kind.
        probability: that it shows what was asked for, 0 to 1; None without a calibration.
        start, end: seconds of the moment in its video; None for pictures and whole videos.
    """

    source: str
    score: float
    probability: float | None = None
    start: float | None = None
    end: float | None = None

    @property
    def moment(self) -> str | None:
        """The interval as people write it, such as 00:41-00:47: the whole seconds around it."""
        if self.start is None or self.end is None:
            return None
        return f"{clock(self.start)}-{clock(math.ceil(self.end - 0.01))}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, score, probability, start, end."""
        return {
            "source": self.source,
            "score": float(self.score),
            "probability": None if self.probability is None else float(self.probability),
            "start": self.start,
            "end": self.end,
        }


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits of one query, sorted best first; iterable, and a slice is again Hits.

    Attributes:
        query: the words, or the name of the picture, that were searched for.
        hits: the hits.
        score_kind: what a score is, such as "cosine".
        calibration: what the probabilities were calibrated on, or "uncalibrated".
        likely_count, possible_count: how many of all that was searched, beyond `hits` too, are likely and possible;
            None without a calibration.
    """

    query: str
    hits: tuple[Hit, ...]
    score_kind: str
    calibration: str = UNCALIBRATED
    likely_count: int | None = None
    possible_count: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hits", tuple(sorted(self.hits, key=lambda hit: -hit.score)))

    @property
    def source(self) -> str:
        """The query, so that every record has a source."""
        return self.query

    @property
    def likely(self) -> Hits:
        """The hits with a probability of 0.5 or more; none without a calibration."""
        return self._where(tuple(hit for hit in self.hits if (hit.probability or 0) >= LIKELY))

    @property
    def possible(self) -> Hits:
        """The hits with a probability from 0.1 to below 0.5; none without a calibration."""
        return self._where(tuple(hit for hit in self.hits if POSSIBLE <= (hit.probability or 0) < LIKELY))

    @property
    def answer(self) -> str:
        """One line to people: "3 likely, 2 possible, nothing else", "nothing above chance", or "uncalibrated"."""
        if self.likely_count is None or self.possible_count is None:
            return UNCALIBRATED
        if not self.likely_count and not self.possible_count:
            return "nothing above chance"
        if not self.likely_count:
            return f"nothing likely, {self.possible_count} possible"
        possible = f", {self.possible_count} possible" if self.possible_count else ""
        return f"{self.likely_count} likely{possible}, nothing else"

    def above(self, threshold: float) -> Hits:
        """The hits that score at least `threshold`."""
        return self._where(tuple(hit for hit in self.hits if hit.score >= threshold))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: query, answer, hits, score_kind, calibration, likely_count, possible_count."""
        return {
            "query": self.query,
            "answer": self.answer,
            "hits": plain([hit.to_dict() for hit in self]),
            "score_kind": self.score_kind,
            "calibration": self.calibration,
            "likely_count": self.likely_count,
            "possible_count": self.possible_count,
        }

    def _where(self, hits: tuple[Hit, ...]) -> Hits:
        return replace(self, hits=hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        return self._where(self.hits[index]) if isinstance(index, slice) else self.hits[index]

    def __repr__(self) -> str:
        best = f", best {self.hits[0].source!r} {self.hits[0].score:.3f}" if self.hits else ""
        return f"Hits({self.query!r}: {len(self)}{best}; {self.score_kind}; {self.answer})"


def clock(seconds: float) -> str:
    """Seconds as 00:41, or 1:02:03 from an hour on."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"
