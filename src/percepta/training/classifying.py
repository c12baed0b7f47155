"""Classification: cross entropy with smoothed targets, MixUp (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

Order of this file: inputs, mixing, learner, objective. Unusual: a model may start from the encoder of another one, such
as a masked autoencoder; what it lacks keeps its initial values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.models.hiera import adopt_encoder
from percepta.running.loading import load
from percepta.running.modes import evaluating
from percepta.training.data import Batch
from percepta.training.draws import number_of
from percepta.training.objective_table import Objective, native_size
from percepta.training.picture_inputs import AT_ONCE, draws_for, model_pictures
from percepta.training.picture_recipe import ClassifyRecipe
from percepta.training.precision import forward_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sources import Part


class ClassInputs(NamedTuple):
    """One batch: pictures (B, 3, S, S) or videos (B, T, 3, S, S), and targets (B, classes), rows of sum 1."""

    pictures: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> ClassInputs:
        """The same on another device."""
        return ClassInputs(self.pictures.to(device), self.targets.to(device))


def mixed(inputs: ClassInputs, settings: ClassifyRecipe, draws: np.random.Generator) -> ClassInputs:
    """Each sample mixed with one from the other end of the batch, as pixels or as a box, and the targets likewise."""
    kinds = [name for name in ("mixup", "cutmix") if getattr(settings, name)]
    if not kinds or len(inputs.targets) < 2:
        return inputs
    kind = kinds[int(draws.integers(len(kinds)))]
    share = float(draws.beta(getattr(settings, kind), getattr(settings, kind)))
    pictures, other = inputs.pictures, inputs.pictures.flip(0)
    if kind == "mixup":
        pictures = torch.lerp(other, pictures, share)
    else:
        rows, columns = pictures.shape[-2:]
        sides = [round(side * (1 - share) ** 0.5) for side in (rows, columns)]
        top, left = (int(draws.integers(whole - side + 1)) for whole, side in zip((rows, columns), sides, strict=True))
        pictures = pictures.clone()
        box = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
        pictures[box] = other[box]
        share = 1 - sides[0] * sides[1] / (rows * columns)
    return ClassInputs(pictures, torch.lerp(inputs.targets.flip(0), inputs.targets, share))


class ClassLearner(nn.Module):
    """A classifier and its loss."""

    names = ("loss", "accuracy")

    def __init__(self, model: Any, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.settings = recipe.classify or ClassifyRecipe()

    def forward(self, inputs: ClassInputs) -> Tensor:
        """(losses,) float32; the accuracy is that on the varied samples, the larger part of a mixture counting."""
        with forward_precision(inputs.pictures.device.type, self.recipe.precision):
            logits = self.model(inputs.pictures)
        logits = logits.float()
        loss = functional.cross_entropy(logits, inputs.targets, label_smoothing=self.settings.smoothing)
        right = (logits.detach().argmax(1) == inputs.targets.argmax(1)).float().mean()
        return torch.stack([loss, right])


class Classify(Objective):
    """See `Objective`; the model gives logits (B, classes) and its config says `classes`."""

    def __init__(self, recipe: Recipe, model: Any, ranks: Ranks) -> None:
        self.recipe, self.model, self.ranks = recipe, model, ranks
        self.settings = recipe.classify or ClassifyRecipe()
        classes = getattr(model.config, "classes", None)
        if classes is None:
            raise BadInput(f"the objective classify needs a model of classes, such as hiera-nano; got {recipe.model}.")
        self.classes: int = classes
        if self.settings.encoder:
            adopt_encoder(model, load(self.settings.encoder))
        self.numbers = {name: number for number, name in enumerate(self.settings.names)}
        self.learner = ClassLearner(model, recipe)

    def size(self) -> int:
        """See `Objective`."""
        return native_size(self.model)

    def inputs(self, batch: Batch, size: int) -> ClassInputs:
        """See `Objective`."""
        pictures, targets = [], []
        for part in batch.parts:
            draws = draws_for(self.recipe.seed, batch.step, part)
            pictures.append(model_pictures(part, size, self.model.preprocess, draws))
            targets.append(functional.one_hot(self.labels(part), self.classes).float())
        seed = number_of(self.recipe.seed, batch.step, "mix", self.ranks.rank)
        return mixed(ClassInputs(torch.cat(pictures), torch.cat(targets)), self.settings, np.random.default_rng(seed))

    def labels(self, part: Part) -> Tensor:
        """(B,) class numbers of samples. Raises BadInput where they have none, or one beyond the model's classes."""
        if part.labels is not None:
            labels = [int(label) for label in part.labels]
        else:
            unknown = next((caption for caption in part.captions if caption not in self.numbers), None)
            if unknown is not None or not part.captions:
                raise BadInput(
                    f"the source {part.source} has no class numbers; list the captions of all classes in "
                    f"classify.names (got the caption {unknown!r})."
                )
            labels = [self.numbers[caption] for caption in part.captions]
        if max(labels) >= self.classes:
            raise BadInput(f"the source {part.source} has a class {max(labels)}; the model has {self.classes} classes.")
        return torch.tensor(labels)

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """Accuracy and cross entropy on held-out samples of each source."""
        found = {}
        with evaluating(model), torch.inference_mode():
            for part in parts:
                pictures, labels = model_pictures(part, size, model.preprocess, None), self.labels(part)
                logits = torch.cat([model(some.to(device)).float().cpu() for some in pictures.split(AT_ONCE)])
                found[f"{part.source}.top1"] = round((logits.argmax(1) == labels).float().mean().item(), 5)
                found[f"{part.source}.loss"] = round(functional.cross_entropy(logits, labels).item(), 5)
        return found


def make(recipe: Recipe, model: Any, ranks: Ranks) -> Classify:
    """See `objective_table`."""
    return Classify(recipe, model, ranks)
