"""Mask regularisation of a vision tower (arXiv 2504.13181, section 2.1): a few pictures pass again with hidden patches.

Unusual: nothing in the tower knows of it. Hiding is a function that the tower applies to its patch embeddings, and
what comes out is compared with the tokens that the contrastive pass has already given, which receive no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers import Tokens
from percepta.training.objectives import masked_token_loss
from percepta.training.recipe import MaskRecipe


class MaskRegularisation(nn.Module):
    """The loss of hidden patches.

    Args:
        recipe: shares, and the choices that the paper leaves open.
        tower: the vision tower; only its shape is looked at.
    """

    def __init__(self, recipe: MaskRecipe, tower: Any) -> None:
        super().__init__()
        if not hasattr(tower, "last_tokens"):
            raise BadInput(f"mask needs a model whose vision tower gives its tokens; {type(tower).__name__} does not.")
        self.recipe, self.prefix = recipe, tower.config.prefix
        if recipe.fill == "learned":
            self.filling = nn.Parameter(torch.randn(tower.config.width) * tower.config.width**-0.5)

    def forward(self, tower: Any, pictures: Tensor, tokens: Tokens) -> Tensor:
        """The loss of one batch; which places are hidden is drawn from torch's own generator.

        Args:
            pictures: (P, 3, H, W).
            tokens: what `tower.last_tokens(pictures)` gave.
        """
        copied = spread(len(pictures), self.recipe.share)
        hidden = draw_hidden(len(copied), tokens.x.shape[1] - self.prefix, self.recipe.ratio).to(pictures.device)
        masked = self.masked_tokens(tower, pictures[copied], hidden)
        seen = tokens.x[copied].detach()
        return masked_token_loss(self._compared(tower, masked), self._compared(tower, seen), hidden)

    def masked_tokens(self, tower: Any, pictures: Tensor, hidden: Tensor) -> Tensor:
        """(C, N, width) output tokens of (C, 3, H, W) pictures of which the patches of (C, n) `hidden` are not seen."""

        def hide(patches: Tensor) -> Tensor:
            filling = self.filling.to(patches.dtype) if self.recipe.fill == "learned" else patches.new_zeros(())
            return torch.where(hidden[..., None], filling, patches)

        return tower.last_tokens(pictures, change=hide).x

    def _compared(self, tower: Any, tokens: Tensor) -> Tensor:
        return (tower.norm_post(tokens) if self.recipe.after_norm else tokens)[:, self.prefix :]


def spread(total: int, share: float) -> list[int]:
    """Numbers below `total`, a share of them but at least one, evenly spread: every source of a batch has its part."""
    count = max(1, round(share * total))
    return [number * total // count for number in range(count)]


def draw_hidden(count: int, places: int, ratio: float) -> Tensor:
    """(count, places) bool with the same number of hidden places in every row, at least one and not all."""
    if places < 2:
        raise BadInput(f"mask needs pictures of at least two patches; got {places}.")
    hidden = min(max(1, round(ratio * places)), places - 1)
    order = torch.rand(count, places).argsort(dim=1)
    return order < hidden
