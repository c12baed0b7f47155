"""From patches of the vision tower to visual tokens of the decoder: an MLP, then square average pooling.

Unusual: the pooling comes after the MLP (arXiv 2504.13180 §3).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput, out_of_range
from percepta.layers import Mlp


class Projector(nn.Module):
    """Linear, exact GELU, linear on each patch; then the mean over squares of patches.

    Args:
        width: channels of the tower.
        out: channels of the decoder.
        pooling: patches along the side of a square that becomes one token.
    """

    def __init__(self, width: int, out: int, pooling: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.mlp = Mlp(width, out)
        self.mlp.contract = nn.Linear(out, out)
        for layer in (self.mlp.expand, self.mlp.contract):
            for parameter in layer.parameters():
                cut_normal(parameter, out)

    def forward(self, patches: Tensor) -> Tensor:
        """(C, h * h, width) → (C, (h // pooling) ** 2, out), row by row. Raises BadInput unless the grid is square."""
        return average(self.mlp(patches), self.pooling)


def average(tokens: Tensor, pooling: int) -> Tensor:
    """(C, h * h, D) → (C, (h // pooling) ** 2, D): the mean over squares of a square grid.

    Where `pooling` does not divide h, neighbouring squares overlap (adaptive pooling). Raises: BadInput.
    """
    count = tokens.shape[1]
    side = math.isqrt(count)
    if side * side != count:
        raise BadInput(f"visual tokens must lie on a square grid; got {count} of them, so pass square pictures.")
    if not 1 <= pooling <= side:
        raise out_of_range("pooling", pooling, f"1 to {side}, the tokens along a side")
    if pooling == 1:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(maps, side // pooling).flatten(2).transpose(1, 2)


def cut_normal(parameter: Tensor, fan: int) -> None:
    """Fill with normal values of deviation 1 / sqrt(fan), cut at three deviations."""
    deviation = fan**-0.5
    nn.init.trunc_normal_(parameter, std=deviation, a=-3 * deviation, b=3 * deviation)
