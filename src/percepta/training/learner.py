"""The model and its objectives as one module: from the tensors of a batch to the losses of an update.

Unusual: the losses are computed inside `forward`, because data-parallel training averages the gradients of what its
wrapped module computes. Mask regularisation reads the tokens of the contrastive pass; the pass is not repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from percepta.training.batching import Inputs, sample_means
from percepta.training.masking import MaskRegularisation
from percepta.training.objectives import contrastive_loss
from percepta.training.precision import forward_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe


class Learner(nn.Module):
    """What is trained: the model, and what its objectives add to it.

    Args:
        model: with `encode_image`, `encode_text` and `logit_scale`; with a recipe for masks also `vision`.
        recipe: weights of the losses, precision.
        ranks: the processes that share the batch.
    """

    def __init__(self, model: Any, recipe: Recipe, ranks: Ranks) -> None:
        super().__init__()
        self.model, self.recipe, self.ranks = model, recipe, ranks
        self.mask = MaskRegularisation(recipe.mask, getattr(model, "vision", None)) if recipe.mask else None

    @property
    def names(self) -> tuple[str, ...]:
        """What `forward` gives, in order; the first is what is minimised."""
        return ("loss",) if self.mask is None else ("loss", "contrastive_loss", "mask_loss")

    def forward(self, inputs: Inputs) -> Tensor:
        """(losses,) float32, as `names` says."""
        kind = inputs.pictures.device.type
        masked: Tensor | None = None
        with forward_precision(kind, self.recipe.precision):
            if self.mask is None:
                pictures = self.model.encode_image(inputs.pictures)
            else:
                tower = self.model.vision
                tokens = tower.last_tokens(inputs.pictures)
                pictures, masked = tower.read_out(tokens), self.mask(tower, inputs.pictures, tokens)
            texts = self.model.encode_text(inputs.tokens)
        contrastive = contrastive_loss(
            sample_means(pictures, inputs.runs),
            texts[inputs.caption_ids],
            self.model.logit_scale,
            inputs.caption_keys,
            None if inputs.negative_ids is None else texts[inputs.negative_ids],
            inputs.negative_mask,
            self.recipe.hard_negative_weight or 1.0,
            self.ranks.gather,
            self.ranks.rank * len(inputs.caption_ids),
        )
        if masked is None or self.recipe.mask is None:
            return contrastive[None]
        total = contrastive + self.recipe.mask.weight * masked
        return torch.stack([total, contrastive.detach(), masked.detach()])
