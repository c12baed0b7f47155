"""The objectives a recipe may choose (`objective: NAME`), and what the loop asks of one.

To add an objective: write a module with `make(recipe, model, ranks)` that returns an object with the members of
`Objective`, and add one line to `OBJECTIVES`. Its learner is a module that holds the model as `self.model`, and whose
`forward(inputs)` gives a row of losses, in the order of `names`, the first of which is minimised; whatever else of it
has parameters is trained too, but not part of the result. A learner whose loss is a mean can be trained in several
passes a step (`accumulate`) if it says by `weight(inputs)` what the mean of a pass counts, the same in all processes,
and names in `summed` the figures that add up over passes. Inputs are made of a `Batch`: a `Part` for each source, with
pictures and whatever the objective reads beside them (captions, labels, masks). A new kind of sample is a recipe class
in `data_recipe` (field of `DataRecipe`, name in `SOURCE_NAMES`), a source class in `sources` or beside it (line in
`SOURCES` or `ANNOTATED_SOURCES`), and if need be a field of `Part`. All random draws come from generators seeded by
`number_of(seed, step, ...)`, or from torch's own, which the loop seeds before every `forward`; a resumed run is exact.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from percepta.training.data import Batch
    from percepta.training.ranks import Ranks
    from percepta.training.recipe import Recipe
    from percepta.training.sources import Part

OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "align-spatial": "percepta.training.aligning",
        "answer": "percepta.training.answering",
        "classify": "percepta.training.classifying",
        "contrastive": "percepta.training.contrastive",
        "distil": "percepta.training.distilling",
        "masked": "percepta.training.masked_pictures",
        "segment": "percepta.training.segmenting",
    }
)
"""Names, and the modules that are imported when a recipe asks for them."""


class Objective(Protocol):
    """What is learned, from a batch to losses and to figures on held-out samples.

    Attributes:
        learner: module to train; `learner.names` says what its `forward` gives, the first is minimised.
    """

    learner: Any

    def size(self) -> int:
        """Side of the pictures, in pixels, where a recipe has no stages: the model's own."""

    def inputs(self, batch: Batch, size: int) -> Any:
        """What the learner gets for a batch, on the CPU, with a method `to(device)`; a function of (seed, step)."""

    def after_update(self) -> None:
        """Changes the new weights where the objective bounds them, by default nowhere; called without gradient."""
        return

    def figures(self) -> dict[str, float]:
        """What is logged beside the losses, by default nothing."""
        return {}

    def resume(self, figures: Mapping[str, float]) -> None:
        """Goes on counting from the `figures` of a saved state, by default nothing."""
        return

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """Figures of `model` on held-out samples; leaves its mode as it was."""


def make_objective(recipe: Recipe, model: Any, ranks: Ranks) -> Objective:
    """The objective of a recipe for a model."""
    objective: Objective = importlib.import_module(OBJECTIVES[recipe.objective]).make(recipe, model, ranks)
    return objective


def native_size(model: Any) -> int:
    """The side for which a model's config is made."""
    size = model.config.image_size
    return int(size if isinstance(size, int) else size[0])
