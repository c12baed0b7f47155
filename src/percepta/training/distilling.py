"""Distillation of a large encoder into a small one of its kind.

Perception Encoder, arXiv 2504.13181: the small spatial models learn tokens and pairs of tokens from the large one; the
small core models learn who belongs to whom in a batch, at half the temperature that a trained model has.
Order of this file: inputs, learner, objective.
Unusual: student and teacher may have different grids, widths and vocabularies. Words are needed for `contrast` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.running.loading import load
from percepta.running.modes import evaluating
from percepta.training.aligning_recipe import DistilRecipe
from percepta.training.aligning_teachers import TokenTeacher, normalised_for
from percepta.training.aligning_towers import Head, Seen, like, see, tower_of
from percepta.training.alignment_losses import contrast_loss, pair_loss, token_loss
from percepta.training.data import Batch
from percepta.training.objective_table import Objective, native_size
from percepta.training.picture_inputs import AT_ONCE, draws_for, still_pictures
from percepta.training.precision import forward_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sources import Part


class DistilInputs(NamedTuple):
    """One batch.

    Attributes:
        pictures: (B, 3, S, S), normalised as the student wants them.
        words: (B, n) token ids of the captions for the student, and for the teacher; None where no words are compared.
    """

    pictures: Tensor
    words: tuple[Tensor, Tensor] | None

    def to(self, device: torch.device) -> DistilInputs:
        """The same on another device."""
        words = None if self.words is None else (self.words[0].to(device), self.words[1].to(device))
        return DistilInputs(self.pictures.to(device), words)


class DistilLearner(nn.Module):
    """The student, what stands between it and its teacher, and the losses. The teacher is no module of it."""

    names = ("loss", "token_loss", "pair_loss", "contrast_loss")

    def __init__(self, model: Any, recipe: Recipe, teacher: TokenTeacher, ranks: Ranks) -> None:
        super().__init__()
        self.model, self.recipe, self.ranks = model, recipe, ranks
        self.settings, self.parts = settings_of(recipe), (teacher,)
        tower = tower_of(model)
        with evaluating(tower), torch.inference_mode():
            side = native_size(tower)
            width = see(tower, torch.zeros(1, 3, side, side)).tokens.shape[-1]
        self.head = Head(width, teacher.width if self.settings.tokens else width)

    def forward(self, inputs: DistilInputs) -> Tensor:
        """(losses,) float32, as `names` says; one of weight 0 is 0."""
        return self.losses(self.model, inputs, self.ranks)

    def losses(self, model: Any, inputs: DistilInputs, ranks: Ranks) -> Tensor:
        """As `forward`, of a model that is like the one in training, such as its average."""
        settings, x = self.settings, inputs.pictures
        same = pairs = contrast = x.new_zeros(())
        with forward_precision(x.device.type, self.recipe.precision):
            if settings.tokens or settings.pairs:
                seen, wanted = see(tower_of(model), x), self.parts[0](x)
                same, pairs = self._of_tokens(seen, wanted)
            if inputs.words is not None:
                contrast = self._of_words(model, x, inputs.words, ranks)
        weighted = (settings.tokens * same, settings.pairs * pairs, settings.contrast * contrast)
        return torch.stack([sum(weighted, x.new_zeros(())), same.detach(), pairs.detach(), contrast.detach()])

    def _of_tokens(self, seen: Seen, wanted: Seen) -> tuple[Tensor, Tensor]:
        settings, none = self.settings, seen.tokens.new_zeros((), dtype=torch.float32)
        same = token_loss(*like(seen._replace(tokens=self.head(seen.tokens)), wanted)) if settings.tokens else none
        return same, pair_loss(*like(seen, wanted), temperature=None) if settings.pairs else none

    def _of_words(self, model: Any, x: Tensor, words: tuple[Tensor, Tensor], ranks: Ranks) -> Tensor:
        teacher = self.parts[0].model.to(x.device)
        with torch.no_grad():
            pictures = normalised_for(x, self.parts[0].preprocess, getattr(teacher, "preprocess", None))
            known = teacher.encode_image(pictures), teacher.encode_text(words[1])
        gathered = [ranks.gather(one) for one in (model.encode_image(x), model.encode_text(words[0]), *known)]
        return contrast_loss(
            gathered[0], gathered[1], model.logit_scale, gathered[2], gathered[3], self.settings.teacher_scale
        )


class Distil(Objective):
    """See `Objective`; the model is any encoder with `intermediates`, for `contrast` a core model."""

    def __init__(self, recipe: Recipe, model: Any, ranks: Ranks) -> None:
        self.recipe, self.model, self.settings = recipe, model, settings_of(recipe)
        teacher = load(self.settings.teacher)
        for who, one in (("the student", model), ("the teacher", teacher)):
            if self.settings.contrast and not hasattr(one, "encode_text"):
                raise BadInput(f"distil.contrast needs two models of pictures and words; {who} has no words.")
        self.teacher = TokenTeacher(teacher, self.settings.layer, model.preprocess)
        self.learner = DistilLearner(model, recipe, self.teacher, ranks)

    def size(self) -> int:
        """See `Objective`."""
        return native_size(self.model)

    def inputs(self, batch: Batch, size: int) -> DistilInputs:
        """See `Objective`."""
        pictures: list[Tensor] = []
        captions: list[str] = []
        for part in batch.parts:
            draws = draws_for(self.recipe.seed, batch.step, part)
            pictures.append(still_pictures("distil", part, size, self.model.preprocess, draws))
            captions += part.captions
        return DistilInputs(torch.cat(pictures), self._words(captions, sum(map(len, pictures))))

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """The losses on held-out samples of each source, the words compared among some at a time."""
        found = {}
        with evaluating(model), torch.inference_mode():
            for part in parts:
                x = still_pictures("distil", part, size, self.model.preprocess, None)
                sums = torch.zeros(len(self.learner.names), device=device)
                for first in range(0, len(x), AT_ONCE):
                    some = slice(first, first + AT_ONCE)
                    words = self._words(part.captions[some], len(x[some]))
                    sums += self.learner.losses(model, DistilInputs(x[some], words).to(device), Ranks()) * len(x[some])
                for name, value in zip(self.learner.names[1:], (sums / len(x)).tolist()[1:], strict=True):
                    found[f"{part.source}.{name}"] = round(value, 5)
        return found

    def _words(self, captions: Sequence[str], count: int) -> tuple[Tensor, Tensor] | None:
        if not self.settings.contrast:
            return None
        if len(captions) != count:
            raise BadInput("distil.contrast needs a caption for each picture; leave out sources without words.")
        return self.model.tokenize(captions).cpu(), self.teacher.model.tokenize(captions).cpu()


def settings_of(recipe: Recipe) -> DistilRecipe:
    """The distillation of a recipe. Raises BadInput where it says nothing of it."""
    if recipe.distil is None:
        raise BadInput("the objective distil needs distil, with at least teacher: the encoder to learn from.")
    return recipe.distil


def make(recipe: Recipe, model: Any, ranks: Ranks) -> Distil:
    """See `objective_table`."""
    return Distil(recipe, model, ranks)
