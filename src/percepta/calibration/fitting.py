"""Fitting a prior: many folders and questions with known answers, and the curve that states them best.

Each pair of a question and an entry counts by the inverse of its rank, as people read: the first hit 1, the tenth a
tenth. Beyond the tenth place pairs are sampled as sparsely as they count.
Unusual: weights of the score are kept positive by construction, so that the curve rises with it whatever the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from percepta.calibration.formula import inputs, shrunk
from percepta.calibration.neutral import neutral_texts, summarise
from percepta.calibration.prior import INPUTS, Background, Prior
from percepta.errors import BadInput, out_of_range
from percepta.evaluation.folders import Mix, World, draw_cases
from percepta.evaluation.nothing_here import Asked, Embedded

EncodePictures = Callable[[np.ndarray], Tensor]
EncodeTexts = Callable[[Sequence[str]], Tensor]
Table = NDArray[np.float32]
STEPS, DECAY, PSEUDO_COUNT = 8, 1e-4, 30.0
FULLY = 10  # down to this place every pair enters the fit
RANGE = (0.005, 0.995)
EMPTY = 0.95  # of absent questions, at the fixed threshold kept as baseline


def fit_prior(
    encode_pictures: EncodePictures,
    encode_texts: EncodeTexts,
    worlds: Sequence[World],
    model: str,
    weights: str,
    fitted_on: str = "",
    folders: int = 1500,
    mix: Mix | None = None,
    seed: int = 0,
) -> Prior:
    """A prior for questions in words, and by pictures if some worlds ask by pictures.

    Args:
        encode_pictures: (B, H, W, 3) uint8 → (B, D), of any length.
        encode_texts: B texts → (B, D).
        worlds: what to fit on; none of it should have trained the model, which knows that too well.
        model, weights: the name and `running.fingerprint.weights_hash`.
        fitted_on: one line for people.
        folders: how many to draw for either kind of question; a few hundred give a rough prior.
        mix: how folders and questions are drawn.
        seed: of the draws and of the start.

    Raises: BadInput for worlds without an answered or an unanswered question in words.
    """
    if folders < 1:
        raise out_of_range("folders", folders, "1 or more", "fit_prior")
    mix = mix or Mix()

    def fitted(chosen: Sequence[World]) -> tuple[Background, dict[str, float], int]:
        embedded = Embedded.of(chosen, encode_pictures, encode_texts, neutral_texts(), summarise)
        cases = [embedded.ask(case) for case in draw_cases(chosen, folders, mix, seed) if len(case.right)]
        found = fit_background([(one.scores, one.neutral, one.case.right) for one in cases], seed)
        return found, _thresholds(cases), len(cases)

    by_picture = [world for world in worlds if world.asking is not None]
    curves = {"words": fitted([world for world in worlds if world.asking is None])}
    if by_picture:
        curves["picture"] = fitted(by_picture)
    return Prior(
        model,
        weights,
        curves["words"][0],
        curves["picture"][0] if by_picture else None,
        fitted_on,
        {question: thresholds for question, (_, thresholds, _) in curves.items()},
        {
            "folders": folders,
            "seed": seed,
            "mix": asdict(mix),
            **{question: f"{count} questions" for question, (_, _, count) in curves.items()},
        },
    )


def _thresholds(cases: Sequence[Asked]) -> dict[str, float]:
    """The fixed cosine that leaves 95 % of absent questions empty, for all and by the world that is asked for."""
    absent = [(one.case.kind.split("/")[0], float(one.scores.max())) for one in cases if not one.case.present]
    best = {"all": [score for _, score in absent]}
    for name, score in absent:
        best.setdefault(name, []).append(score)
    return {name: round(float(np.quantile(scores, EMPTY)), 6) for name, scores in best.items()}


def fit_background(
    cases: Sequence[tuple[Table, Table, NDArray[np.bool_]]], seed: int = 0, steps: int = STEPS
) -> Background:
    """The curve for cases of (scores (n,), neutral summaries (n, 2), right (n,) bool).

    Raises: BadInput where no question has an answer, or every one.
    """
    answered = np.array([right.any() for _, _, right in cases])
    if not answered.any() or answered.all():
        raise BadInput(
            f"a prior needs questions with and without an answer; {int(answered.sum())} of {len(cases)} have one."
        )
    start = _start(cases)
    random = np.random.default_rng((seed, 1))
    picked = [_pairs(case, start, random) for case in cases]
    table, right, weight = (np.concatenate(parts) for parts in zip(*picked, strict=True))
    return _fitted(start, table.astype(np.float64), right.astype(np.float64), weight, steps, seed)


def _start(cases: Sequence[tuple[Table, Table, NDArray[np.bool_]]]) -> Background:
    """A curve without content that holds the prior of the background: the median over questions in larger folders."""
    own = np.array([shrunk(scores, 0.0, 0.0, 0.0) for scores, _, _ in cases if len(scores) >= 20])
    if not len(own):
        raise BadInput("a prior needs folders of 20 entries or more.")
    location, scale = _numbers(np.median(own, axis=0))
    zeros, ones = (0.0,) * len(INPUTS), (1.0,) * len(INPUTS)
    return Background(location, max(scale, 1e-4), PSEUDO_COUNT, zeros, ones, zeros, ones, 0.0, zeros, (), (), ())


def _pairs(
    case: tuple[Table, Table, NDArray[np.bool_]], start: Background, random: np.random.Generator
) -> tuple[Table, NDArray[np.bool_], NDArray[np.float64]]:
    """Inputs, outcome and weight of the pairs of one case that enter the fit."""
    scores, neutral, right = case
    order = np.argsort(-scores, kind="stable")
    ranks = np.arange(1, len(scores) + 1)
    chance = np.minimum(1.0, FULLY / ranks)
    kept = random.random(len(scores)) < chance
    return inputs(scores, neutral, start)[order][kept], right[order][kept], (1.0 / ranks / chance)[kept]


def _fitted(
    start: Background,
    table: NDArray[np.float64],
    right: NDArray[np.float64],
    weight: NDArray[np.float64],
    steps: int,
    seed: int,
) -> Background:
    """Maximum likelihood with a little decay, by L-BFGS in float64."""
    centre, spread = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-6)
    values = torch.from_numpy((table - centre) / spread)
    outcome, counts = torch.from_numpy(right), torch.from_numpy(weight / weight.sum())
    drawn = torch.Generator().manual_seed(seed)
    width = len(INPUTS)
    raw: dict[str, Any] = {
        "bends": torch.randn(width, steps, generator=drawn, dtype=torch.float64) / 2,
        "offsets": torch.randn(steps, generator=drawn, dtype=torch.float64),
        "heights": torch.full((steps,), 0.5, dtype=torch.float64),
        "slopes": torch.randn(width, generator=drawn, dtype=torch.float64) / 10,
        "constant": torch.zeros((), dtype=torch.float64),
    }
    for tensor in raw.values():
        tensor.requires_grad_()
    solver = torch.optim.LBFGS(raw.values(), max_iter=400, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        slopes, bends, heights = _positive(raw)
        logits = raw["constant"] + values @ slopes + torch.tanh(values @ bends + raw["offsets"]) @ heights
        found = (counts * binary_cross_entropy_with_logits(logits, outcome, reduction="none")).sum()
        found = found + DECAY * ((raw["bends"] ** 2).sum() + (raw["slopes"] ** 2).sum())
        found.backward()
        return found

    solver.step(loss)
    slopes, bends, heights = (part.detach() for part in _positive(raw))
    low, high = np.quantile(table, RANGE, axis=0)
    return replace(
        start,
        centre=_numbers(centre),
        spread=_numbers(spread),
        low=_numbers(low),
        high=_numbers(high),
        constant=round(raw["constant"].item(), 6),
        slopes=_numbers(slopes),
        bends=tuple(_numbers(row) for row in bends.T),
        offsets=_numbers(raw["offsets"].detach()),
        heights=_numbers(heights),
    )


def _positive(raw: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes, bends and heights with the score's part above 0."""
    slopes = torch.cat([softplus(raw["slopes"][:1]), raw["slopes"][1:]])
    bends = torch.cat([softplus(raw["bends"][:1]), raw["bends"][1:]])
    return slopes, bends, softplus(raw["heights"])


def _numbers(row: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in row)
