"""The layer study: which layer is best for which task, over models that differ in their seed alone.

The claim, in the Perception Encoder's words and sizes (arXiv 2504.13181 §3 and its layer analysis): a contrastive
network holds the best features for spatial tasks before its last layer, and for the class of a picture at its end.
Order of this file: curves, what is found of one task, the verdict.
Unusual: the layer whose margin counts is chosen by the *other* models, so that no model's noise chooses for itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from percepta.errors import BadInput, one_of
from percepta.evaluation.metrics import Points
from percepta.evaluation.protocols import Evaluation

SPATIAL, GLOBAL = "spatial", "global"
TASKS: dict[str, tuple[str, str, str]] = {
    "position": ("scenes-position", "object's centre", SPATIAL),
    "depth": ("scenes-depth", "RMSE", SPATIAL),
    "segmentation": ("scenes-segmentation", "mIoU", SPATIAL),
    "tracking": ("scenes-tracking", "J&F", SPATIAL),
    "objects": ("scenes-objects", "objects", GLOBAL),
    "class": ("ridge-probe", "accuracy", GLOBAL),
}
"""Tasks by name: protocol, measure, kind."""
TRUTH = "truth on patches"
"""The one baseline that no layer needs to beat."""
ENDS = 0.25  # the share of the layers that counts as "at or near the last"
# Student's t at 97.5 % for one to nine degrees of freedom; the last stands for more, a little on the safe side.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One task over the layers of one or more models of equal depth.

    Attributes:
        task: a name of `TASKS`.
        unit: empty for a share, where more is better; else that of an error, where less is.
        layers: names of the layers, from the first block to the last.
        models: names of the models.
        values: (M, L, 3) value, and the ends of its 95 % interval.
        beside: what is had without the network by name, the mean over the models.
        protocol: its hash.
    """

    task: str
    unit: str
    layers: tuple[str, ...]
    models: tuple[str, ...]
    values: Points
    beside: Mapping[str, float]
    protocol: str

    @property
    def kind(self) -> str:
        """ "spatial" or "global"."""
        return TASKS[self.task][2]

    @property
    def gains(self) -> Points:
        """(M, L) values where more is better."""
        return -self.values[..., 0] if self.unit else self.values[..., 0]

    @property
    def floor(self) -> float:
        """The most that is had without the network, where more is better; minus infinity where nothing is known."""
        values = [value for name, value in self.beside.items() if name != TRUTH]
        return max((-value if self.unit else value for value in values), default=-math.inf)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "task": self.task,
            "kind": self.kind,
            "measure": TASKS[self.task][1],
            "unit": self.unit,
            "protocol": {"name": TASKS[self.task][0], "hash": self.protocol},
            "layers": list(self.layers),
            "models": dict(zip(self.models, self.values.round(6).tolist(), strict=True)),
            "beside": {name: round(value, 6) for name, value in self.beside.items()},
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What the models say of one task.

    Attributes:
        best: of each model the best layer, 0-based.
        chosen: of each model the best layer by the mean of the other models; its own best where it is alone.
        margins: of each model how much better the chosen layer is than the last, in the unit of the task.
        mean, low, high: of the margins, with the ends of Student's 95 % interval over models; NaN for one model.
        tells: whether the chosen layer of every model beats what is had without the network.
        holds: whether the claim holds for this task: the layers tell something, and a spatial one is better before the
            last layer in every model, with an interval above 0; a global one is best within the last quarter of the
            layers in every model.
    """

    task: str
    kind: str
    depth: int
    best: tuple[int, ...]
    chosen: tuple[int, ...]
    margins: tuple[float, ...]
    mean: float
    low: float
    high: float
    tells: bool
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        interval = None if math.isnan(self.low) else [round(self.low, 6), round(self.high, 6)]
        return {
            "task": self.task,
            "kind": self.kind,
            "best layers": list(self.best),
            "chosen by the others": list(self.chosen),
            "margins over the last": [round(margin, 6) for margin in self.margins],
            "mean margin": round(self.mean, 6),
            "interval": interval,
            "tells more than nothing": self.tells,
            "holds": self.holds,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the study says of the claim.

    Attributes:
        findings: one a task.
        shown: with at least three models: some spatial task is better before the last layer, and every global one best
            at or near it.
        sentence: the same in words.
    """

    findings: tuple[Finding, ...]
    shown: bool
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "shown": self.shown,
            "sentence": self.sentence,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def curves_of(evaluations: Mapping[str, Sequence[Evaluation]]) -> tuple[Curve, ...]:
    """Curves from the evaluations of each model, over all layers, in the order of `TASKS`.

    Args:
        evaluations: by model; those of other protocols are left out, and the model's own output is no layer.

    Raises:
        BadInput: no model, models of different depth, or evaluated by different protocols.
    """
    if not evaluations:
        raise BadInput("a layer study needs at least one model; got none.")
    by_model = {model: {one.protocol.name: one for one in found} for model, found in evaluations.items()}
    common = set.intersection(*(set(found) for found in by_model.values()))
    return tuple(
        _curve(task, measure, {model: found[protocol] for model, found in by_model.items()})
        for task, (protocol, measure, _) in TASKS.items()
        if protocol in common
    )


