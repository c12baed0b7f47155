"""Which candidate to fine-tune: scores side by side, their mean, what chance does to it, and what size alone would say.

The choice of votes follows the sources of each score; that no score should be shown without its interval and a static
baseline follows arXiv 2510.06448.
Order of this file: candidates, the ranking, how it is made.
Unusual: expected regret is what is lost in the mean, over draws of the probe, by taking a candidate in place of the
draw's best; and the static prior is judged by the same draws: where it foretells a draw as well as another draw does,
the probe has said no more than the size of the models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from percepta.errors import BadInput, one_of, out_of_range
from percepta.selection.agreement import kendall
from percepta.selection.estimators import ESTIMATORS, RECOMMENDED, Estimator
from percepta.selection.inputs import CLASSES, Kind, Matrix, Targets, as_features, as_probabilities, as_targets
from percepta.selection.priors import depth_prior, parameters_prior, z_scores
from percepta.selection.resampling import deviations, probe_parts
from percepta.selection.wording import reason_of, warnings_of

SCHEMA = 1
LEVEL = 0.95
MOST = {"%": 100.0}
"""The largest score of a unit: draws are made by adding deviations, which may go beyond."""
PRIOR_WEIGHT = 0.3  # layers / 50 has this deviation over the four architectures of PARC's bank


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A model, or a layer of one, as it sees the probe.

    Attributes:
        features: (n, d), one row a sample; d may differ between candidates. Array or tensor.
        parameters: how many, for the prior and the static baseline.
        depth: layers.
        macs: multiply-adds of one input.
        probabilities: (n, z) of the classifier that it was trained with, for LEEP and NCE.
    """

    features: Any
    parameters: float | None = None
    depth: float | None = None
    macs: float | None = None
    probabilities: Any = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a candidate stands under one score.

    Attributes:
        score: larger is better; in the score's own unit, or in deviations between candidates for the ensemble.
        rank: 1 for the best; equal scores share one.
        low, high: ends of the 95 % interval over draws of the probe; NaN where none could be drawn.
        regret: what is lost in the mean by taking it, in the unit of the score; 0 for a candidate that is always best.
    """

    score: float
    rank: int
    low: float
    high: float
    regret: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        interval = None if math.isnan(self.low) else [round(self.low, 6), round(self.high, 6)]
        regret = None if math.isnan(self.regret) else round(self.regret, 6)
        return {"score": round(self.score, 6), "rank": self.rank, "interval": interval, "regret": regret}


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate.

    Attributes:
        name: of the candidate.
        ensemble: its standing by the mean z-score of all estimators plus the prior.
        scores: its standing by each estimator.
        static: by each static prior that is known of all candidates ("parameters", "depth", "macs"): value and rank.
        best: the share of draws in which its ensemble is the highest; NaN where none could be drawn.
    """

    name: str
    ensemble: Standing
    scores: Mapping[str, Standing]
    static: Mapping[str, tuple[float, int]]
    best: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "ensemble": self.ensemble.to_dict(),
            "scores": {name: standing.to_dict() for name, standing in self.scores.items()},
            "static": {name: {"value": value, "rank": rank} for name, (value, rank) in self.static.items()},
            "best in": None if math.isnan(self.best) else round(self.best, 4),
        }


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates from the best to the worst, and what the ranking is worth.

    Attributes:
        rows: by the ensemble, the best first.
        kind: of the targets.
        samples, classes: of the probe; classes is the width of the targets for other kinds.
        estimators: the names of the votes.
        prior: the static prior that the ensemble adds ("parameters" or "depth"), "" for none; with its weight.
        resamples, seed: draws of the probe.
        reliability: Kendall's tau between the votes' order of two draws, in the mean; NaN where none could be drawn.
        agreement: by each static prior, Kendall's tau between its order and that of a draw, in the mean.
        tied: the candidates that the probe cannot tell from the best, the best first.
        recommendation: the name to take.
        reason: why, in a sentence.
        warnings: what to know before believing it, a sentence each.
    """

    rows: tuple[Row, ...]
    kind: Kind
    samples: int
    classes: int
    estimators: tuple[str, ...]
    prior: str
    prior_weight: float
    resamples: int
    seed: int
    reliability: float
    agreement: Mapping[str, float]
    tied: tuple[str, ...]
    recommendation: str
    reason: str
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> Row:
        """The row of that candidate; KeyError for another."""
        return {row.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with a schema number."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "samples": self.samples,
            "classes": self.classes,
            "estimators": list(self.estimators),
            "prior": {"name": self.prior, "weight": self.prior_weight} if self.prior else None,
            "interval": f"{LEVEL:.0%} over {self.resamples} parts of the probe without replacement, seed {self.seed}",
            "reliability": None if math.isnan(self.reliability) else round(self.reliability, 4),
            "static agreement": {n: None if math.isnan(v) else round(v, 4) for n, v in self.agreement.items()},
            "recommendation": self.recommendation,
            "reason": self.reason,
            "tied": list(self.tied),
            "warnings": list(self.warnings),
            "rows": [row.to_dict() for row in self.rows],
        }


def rank(
    candidates: Mapping[str, Candidate],
    targets: Any,
    estimators: Sequence[str] = RECOMMENDED,
    resamples: int = 50,
    seed: int = 0,
    kind: str | None = None,
    prior_weight: float = PRIOR_WEIGHT,
    table: Mapping[str, Estimator] = ESTIMATORS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Score every candidate on one probe and say which to take.

    The ensemble is the mean of the estimators' z-scores over the candidates, plus `prior_weight` times the z-score of
    log10 of the parameters (of the depth, where no parameters are known; of nothing, where neither is).

    Args:
        candidates: two or more by name, with features of the same samples in the same order.
        targets: of the samples; see `as_targets` and `sample_probe`.
        estimators: names of `table`.
        resamples: parts of the probe that intervals and regrets are taken from, without replacement; 0 for none.
        seed: of the parts.
        kind: of the targets; None goes by their form.
        prior_weight: of the prior, in deviations; 0 for votes alone (as between the layers of one model).
        table: scores by name.
        on_progress: called with (candidates done, candidates).

    Raises:
        BadInput: fewer than two candidates, unknown or unfit estimators, features or targets that cannot be used; the
            sentence names the candidate.
    """
    known = as_targets(targets, kind)
    chosen = _chosen(estimators, table, known)
    if len(candidates) < 2:
        raise BadInput(f"a ranking needs at least two candidates; got {len(candidates)}.")
    if resamples < 0:
        raise out_of_range("resamples", resamples, "0 or more", "rank")
    parts = probe_parts(known, resamples, seed)
    whole = np.empty((len(candidates), len(chosen)))
    pieces = np.empty((len(parts), len(candidates), len(chosen)))
    for place, (name, candidate) in enumerate(candidates.items()):
        try:
            whole[place], pieces[:, place] = _scores(candidate, known, chosen, parts)
        except BadInput as error:
            raise BadInput(f"{name}: {error}") from error
        if on_progress is not None:
            on_progress(place + 1, len(candidates))
    sizes = np.array([len(rows) for rows in parts], np.float64)
    draws = deviations(whole, pieces, sizes, len(known))
    static = static_priors(candidates)
    prior = next((name for name in ("parameters", "depth") if name in static and prior_weight), "")
    added = prior_weight * z_scores(static[prior]) if prior else np.zeros(len(candidates))
    made = _Made(tuple(candidates), tuple(chosen), whole, draws, static, added)
    return _ranking(made, known, prior, prior_weight if prior else 0.0, seed)


