"""Merging of models that were tuned from one ancestor: arithmetic on their weights, entry by entry.

Such models lie near each other, features in the same places, so that no matching is needed; what tuning added, a
model's task vector, can be weighed, trimmed and summed. Every function takes state dicts or files, reads them tensor
by tensor and computes in float32; the result has the types of the first model. Integers and batch statistics are
averaged by all of them.
Order of this file: averages, task arithmetic, TIES, DARE, tails cut off, Model Stock.
Unusual: the threshold of a whole task vector is found exactly without holding or sorting it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from percepta.errors import one_of, out_of_range
from percepta.merging.streams import FineTunes, KeyRule, State

Deltas = Callable[[int, str], Tensor]
"""From a model's number and a key to its task vector's part."""
FOLLOWERS = ("task_arithmetic", "ties")
"""What may follow after DARE's dropping."""
CHUNK = 2**22
HALF = 2**16
ROUNDING = 1e-9  # so that a share of a count that should be whole is


def average_states(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The weighted mean of models: a model soup (arXiv 2203.05482), or WiSE-FT (2109.01903) of a model and its base.

    Args:
        states: two or more.
        weights: one a model, none below zero; they are divided by their sum. None counts all alike.

    Raises: BadInput for weights that are none, and models that do not fit (as all functions here).
    """
    models = FineTunes(states, method="average", least=2)
    return models.build(average_rule(models, weights))


def task_arithmetic(base: State, states: Sequence[State], scale: float = 0.4) -> dict[str, Tensor]:
    """base + scale * sum of task vectors (arXiv 2212.04089, eq. 2).

    Args:
        base: the common ancestor.
        states: one or more.
        scale: how far to go; the authors' best is 0.3 to 0.4 for eight tasks. Below zero forgets a task.
    """
    models = FineTunes(states, base, "task_arithmetic")
    return models.build(task_arithmetic_rule(models, scale))


def ties(base: State, states: Sequence[State], keep: float = 0.2, scale: float = 1.0) -> dict[str, Tensor]:
    """TIES: trim each task vector, elect a sign for each entry, take the mean of those that agree (arXiv 2306.01708).

    Args:
        base: the common ancestor.
        states: one or more.
        keep: share of a task vector's entries that stays, the largest by magnitude over the whole vector, 0 to 1;
            entries as large as the last that stays do too.
        scale: the authors' lambda.

    Where the models cancel exactly no sign is elected, and the base stays.
    """
    models = FineTunes(states, base, "ties")
    return models.build(ties_rule(models, keep, scale))


def dare(
    base: State,
    states: Sequence[State],
    drop: float = 0.9,
    seed: int = 0,
    then: str = "task_arithmetic",
    scale: float | None = None,
    keep: float = 0.2,
) -> dict[str, Tensor]:
    """DARE: drop entries of the task vectors at random, make the others larger by as much, merge (arXiv 2311.03099).

    Args:
        base: the common ancestor.
        states: one or more.
        drop: probability that an entry is dropped, 0 to below 1; the others are divided by 1 - drop.
        seed: of the draws, which depend on the number of a model and the key besides, not on the order of reading.
        then: of `FOLLOWERS`.
        scale: of what follows; None for its default.
        keep: of "ties". Of a vector with more entries dropped than that leaves, nothing more is trimmed.
    """
    models = FineTunes(states, base, "dare")
    return models.build(dare_rule(models, drop, seed, then, scale, keep))


def breadcrumbs(
    base: State, states: Sequence[State], small: float = 0.85, large: float = 0.01, scale: float = 0.4
) -> dict[str, Tensor]:
    """Model Breadcrumbs: of each task vector's tensors leave out the tails by magnitude, then add (arXiv 2312.06795).

    Args:
        base: the common ancestor.
        states: one or more.
        small, large: shares of each tensor's entries that are dropped, the smallest and the largest, 0 to 1 together.
        scale: as in `task_arithmetic`.
    """
    models = FineTunes(states, base, "breadcrumbs")
    return models.build(breadcrumbs_rule(models, small, large, scale))


def model_stock(base: State, states: Sequence[State]) -> dict[str, Tensor]:
    """Model Stock: each tensor between its mean and the base, by the angle of the task vectors (arXiv 2403.19522, §4).

    With k models and the mean cosine c between them, t = k c / (1 + (k - 1) c) of the mean and 1 - t of the base.
    A cosine below zero counts as zero: nothing in common, the base.

    Args:
        base: the common ancestor.
        states: two or more.
    """
    models = FineTunes(states, base, "model_stock", least=2)
    return models.build(model_stock_rule(models))


def average_rule(models: FineTunes, weights: Sequence[float] | None = None) -> KeyRule:
    """See `average_states`."""
    if weights is not None:
        weights = [float(weight) for weight in weights]
        fine = all(math.isfinite(weight) and weight >= 0 for weight in weights) and sum(weights) > 0
        if len(weights) != len(models) or not fine:
            allowed = f"{len(models)} numbers, one a model, none below zero and not all of them zero"
            raise out_of_range("weights", weights, allowed, "average")
    return models.rule(lambda key: models.mean(key, weights), weights)


def task_arithmetic_rule(models: FineTunes, scale: float = 0.4) -> KeyRule:
    """See `task_arithmetic`."""
    return _summed(models, models.delta, scale)


def ties_rule(models: FineTunes, keep: float = 0.2, scale: float = 1.0) -> KeyRule:
    """See `ties`."""
    return _elected(models, models.delta, keep, scale)


def dare_rule(
    models: FineTunes,
    drop: float = 0.9,
    seed: int = 0,
    then: str = "task_arithmetic",
    scale: float | None = None,
    keep: float = 0.2,
) -> KeyRule:
    """See `dare`."""
    if not 0 <= drop < 1:
        raise out_of_range("drop", drop, "from 0 to below 1", "dare")
    if then not in FOLLOWERS:
        raise one_of("then", then, FOLLOWERS, "dare")
    deltas = partial(_dropped, models, drop, seed)
    if then == "ties":
        return _elected(models, deltas, keep, 1.0 if scale is None else scale)
    return _summed(models, deltas, 0.4 if scale is None else scale)


def breadcrumbs_rule(models: FineTunes, small: float = 0.85, large: float = 0.01, scale: float = 0.4) -> KeyRule:
    """See `breadcrumbs`."""
    if not (min(small, large) >= 0 and small + large < 1):
        raise out_of_range("small and large", (small, large), "shares of together less than 1", "breadcrumbs")
    return _summed(models, partial(_without_tails, models, small, large), scale)


def model_stock_rule(models: FineTunes) -> KeyRule:
    """See `model_stock`."""

    def merged(key: str) -> Tensor:
        # The square of the sum of unit vectors is their number and twice the cosines of all pairs.
        origin, total, squares = models.origin(key), torch.zeros((), dtype=torch.float64), 0.0
        for model in range(len(models)):
            unit = models.delta(model, key).double()
            unit /= unit.norm().clamp(min=torch.finfo(unit.dtype).tiny)
            total = total + unit
            squares += float(unit.square().sum())
        pairs = len(models) * (len(models) - 1)
        cosine = min(max((float(total.square().sum()) - squares) / pairs, 0.0), 1.0)
        share = len(models) * cosine / (1 + (len(models) - 1) * cosine)
        return origin.lerp_(models.mean(key).to(origin.dtype), share)

    return models.rule(merged)


def check_scale(scale: float, method: str) -> float:
    """The scale of task vectors. Raises BadInput for what is no finite number."""
    if not math.isfinite(scale):
        raise out_of_range("scale", scale, "a finite number", method)
    return float(scale)


def _summed(models: FineTunes, deltas: Deltas, scale: float) -> KeyRule:
    """Task arithmetic on whatever task vectors."""
    check_scale(scale, models.method)

    def merged(key: str) -> Tensor:
        total = models.origin(key)
        for model in range(len(models)):
            total.add_(deltas(model, key), alpha=scale)
        return total

    return models.rule(merged)


def _elected(models: FineTunes, deltas: Deltas, keep: float, scale: float) -> KeyRule:
    """TIES on whatever task vectors."""
    check_scale(scale, models.method)
    if not 0 < keep <= 1:
        raise out_of_range("keep", keep, "above 0 and up to 1", models.method)
    keys = models.weights()
    thresholds = [_threshold(partial(_magnitudes, partial(deltas, model), keys), keep) for model in range(len(models))]

    def merged(key: str) -> Tensor:
        trimmed = (
            value.masked_fill_(value.abs().float() < threshold, 0)
            for value, threshold in zip((deltas(model, key) for model in range(len(models))), thresholds, strict=True)
        )
        origin = models.origin(key)
        return origin.add_(_agreeing_mean(trimmed, origin).to(origin.dtype), alpha=scale)

    return models.rule(merged)


def _agreeing_mean(values: Iterator[Tensor], like: Tensor) -> Tensor:
    """The mean over the values of the sign that has the larger sum, entry by entry.

    Sums are kept in double: in single precision the order of the models could turn an election.
    """
    above, below = torch.zeros_like(like, dtype=torch.float64), torch.zeros_like(like, dtype=torch.float64)
    risers, fallers = torch.zeros_like(like, dtype=torch.int16), torch.zeros_like(like, dtype=torch.int16)
    for value in values:
        above += value.clamp(min=0)
        below += value.clamp(max=0)
        risers += value > 0
        fallers += value < 0
    mass = above + below
    mean = torch.where(mass > 0, above / risers.clamp(min=1), below / fallers.clamp(min=1))
    return mean.masked_fill_(mass == 0, 0)


def _magnitudes(delta: Callable[[str], Tensor], keys: Sequence[str]) -> Iterator[Tensor]:
    """The bits of the magnitudes of a task vector, in pieces: as integers they sort like the numbers they stand for."""
    for key in keys:
        yield from delta(key).abs().float().flatten().view(torch.int32).split(CHUNK)


def _threshold(pieces: Callable[[], Iterator[Tensor]], keep: float) -> Tensor:
    """The magnitude of the last entry to keep, exactly: one count over the upper halves of the bits finds the 65,536
    neighbouring numbers among which it is, one over the lower halves which of them."""
    counts = torch.zeros(HALF, dtype=torch.int64)
    for piece in pieces():
        counts += torch.bincount(piece >> 16, minlength=HALF)
    total = int(counts.sum())
    wanted = max(1, int(keep * total + ROUNDING))
    if wanted >= total:
        return torch.zeros(())
    upper, above = _bin_of(counts, wanted)
    counts.zero_()
    for piece in pieces():
        counts += torch.bincount(piece[(piece >> 16) == upper] & (HALF - 1), minlength=HALF)
    lower, _ = _bin_of(counts, wanted - above)
    return torch.tensor((upper << 16) | lower, dtype=torch.int32).view(torch.float32)


def _bin_of(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The bin that holds the so-many-th largest, and how many are in bins above it."""
    tail = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(tail, wanted))
    index = len(counts) - 1 - place
    return index, int(tail[place] - counts[index])


def _dropped(models: FineTunes, drop: float, seed: int, model: int, key: str) -> Tensor:
    """A task vector's part with some of its entries zero and the others larger."""
    digest = hashlib.sha256(f"{seed}/{model}/{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    delta = models.delta(model, key)
    return delta.masked_fill_(torch.rand(delta.shape, generator=generator) < drop, 0).div_(1 - drop)


def _without_tails(models: FineTunes, small: float, large: float, model: int, key: str) -> Tensor:
    """A task vector's part with its smallest and largest entries zero."""
    delta = models.delta(model, key)
    order = delta.abs().flatten().argsort(stable=True)
    count = delta.numel()
    first, last = int(small * count + ROUNDING), count - int(large * count + ROUNDING)
    flat = delta.flatten()
    kept = torch.zeros_like(flat)
    kept[order[first:last]] = flat[order[first:last]]
    return kept.view_as(delta)
