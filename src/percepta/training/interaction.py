"""A simulated user: prompts, corrections, and the order of the frames (SAM 2, arXiv 2408.00714, appendix: training).

Order of this file: clicks and boxes, the plan of a batch, users, the interaction.
Unusual: the same code trains and scores; who clicks is an argument. All objects of a batch are one axis (N), each with
the number of its clip; what is drawn once for a batch (mask or points, which frames) is a plan that can be printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from percepta.models.sam2.bank import Remembered, pointer_reach, recollect
from percepta.models.sam2.prompts import BOTTOM_RIGHT, INSIDE, OUTSIDE, TOP_LEFT
from percepta.models.sam2.session import FED_BACK
from percepta.training.segment_recipe import SegmentRecipe

Prompt = Literal["mask", "box", "click"]


class Clicks(NamedTuple):
    """(N, P, 2) float32 places in pixels of the model's input, x and y, and their (N, P) int64 labels."""

    points: Tensor
    labels: Tensor

    def then(self, more: Clicks) -> Clicks:
        """These, and others after them."""
        return Clicks(torch.cat([self.points, more.points], 1), torch.cat([self.labels, more.labels], 1))


def draw_click(truth: Tensor, seen: Tensor | None, generator: torch.Generator) -> Clicks:
    """One click an object, uniform over the wrong pixels: inside where the object is missed, outside where it is not.

    Args:
        truth: (N, H, W) bool.
        seen: (N, H, W) bool, the masks to be corrected; None takes them for empty, so that the click is in the object.
        generator: source of one number for each object.

    Returns: (N, 1) clicks; on the background where nothing is wrong.
    """
    wrong = truth if seen is None else truth ^ seen
    perfect = ~wrong.flatten(1).any(1)
    where = torch.where(perfect[:, None], ~truth.flatten(1), wrong.flatten(1))
    counted = where.cumsum(1)
    share = torch.rand(len(truth), generator=generator).to(truth.device)
    number = (share * counted[:, -1]).long().clamp(max=counted[:, -1] - 1).clamp(min=0) + 1
    places = torch.searchsorted(counted, number[:, None])[:, 0].clamp(max=where.shape[1] - 1)
    return clicks_at(places, truth)


def clicks_at(places: Tensor, truth: Tensor) -> Clicks:
    """(N,) places in the rows of (N, H, W) masks, to (N, 1) clicks that say what is true there."""
    rows, columns = places.div(truth.shape[-1], rounding_mode="floor"), places % truth.shape[-1]
    inside = truth.flatten(1).gather(1, places[:, None])
    return Clicks(torch.stack([columns, rows], -1)[:, None].float(), torch.where(inside, INSIDE, OUTSIDE))


