"""Exponential moving average of a model's weights.

Unusual: the decay warms up as (1 + t) / (10 + t), so that a short run is not dominated by its random start.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from percepta.errors import out_of_range


class MovingAverage:
    """Averaged copies of all floating-point parameters and buffers of a model, float32.

    Args:
        model: the model to follow; never changed by `update`.
        decay: weight of the past in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise out_of_range("decay", decay, "at least 0 and below 1", "MovingAverage")
        self.decay = decay
        self.tensors = {name: value.detach().clone().float() for name, value in _floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Mix in the weights after update number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [value.detach().float() for value in _floating(model).values()]
        torch._foreach_lerp_(list(self.tensors.values()), current, 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the weights of `model` by the averages."""
        for name, value in _floating(model).items():
            value.copy_(self.tensors[name])


def _floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
