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
from percepta.training.answering_recipe import ClipQuestionsRecipe, ConversationsRecipe, SceneQuestionsRecipe

FORBID = {"extra": "forbid"}
SOURCE_NAMES = (
    "scenes", "cifar10", "folder", "shards", "clips", "videos",
    "scene_masks", "scene_masklets", "annotated_pictures", "annotated_videos", "sa_v", "davis", "mose", "youtube_vos",
    "scene_questions", "clip_questions", "conversations",
)  # fmt: skip


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
        classes: numbers of the classes that are kept, 0 to 9; empty for all.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    weight: float = 1.0
    holdout: int = 2000
    prompts: tuple[str, ...] = PROMPTS
    augment: AugmentRecipe = PHOTOGRAPHS
    classes: tuple[int, ...] = ()


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
class AnnotatedAugmentRecipe:
    """How pictures and clips are varied together with their masks; the defaults vary nothing.

    Attributes:
        flip: probability of a horizontal flip.
        rotate, shear: largest angles in degrees.
        scale: least and largest factor of size.
        translate: largest shift, as a share of the side; what comes in from outside is black.
        brightness, contrast, saturation: largest relative change, the same for all frames of a clip.
        grey: probability that a clip loses its colours.
        frame_brightness, frame_contrast, frame_saturation: further changes, of each frame by itself.
        reverse: probability that a clip is turned round in time.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    flip: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    frame_brightness: float = 0.0
    frame_contrast: float = 0.0
    frame_saturation: float = 0.0
    reverse: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotate", "shear"):
            if not 0 <= getattr(self, name) < 90:
                raise out_of_range(name, getattr(self, name), "0 or more and below 90 degrees", "augment")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise out_of_range("scale", self.scale, "two rising positive factors", "augment")
        for entry in dataclasses.fields(self):
            if entry.name not in ("rotate", "shear", "scale") and not 0 <= getattr(self, entry.name) <= 1:
                raise out_of_range(entry.name, getattr(self, entry.name), "between 0 and 1", "augment")


ANNOTATED_PICTURES = AnnotatedAugmentRecipe(flip=0.5)
ANNOTATED_VIDEOS = AnnotatedAugmentRecipe(
    flip=0.5, rotate=25, shear=20, brightness=0.1, contrast=0.03, saturation=0.03, grey=0.05,
    frame_brightness=0.1, frame_contrast=0.05, frame_saturation=0.05, reverse=0.5,
)  # fmt: skip
"""Both as SAM 2 is trained (arXiv 2408.00714, appendix)."""


@dataclass(frozen=True, slots=True)
class SceneMasksRecipe:
    """Pictures of the procedural world with the visible masks of their objects.

    Attributes:
        weight: how often batches are of this source, relative to the others.
        batch_size: samples of such a batch; 0 for the recipe's.
        size: side of the rendered pictures in pixels.
        pool: number of different scenes, kept in memory once rendered; 0 renders a new one for every sample.
        objects: the most objects of a picture that are taught, drawn anew for each use.
        least: objects of which fewer pixels are seen are not taught.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    weight: float = 1.0
    batch_size: int = 0
    size: int = 128
    pool: int = 0
    objects: int = 3
    least: int = 20
    augment: AnnotatedAugmentRecipe = ANNOTATED_PICTURES


@dataclass(frozen=True, slots=True)
class SceneMaskletsRecipe:
    """Clips of the procedural world with the visible masks of their objects in each frame.

    Attributes:
        weight, batch_size, size, pool, objects, least: as for scene masks; `least` pixels of the first frame.
        frames: frames of a sample, one after the other from a clip of `length` frames.
        length: frames of a clip, from the first moment of its motion to the last.
        strides: a sample takes every n-th frame, n one of these, where the clip is long enough for it.
        hiding: share of the samples from clips that hide an object altogether for a while; of all clips it is a
            quarter, and of all frames a hundredth.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    weight: float = 1.0
    batch_size: int = 0
    size: int = 128
    pool: int = 0
    objects: int = 3
    least: int = 20
    frames: int = 8
    length: int = 16
    strides: tuple[int, ...] = (1, 2)
    hiding: float = 0.0
    augment: AnnotatedAugmentRecipe = ANNOTATED_VIDEOS

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= self.length:
            raise out_of_range("frames", self.frames, f"1 to length, {self.length}", "scene_masklets")
        if min(self.strides, default=0) < 1:
            raise out_of_range("strides", self.strides, "numbers of 1 or more", "scene_masklets")
        if not 0 <= self.hiding <= 1:
            raise out_of_range("hiding", self.hiding, "between 0 and 1", "scene_masklets")


@dataclass(frozen=True, slots=True)
class AnnotatedPicturesRecipe:
    """Pictures with COCO run-length masks, a.jpg beside a.json, as SA-1B is published.

    Attributes:
        path: a folder, searched with all its sub-folders.
        weight, batch_size, objects: as for scene masks.
        size: pictures and masks are resized to this side when read; the aspect ratio is not kept.
        largest: masks over a larger share of the picture are left out.
        holdout: share of the pictures that serves validation.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    weight: float = 1.0
    batch_size: int = 0
    size: int = 1024
    objects: int = 64
    largest: float = 0.9
    holdout: float = 0.001
    augment: AnnotatedAugmentRecipe = ANNOTATED_PICTURES


@dataclass(frozen=True, slots=True)
class AnnotatedVideosRecipe:
    """Videos with masks in the layout of a public data set.

    Attributes:
        path: its folder.
        layout: "folders" for pictures and PNG masks (DAVIS, MOSE, YouTube-VOS, LVOS, the validation part of SA-V), or
            "masklets" for a.mp4 beside a_manual.json and a_auto.json (the training part of SA-V).
        split, resolution: of folders, as `datasets.vos.open_vos` takes them.
        kinds: of masklets, which files.
        weight, batch_size, objects: as for scene masks.
        size: frames and masks are resized to this side when read; the aspect ratio is not kept.
        frames: frames of a sample, one annotated frame after the other.
        holdout: share of the videos that serves validation.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    layout: Literal["folders", "masklets"] = "folders"
    split: str = "train"
    resolution: str = "480p"
    kinds: tuple[Literal["manual", "auto"], ...] = ("manual",)
    weight: float = 1.0
    batch_size: int = 0
    size: int = 1024
    objects: int = 3
    frames: int = 8
    holdout: float = 0.01
    augment: AnnotatedAugmentRecipe = ANNOTATED_VIDEOS


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """The mixture of sources.

    Attributes:
        mixing: "within": every batch holds samples of each source in proportion to the weights; "alternate": every
            batch is of one source, drawn in proportion to the weights.
        annotated_videos, sa_v, davis, mose, youtube_vos: several sets of videos with masks, each under a name.
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
    scene_masks: SceneMasksRecipe | None = None
    scene_masklets: SceneMaskletsRecipe | None = None
    annotated_pictures: AnnotatedPicturesRecipe | None = None
    annotated_videos: AnnotatedVideosRecipe | None = None
    sa_v: AnnotatedVideosRecipe | None = None
    davis: AnnotatedVideosRecipe | None = None
    mose: AnnotatedVideosRecipe | None = None
    youtube_vos: AnnotatedVideosRecipe | None = None
    scene_questions: SceneQuestionsRecipe | None = None
    clip_questions: ClipQuestionsRecipe | None = None
    conversations: ConversationsRecipe | None = None
    mixing: Literal["within", "alternate"] = "within"
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
