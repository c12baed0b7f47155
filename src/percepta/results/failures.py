"""One input that could not be used, and why, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failure:
    """One input that could not be used.

    Attributes:
        source: the name of the input as it was given or found; it may hold spaces, unicode or newlines.
        reason: one sentence on one line, ending with a full stop.
    """

    source: str
    reason: str

    def __post_init__(self) -> None:
        sentence = " ".join(str(self.reason).split()) or "It could not be read."
        object.__setattr__(self, "reason", sentence if sentence.endswith(".") else sentence + ".")

    def to_dict(self) -> dict[str, str]:
        """JSON-ready: source, reason."""
        return {"source": self.source, "reason": self.reason}

    def __str__(self) -> str:
        return self.reason
