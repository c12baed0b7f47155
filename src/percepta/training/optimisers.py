"""Optimisers by name: AdamW, Muon and SGD with momentum of torch, LAMB (arXiv 1904.00962) of timm.

LAMB is the Perception Encoder's optimiser: Adam direction plus decoupled weight decay, scaled for each tensor by
||weight|| / ||update||, or 1 where either is 0. Vectors and scalars (biases, norms, the logit scale) have neither decay
nor scaling, the usual choice where the paper is silent. Muon orthogonalises the momentum of the matrices inside the
blocks and leaves all other tensors to AdamW; it is what lets the nano models learn in an hour.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, MissingExtra, one_of
from percepta.training.recipe import RatesRecipe

OPTIMISERS = ("adamw", "lamb", "muon", "sgd")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    factors: Mapping[str, float] | None = None,
    undecayed: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Groups for an optimiser: tensors with decay, and those of one dimension or none without.

    Args:
        named: names and parameters; those that need no gradient are left out.
        factors: rates of parameters by name, as factors of the common rate; each factor gets its own groups, and
            "factor" in a group says which.
        undecayed: names of further tensors without decay.
    """
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            factor = 1.0 if factors is None else factors[name]
            decays = parameter.ndim > 1 and name not in undecayed
            found.setdefault((factor, decays), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for factor, decayed in sorted(found, reverse=True):
        group: dict[str, Any] = {"params": found[factor, decayed], "weight_decay": weight_decay if decayed else 0.0}
        groups.append(group if factors is None else {**group, "factor": factor})
    return groups


def rate_factors(learner: nn.Module, rates: RatesRecipe) -> dict[str, float]:
    """The factor of each parameter's rate, by name.

    Args:
        learner: whose parameters; where it holds a model as `model`, patterns mean the names inside that.
        rates: patterns and layers.

    Raises:
        BadInput: a module without `blocks`, or a pattern that fits no parameter.
    """
    known = _names(learner)
    for pattern in (*rates.factors, *rates.exempt, *rates.undecayed):
        if not any(fnmatch.fnmatchcase(short, pattern) for short in known.values()):
            raise BadInput(f"each pattern of rates must fit a parameter of the model; {pattern!r} fits none.")
    layers = _layers(list(known.values()), rates.layers) if rates.layer_decay < 1 else {}
    top = max(layers.values(), default=0)

    def factor(short: str) -> float:
        own = next((value for pattern, value in rates.factors.items() if fnmatch.fnmatchcase(short, pattern)), 1.0)
        if short not in layers or any(fnmatch.fnmatchcase(short, pattern) for pattern in rates.exempt):
            return own
        return own * rates.layer_decay ** (top - layers[short])

    return {name: factor(short) for name, short in known.items()}


def _names(learner: nn.Module) -> dict[str, str]:
    """The parameters by name, and what a recipe calls them: inside a learner, by their names in its model."""
    return {name: name.removeprefix("model.") for name, _ in learner.named_parameters()}


def undecayed(learner: nn.Module, rates: RatesRecipe) -> frozenset[str]:
    """The names of the parameters that the recipe takes out of weight decay."""
    return frozenset(
        name
        for name, short in _names(learner).items()
        if any(fnmatch.fnmatchcase(short, pattern) for pattern in rates.undecayed)
    )


def _layers(names: Sequence[str], owner: str) -> dict[str, int]:
    """The layer of each parameter of a module: 0 before its blocks, k + 1 in block k, one more after them."""
    inside = f"{owner}." if owner else ""
    found: dict[str, int] = {}
    seen = 0
    for name in names:
        if name.startswith(inside):
            block = re.match(r"blocks\.(\d+)\.", name.removeprefix(inside))
            seen = max(seen, int(block[1]) + 1) if block else seen
            found[name] = int(block[1]) + 1 if block else (-1 if seen else 0)
    if not seen:
        raise BadInput(f"layer_decay needs a module with blocks; {owner or 'the model'} has none.")
    return {name: seen + 1 if layer < 0 else layer for name, layer in found.items()} | {"": seen + 1}


def make_optimiser(
    name: str,
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.95),
    epsilon: float = 1e-8,
    rates: RatesRecipe | None = None,
    exact: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser `name` over all trainable parameters of `model`.

    Args:
        name: "adamw", "lamb", "muon" or "sgd".
        learning_rate: peak rate; the loop multiplies it by the schedule's factor.
        betas: the two averaging constants of Adam; the first is the momentum of "sgd".
        rates: rates that differ between parameters; in a learner, names are those of the model inside.
        exact: let Muon orthogonalise in float32 instead of bfloat16, which few processors multiply fast.

    Raises:
        BadInput: unknown name. MissingExtra: LAMB without timm.
    """
    factors = None if rates is None else rate_factors(model, rates)
    kept = frozenset[str]() if rates is None else undecayed(model, rates)
    groups = parameter_groups(model.named_parameters(), weight_decay, factors, kept)
    first, second = betas
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(first, second), eps=epsilon, fused=True)
    if name == "lamb":
        try:
            from timm.optim.lamb import Lamb
        except ImportError as error:
            raise MissingExtra("timm", "train", "The LAMB optimiser") from error
        # Clipping of the global gradient norm is the loop's business, not the optimiser's.
        return Lamb(groups, lr=learning_rate, betas=(first, second), eps=epsilon, max_grad_norm=None)
    if name == "muon":
        return MuonWithAdamW(model, learning_rate, weight_decay, (first, second), epsilon, factors, exact, kept)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=first)
    raise one_of("optimiser", name, OPTIMISERS)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of transformer blocks, AdamW for the rest, behind one state and one list of groups.

    Muon's step is scaled to AdamW's usual size (0.2 root mean square, arXiv 2502.16982), so both share one rate.
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
        factors: Mapping[str, float] | None = None,
        exact: bool = False,
        kept: Collection[str] = (),
    ) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [(name, parameter) for name, parameter in named if _is_block_matrix(name, parameter)]
        if not matrices:
            raise BadInput("the optimiser muon needs a model with matrices inside its blocks; use adamw for this one.")
        rest = ((name, parameter) for name, parameter in named if not _is_block_matrix(name, parameter))
        others = parameter_groups(rest, weight_decay, factors, kept)
        kind: Any = Float32Muon if exact else torch.optim.Muon
        muon = kind(
            _by_factor(matrices, factors),
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=betas[1],
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = torch.optim.AdamW(others, lr=learning_rate, betas=betas, eps=epsilon, fused=True)
        super().__init__(muon.param_groups + adamw.param_groups, {})
        self.param_groups = muon.param_groups + adamw.param_groups  # the very groups, so that rates reach both
        muon.state = adamw.state = self.state
        self.parts: tuple[Any, ...] = (muon, adamw)

    def step(self, closure: Any = None) -> Any:
        """Update all tensors."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss


class Float32Muon(torch.optim.Optimizer):
    """Muon as torch's, with Nesterov momentum, but orthogonalised in float32; matrices of one shape at once."""

    def __init__(
        self, matrices: Any, lr: float, weight_decay: float, momentum: float, adjust_lr_fn: str = "match_rms_adamw"
    ) -> None:
        if adjust_lr_fn != "match_rms_adamw":
            raise one_of("adjust_lr_fn", adjust_lr_fn, ["match_rms_adamw"], "Float32Muon")
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all matrices that have a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                updates = orthogonal(torch.stack([self._momentum(one, group["momentum"]) for one in parameters]))
                rate = 0.2 * math.sqrt(max(shape)) * group["lr"]
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates), alpha=-rate)
        return loss

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average: Tensor = state["momentum_buffer"]
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """(N, A, B) matrices to ones whose singular values are near 1: Newton-Schulz of fifth order (Muon)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * (gram @ gram) - 4.775 * gram) @ x
    return x.mT if tall else x


def _by_factor(named: list[tuple[str, nn.Parameter]], factors: Mapping[str, float] | None) -> Any:
    if factors is None:
        return [parameter for _, parameter in named]
    return [{name: group[name] for name in ("params", "factor")} for group in parameter_groups(named, 0.0, factors)]


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and ("blocks." in name or "layers." in name)
