"""Probes of frozen features as pure functions: nearest neighbours, logistic regression, ridge regression.

k-NN: DINO (arXiv 2104.14294), appendix; linear probe: CLIP (arXiv 2103.00020), appendix A.3; the leave-one-out error of
ridge regression in closed form: Allen's PRESS and Golub, Heath and Wahba (1979).
Unusual: the strength of regularisation is per picture (the loss is a mean), so that what was chosen on a part of the
training pictures holds for all of them. Nothing is chosen by the test pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, out_of_range, wrong_shape

Features = NDArray[np.float64]
Classes = NDArray[np.int64]
TOGETHER = 1024  # test pictures at once
CRITERIA = ("leave-one-out", "gcv")


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """What a probe says of the test pictures, and how it was chosen.

    Attributes:
        scores: (M, K) float64, larger is likelier; logits, or estimates of the one-hot target.
        strength: the regularisation chosen, per picture.
        trials: for each strength of the grid what it was judged by: held-out accuracy (larger is better), or
            leave-one-out squared error (smaller is better).
    """

    scores: Features
    strength: float
    trials: dict[float, float]

    @property
    def at_the_end(self) -> bool:
        """Whether the strength lies at an end of its grid, so that a wider grid may give more."""
        return self.strength in (min(self.trials), max(self.trials)) and len(self.trials) > 1


def knn_votes(train: Any, labels: Any, test: Any, k: int = 20, temperature: float | None = 0.07) -> Features:
    """Votes of the k nearest training pictures by cosine.

    Args:
        train: (N, D) features, of any length.
        labels: (N,) class numbers.
        test: (M, D) features.
        k: neighbours, 1 to N.
        temperature: each votes with exp(cosine / temperature) (DINO's protocol); None gives one vote each.

    Returns:
        (M, K) float64 that sum to 1 for each picture.

    Raises:
        BadInput: other shapes, k or temperature out of range.
    """
    known, numbers, asked = _checked(train, labels, test)
    if not 1 <= k <= len(known):
        raise out_of_range("k", k, f"1 to {len(known)}, the number of training pictures", "knn")
    if temperature is not None and not temperature > 0:
        raise out_of_range("temperature", temperature, "above 0, or None", "knn")
    known, asked = _unit(known), _unit(asked)
    votes = np.zeros((len(asked), int(numbers.max()) + 1))
    for start in range(0, len(asked), TOGETHER):
        cosines = asked[start : start + TOGETHER] @ known.T
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        close = np.take_along_axis(cosines, nearest, axis=1)
        weights = (
            np.ones_like(close) if temperature is None else np.exp((close - close.max(1, keepdims=True)) / temperature)
        )
        for neighbour in range(k):
            np.add.at(
                votes, (np.arange(start, start + len(close)), numbers[nearest[:, neighbour]]), weights[:, neighbour]
            )
    return votes / votes.sum(axis=1, keepdims=True)


def linear_probe(train: Any, labels: Any, test: Any, grid: Sequence[float], share: float = 0.2, seed: int = 0) -> Probe:
    """Multinomial logistic regression (LBFGS), its regularisation chosen by accuracy on held-out training pictures.

    Minimises the mean cross entropy plus strength / 2 times the squared weights, on features scaled to mean 0 and
    variance 1 over the training pictures.

    Args:
        train, labels, test: (N, D) features, (N,) class numbers, (M, D) features.
        grid: strengths to try; of equals the strongest is taken.
        share: of each class that is held out, 0 to 1; then all are used with the chosen strength.
        seed: of the split.

    Raises:
        BadInput: other shapes, one class only, an empty grid.
    """
    known, numbers, asked = _checked(train, labels, test)
    strengths = _grid(grid)
    if len(np.unique(numbers)) < 2:
        raise BadInput("a linear probe needs at least two classes; the training pictures have one.")
    fitted, held = split_by_class(numbers, share, seed)
    trials = dict.fromkeys(strengths, float("nan"))
    if len(strengths) > 1 and len(held):
        mean, scale = _scaling(known[fitted])
        part, rest = (known[fitted] - mean) / scale, (known[held] - mean) / scale
        for strength, logits in _regressions(part, numbers[fitted], rest, strengths):
            trials[strength] = float((logits.argmax(axis=1) == numbers[held]).mean())
    best = max(strengths, key=lambda strength: (np.nan_to_num(trials[strength]), strength))
    mean, scale = _scaling(known)
    ((_, scores),) = _regressions((known - mean) / scale, numbers, (asked - mean) / scale, [best])
    return Probe(scores, best, trials)


def ridge_probe(train: Any, labels: Any, test: Any, grid: Sequence[float], criterion: str = "leave-one-out") -> Probe:
    """Ridge regression to one-hot targets, in closed form; its regularisation has the smallest leave-one-out error.

    Minimises the mean squared error plus strength times the squared weights, on features scaled to mean 0 and variance
    1 over the training pictures; the intercept is free.

    Args:
        train, labels, test: (N, D) features, (N,) class numbers, (M, D) features.
        grid: strengths to try; of equals the strongest is taken.
        criterion: "leave-one-out" (exact, without fitting N times), or "gcv", its rotation-invariant form.

    Raises:
        BadInput: other shapes, one class only, an empty grid, an unknown criterion.
    """
    known, numbers, asked = _checked(train, labels, test)
    strengths = _grid(grid)
    if criterion not in CRITERIA:
        raise BadInput(f"criterion must be one of {', '.join(CRITERIA)}; got {criterion!r}.")
    if len(np.unique(numbers)) < 2:
        raise BadInput("a ridge probe needs at least two classes; the training pictures have one.")
    mean, scale = _scaling(known)
    x = (known - mean) / scale
    targets = np.eye(int(numbers.max()) + 1)[numbers]
    y = targets - targets.mean(axis=0)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    trials = {}
    for strength in strengths:
        residuals = left_out_residuals(left, values**2, y, strength * len(x), criterion)
        trials[strength] = float(np.mean(residuals**2))
    best = min(strengths, key=lambda strength: (trials[strength], -strength))
    weights = right.T @ ((values / (values**2 + best * len(x)))[:, None] * projected)
    return Probe((asked - mean) / scale @ weights + targets.mean(axis=0), best, trials)


def left_out_residuals(
    left: Features, squares: Features, centred: Features, penalty: float, criterion: str = "leave-one-out"
) -> Features:
    """What ridge regression with a free intercept misses of each sample when it is fitted on all the others.

    Args:
        left: (N, R) left singular vectors of the centred features.
        squares: (R,) squared singular values.
        centred: (N, K) targets less their means.
        penalty: the factor of the squared weights beside the sum of squared errors, above 0.
        criterion: "leave-one-out" (exact), or "gcv", which gives every sample the mean leverage.

    Returns:
        (N, K) float64, in closed form: residual / (1 - leverage).
    """
    shrunk = squares / (squares + penalty)
    leverage = 1 / len(left) + (left**2) @ shrunk  # of the centred features, with the intercept
    residual = centred - left @ (shrunk[:, None] * (left.T @ centred))
    kept = 1 - (leverage if criterion == "leave-one-out" else np.full_like(leverage, leverage.mean()))
    return np.asarray(residual / np.maximum(kept, 1e-12)[:, None])


def split_by_class(labels: Classes, share: float, seed: int = 0) -> tuple[Classes, Classes]:
    """Ascending rows that stay and rows that are held out: `share` of each class, rounded; each class keeps one.

    Raises: BadInput for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise out_of_range("share", share, "0 to 1", "split_by_class")
    random = np.random.default_rng(seed)
    held = []
    for number in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == number))
        held.append(rows[: min(round(share * len(rows)), len(rows) - 1)])
    chosen = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _regressions(x: Features, labels: Classes, asked: Features, strengths: Sequence[float]) -> Any:
    """(strength, logits of `asked` (M, K)) from the strongest to the weakest, each starting where the last ended."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=2000, tol=1e-5, warm_start=True)
    for strength in sorted(strengths, reverse=True):
        model.set_params(C=1 / (strength * len(x)))
        model.fit(x, labels)
        logits = model.decision_function(asked)
        if logits.ndim == 1:
            logits = np.stack([-logits, logits], axis=1)
        table = np.full((len(asked), int(labels.max()) + 1), -np.inf)
        table[:, model.classes_] = logits
        yield strength, table


def _scaling(x: Features) -> tuple[Features, Features]:
    """Mean and deviation of each channel; a constant channel is left alone."""
    deviation = x.std(axis=0)
    return x.mean(axis=0), np.where(deviation > 1e-12, deviation, 1.0)


def _unit(x: Features) -> Features:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _grid(grid: Sequence[float]) -> list[float]:
    if not len(grid) or not all(isinstance(one, int | float) and 0 < one < np.inf for one in grid):
        raise out_of_range("grid", list(grid), "at least one strength above 0", "a probe")
    return sorted({float(strength) for strength in grid})


def _checked(train: Any, labels: Any, test: Any) -> tuple[Features, Classes, Features]:
    known, asked = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, np.float64) for x in (train, test))
    numbers = np.asarray(labels, np.int64)
    if known.ndim != 2 or not len(known):
        raise wrong_shape("training features", known.shape, "(N, D) with N of at least 1")
    if asked.ndim != 2 or asked.shape[1] != known.shape[1]:
        raise wrong_shape("test features", asked.shape, f"(M, {known.shape[1]})")
    if numbers.shape != (len(known),) or numbers.min() < 0:
        raise BadInput(f"labels must be {len(known)} class numbers of 0 or more; got the shape {numbers.shape}.")
    if not (np.isfinite(known).all() and np.isfinite(asked).all()):
        raise BadInput("features must be finite numbers; got NaN or infinity.")
    return known, numbers, asked