def static_priors(candidates: Mapping[str, Candidate]) -> dict[str, Matrix]:
    """What each prior that is known of all candidates says: log10 of parameters and of multiply-adds, and depth."""
    found: dict[str, Matrix] = {}
    for name, prior in (("parameters", parameters_prior), ("depth", depth_prior), ("macs", parameters_prior)):
        values = [getattr(candidate, name) for candidate in candidates.values()]
        if all(value is not None for value in values):
            found[name] = prior(values)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """M candidates under E estimators, on the whole probe and on R draws of it."""

    names: tuple[str, ...]
    estimators: tuple[Estimator, ...]
    whole: Matrix
    draws: Matrix
    static: Mapping[str, Matrix]
    added: Matrix

    def votes(self, scores: Matrix) -> Matrix:
        """(..., M, E) → (..., M): the mean z-score, by mean and deviation of the whole probe's scores."""
        deviation = self.whole.std(axis=0, ddof=1)
        varies = deviation > 1e-12 * np.abs(self.whole).max(axis=0)
        centred = np.where(varies, scores - self.whole.mean(axis=0), 0.0)
        return np.asarray((centred / np.where(varies, deviation, 1.0)).mean(axis=-1))


def _chosen(names: Sequence[str], table: Mapping[str, Estimator], targets: Targets) -> list[Estimator]:
    if isinstance(names, str) or not names:
        raise BadInput(f"estimators must be a list of at least one name; got {names!r}.")
    for name in names:
        if name not in table:
            raise one_of("estimators", name, table)
        if targets.kind not in table[name].targets:
            fit = ", ".join(one.name for one in table.values() if targets.kind in one.targets)
            raise BadInput(f"{name} does not take {targets.kind} targets; these do: {fit}.")
    return [table[name] for name in dict.fromkeys(names)]


