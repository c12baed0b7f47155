"""The contrastive objective: pictures and captions that belong together (arXiv 2103.00020, arXiv 2504.13181).

The parts are in `batching` (inputs), `learner` (losses) and `validation` (figures); here they meet the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from percepta.training.batching import Inputs, Tokens, make_inputs
from percepta.training.data import Batch
from percepta.training.learner import Learner
from percepta.training.objective_table import Objective, native_size
from percepta.training.objectives import LOG_SCALE_LIMIT
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sources import Part
from percepta.training.validation import validate


class Contrastive(Objective):
    """See `Objective`; the model needs `encode_image`, `encode_text`, `tokenize` and `logit_scale`."""

    def __init__(self, recipe: Recipe, model: Any, ranks: Ranks) -> None:
        self.recipe, self.model = recipe, model
        self.learner = Learner(model, recipe, ranks)
        self.tokens = Tokens(model.tokenize)

    def size(self) -> int:
        """See `Objective`."""
        return native_size(self.model)

    def inputs(self, batch: Batch, size: int) -> Inputs:
        """See `Objective`."""
        return make_inputs(batch, size, self.tokens, self.recipe.seed, self.recipe.hard_negative_weight > 0)

    def after_update(self) -> None:
        """The logit scale stays at most 100."""
        self.model.logit_scale.clamp_(max=LOG_SCALE_LIMIT)

    def figures(self) -> dict[str, float]:
        """The logit scale."""
        return {"logit_scale": round(self.model.logit_scale.exp().item(), 4)}

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """See `validation.validate`."""
        return validate(model, parts, size, self.tokens, device)


def make(recipe: Recipe, model: Any, ranks: Ranks) -> Contrastive:
    """See `objective_table`."""
    return Contrastive(recipe, model, ranks)
