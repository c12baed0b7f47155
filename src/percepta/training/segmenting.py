"""The objective of promptable segmentation: a simulated user, and losses on every answer (SAM 2, arXiv 2408.00714).

Order of this file: inputs, learner, objective. Pictures are clips of one frame. Unusual: the whole dialogue of a batch
is one forward pass, so that a correction also teaches the mask that it came after, and the memory that it goes into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.running.loading import build
from percepta.training.annotated_augmentation import vary_annotated
from percepta.training.data import Batch
from percepta.training.draws import number_of
from percepta.training.interaction import Interaction, RandomUser, draw_plan, full_size
from percepta.training.objective_table import Objective, native_size
from percepta.training.precision import forward_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.segment_recipe import SegmentRecipe
from percepta.training.segment_validation import validate_segmentation
from percepta.training.segmentation_loss import StepLosses, segmentation_losses, summed
from percepta.training.sources import Part


class SegmentInputs(NamedTuple):
    """One batch of pictures or clips.

    Attributes:
        pictures: (T * B, 3, S, S) normalised, frame after frame.
        truth: (N, T, S, S) bool, where each object is seen.
        which: (N,) int64, the clip of each object.
        seed: decides what the simulated user does.
    """

    pictures: Tensor
    truth: Tensor
    which: Tensor
    seed: int

    def to(self, device: torch.device) -> SegmentInputs:
        """The same on another device."""
        return SegmentInputs(self.pictures.to(device), self.truth.to(device), self.which.to(device), self.seed)


def segment_inputs(part: Part, size: int, preprocess: Any, seed: int, draws: torch.Generator | None) -> SegmentInputs:
    """The tensors of samples with masks; objects that the first frame does not show are left out.

    Args:
        part: pictures (B, H, W, 3) or (B, T, H, W, 3) with masks (B, O, H, W) or (B, O, T, H, W).
        size: side of the result.
        preprocess: whose `mean` and `std` normalise, or None for those of ImageNet.
        seed: see `SegmentInputs`.
        draws: varies the pictures as the part says; None leaves them as they are.

    Raises: BadInput for a part without masks.
    """
    if part.masks is None:
        raise BadInput(f"the objective segment needs masks; the source {part.source} has none.")
    pictures, masks = torch.from_numpy(part.pictures), torch.from_numpy(part.masks)
    if pictures.ndim == 4:
        pictures, masks = pictures[:, None], masks[:, :, None]
    clips, frames = pictures.shape[:2]
    x, masks = vary_annotated(pictures, masks, size, part, draws)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in normalisation(preprocess))
    x = ((x - mean) / std).transpose(0, 1).reshape(frames * clips, *x.shape[2:])
    which, number = masks[:, :, 0].flatten(2).any(2).nonzero(as_tuple=True)
    return SegmentInputs(x, masks[which, number], which, seed)


def normalisation(preprocess: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation for pictures in [0, 1]."""
    if preprocess is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return preprocess.mean, preprocess.std