def _scores(
    candidate: Candidate, targets: Targets, estimators: Sequence[Estimator], parts: Sequence[Any]
) -> tuple[Matrix, Matrix]:
    """(E,) scores on the whole probe and (R, E) on its parts; NaN where a part allows none."""
    features = as_features(candidate.features, len(targets))
    given = candidate.probabilities
    likely = None if given is None else as_probabilities(given, len(targets))
    whole, prepared = np.empty(len(estimators)), [one.prepared(features) for one in estimators]
    for column, one in enumerate(estimators):
        whole[column] = one.score(prepared[column], targets, likely)
    pieces = np.full((len(parts), len(estimators)), np.nan)
    for place, rows in enumerate(parts):
        for column, one in enumerate(estimators):
            try:
                own = None if likely is None else likely[rows]
                pieces[place, column] = one.score(prepared[column][rows], targets.take(rows), own)
            except BadInput:  # such as a target that is constant within the part
                continue
    if not np.isfinite(whole).all():
        bad = ", ".join(one.name for one, score in zip(estimators, whole) if not np.isfinite(score))
        raise BadInput(f"{bad} gave no finite number on these features.")
    return whole, pieces


def _ranking(made: _Made, targets: Targets, prior: str, prior_weight: float, seed: int) -> Ranking:
    total, drawn = made.votes(made.whole) + made.added, made.votes(made.draws) + made.added
    ensemble = _standings(total, drawn)
    by_estimator = {
        one.name: _standings(made.whole[:, column], made.draws[:, :, column], MOST.get(one.unit, math.inf))
        for column, one in enumerate(made.estimators)
    }
    ranks = {name: _ranks(values) for name, values in made.static.items()}
    best = _best_shares(drawn)
    order = sorted(range(len(made.names)), key=lambda place: -total[place])
    rows = tuple(
        Row(
            made.names[place],
            ensemble[place],
            {name: standings[place] for name, standings in by_estimator.items()},
            {name: (float(values[place]), int(ranks[name][place])) for name, values in made.static.items()},
            float(best[place]),
        )
        for place in order
    )
    votes = drawn - made.added
    reliability, agreement = _reliability(votes), {n: _agreement(v, votes) for n, v in made.static.items()}
    tied = tuple(made.names[place] for place in order if not _told_apart(drawn, order[0], place))
    return Ranking(
        rows=rows,
        kind=targets.kind,
        samples=len(targets),
        classes=len(np.unique(targets.numbers)) if targets.kind == CLASSES else targets.width,
        estimators=tuple(by_estimator),
        prior=prior,
        prior_weight=prior_weight,
        resamples=len(drawn),
        seed=seed,
        reliability=reliability,
        agreement=agreement,
        tied=tied,
        recommendation=rows[0].name,
        reason=reason_of(rows[0].name, ensemble[order[0]].score, ensemble[order[0]].regret, tuple(by_estimator), prior),
        warnings=warnings_of(tied, reliability, agreement, len(drawn)),
    )


def _standings(scores: Matrix, draws: Matrix, most: float = math.inf) -> list[Standing]:
    """Of (M,) scores with (R, M) draws, none of which exceeds `most`."""
    draws = np.minimum(draws, most)
    low = high = regret = np.full(len(scores), np.nan)
    if len(draws):
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        regret = (draws.max(axis=1, keepdims=True) - draws).mean(axis=0)
    return [
        Standing(float(score), int(place), float(a), float(b), float(lost))
        for score, place, a, b, lost in zip(scores, _ranks(scores), low, high, regret)
    ]


def _ranks(scores: Matrix) -> Matrix:
    """1 for the largest; equals share the smaller number."""
    return np.asarray(1 + (scores[None, :] > scores[:, None]).sum(axis=1))


def _best_shares(draws: Matrix) -> Matrix:
    """The share of draws in which each candidate is the best, a tie shared out."""
    if not len(draws):
        return np.full(draws.shape[1], np.nan)
    first = draws == draws.max(axis=1, keepdims=True)
    return np.asarray((first / first.sum(axis=1, keepdims=True)).mean(axis=0))


def _told_apart(draws: Matrix, best: int, other: int) -> bool:
    """Whether the best is above the other in at least 97.5 % of the draws. Nothing is told apart without draws."""
    if best == other or not len(draws):
        return False
    return bool((draws[:, best] > draws[:, other]).mean() >= (1 + LEVEL) / 2)


def _reliability(votes: Matrix) -> float:
    if len(votes) < 2:
        return math.nan
    return float(np.mean([kendall(votes[place - 1], votes[place]) for place in range(len(votes))]))


def _agreement(static: Matrix, votes: Matrix) -> float:
    return float(np.mean([kendall(static, vote) for vote in votes])) if len(votes) else math.nan
