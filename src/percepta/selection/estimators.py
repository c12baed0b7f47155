"""The table of scores that a ranking can use, each under one name.

To add one: write a pure function of features and targets (and source probabilities, if it needs them) that is larger
for the better model, and hand `rank` a table with one line more::

    mine = {**ESTIMATORS, "mine": Estimator("mine", my_function, "what it says in a line", ("classes",))}
    rank(candidates, targets, estimators=["mine", "ridge"], table=mine)

A score that belongs to everybody becomes a line of `ESTIMATORS` itself. RSA and DDS are not in it: they need features
of a model that was already trained on the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from percepta.errors import BadInput, one_of
from percepta.selection.counting import leep, nce
from percepta.selection.evidence import logme
from percepta.selection.inputs import CLASSES, KINDS, Matrix, Targets
from percepta.selection.linear import logistic_cv, ridge_loo
from percepta.selection.neighbours import knn_loo
from percepta.selection.reduction import reduce, rotated, standardise
from percepta.selection.representation import parc, parc_auc
from percepta.selection.statistics import gbc, h_score

Score = Callable[[Matrix, Targets, Matrix | None], float]


@dataclass(frozen=True, slots=True)
class Estimator:
    """A score of a candidate; larger is better.

    Attributes:
        name: as in the table.
        function: of features (n, d), targets, and source probabilities (n, z) or None.
        line: what it says, in a line.
        targets: which of "classes", "multi-label", "regression" it takes.
        needs_probabilities: whether it looks at the source's predictions.
        unit: "%" for a score of 100 at best; empty for one without absolute meaning.
        prepare: what can be done to features once, without labels, for a probe and all its parts, such as components
            or a rotation; `function` takes what it gives. None leaves them as they are.
    """

    name: str
    function: Score
    line: str
    targets: tuple[str, ...] = KINDS
    needs_probabilities: bool = False
    unit: str = ""
    prepare: Callable[[Matrix], Matrix] | None = None

    def __post_init__(self) -> None:
        for kind in self.targets:
            if kind not in KINDS:
                raise one_of("targets", kind, KINDS, self.name)

    def __call__(self, features: Matrix, targets: Targets, probabilities: Matrix | None = None) -> float:
        """The score. Raises BadInput for targets of another kind, or without probabilities that it needs."""
        return self.score(self.prepared(features), targets, probabilities)

    def prepared(self, features: Matrix) -> Matrix:
        """(n, d) → (n, e), what `score` takes."""
        return features if self.prepare is None else self.prepare(features)

    def score(self, prepared: Matrix, targets: Targets, probabilities: Matrix | None = None) -> float:
        """The score of prepared features, or of some of their rows. Raises as the call does."""
        if targets.kind not in self.targets:
            raise BadInput(
                f"{self.name} takes {' or '.join(self.targets)}; the targets are of the kind {targets.kind}."
            )
        if self.needs_probabilities and probabilities is None:
            raise BadInput(
                f"{self.name} needs the probabilities of the source's classifier; leave it out, or give them."
            )
        return float(self.function(prepared, targets, probabilities))


ONE = (CLASSES,)
ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        estimator.name: estimator
        for estimator in (
            Estimator("knn", lambda f, y, p: knn_loo(f, y, 1, "cosine"), "nearest sample by cosine", unit="%"),
            Estimator("knn-5", lambda f, y, p: knn_loo(f, y, 5, "cosine"), "five nearest samples by cosine", unit="%"),
            Estimator(
                "ridge",
                lambda f, y, p: ridge_loo(f, y, scale=False),
                "ridge regression, one sample left out",
                unit="%",
                prepare=lambda f: rotated(standardise(f)),
            ),
            Estimator("logistic", lambda f, y, p: logistic_cv(f, y), "logistic regression over 5 folds", ONE, unit="%"),
            Estimator("parc", lambda f, y, p: parc(f, y), "distances of features against distances of labels"),
            Estimator("parc-32", lambda f, y, p: parc(f, y), "PARC on 32 components", prepare=lambda f: reduce(f, 32)),
            Estimator("parc-auc", lambda f, y, p: parc_auc(f, y), "pairs of two classes farther apart", ONE, unit="%"),
            Estimator("logme", lambda f, y, p: logme(f, y), "evidence of Bayesian linear regression", prepare=rotated),
            Estimator("h-score", lambda f, y, p: h_score(f, y, shrink=True), "class means, covariance shrunk", ONE),
            Estimator("gbc", lambda f, y, p: gbc(f, y), "overlap of class Gaussians", ONE),
            Estimator("leep", lambda f, y, p: leep(p, y), "labels from the source's predictions", ONE, True),
            Estimator("nce", lambda f, y, p: nce(p, y), "labels from the source's likeliest class", ONE, True),
        )
    }
)
"""Scores by name."""

RECOMMENDED = ("knn", "ridge", "parc-32", "logme")
"""What a ranking takes unless told: two probes, PARC and LogME; each takes every kind of target."""
