"""What a score carries with it: its protocol and the hash of that, its interval, its baselines.

A protocol is its name and its settings (data, generator, seeds, prompts, sampling); whatever changes a score without
changing the model belongs into the settings and so changes the hash. Scores under different hashes do not compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from percepta.errors import BadInput
from percepta.evaluation.metrics import LEVEL, RESAMPLES, Points, bootstrap_interval
from percepta.results import Failure

SCHEMA = 1


@dataclass(frozen=True)
class Protocol:
    """A named way of measuring.

    Attributes:
        name: such as "scenes-retrieval".
        settings: JSON-ready values by name.
    """

    name: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        try:
            self.canonical()
        except (TypeError, ValueError) as error:
            raise BadInput(f"settings of the protocol {self.name} must be JSON values; {error}.") from error

    def canonical(self) -> str:
        """Name and settings as JSON with sorted keys and no spaces; the same for lists and tuples."""
        record = {"name": self.name, "settings": dict(self.settings)}
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @property
    def hash(self) -> str:
        """12 hex digits of the SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "hash": self.hash, "settings": json.loads(self.canonical())["settings"]}


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: a share from 0 to 1, the mean over `count` queries, with the ends of its 95 % bootstrap interval.

    Attributes:
        name: such as "text to picture R@1".
        chance: what guessing gives, or None.
        headline: whether it is one of the few that stand for the protocol.
        unit: empty for a share; otherwise the value is an error in this unit, and less is better.
    """

    name: str
    value: float
    low: float
    high: float
    count: int
    chance: float | None = None
    headline: bool = False
    unit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "value": round(self.value, 6),
            "interval": [round(self.low, 6), round(self.high, 6)],
            "count": self.count,
            "chance": None if self.chance is None else round(self.chance, 6),
            "headline": self.headline,
            **({"unit": self.unit} if self.unit else {}),
        }


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is had without the ability that a measure is about.

    Attributes:
        name: such as "attributes only".
        measure: the name of the measure that it is to be read beside.
        value: in the unit of that measure.
        note: what it knows and what it does not.
    """

    name: str
    measure: str
    value: float
    note: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "measure": self.measure, "value": round(self.value, 6), "note": self.note}


@dataclass(frozen=True)
class Evaluation:
    """What one protocol gave for one model.

    Attributes:
        protocol: how it was measured.
        measures: the figures, the most important first.
        baselines: to be read beside them.
        details: JSON-ready facts that are no settings: the generator's version and fingerprint, the range of the
            seeds, a hash of the data.
        model: whose figures these are; the tasks fill it in (name, weights, preprocessing).
        tables: JSON-ready facts that are too long for a line and good for a picture: "confusion" ({"names", "counts"},
            true classes in rows), "classes" (a list of {"name", "value", "interval", "count"}), "layers" ({"layers",
            "measures": {name: [[value, low, high], ...]}}).
        failures: inputs that could not be read; the figures are over the others.
    """

    protocol: Protocol
    measures: tuple[Measure, ...]
    baselines: tuple[Baseline, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def __getitem__(self, name: str) -> Measure:
        """The measure of that name; KeyError for another."""
        return {measure.name: measure for measure in self.measures}[name]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema": SCHEMA,
            "protocol": self.protocol.to_dict(),
            "model": dict(self.model),
            "interval": f"{LEVEL:.0%} percentile bootstrap over queries, {RESAMPLES} resamples, seed 0",
            "measures": [measure.to_dict() for measure in self.measures],
            "baselines": [baseline.to_dict() for baseline in self.baselines],
            "details": dict(self.details),
            "tables": dict(self.tables),
            "failures": [failure.to_dict() for failure in self.failures],
        }


def measured(
    name: str, points: Points, chance: float | None = None, headline: bool = False, groups: Any | None = None
) -> Measure:
    """The mean of (N,) points with its interval; `groups` as in `bootstrap_interval`."""
    low, high = bootstrap_interval(points, groups)
    return Measure(name, float(np.mean(points)), low, high, len(points), chance, headline)
