"""RegMean: the linear layer whose outputs are nearest to those of all models, each on its own data (arXiv 2212.09849).

The sum over models of |X_i W_i - X_i W|^2 is least at W = (sum G_i)^-1 sum G_i W_i, with the Grams G_i = X_i' X_i of
what each layer reads: that is all it needs of the data. Convolutions are linear in their unfolded inputs.
Order of this file: Grams in one pass, the method, one layer.
Unusual: inputs that no model saw, and directions that rounding hides, keep the mean of the models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from percepta.errors import BadInput, out_of_range
from percepta.merging.statistics import Batches, inputs_of
from percepta.merging.streams import FineTunes, KeyRule, State, open_state
from percepta.running.modes import evaluating

Grams = Mapping[str, Tensor]
"""The mean of x x' over the inputs x of each layer, by the key of its weight; (F, F), and (groups, F, F) of a
convolution in groups, F inputs of one place."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
SAFE = 1e-6
"""How small the least pivot of a Cholesky factor may be beside the largest, for its solution to be taken."""


def input_grams(model: nn.Module, batches: Batches, keys: Collection[str] | None = None) -> dict[str, Tensor]:
    """What RegMean needs of a model's data, in one pass: the Gram of the inputs of each linear layer and convolution.

    Args:
        model: run in evaluation mode without gradients, and given back as it was.
        batches: inputs of its task, (B, 3, H, W) or tuples that begin with them; a few hundred pictures will do.
        keys: of the weights that are wanted; None for all. A Gram takes 4 F^2 bytes: a few layers at a time bound it.

    Returns: by the key of the weight, the mean over all rows, so that models count alike however many pictures each
        had. Of torch.nn.MultiheadAttention the joint projection, where queries, keys and values are one tensor. Layers
        that were not run are missing.
    Raises: BadInput for no batch, keys that name no such layer, and inputs that are not finite.
    """
    layers = _layers(model)
    unknown = [key for key in keys or () if key not in layers]
    if unknown:
        raise BadInput(f"keys must be weights of linear layers or convolutions; {unknown[0]} is none.")
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    with _watching(model, layers, set(layers if keys is None else keys), totals, counts):
        for batch in batches:
            model(inputs_of(batch))
    if not counts:
        raise BadInput("RegMean needs data to see what layers read; got no batch.")
    for key, total in totals.items():
        total /= counts[key]
        if not total.isfinite().all():
            raise BadInput(f"the inputs of {key} hold NaN or infinite values; RegMean needs numbers.")
    return totals


def regmean(
    states: Sequence[State], grams: Sequence[Grams | str | Path], non_diagonal: float = 0.9
) -> dict[str, Tensor]:
    """W = (sum G_i)^-1 sum G_i W_i for each weight that has Grams; everything else is averaged (arXiv 2212.09849, §3).

    Args:
        states: two or more.
        grams: of each model on its own data, from `input_grams`, or safetensors files of them.
        non_diagonal: what the Grams' other entries than the diagonal are multiplied by, 0 to 1; below one for data
            that are few. At 1 it is least squares, at 0 a mean of each input's weights by how strong it is.

    Raises: BadInput for models that do not fit, and for Grams that are missing, misshapen or hold NaN.
    """
    models = FineTunes(states, method="regmean", least=2)
    return models.build(regmean_rule(models, grams, non_diagonal))


def regmean_rule(models: FineTunes, grams: Sequence[Grams | str | Path], non_diagonal: float = 0.9) -> KeyRule:
    """See `regmean`."""
    if not 0 <= non_diagonal <= 1:
        raise out_of_range("non_diagonal", non_diagonal, "from 0 to 1", "regmean")
    if isinstance(grams, Mapping | str | Path) or len(grams) != len(models):
        count = 1 if isinstance(grams, Mapping | str | Path) else len(grams)
        raise BadInput(f"regmean needs Grams of each of the {len(models)} models, in a list; got {count}.")
    opened = [open_state(gram) for gram in grams]
    known = set().union(*opened)
    for key in known:
        missing = [str(number) for number, one in enumerate(opened, start=1) if key not in one]
        if missing or key not in models.forms:
            owner = f"the Grams of model {missing[0]}" if missing else "the models"
            raise BadInput(f"Grams must be of one architecture with the models; {owner} have no {key}.")

    def merged(key: str) -> Tensor:
        mean = models.mean(key)
        if key not in known:
            return mean
        pairs = ((_gram(one[key], mean, non_diagonal, key), models.value(i, key)) for i, one in enumerate(opened))
        return _nearest(pairs, mean)

    return models.rule(merged)


