"""Optimisers by name: AdamW and Muon of torch, LAMB (arXiv 1904.00962) of timm.

LAMB is the Perception Encoder's optimiser: Adam direction plus decoupled weight decay, scaled for each tensor by
||weight|| / ||update||, or 1 where either is 0. Vectors and scalars (biases, norms, the logit scale) have neither decay
nor scaling, the usual choice where the paper is silent. Muon orthogonalises the momentum of the matrices inside the
blocks and leaves all other tensors to AdamW; it is what lets the nano models learn in an hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from percepta.errors import BadInput, MissingExtra, one_of

OPTIMISERS = ("adamw", "lamb", "muon")


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
        name: "adamw", "lamb" or "muon".
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
            from timm.optim.lamb import Lamb
        except ImportError as error:
            raise MissingExtra("timm", "train", "The LAMB optimiser") from error
        # Clipping of the global gradient norm is the loop's business, not the optimiser's.
        return Lamb(groups, lr=learning_rate, betas=(first, second), eps=epsilon, max_grad_norm=None)
    if name == "muon":
        return MuonWithAdamW(model, learning_rate, weight_decay, (first, second), epsilon)
    raise one_of("optimiser", name, OPTIMISERS)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of transformer blocks, AdamW for the rest, behind one state and one list of groups.

    Muon's step is scaled to AdamW's usual size (0.2 root mean square, arXiv 2502.16982), so both share one rate.
    """

    def __init__(
        self, model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float], epsilon: float
    ) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [parameter for name, parameter in named if _is_block_matrix(name, parameter)]
        if not matrices:
            raise BadInput("the optimiser muon needs a model with matrices inside its blocks; use adamw for this one.")
        others = parameter_groups(((n, p) for n, p in named if not _is_block_matrix(n, p)), weight_decay)
        muon = torch.optim.Muon(
            matrices, lr=learning_rate, weight_decay=weight_decay, momentum=betas[1], adjust_lr_fn="match_rms_adamw"
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


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "blocks." in name
