"""Parts of published Hieras that the paper does not have, chosen by name in the config.

`MaxMeanShortcut` is of timm's `hiera_small_abswin_256`, which also has layer scales.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from percepta.layers.pooled import ProjectedShortcut


class MaxMeanShortcut(nn.Module):
    """Around attention that doubles the width: the maximum and the mean of each neighbourhood of the *unnormalised*
    tokens, side by side.

    Args:
        factor: tokens of a neighbourhood.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, normed: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, units, N, D) → (B, units, N / factor, 2 D)."""
        return torch.cat([pool(x), x.unflatten(2, (self.factor, -1)).mean(dim=2)], dim=-1)


def shortcut_of(name: str, width: int, out: int, factor: int) -> nn.Module:
    """The shortcut of a block that widens, by the config's name."""
    return ProjectedShortcut(width, out) if name == "projection" else MaxMeanShortcut(factor)
