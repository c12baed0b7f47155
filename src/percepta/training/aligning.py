"""Spatial alignment: what a middle layer and the masks of SAM 2 know is drawn to the last layer of an encoder.

Perception Encoder, arXiv 2504.13181, section 5. Order of this file: inputs, learner, objective.
Unusual: the student sees a quarter of the picture and answers for all of it; which patches are hidden is drawn with
the batch, for the whole of it, so that it depends neither on the number of processes nor on an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.running.loading import load
from percepta.running.modes import evaluating
from percepta.training.aligning_recipe import AlignRecipe
from percepta.training.aligning_teachers import MaskTeacher, TokenTeacher
from percepta.training.aligning_towers import Head, blanked, hidden_patches, like, see, start_from, tower_of
from percepta.training.alignment_losses import pair_loss, token_loss
from percepta.training.data import Batch
from percepta.training.objective_table import Objective, native_size
from percepta.training.picture_inputs import AT_ONCE, draws_for, still_pictures
from percepta.training.precision import forward_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sources import Part


class AlignInputs(NamedTuple):
    """One batch.

    Attributes:
        pictures: (B, 3, S, S), normalised as the student wants them.
        hidden: (B, h, w) bool, True for patches that the student does not see.
    """

    pictures: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> AlignInputs:
        """The same on another device."""
        return AlignInputs(self.pictures.to(device), self.hidden.to(device))


class AlignLearner(nn.Module):
    """The student, what stands between it and its teachers, and the losses. The teachers are no modules of it."""

    names = ("loss", "token_loss", "pair_loss")

    def __init__(self, model: Any, recipe: Recipe, tokens: TokenTeacher | None, masks: MaskTeacher | None) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.settings = settings_of(recipe)
        self.teachers = (tokens, masks)
        width = _width(tower_of(model), native_size(tower_of(model)))
        self.head = Head(width, tokens.width if tokens is not None else width)

    def forward(self, inputs: AlignInputs) -> Tensor:
        """(losses,) float32, as `names` says; that of a teacher who is left out is 0."""
        return self.losses(self.model, inputs)

    def losses(self, model: Any, inputs: AlignInputs) -> Tensor:
        """As `forward`, of a model that is like the one in training, such as its average."""
        settings, (tokens, masks) = self.settings, self.teachers
        x = inputs.pictures
        with forward_precision(x.device.type, self.recipe.precision):
            seen = see(tower_of(model), blanked(x, inputs.hidden))
            answers = seen._replace(tokens=self.head(seen.tokens))
            wanted = None if tokens is None else tokens(x)
            logits = None if masks is None else masks(x, seen.grid)
        same = x.new_zeros(()) if wanted is None else token_loss(*like(answers, wanted))
        pairs = x.new_zeros(()) if logits is None else pair_loss(seen.patches, logits, settings.temperature)
        return torch.stack([settings.tokens * same + settings.pairs * pairs, same.detach(), pairs.detach()])


class Align(Objective):
    """See `Objective`; the model is any encoder with `intermediates`."""

    def __init__(self, recipe: Recipe, model: Any, ranks: Ranks) -> None:
        self.recipe, self.model, self.settings = recipe, model, settings_of(recipe)
        tower, settings = tower_of(model), self.settings
        source = load(settings.start) if settings.start else None
        if source is not None:
            start_from(tower, tower_of(source), settings.same_start)
        teacher = load(settings.teacher) if settings.teacher else source
        tokens = TokenTeacher(teacher, settings.layer, model.preprocess) if settings.tokens else None
        masks = None
        if settings.pairs:
            masks = MaskTeacher(load(settings.sam), settings.points, model.preprocess, settings.cache)
        self.grids: dict[int, tuple[int, int]] = {}
        self.learner = AlignLearner(model, recipe, tokens, masks)

    def size(self) -> int:
        """See `Objective`."""
        return native_size(tower_of(self.model))

    def inputs(self, batch: Batch, size: int) -> AlignInputs:
        """See `Objective`."""
        pictures, hidden = [], []
        for part in batch.parts:
            draws = draws_for(self.recipe.seed, batch.step, part)
            pictures.append(still_pictures("align-spatial", part, size, self.model.preprocess, draws))
            made = self._hidden(part.total or len(part), size, self.settings.hidden, draws)
            hidden.append(made if part.rows is None else made[torch.from_numpy(part.rows)])
        return AlignInputs(torch.cat(pictures), torch.cat(hidden))

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """The losses on held-out pictures of each source, of which the student sees all."""
        found = {}
        with evaluating(model), torch.inference_mode():
            for part in parts:
                x = still_pictures("align-spatial", part, size, self.model.preprocess, None)
                sums = torch.zeros(len(self.learner.names), device=device)
                for some in x.split(AT_ONCE):
                    inputs = AlignInputs(some, self._hidden(len(some), size, 0.0, None)).to(device)
                    sums += self.learner.losses(model, inputs) * len(some)
                for name, value in zip(self.learner.names[1:], (sums / len(x)).tolist()[1:], strict=True):
                    found[f"{part.source}.{name}"] = round(value, 5)
        return found

    def _hidden(self, count: int, size: int, share: float, draws: torch.Generator | None) -> Tensor:
        if size not in self.grids:
            tower = tower_of(self.model)
            device = next(tower.parameters()).device
            with evaluating(tower), torch.inference_mode():
                self.grids[size] = see(tower, torch.zeros(1, 3, size, size, device=device)).grid
        if not share:
            return torch.zeros(count, *self.grids[size], dtype=torch.bool)
        return hidden_patches(count, self.grids[size], share, self.settings.block, draws)


def settings_of(recipe: Recipe) -> AlignRecipe:
    """The alignment of a recipe. Raises BadInput where it says nothing of it."""
    if recipe.align is None:
        raise BadInput("the objective align-spatial needs align, with at least start: the encoder to align.")
    return recipe.align


def _width(tower: Any, side: int) -> int:
    device = next(tower.parameters()).device
    with evaluating(tower), torch.inference_mode():
        return int(see(tower, torch.zeros(1, 3, side, side, device=device)).tokens.shape[-1])


def make(recipe: Recipe, model: Any, ranks: Ranks) -> Align:
    """See `objective_table`."""
    return Align(recipe, model, ranks)