class SegmentLearner(nn.Module):
    """A Sam2, a simulated user, and the losses of their dialogue.

    Args:
        model: trained.
        recipe: precision and what `segment` says.
        ranks: the processes that share the batch.
    """

    names = ("loss", "mask_loss", "dice_loss", "iou_loss", "presence_loss", "first_iou", "last_iou")

    def __init__(self, model: Any, recipe: Recipe, ranks: Ranks) -> None:
        super().__init__()
        self.model, self.recipe, self.ranks = model, recipe, ranks
        self.settings = recipe.segment or SegmentRecipe()

    def forward(self, inputs: SegmentInputs) -> Tensor:
        """(losses,) float32, as `names` says; the IoU after the first prompt and after the last, on the first frame."""
        objects = self.ranks.mean(torch.tensor(float(len(inputs.which)), device=inputs.pictures.device))
        if not len(inputs.which):
            return self._every_weight() + inputs.pictures.new_zeros(len(self.names))
        generator = torch.Generator().manual_seed(inputs.seed)
        plan = draw_plan(self.settings, inputs.truth.shape[1], generator)
        user = RandomUser(self.settings, generator)
        with forward_precision(inputs.pictures.device.type, self.recipe.precision):
            features = self.model.encode_image(inputs.pictures)
            steps = Interaction(self.model, features, inputs.which, inputs.truth, user).run(plan)
        losses = [self._losses(step, inputs.truth) for step in steps]
        if not losses:
            return self._every_weight() + inputs.pictures.new_zeros(len(self.names))
        sums = summed(losses, objects, self.settings.loss)
        shown = [sums.mask, sums.dice, sums.iou, sums.presence, losses[0].best.mean(), losses[-1].best.mean()]
        total = sums.total + self._every_weight() if self.ranks.size > 1 else sums.total
        return torch.stack([total, *(value.detach() for value in shown)])

    def _losses(self, step: Any, truth: Tensor) -> StepLosses:
        side = self.settings.loss.side or truth.shape[-1]
        wanted = truth[:, step.frame]
        if side != wanted.shape[-1]:
            wanted = nn.functional.interpolate(wanted[:, None].float(), (side, side), mode="area")[:, 0] >= 0.5
        candidates = full_size(step.candidates, side)
        return segmentation_losses(candidates, step.iou, step.object_score, wanted, self.settings.loss)

    def _every_weight(self) -> Tensor:
        """A 0 that depends on all weights: processes that share a batch must all have a gradient for each."""
        return 0 * torch.stack([weight.sum() for weight in self.model.parameters() if weight.requires_grad]).sum()


@torch.no_grad()
def renew_memory(model: Any, fresh: Any, size: float) -> None:
    """Give a model the memory of a fresh one, scaled for features of the typical size `size`.

    What the memory adds to features grows with them, and what it takes from them is made smaller; otherwise its
    attention would leave large features as they are, and say nothing of the object.
    """
    parts = ("memory_attention", "memory_encoder", "pointer_time")
    new = {
        name: value for name, value in fresh.state_dict().items() if name.startswith((*parts, "memory_times", "absent"))
    }
    model.load_state_dict(new, strict=False)
    for layer in model.memory_attention.layers:
        for linear in (layer.self_attention.proj, layer.memory_attention.proj, layer.contract):
            linear.weight.mul_(size)
            linear.bias.mul_(size)
    model.memory_attention.norm.weight.mul_(size)
    model.memory_encoder.map_proj.weight.div_(size)


class Segment(Objective):
    """See `Objective`; the model is a Sam2."""

    def __init__(self, recipe: Recipe, model: Any, ranks: Ranks) -> None:
        self.recipe, self.model, self.ranks = recipe, model, ranks
        if recipe.segment is not None and recipe.segment.fresh_memory:
            torch.manual_seed(number_of(recipe.seed, "memory"))
            renew_memory(model, build(recipe.model, **recipe.model_overrides), recipe.segment.fresh_memory)
        self.learner = SegmentLearner(model, recipe, ranks)
        if recipe.stages:
            raise BadInput("the objective segment trains at the model's own size; leave out stages.")

    def size(self) -> int:
        """See `Objective`."""
        return native_size(self.model)

    def inputs(self, batch: Batch, size: int) -> SegmentInputs:
        """See `Objective`; a batch is of one source."""
        if len(batch.parts) != 1:
            raise BadInput("a batch of the objective segment is of one source; set data.mixing to alternate.")
        (part,) = batch.parts
        # What a process draws is its own: samples are dealt out, and each is varied by itself.
        draws = torch.Generator().manual_seed(number_of(self.recipe.seed, batch.step, part.source, self.ranks.rank))
        seed = number_of(self.recipe.seed, batch.step, "user")
        return segment_inputs(part, size, self.model.preprocess, seed, draws)

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """See `segment_validation.validate_segmentation`."""
        clicks = (self.recipe.segment or SegmentRecipe()).validation_clicks
        made = ((part.source, segment_inputs(part, size, model.preprocess, 0, None)) for part in parts)
        return validate_segmentation(model, ((name, inputs.to(device)) for name, inputs in made), clicks)


def make(recipe: Recipe, model: Any, ranks: Ranks) -> Segment:
    """See `objective_table`."""
    return Segment(recipe, model, ranks)
