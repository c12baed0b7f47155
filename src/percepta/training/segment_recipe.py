"""What a recipe says about promptable segmentation: how a user is simulated, and what is minimised.

The defaults are those of SAM 2 (arXiv 2408.00714, appendix). Unusual: no torch here, as everywhere in recipes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from percepta.errors import out_of_range

FORBID = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class LossRecipe:
    """Weights and shapes of the losses.

    Attributes:
        mask, dice, iou, presence: weights of the parts in the total.
        focal_alpha, focal_gamma: of the focal loss of pixels; a negative alpha weighs both classes alike.
        presence_alpha, presence_gamma: the same for presence; -1 and 0 are plain binary cross entropy.
        all_qualities: teach the quality of every mask, not only of the best.
        absolute_quality: the absolute error of the quality, else its square.
        others: share of the loss of pixels that all masks of a prompt have together, beside the best one (paper: 0).
            Where prompts are not ambiguous it keeps every mask good, and little depends on choosing among them.
        side: rows and columns at which masks are compared; 0 for the model's input size, as the paper does.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    mask: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    presence: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    presence_alpha: float = -1.0
    presence_gamma: float = 0.0
    all_qualities: bool = True
    absolute_quality: bool = True
    others: float = 0.0
    side: int = 0

    def __post_init__(self) -> None:
        for name in ("mask", "dice", "iou", "presence", "focal_gamma", "presence_gamma", "others", "side"):
            if getattr(self, name) < 0:
                raise out_of_range(name, getattr(self, name), "0 or more", "loss")


@dataclass(frozen=True, slots=True)
class SegmentRecipe:
    """The simulated user. Single pictures are always prompted with points or boxes, and corrected.

    Attributes:
        points: probability that a clip is prompted with points or boxes, and else with masks.
        boxes: of these, the probability of a box on a frame, and else of one click.
        box_noise, box_limit: largest error of a box's edges, as a share of its side and in pixels, whichever is less.
        prompted_frames: the most frames that are prompted at the start, the first one among them.
        corrected_frames: the most frames that are corrected, the prompted ones among them.
        clicks: corrections of each corrected frame, after its prompt.
        from_truth: probability that a correction is anywhere in the object instead of in an error.
        fresh_memory: begin with new weights of the memory, scaled for features of this typical size; 0 keeps what is
            loaded. A model that has seen only pictures may have large features, beside which memories count nothing.
        validation_clicks: numbers of clicks after which held-out pictures are scored.
        loss: what is minimised.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    points: float = 0.5
    boxes: float = 0.5
    box_noise: float = 0.1
    box_limit: float = 20.0
    prompted_frames: int = 2
    corrected_frames: int = 2
    clicks: int = 7
    from_truth: float = 0.1
    fresh_memory: float = 0.0
    validation_clicks: tuple[int, ...] = (1, 5)
    loss: LossRecipe = field(default_factory=LossRecipe)

    def __post_init__(self) -> None:
        for name in ("points", "boxes", "from_truth", "box_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise out_of_range(name, getattr(self, name), "between 0 and 1", "segment")
        for name, least in (
            ("prompted_frames", 1),
            ("corrected_frames", 0),
            ("clicks", 0),
            ("fresh_memory", 0),
            ("box_limit", 0),
        ):
            if getattr(self, name) < least:
                raise out_of_range(name, getattr(self, name), f"{least} or more", "segment")
        if min(self.validation_clicks, default=1) < 1:
            raise out_of_range("validation_clicks", self.validation_clicks, "numbers of 1 or more", "segment")
