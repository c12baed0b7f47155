"""What a recipe says about alignment and distillation.

The defaults are those of the Perception Encoder (arXiv 2504.13181, section 5). Unusual: no torch here, as everywhere
in recipes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from percepta.errors import BadInput, out_of_range

FORBID = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class AlignRecipe:
    """Spatial alignment: the last layer is to hold what a middle layer and the masks of SAM 2 know.

    Attributes:
        start: whose weights the student starts from, a model's name or a file: the frozen teacher too, unless `teacher`
            says otherwise. Empty starts from what the run itself builds, and then `teacher` must be given.
        teacher: another encoder as teacher of tokens.
        layer: 0-based block of the teacher that is aligned to, negative from the end (the paper's layer 41 is 40).
        same_start: where the student has a LayerScale that its start lacks, divide the last linear layer of each branch
            by it, so that the student begins as the same function; the paper does not say.
        tokens: weight of minus the cosine to the teacher's tokens; 0 leaves the teacher out.
        pairs: weight of the squared difference to the structure of the masks; 0 leaves SAM 2 out.
        temperature: t of exp(t (P - 1)), for the structure of the masks alone.
        sam: name or file of the SAM 2 that is asked.
        points: clicks per side of the grid: points² masks of logits are the channels of a place.
        cache: of so many pictures, the latest ones, the structure of masks is kept in memory. It pays where pictures
            come again unchanged: a source with a pool or few pictures whose `augment` varies nothing.
        hidden: share of the patches that the student does not see; the teachers see all.
        block: they are hidden in squares of so many patches a side.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    start: str = ""
    teacher: str = ""
    layer: int = 40
    same_start: bool = False
    tokens: float = 1.0
    pairs: float = 1.0
    temperature: float = 20.0
    sam: str = "sam2.1-large"
    points: int = 32
    cache: int = 0
    hidden: float = 0.75
    block: int = 2

    def __post_init__(self) -> None:
        _weights("align", tokens=self.tokens, pairs=self.pairs)
        if self.tokens and not (self.start or self.teacher):
            raise BadInput("align needs start or teacher, the encoder that gives tokens; or set tokens to 0.")
        if not 0 < self.temperature < math.inf:
            raise out_of_range("temperature", self.temperature, "positive", "align")
        if not 0 <= self.hidden < 1:
            raise out_of_range("hidden", self.hidden, "0 or more and below 1", "align")
        for name, least in (("points", 1), ("cache", 0), ("block", 1)):
            if getattr(self, name) < least:
                raise out_of_range(name, getattr(self, name), f"{least} or more", "align")


@dataclass(frozen=True, slots=True)
class DistilRecipe:
    """A small model learns from a large one of its kind.

    Attributes:
        teacher: name or file of the frozen teacher.
        layer: 0-based block of the teacher whose tokens are given, negative from the end.
        tokens: weight of minus the cosine between tokens of one place. Where widths differ, a linear layer that is
            no part of the result stands between.
        pairs: weight of the squared difference of all pair cosines of a picture, without temperature.
        contrast: weight of KL(teacher || student) between pictures and captions of a batch, for core models.
        teacher_scale: what multiplies the teacher's cosines there; 200 is the paper's, half a trained temperature.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    teacher: str
    layer: int = -1
    tokens: float = 1.0
    pairs: float = 1.0
    contrast: float = 0.0
    teacher_scale: float = 200.0

    def __post_init__(self) -> None:
        _weights("distil", tokens=self.tokens, pairs=self.pairs, contrast=self.contrast)
        if not 0 < self.teacher_scale < math.inf:
            raise out_of_range("teacher_scale", self.teacher_scale, "positive", "distil")


def _weights(owner: str, **weights: float) -> None:
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise out_of_range(name, value, "0 or more", owner)
    if not any(weights.values()):
        raise BadInput(f"{owner} needs one of {', '.join(weights)} above 0; got none.")