def _nearest(pairs: Iterator[tuple[Tensor, Tensor]], mean: Tensor) -> Tensor:
    """The mean, and what least squares adds to it: (sum G_i)^-1 sum G_i (W_i - mean), in double."""
    total, wanted = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for gram, weight in pairs:
        away = (weight.double() - mean).reshape(len(gram), -1, gram.shape[-1]).mT
        total, wanted = total + gram, wanted + gram @ away
    return mean + _solve(total, wanted).mT.reshape(mean.shape).to(mean.dtype)


def _solve(gram: Tensor, wanted: Tensor) -> Tensor:
    """The smallest solutions of (groups, F, F) systems, whose matrices may be singular."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    if not failed.any() and bool((pivots.amin(-1) > SAFE * pivots.amax(-1)).all()):
        return torch.cholesky_solve(wanted, factor)
    values, vectors = torch.linalg.eigh(gram)
    least = values.amax(-1, keepdim=True) * gram.shape[-1] * torch.finfo(torch.float32).eps
    inverse = torch.where(values > least, 1 / values.clamp(min=torch.finfo(values.dtype).tiny), 0)
    return vectors @ (inverse[..., None] * (vectors.mT @ wanted))


def _gram(gram: Tensor, weight: Tensor, non_diagonal: float, key: str) -> Tensor:
    """A Gram as (groups, F, F) in double, its other entries made smaller."""
    wide = gram.double()
    wide = wide[None] if wide.ndim == 2 else wide
    if (
        wide.ndim != 3
        or wide.shape[1] != wide.shape[2]
        or wide.shape[1] != weight[0].numel()
        or len(weight) % len(wide)
    ):
        raise BadInput(f"the Gram of {key} is {tuple(gram.shape)}; its weight of {tuple(weight.shape)} needs another.")
    if not wide.isfinite().all():
        raise BadInput(f"the Gram of {key} holds NaN or infinite values; RegMean needs numbers.")
    diagonal = torch.diag_embed(wide.diagonal(dim1=-2, dim2=-1))
    return torch.lerp(diagonal, wide, non_diagonal)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """By the key of the weight, what RegMean can merge."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            found[f"{prefix}weight"] = module
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found[f"{prefix}in_proj_weight"] = module
    return found


@contextmanager
def _watching(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    wanted: Collection[str],
    totals: dict[str, Tensor],
    counts: dict[str, int],
) -> Iterator[None]:
    """While a model runs without gradients: its layers' Grams and numbers of rows add up."""

    def see(module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], key: str) -> None:
        read = (*inputs, *named.values())
        if isinstance(module, nn.MultiheadAttention) and not read[0] is read[1] is read[2]:
            return
        for rows in _rows(module, read[0].detach()):
            gram = rows.mT @ rows
            totals[key] = totals[key].add_(gram) if key in totals else gram
            counts[key] = counts.get(key, 0) + rows.shape[-2]

    handles = [
        module.register_forward_pre_hook(partial(see, key=key), with_kwargs=True)
        for key, module in layers.items()
        if key in wanted
    ]
    try:
        with evaluating(model), torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(module: Any, x: Tensor) -> Iterator[Tensor]:
    """What a layer multiplies its weight by: (rows, F), or (groups, rows, F); of a convolution, picture by picture."""
    x = x.float() if x.dtype != torch.float64 else x
    if not isinstance(module, CONVOLUTIONS):
        yield x.reshape(-1, x.shape[-1])
        return
    single = isinstance(module, nn.Conv1d)
    batched = x if x.ndim == (3 if single else 4) else x[None]
    # Its own amounts of padding, which also say what "same" means.
    sides, mode = module._reversed_padding_repeated_twice, module.padding_mode
    kernel, stride, dilation = ((1, *sizes) if single else sizes for sizes in _sizes(module))
    for picture in batched.split(1):
        padded = functional.pad(picture, sides, mode="constant" if mode == "zeros" else mode)
        padded = padded[:, :, None] if single else padded
        columns = functional.unfold(padded, kernel, dilation=dilation, stride=stride)[0]
        rows = columns.unflatten(0, (module.groups, -1)).mT
        yield rows if module.groups > 1 else rows[0]


def _sizes(module: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return module.kernel_size, module.stride, module.dilation
