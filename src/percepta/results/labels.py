"""The labels of one picture or video, best first, with scores that say what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from percepta.errors import BadInput
from percepta.results.checking import Floats, float_array, names_tuple, plain


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Names with scores, sorted best first whatever the order they came in; iterating gives (name, score) pairs.

    Attributes:
        source: name of the picture or video.
        names: the K labels.
        scores: (K,) float32.
        score_kind: what a score is, such as "cosine", "logit" or "probability (softmax over 3 labels)".
    """

    source: str
    names: tuple[str, ...]
    scores: Floats
    score_kind: str

    def __post_init__(self) -> None:
        scores = float_array("scores", self.scores, (None,), f"Labels of {self.source!r}")
        names = names_tuple("names", self.names, len(scores), f"Labels of {self.source!r}")
        order = np.argsort(-scores, kind="stable")
        object.__setattr__(self, "scores", scores[order])
        object.__setattr__(self, "names", tuple(names[index] for index in order))

    @property
    def top(self) -> tuple[str, float]:
        """The best (name, score). Raises BadInput where there is no label."""
        if not self.names:
            raise BadInput(f"Labels of {self.source!r} are empty, so there is no best one.")
        return self.names[0], float(self.scores[0])

    def best(self, count: int) -> Labels:
        """The `count` best labels."""
        return Labels(self.source, self.names[:count], self.scores[:count], self.score_kind)

    def above(self, threshold: float) -> Labels:
        """The labels that score at least `threshold`."""
        count = int((self.scores >= threshold).sum())
        return self.best(count)

    def score(self, name: str) -> float:
        """The score of one label. Raises BadInput for a name that is not among the labels."""
        if name not in self.names:
            raise BadInput(f"Labels of {self.source!r} must hold the name that is asked for; got {name!r}.")
        return float(self.scores[self.names.index(name)])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, labels (a list of name and score), score_kind."""
        labels = [{"name": name, "score": score} for name, score in self]
        return {"source": self.source, "labels": plain(labels), "score_kind": self.score_kind}

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter([(name, float(score)) for name, score in zip(self.names, self.scores, strict=True)])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, float]:
        return self.names[index], float(self.scores[index])

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {score:.3f}" for name, score in list(self)[:3])
        more = f", {len(self) - 3} more" if len(self) > 3 else ""
        return f"Labels({self.source!r}: {shown}{more}; {self.score_kind})"


def from_matrix(sources: Sequence[str], names: Sequence[str], scores: Floats, score_kind: str) -> list[Labels]:
    """One Labels per row of `scores` (B, K)."""
    table = float_array("scores", scores, (len(sources), len(names)), "labels")
    return [Labels(source, tuple(names), row, score_kind) for source, row in zip(sources, table, strict=True)]