def _curve(task: str, measure: str, found: Mapping[str, Evaluation]) -> Curve:
    tables = {model: one.tables["layers"] for model, one in found.items()}
    layers = {tuple(name for name in table["layers"] if name != "output") for table in tables.values()}
    hashes = {one.protocol.hash for one in found.values()}
    if len(layers) > 1 or len(hashes) > 1:
        raise BadInput(
            f"models of a layer study must have the same layers and protocols; {', '.join(found)} differ in {task}."
        )
    (names,), (digest,) = layers, hashes
    first = next(iter(found.values()))
    values = [table["measures"][measure][: len(names)] for table in tables.values()]
    units = {one.unit for one in first.measures if one.name.split(",")[0] == measure}
    return Curve(task, units.pop(), names, tuple(found), np.array(values), _beside(measure, found), digest)


def _beside(measure: str, found: Mapping[str, Evaluation]) -> dict[str, float]:
    """Chance and baselines, which no layer changes, as the mean over models."""
    gathered: dict[str, list[float]] = {}
    for one in found.values():
        seen: dict[str, float] = {}
        for figure in one.measures:
            if figure.name.split(",")[0] == measure and figure.chance is not None:
                seen.setdefault("constant", figure.chance)
        for baseline in one.baselines:
            if baseline.measure.split(",")[0] == measure:
                seen.setdefault(baseline.name, baseline.value)
        for name, value in seen.items():
            gathered.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in gathered.items()}


def find(curve: Curve) -> Finding:
    """Best layers and margins of one task. Raises BadInput for an unknown task."""
    if curve.task not in TASKS:
        raise one_of("task", curve.task, TASKS)
    gains = curve.gains
    models, depth = gains.shape
    best = gains.argmax(axis=1)
    chosen = (gains.sum(axis=0) - gains).argmax(axis=1) if models > 1 else best
    reached = gains[np.arange(models), chosen]
    margins = reached - gains[:, -1]
    mean, (low, high) = float(margins.mean()), _student(margins)
    tells = bool((reached > curve.floor).all())
    if curve.kind == SPATIAL:
        holds = tells and bool((chosen < depth - 1).all() and (margins > 0).all() and low > 0)
    else:
        holds = tells and bool((best >= depth - max(1, math.ceil(ENDS * depth))).all())
    return Finding(
        curve.task,
        curve.kind,
        depth,
        tuple(best.tolist()),
        tuple(chosen.tolist()),
        tuple(margins.tolist()),
        mean,
        low,
        high,
        tells,
        holds,
    )


def judge(curves: Sequence[Curve]) -> Verdict:
    """The verdict over all tasks. Raises BadInput where a spatial or a global task is missing."""
    findings = tuple(find(curve) for curve in curves)
    spatial = [one for one in findings if one.kind == SPATIAL]
    overall = [one for one in findings if one.kind == GLOBAL]
    if not spatial or not overall:
        raise BadInput("a verdict needs at least one spatial and one global task; got " + _listed(findings) + ".")
    models = len(findings[0].best)
    holding = [one for one in spatial if one.holds]
    shown = models >= 3 and bool(holding) and all(one.holds for one in overall)
    against = [one for one in findings if not one.holds]
    sentence = "Shown" if shown else "Not shown"
    if models < 3:
        sentence += f", since {models} of the three models needed were measured"
    sentence += f": better before the last layer: {_listed(holding)}; best at or near it: "
    sentence += _listed([one for one in overall if one.holds]) + "."
    if against:
        sentence += f" Not so: {_listed(against)}."
    return Verdict(findings, shown, sentence)


def _listed(findings: Sequence[Finding]) -> str:
    named = [one.task if one.tells else f"{one.task} (no better than without the network)" for one in findings]
    return ", ".join(named) or "none"


def _student(values: Points) -> tuple[float, float]:
    """Ends of the 95 % interval of a mean; NaN for one value."""
    freedom = len(values) - 1
    if not freedom:
        return math.nan, math.nan
    quantile = T_QUANTILES[min(freedom, len(T_QUANTILES)) - 1]
    reach = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - reach, float(values.mean()) + reach
