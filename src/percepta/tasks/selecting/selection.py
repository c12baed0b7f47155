"""What `select` found: the ranking with what is known of each candidate, a recommendation, its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from percepta.results import Failure
from percepta.selection import ESTIMATORS, Ranking

SCHEMA = 1
MODELS, LAYERS = "models", "layers"


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of a candidate beside its scores.

    Attributes:
        name: of the model, or of the layer.
        width: of its vectors.
        parameters: of the model; `depth` its weighted layers; `macs` multiply-adds for one picture, None for layers.
        layer: number of the layer, None for an output or a model.
        usage: the line of code that gives these features.
    """

    name: str
    width: int
    parameters: int
    depth: int
    macs: int | None
    layer: int | None
    usage: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Selection:
    """What `select_models` and `select_layers` found.

    Attributes:
        what: "models" or "layers".
        model: whose layers; "" for models.
        data: what the pictures are, in words.
        names: of the classes or labels.
        ranking: see `percepta.selection.Ranking`; its `recommendation` is the name to take, with its `reason`.
        options: what is known of each candidate, by the names of the ranking.
        notes: sentences on how the pictures were chosen.
        left_out: models that could not be loaded or run, with the reason.
        failures: pictures that could not be read.
    """

    what: str
    model: str
    data: str
    names: tuple[str, ...]
    ranking: Ranking
    options: Mapping[str, Option]
    notes: tuple[str, ...] = ()
    left_out: tuple[Failure, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def best(self) -> Option:
        """The candidate that is recommended."""
        return self.options[self.ranking.recommendation]

    @property
    def code(self) -> str:
        """The line of code that uses it; x are pictures as the model's own preprocessing gives them."""
        return self.best.usage

    @property
    def spread(self) -> float | None:
        """Of layers: by how many layers the best one moves from draw to draw of the probe (root mean square); None
        where the output is recommended, where nothing was drawn, and for models."""
        if self.best.layer is None:
            return None
        shares = {row.name: row.best for row in self.ranking.rows if self.options[row.name].layer is not None}
        total = sum(shares.values())
        if not total or math.isnan(total):
            return None
        squares = sum(
            share * (int(self.options[name].layer or 0) - self.best.layer) ** 2 for name, share in shares.items()
        )
        return math.sqrt(squares / total)

    @property
    def answer(self) -> str:
        """The recommendation in a few words, such as "layer 17 ± 2"."""
        if self.spread is None:
            return self.best.name
        return f"{self.best.name} ± {self.spread:.0f}"

    @property
    def beside(self) -> tuple[str, ...]:
        """What would have been taken without looking at the pictures, and how it does, in a sentence."""
        rows = self.ranking.rows
        if self.what == LAYERS:
            other = next((row for row in rows if self.options[row.name].layer is None), None)
            habit = "the output, which most people take,"
        else:
            other = next((row for row in rows if row.static.get("parameters", (0.0, 0))[1] == 1), None)
            habit = f"the largest model, {'' if other is None else other.name},"
        if other is None:
            return ()
        if other is rows[0]:
            return (f"{habit} is the best here too.",)
        lost = f"{rows[0].ensemble.score - other.ensemble.score:.2f} deviations below the best"
        votes = [name for name in self.ranking.estimators if name in ESTIMATORS and ESTIMATORS[name].unit == "%"]
        points = ", ".join(
            f"{name} {other.scores[name].score:.1f} against {rows[0].scores[name].score:.1f} %" for name in votes
        )
        return (f"{habit} comes {other.ensemble.rank}. of {len(rows)}, {lost}{f' ({points})' if points else ''}.",)

    def picture(self) -> Any:
        """A PIL picture: scores against parameters, or over the layers, with their intervals."""
        from percepta.media.rankings import Mark, layer_picture, model_picture

        marks = []
        for row in self.ranking.rows:
            option, standing = self.options[row.name], row.ensemble
            place = option.parameters if self.what == MODELS else option.layer
            votes = {name: one.score for name, one in row.scores.items()}
            marks.append(Mark(row.name, place, standing.score, standing.low, standing.high, votes))
        ranking = self.ranking
        of = f"{ranking.samples} pictures of {self.data}"
        title = f"Which layer of {self.model}? {of}" if self.what == LAYERS else f"Which model? {of}"
        draw = layer_picture if self.what == LAYERS else model_picture
        return draw(marks, ranking.tied, title, self.answer, f"mean of {', '.join(ranking.estimators)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with a schema number."""
        return {
            "schema": SCHEMA,
            "what": self.what,
            "model": self.model,
            "data": self.data,
            "names": list(self.names),
            "recommendation": self.ranking.recommendation,
            "answer": self.answer,
            "reason": self.ranking.reason,
            "code": self.code,
            "spread": None if self.spread is None else round(self.spread, 3),
            "warnings": list(self.ranking.warnings),
            "beside": list(self.beside),
            "notes": list(self.notes),
            "ranking": self.ranking.to_dict(),
            "candidates": [self.options[row.name].to_dict() for row in self.ranking.rows],
            "units": {name: ESTIMATORS[name].unit for name in self.ranking.estimators if name in ESTIMATORS},
            "left out": [{"name": one.source, "reason": one.reason} for one in self.left_out],
            "failures": [{"name": one.source, "reason": one.reason} for one in self.failures],
        }
