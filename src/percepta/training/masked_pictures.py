"""The objective of masked pre-training: predict the pixels of removed units (MAE as in Hiera, arXiv 2306.00989 §3.1).

Order of this file: pictures of a batch, inputs, learner, objective. Unusual: masks are drawn with the batch, for the
whole of it, so that they depend neither on the number of processes nor on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.models.hiera import random_keep
from percepta.running.modes import evaluating
from percepta.training.data import Batch
from percepta.training.objective_table import Objective, native_size
from percepta.training.picture_inputs import AT_ONCE, draws_for, model_pictures
from percepta.training.picture_recipe import MaskedRecipe
from percepta.training.precision import forward_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sources import Part


class MaskedInputs(NamedTuple):
    """One batch.

    Attributes:
        pictures: (B, 3, S, S), or (B, T, 3, S, S) of videos, normalised as the model wants them.
        keep: (B, units) bool, True for units that are not removed.
    """

    pictures: Tensor
    keep: Tensor

    def to(self, device: torch.device) -> MaskedInputs:
        """The same on another device."""
        return MaskedInputs(self.pictures.to(device), self.keep.to(device))


class MaskedLearner(nn.Module):
    """A model with `pretrain`, and its loss."""

    names = ("loss",)

    def __init__(self, model: Any, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, inputs: MaskedInputs) -> Tensor:
        """(1,) float32."""
        with forward_precision(inputs.pictures.device.type, self.recipe.precision):
            loss: Tensor = self.model.pretrain(inputs.pictures, inputs.keep).loss
        return loss.float()[None]


class Masked(Objective):
    """See `Objective`; the model needs `pretrain` and `units_of`."""

    def __init__(self, recipe: Recipe, model: Any, ranks: Ranks) -> None:
        if not hasattr(model, "pretrain") or model.config.decoder is None:
            raise BadInput(
                f"the objective masked needs a model with a decoder, such as mae-hiera-nano; got {recipe.model}."
            )
        self.recipe, self.model = recipe, model
        self.ratio = (recipe.masked or MaskedRecipe()).ratio
        self.learner = MaskedLearner(model, recipe)

    def size(self) -> int:
        """See `Objective`."""
        return native_size(self.model)

    def inputs(self, batch: Batch, size: int) -> MaskedInputs:
        """See `Objective`."""
        pictures, keeps = [], []
        for part in batch.parts:
            draws = draws_for(self.recipe.seed, batch.step, part)
            x = model_pictures(part, size, self.model.preprocess, draws)
            keep = self._keep(x, part.total or len(part), draws)
            pictures.append(x)
            keeps.append(keep if part.rows is None else keep[torch.from_numpy(part.rows)])
        return MaskedInputs(torch.cat(pictures), torch.cat(keeps))

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """The loss on held-out samples of each source, always with the same masks."""
        found = {}
        with evaluating(model), torch.inference_mode():
            for part in parts:
                x = model_pictures(part, size, model.preprocess, None)
                keep = self._keep(x, len(x), torch.Generator().manual_seed(0))
                losses = [
                    model.pretrain(some.to(device), kept.to(device)).loss * len(some)
                    for some, kept in zip(x.split(AT_ONCE), keep.split(AT_ONCE), strict=True)
                ]
                found[f"{part.source}.masked_loss"] = round(float(sum(losses)) / len(x), 5)
        return found

    def _keep(self, x: Tensor, count: int, draws: torch.Generator) -> Tensor:
        units = 1
        for many in self.model.units_of(x):
            units *= many
        return random_keep(count, units, self.ratio, draws)


def make(recipe: Recipe, model: Any, ranks: Ranks) -> Masked:
    """See `objective_table`."""
    return Masked(recipe, model, ranks)