def draw_box(truth: Tensor, noise: float, limit: float, generator: torch.Generator) -> Clicks:
    """A careless box around each object, as its two corners.

    Args:
        truth: (N, H, W) bool; an empty mask gets a box around its upper left pixel.
        noise: largest error of an edge, as a share of the box's side.
        limit: largest error in pixels.
        generator: source of four numbers for each object.
    """
    height, width = truth.shape[-2:]
    columns, rows = truth.any(1).to(torch.uint8), truth.any(2).to(torch.uint8)
    there = columns.any(1).bool()
    left, top = columns.argmax(1), rows.argmax(1)
    right, bottom = width - 1 - columns.flip(1).argmax(1), height - 1 - rows.flip(1).argmax(1)
    box = torch.stack([left, top, torch.where(there, right, 0), torch.where(there, bottom, 0)], 1).float()
    reach = ((box[:, 2:] - box[:, :2]) * noise).clamp(max=limit).repeat(1, 2)
    box = box + reach * (2 * torch.rand(len(truth), 4, generator=generator).to(box.device) - 1)
    corners = box.view(-1, 2, 2).clamp(min=0).minimum(box.new_tensor([width - 1, height - 1]))
    return Clicks(corners, torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=truth.device).expand(len(truth), -1))


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens on the frames of a batch.

    Attributes:
        frames: number of frames.
        prompts: how each frame that is prompted at the start is prompted; they are gone through first, in this order.
        corrected: frames on which the user clicks at errors.
        clicks: how often, on each of them.
    """

    frames: int
    prompts: dict[int, Prompt]
    corrected: frozenset[int] = frozenset()
    clicks: int = 0

    @property
    def order(self) -> list[int]:
        """The frames as they are gone through."""
        return [*self.prompts, *(frame for frame in range(self.frames) if frame not in self.prompts)]


def draw_plan(recipe: SegmentRecipe, frames: int, generator: torch.Generator) -> Plan:
    """What the simulated user does with a batch of clips, or of pictures (one frame).

    The first frame is always prompted; how many further ones, and which frames are corrected, is uniform.
    """

    def chance() -> float:
        return torch.rand((), generator=generator).item()

    def between(low: int, high: int) -> int:
        return min(low + int(chance() * (high - low + 1)), high)

    def some(choices: Sequence[int], count: int) -> list[int]:
        order = torch.randperm(len(choices), generator=generator).tolist()
        return [choices[place] for place in order[:count]]

    pointed = frames == 1 or chance() < recipe.points
    started = between(1, min(recipe.prompted_frames, frames))
    prompted = [0, *some(range(1, frames), started - 1)]
    if not pointed:
        return Plan(frames, dict.fromkeys(prompted, "mask"))
    prompts: dict[int, Prompt] = {frame: "box" if chance() < recipe.boxes else "click" for frame in prompted}
    if not recipe.corrected_frames or not recipe.clicks:
        return Plan(frames, prompts)
    count = between(started, min(max(recipe.corrected_frames, started), frames))
    others = some([frame for frame in range(frames) if frame not in prompted], count - started)
    return Plan(frames, prompts, frozenset([*prompted, *others]), recipe.clicks)


class User(Protocol):
    """Who prompts and corrects."""

    def box(self, truth: Tensor) -> Clicks:
        """A box around each of N objects."""

    def click(self, truth: Tensor, seen: Tensor | None) -> Clicks:
        """One click on each; `seen` are the masks to be corrected, None for a first click."""


@dataclass(frozen=True, slots=True)
class RandomUser:
    """The user of training: careless boxes, clicks anywhere in the errors."""

    recipe: SegmentRecipe
    generator: torch.Generator

    def box(self, truth: Tensor) -> Clicks:
        """See `User`."""
        return draw_box(truth, self.recipe.box_noise, self.recipe.box_limit, self.generator)

    def click(self, truth: Tensor, seen: Tensor | None) -> Clicks:
        """See `User`; at times the correction is anywhere in the object."""
        anywhere = torch.rand((), generator=self.generator).item() < self.recipe.from_truth
        return draw_click(truth, None if anywhere else seen, self.generator)


class Step(NamedTuple):
    """What the model said of N objects after one prompt, or on a frame without one.

    Attributes:
        frame: number of the frame.
        clicks: how often the user has clicked there; 0 on a tracked frame, and for a box.
        candidates, iou, object_score: as of `Heads`.
        logits: (N, 1, S / 4, S / 4), the mask that is kept.
    """

    frame: int
    clicks: int
    candidates: Tensor
    iou: Tensor
    object_score: Tensor
    logits: Tensor


@dataclass(slots=True)
class Interaction:
    """One batch of clips under one plan.

    Attributes:
        model: a Sam2; in training mode pointers of later prompted frames count too, and memories keep soft masks.
        features: of all pictures, frame after frame: picture number frame * clips + clip.
        which: (N,) the clip of each object.
        truth: (N, T, S, S) bool.
        user: who prompts.
    """

    model: Any
    features: Any
    which: Tensor
    truth: Tensor
    user: User

    def run(self, plan: Plan) -> list[Step]:
        """Go through all frames; one step for each prompt, correction and tracked frame, none for masks given."""
        clips = len(self.features) // plan.frames
        prompted: dict[int, Remembered] = {}
        tracked: dict[int, Remembered] = {}
        steps: list[Step] = []
        for place, frame in enumerate(plan.order):
            features = self.features[self.which + frame * clips]
            if frame in plan.prompts:
                image = self.model.unconditioned(features)
            else:
                image = self._look(features, prompted, tracked, frame, plan.frames)
            heads, made = self._frame(plan, frame, image, features)
            steps += made
            sticks = frame in plan.prompts or frame in plan.corrected
            result = Remembered(heads.logits, heads.pointer, heads.object_score)
            if place + 1 < plan.frames:
                result.memory = self._remember(features, heads, plan, frame)
            (prompted if sticks else tracked)[frame] = result
        return steps

    def _look(
        self,
        features: Any,
        prompted: dict[int, Remembered],
        tracked: dict[int, Remembered],
        frame: int,
        frames: int,
    ) -> Tensor:
        config = self.model.config
        past_only = not self.model.training
        seen = recollect(prompted, tracked, frame, config, frames, past_only=past_only)
        image: Tensor = self.model.condition(features.coarse, [seen], pointer_reach(config, frames))
        return image

    def _remember(self, features: Any, heads: Any, plan: Plan, frame: int) -> Tensor:
        prompted = frame in plan.corrected or frame in plan.prompts
        memory: Tensor = self.model.remember(features.coarse, heads.logits, heads.object_score, prompted)
        return memory

    def _frame(self, plan: Plan, frame: int, image: Tensor, features: Any) -> tuple[Any, list[Step]]:
        """The final result on one frame, and all steps that led to it."""
        truth, kind = self.truth[:, frame], plan.prompts.get(frame)
        if kind == "mask":
            return self.model.mask_heads(features, truth[:, None]), []
        given: Clicks | None = None
        if kind is not None:
            given = self.user.box(truth) if kind == "box" else self.user.click(truth, None)
        made: list[Step] = []
        heads: Any = None
        for number in range(1 + (plan.clicks if frame in plan.corrected else 0)):
            fed = None
            if heads is not None:
                with torch.no_grad():
                    seen = full_size(heads.logits, truth.shape[-1])[:, 0] > 0
                    click = self.user.click(truth, seen)
                given = click if given is None else given.then(click)
                fed = heads.logits.clamp(-FED_BACK, FED_BACK)
            alternatives = given is None or given.labels.shape[1] <= 1
            if frame not in plan.prompts:
                alternatives = alternatives and self.model.config.tracking_alternatives
            points, labels = (None, None) if given is None else given
            heads = self.model.heads(image, features, points, labels, fed, alternatives)
            clicked = number + (kind == "click")
            made.append(Step(frame, clicked, heads.candidates, heads.iou, heads.object_score, heads.logits))
        return heads, made


def full_size(logits: Tensor, side: int) -> Tensor:
    """(N, M, h, w) → (N, M, side, side), bilinear."""
    if logits.shape[-1] == side:
        return logits
    return torch.nn.functional.interpolate(logits.float(), (side, side), mode="bilinear", align_corners=False)
