"""What a recipe says about masked pre-training and about classification of pictures and videos.

The defaults are those of Hiera (arXiv 2306.00989, appendix). Unusual: no torch here, as everywhere in recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from percepta.errors import out_of_range

FORBID = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class MaskedRecipe:
    """Masked pre-training.

    Attributes:
        ratio: share of the mask units that is removed; the paper's are 0.6 for pictures and 0.9 for videos.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    ratio: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise out_of_range("ratio", self.ratio, "above 0 and below 1", "masked")


@dataclass(frozen=True, slots=True)
class ClassifyRecipe:
    """Supervised classification, from scratch or as fine-tuning.

    Attributes:
        encoder: whose patches, positions and blocks the run starts from: a file that a run wrote, or a model's name;
            empty for the model's own weights.
        smoothing: share of the target that is spread over all classes.
        mixup, cutmix: of both the parameter of the beta distribution; 0 is off. Where both are on, each batch draws
            one of them.
        names: captions of the classes, for sources whose samples have captions and no class numbers.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    encoder: str = ""
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise out_of_range("smoothing", self.smoothing, "0 to below 1", "classify")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise out_of_range(name, getattr(self, name), "0 or more", "classify")
