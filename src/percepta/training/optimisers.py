"""Optimisers by name: AdamW of torch and LAMB (arXiv 1904.00962) of timm.

LAMB is the Perception Encoder's optimiser: Adam direction plus decoupled weight decay, scaled for each tensor by
||weight|| / ||update||, or 1 where either is 0. Vectors and scalars (biases, norms, the logit scale) have neither decay
nor scaling, the usual choice where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from percepta.errors import MissingExtra, one_of

OPTIMISERS = ("adamw", "lamb")


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: tensors with decay, and those of one dimension or none without."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in named:
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimiser(
    name: str,
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.95),
    epsilon: float = 1e-8,
) -> torch.optim.Optimizer:
    """The optimiser `name` over all trainable parameters of `model`.

    Args:
        name: "adamw" or "lamb".
        learning_rate: peak rate; the loop multiplies it by the schedule's factor.
        betas: the two averaging constants of Adam.

    Raises:
        BadInput: unknown name. MissingExtra: LAMB without timm.
    """
    groups = parameter_groups(model.named_parameters(), weight_decay)
    first, second = betas
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(first, second), eps=epsilon, fused=True)
    if name == "lamb":
        try:
            from timm.optim import Lamb
        except ImportError as error:
            raise MissingExtra("timm", "train", "The LAMB optimiser") from error
        # Clipping of the global gradient norm is the loop's business, not the optimiser's.
        return Lamb(groups, lr=learning_rate, betas=(first, second), eps=epsilon, max_grad_norm=None)
    raise one_of("optimiser", name, OPTIMISERS)
