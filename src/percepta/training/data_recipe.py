"""The data part of a recipe: augmentation, one class for each kind of source, the mixture.

Unusual: these classes are all that the process that makes batches is sent; they import no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from percepta.datasets.cifar import PROMPTS
from percepta.errors import BadInput, out_of_range

FORBID = {"extra": "forbid"}
SOURCE_NAMES = ("scenes", "cifar10", "folder", "shards", "clips", "videos")


@dataclass(frozen=True, slots=True)
class AugmentRecipe:
    """How pictures of a source are varied; the defaults vary nothing.

    Attributes:
        area: smallest and largest share of the picture kept by a random crop.
        aspect: smallest and largest aspect ratio of that crop.
        flip: probability of a horizontal flip.
        brightness, saturation: largest relative change of either.
        translate: largest shift, as a share of the side; edges are repeated.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    area: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    brightness: float = 0.0
    saturation: float = 0.0
    translate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise out_of_range("area", self.area, "two rising shares in (0, 1]", "augment")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise out_of_range("aspect", self.aspect, "two rising positive ratios", "augment")
        for name in ("flip", "brightness", "saturation", "translate"):
            if not 0 <= getattr(self, name) <= 1:
                raise out_of_range(name, getattr(self, name), "between 0 and 1", "augment")


PHOTOGRAPHS = AugmentRecipe(area=(0.35, 1.0), aspect=(0.75, 1.33), flip=0.5, brightness=0.3, saturation=0.3)
RELATIONS = AugmentRecipe(brightness=0.15, translate=0.06)
"""No flip and no crop: captions say left, right and how many."""


@dataclass(frozen=True, slots=True)
class ScenesRecipe:
    """Pictures of the procedural world, with captions and hard negatives.

    Attributes:
        weight: share of the mixture, relative to the other sources.
        size: side of the rendered pictures in pixels.
        pool: number of different scenes, kept in memory once rendered; 0 renders a new one for every sample.
        hard_negatives: use the wrong captions of the generator.
        options: further fields of the generator's `SceneConfig`.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    weight: float = 1.0
    size: int = 64
    pool: int = 0
    hard_negatives: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    augment: AugmentRecipe = RELATIONS

    def __post_init__(self) -> None:
        _check_options(self.options, "scenes")


@dataclass(frozen=True, slots=True)
class CifarRecipe:
    """CIFAR-10 photographs from a parquet file of encoded pictures.

    Attributes:
        path: the file; columns `img` (bytes) and `label`.
        holdout: number of rows at the end that are never trained on but serve validation.
        prompts: captions with {} for the class name.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    weight: float = 1.0
    holdout: int = 2000
    prompts: tuple[str, ...] = PROMPTS
    augment: AugmentRecipe = PHOTOGRAPHS


@dataclass(frozen=True, slots=True)
class FolderRecipe:
    """A folder with one sub-folder of pictures for each class; names of sub-folders become captions.

    Attributes:
        size: pictures are cropped (as `augment` says) and resized to this side when read.
        holdout: share of the pictures that serves validation.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    weight: float = 1.0
    size: int = 224
    holdout: float = 0.02
    prompts: tuple[str, ...] = PROMPTS
    augment: AugmentRecipe = PHOTOGRAPHS


@dataclass(frozen=True, slots=True)
class ShardsRecipe:
    """Webdataset shards: tar files in which a.jpg and a.txt are a picture and its caption.

    Attributes:
        path: a glob such as `/data/shards/*.tar`.
        size: pictures are cropped (as `augment` says) and resized to this side when read.
        mix: number of shards whose samples are shuffled together.
        validation: a glob of shards for validation; empty for none.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    weight: float = 1.0
    size: int = 224
    mix: int = 8
    validation: str = ""
    augment: AugmentRecipe = PHOTOGRAPHS


@dataclass(frozen=True, slots=True)
class ClipsRecipe:
    """Clips of the procedural world; a clip is one sample, the mean of its frames.

    Attributes:
        frames: frames of a clip, from its first to its last.
        captions: "content" says what is seen, "motion" also what moves where, which a mean of frames cannot tell.
        size, hard_negatives, options: as for scenes.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    weight: float = 1.0
    size: int = 64
    frames: int = 8
    captions: Literal["content", "motion"] = "content"
    hard_negatives: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    augment: AugmentRecipe = RELATIONS

    def __post_init__(self) -> None:
        _check_options(self.options, "clips")
        if self.frames < 1:
            raise out_of_range("frames", self.frames, "1 or more", "clips")


@dataclass(frozen=True, slots=True)
class VideosRecipe:
    """Videos with captions: a folder of a.mp4 beside a.txt, or a glob of webdataset shards of such pairs.

    Attributes:
        path: a folder (searched with all its sub-folders), or a glob such as `/data/videos/*.tar`.
        frames: frames of a video, evenly from its first to its last; a video is one sample, the mean of them.
        size: frames are cropped (as `augment` says, all of a video alike) and resized to this side when read.
        holdout: of a folder, the share of the videos that serves validation.
        validation: of shards, a glob of shards for validation; empty for none.
        mix: number of shards whose samples are shuffled together.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    weight: float = 1.0
    size: int = 224
    frames: int = 8
    holdout: float = 0.02
    validation: str = ""
    mix: int = 8
    augment: AugmentRecipe = PHOTOGRAPHS

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise out_of_range("frames", self.frames, "1 or more", "videos")


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """The mixture: every batch holds samples of each source in proportion to the weights.

    Attributes:
        workers: 1 makes batches ahead in a second process, 0 makes them when asked.
        ahead: number of batches made ahead.
        validation_samples: held-out samples of each source used by a validation.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    scenes: ScenesRecipe | None = None
    cifar10: CifarRecipe | None = None
    folder: FolderRecipe | None = None
    shards: ShardsRecipe | None = None
    clips: ClipsRecipe | None = None
    videos: VideosRecipe | None = None
    workers: Literal[0, 1] = 1
    ahead: int = 3
    validation_samples: int = 500

    def __post_init__(self) -> None:
        for name in SOURCE_NAMES:
            source = getattr(self, name)
            if source is not None and not 0 <= source.weight < math.inf:
                raise out_of_range("weight", source.weight, "0 or more", name)
        if not self.sources:
            raise BadInput(
                f"data of a recipe must name at least one source of {', '.join(SOURCE_NAMES)} with a positive weight; "
                "got none."
            )

    @property
    def sources(self) -> dict[str, Any]:
        """Recipes of the sources in use, by name, in a fixed order."""
        every = {name: getattr(self, name) for name in SOURCE_NAMES}
        return {name: source for name, source in every.items() if source is not None and source.weight > 0}


def _check_options(options: Mapping[str, Any], owner: str) -> None:
    """Raises BadInput for what is no field of the generator's config."""
    from percepta.datasets.scenes import SceneConfig

    known = [entry.name for entry in dataclasses.fields(SceneConfig) if entry.name != "size"]
    for name in options:
        if name not in known:
            allowed = ", ".join(known) or "it has none yet"
            raise BadInput(f"options of {owner} must be fields of SceneConfig beside size ({allowed}); got {name!r}.")
