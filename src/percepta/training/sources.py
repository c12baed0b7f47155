"""The sources of training samples: scenes and their clips, CIFAR-10, pictures and videos in folders and shards.

Every source is an endless shuffled list that is read by position, so that any process can ask for any part of it.
Unusual: no torch here, so that the process that makes batches starts at once and stays small.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from percepta.errors import BadMedia
from percepta.training.data_recipe import (
    AnnotatedAugmentRecipe,
    AugmentRecipe,
    CifarRecipe,
    ClipsRecipe,
    FolderRecipe,
    ScenesRecipe,
    ShardsRecipe,
    VideosRecipe,
)

SCENE_VALIDATION_START = 900_000
"""Scenes below this seed are trained on; up to 999,999 they validate; from 1,000,000 they are for tests only."""


class Dialogue(NamedTuple):
    """A conversation about one sample: what kind of question it is, and pairs of question and answer."""

    kind: str
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one source in a batch.

    Attributes:
        source: name of the source.
        pictures: (B, H, W, 3) uint8, or (B, T, H, W, 3) for videos of T frames.
        captions: B captions; equal ones mean the same. Empty for sources without words.
        augment: how the pictures are to be varied.
        hard_negatives: B wrong captions, or None.
        labels: (B,) class numbers, or None.
        masks: (B, O, H, W) bool, or (B, O, T, H, W) for clips, where objects are seen; samples with fewer objects have
            empty masks at the end. None where there are none.
        dialogues: for each sample the conversations about it, or None.
        chunks: pictures of each sample, where these differ; then `pictures` are those of all, (C, S, S, 3).
        media: "image", "video", "multi_image" or "text" for each sample, where these differ.
        rows: (B,) where these samples stand among the samples of this source in the whole batch, or None for all.
        total: number of samples of this source in the whole batch; 0 for just these.
    """

    source: str
    pictures: np.ndarray
    captions: list[str]
    augment: AugmentRecipe | AnnotatedAugmentRecipe
    hard_negatives: list[str] | None = None
    rows: np.ndarray | None = None
    total: int = 0
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    dialogues: tuple[tuple[Dialogue, ...], ...] | None = None
    chunks: tuple[int, ...] | None = None
    media: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.pictures) if self.dialogues is None else len(self.dialogues)

    @property
    def frames(self) -> int:
        """Pictures of a sample."""
        return self.pictures.shape[1] if self.pictures.ndim == 5 else 1


class Source(Protocol):
    """A source of samples; the same arguments always give the same samples."""

    def part(self, position: int, rows: np.ndarray) -> Part:
        """Samples `position + rows` of the endless shuffled training list.

        What a whole batch shares is drawn by `position`, what a sample has of its own by its own place.
        """

    def heldout(self, count: int) -> Part | None:
        """At most `count` samples that are never trained on, or None where the source has none."""


class Order:
    """An endless list of indices below `total`: a fresh permutation for each pass."""

    def __init__(self, total: int, seed: int, stream: int) -> None:
        self.total, self.key = total, (seed, stream)
        self._passes: dict[int, np.ndarray] = {}

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """(B,) indices at (B,) rising positions."""
        epochs, places = np.divmod(positions, self.total)
        return np.concatenate([self._pass(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _pass(self, epoch: int) -> np.ndarray:
        if epoch not in self._passes:
            while len(self._passes) > 1:
                self._passes.pop(min(self._passes))
            self._passes[epoch] = np.random.default_rng((*self.key, epoch)).permutation(self.total)
        return self._passes[epoch]


class ScenesSource:
    """Pictures of the procedural world, new ones for ever or from a pool that is kept in memory."""

    def __init__(self, recipe: ScenesRecipe, seed: int) -> None:
        from percepta.datasets.scenes import SceneConfig

        self.recipe = recipe
        self.config = SceneConfig(size=recipe.size, **recipe.options)
        self.first = seed * 100_003
        self.order = Order(recipe.pool, seed, stream=1) if recipe.pool else None
        self.pool: dict[int, tuple[np.ndarray, str, str]] = {}

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        positions = position + rows
        numbers = positions if self.order is None else self.order(positions)
        seeds = [int(number) for number in (self.first + numbers) % SCENE_VALIDATION_START]
        if self.order is None:
            return self._make(seeds)
        missing = [seed for seed in dict.fromkeys(seeds) if seed not in self.pool]
        if missing:
            made = self._make(missing, negatives=True)
            samples = zip(made.pictures, made.captions, made.hard_negatives or (), strict=True)
            self.pool.update(zip(missing, samples, strict=True))
        pictures, captions, negatives = zip(*(self.pool[seed] for seed in seeds), strict=True)
        kept = list(negatives) if self.recipe.hard_negatives else None
        return Part("scenes", np.stack(pictures), list(captions), self.recipe.augment, kept)

    def heldout(self, count: int) -> Part:
        """See `Source`."""
        return self._make([SCENE_VALIDATION_START + number for number in range(count)], negatives=True)

    def _make(self, seeds: list[int], negatives: bool = False) -> Part:
        from percepta.datasets.scenes import make_batch

        made = make_batch(seeds, self.config)
        wrong = list(made.hard_negatives) if negatives or self.recipe.hard_negatives else None
        return Part("scenes", made.pictures, list(made.captions), self.recipe.augment, wrong)


class ClipsSource:
    """Clips of the procedural world, new ones for ever."""

    def __init__(self, recipe: ClipsRecipe, seed: int) -> None:
        from percepta.datasets.scenes import SceneConfig

        self.recipe = recipe
        self.config = SceneConfig(size=recipe.size, **recipe.options)
        self.first = seed * 100_003

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        seeds = (self.first + position + rows) % SCENE_VALIDATION_START
        return self._make(seeds, self.recipe.hard_negatives)

    def heldout(self, count: int) -> Part:
        """See `Source`."""
        return self._make(SCENE_VALIDATION_START + np.arange(count), negatives=True)

    def _make(self, seeds: np.ndarray, negatives: bool) -> Part:
        from percepta.datasets.scenes import make_clip

        clips = [make_clip(int(seed), self.config, self.recipe.frames) for seed in seeds]
        content = self.recipe.captions == "content"
        captions = [clip.content_caption if content else clip.caption for clip in clips]
        wrong = [(clip.content_hard_negatives if content else clip.hard_negatives)[0] for clip in clips]
        frames = np.stack([clip.frames for clip in clips])
        return Part("clips", frames, captions, self.recipe.augment, wrong if negatives else None)


def class_captions(names: Sequence[str], labels: np.ndarray, prompts: Sequence[str], key: tuple[int, ...]) -> list[str]:
    """Captions for labels; each class draws one prompt for the whole batch, so equal classes have equal captions."""
    draws = np.random.default_rng(key).integers(len(prompts), size=len(names))
    captions = [prompts[draw].format(name) for draw, name in zip(draws, names, strict=True)]
    return [captions[label] for label in labels]


class CifarSource:
    """CIFAR-10 from a parquet file, decoded once; its last rows are held out."""

    def __init__(self, recipe: CifarRecipe, seed: int) -> None:
        from percepta.datasets.cifar import read_cifar10

        self.recipe, self.seed = recipe, seed
        self.table = read_cifar10(recipe.path)
        kept = np.arange(len(self.table))
        if recipe.classes:
            kept = np.flatnonzero(np.isin(self.table.labels, recipe.classes))
        border = len(self.table) - recipe.holdout
        self.rows, self.held = kept[kept < border], kept[kept >= border]
        self.trained = len(self.rows)
        if self.trained < 1:
            raise BadMedia(
                f"{recipe.path} has {len(self.table)} pictures; holdout={recipe.holdout} and classes must leave some."
            )
        self.order = Order(self.trained, seed, stream=2)

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        numbers = self.rows[self.order(position + rows)]
        labels = self.table.labels[numbers]
        captions = class_captions(self.table.names, labels, self.recipe.prompts, (self.seed, 3, position))
        return Part("cifar10", self.table.pictures[numbers], captions, self.recipe.augment, labels=labels)

    def heldout(self, count: int) -> Part | None:
        """See `Source`; captions use the first prompt."""
        rows = self.held[:count]
        captions = [self.recipe.prompts[0].format(self.table.names[label]) for label in self.table.labels[rows]]
        labels = self.table.labels[rows]
        kept = Part("cifar10", self.table.pictures[rows], captions, self.recipe.augment, labels=labels)
        return kept if captions else None


class FolderSource:
    """A labelled folder; pictures are read, cropped and resized for every batch."""

    def __init__(self, recipe: FolderRecipe, seed: int) -> None:
        from percepta.datasets.folders import list_picture_folder

        self.recipe, self.seed = recipe, seed
        self.folder = list_picture_folder(recipe.path)
        self.held, self.trained = split(len(self.folder), recipe.holdout, (seed, 4))
        self.order = Order(len(self.trained), seed, stream=5)

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        numbers = self.trained[self.order(position + rows)]
        labels = self.folder.labels[numbers]
        captions = class_captions(self.folder.names, labels, self.recipe.prompts, (self.seed, 7, position))
        draws = [np.random.default_rng((self.seed, 6, place)) for place in position + rows]
        augment = already_cropped(self.recipe.augment)
        return Part("folder", self._read(numbers, draws), captions, augment, labels=labels)

    def heldout(self, count: int) -> Part | None:
        """See `Source`; captions use the first prompt."""
        numbers = self.held[:count]
        if not len(numbers):
            return None
        captions = [self.recipe.prompts[0].format(self.folder.names[label]) for label in self.folder.labels[numbers]]
        pictures, labels = self._read(numbers, [None] * len(numbers)), self.folder.labels[numbers]
        return Part("folder", pictures, captions, self.recipe.augment, labels=labels)

    def _read(self, numbers: np.ndarray, draws: Sequence[np.random.Generator | None]) -> np.ndarray:
        paths = [self.folder.paths[number] for number in numbers]
        recipe = self.recipe
        return np.stack([read_picture(path, recipe.size, recipe.augment, draw) for path, draw in zip(paths, draws)])


class ShardsSource:
    """Webdataset shards; pictures are read, cropped and resized for every batch."""

    def __init__(self, recipe: ShardsRecipe, seed: int) -> None:
        from percepta.datasets.shards import Shards

        self.recipe, self.seed = recipe, seed
        self.shards = Shards(recipe.path, recipe.mix)
        self.validation = Shards(recipe.validation, 1) if recipe.validation else None

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        samples = [self.shards.sample(int(place), self.seed) for place in position + rows]
        draws = [np.random.default_rng((self.seed, 8, place)) for place in position + rows]
        return self._part(samples, draws, already_cropped(self.recipe.augment))

    def heldout(self, count: int) -> Part | None:
        """See `Source`."""
        if self.validation is None:
            return None
        samples = [self.validation.sample(number) for number in range(min(count, len(self.validation)))]
        return self._part(samples, [None] * len(samples), self.recipe.augment)

    def _part(
        self, samples: Sequence[Any], draws: Sequence[np.random.Generator | None], augment: AugmentRecipe
    ) -> Part:
        size, crops = self.recipe.size, self.recipe.augment
        pictures = [read_picture(sample.media, size, crops, draw) for sample, draw in zip(samples, draws)]
        return Part("shards", np.stack(pictures), [sample.caption for sample in samples], augment)


class VideosSource:
    """Videos with captions from a folder or from shards; frames are read, cropped and resized for every batch."""

    def __init__(self, recipe: VideosRecipe, seed: int) -> None:
        from percepta.datasets.captioned_videos import list_captioned_videos
        from percepta.datasets.shards import Shards

        self.recipe, self.seed = recipe, seed
        self.shards = self.validation = None
        place = Path(recipe.path).expanduser()
        if place.is_dir() or not glob.glob(str(place), recursive=True):
            self.files = list_captioned_videos(recipe.path)
            self.held, self.trained = split(len(self.files), recipe.holdout, (seed, 9))
            self.order = Order(len(self.trained), seed, stream=10)
        else:
            self.shards = Shards(recipe.path, recipe.mix, "video")
            self.validation = Shards(recipe.validation, 1, "video") if recipe.validation else None

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`; of several captions of a video each use draws one."""
        draws = [np.random.default_rng((self.seed, 11, place)) for place in position + rows]
        if self.shards is not None:
            samples = [self.shards.sample(int(place), self.seed) for place in position + rows]
            things, captions = [sample.media for sample in samples], [sample.caption for sample in samples]
        else:
            files = [self.files[number] for number in self.trained[self.order(position + rows)]]
            things = [file.path for file in files]
            captions = [str(draw.choice(file.captions)) for file, draw in zip(files, draws)]
        return self._part(things, captions, draws, already_cropped(self.recipe.augment))

    def heldout(self, count: int) -> Part | None:
        """See `Source`; of several captions the first."""
        if self.shards is not None:
            kept = self.validation
            samples = [kept.sample(number) for number in range(min(count, len(kept)))] if kept is not None else []
            things, captions = [sample.media for sample in samples], [sample.caption for sample in samples]
        else:
            files = [self.files[number] for number in self.held[:count]]
            things, captions = [file.path for file in files], [file.captions[0] for file in files]
        return self._part(things, captions, [None] * len(things), self.recipe.augment) if things else None

    def _part(
        self,
        things: Sequence[Any],
        captions: list[str],
        draws: Sequence[np.random.Generator | None],
        augment: AugmentRecipe,
    ) -> Part:
        recipe = self.recipe
        videos = [read_video(thing, recipe, draw) for thing, draw in zip(things, draws)]
        return Part("videos", np.stack(videos), captions, augment)


SOURCES: dict[type, Any] = {
    ScenesRecipe: ScenesSource,
    CifarRecipe: CifarSource,
    FolderRecipe: FolderSource,
    ShardsRecipe: ShardsSource,
    ClipsRecipe: ClipsSource,
    VideosRecipe: VideosSource,
}


def split(total: int, holdout: float, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers below `total`, shuffled: a share that is held out, and the others, of which at least one is left."""
    order = np.random.default_rng(key).permutation(total)
    kept_back = min(round(holdout * total), total - 1)
    return order[:kept_back], order[kept_back:]


def already_cropped(augment: AugmentRecipe) -> AugmentRecipe:
    """What is left to do to pictures that were cropped when they were read."""
    return replace(augment, area=(1.0, 1.0), aspect=(1.0, 1.0))


def read_picture(thing: Any, size: int, augment: AugmentRecipe, random: np.random.Generator | None) -> np.ndarray:
    """(size, size, 3) uint8: a random crop, or the whole picture where `random` is None, squashed to a square."""
    from percepta.media import open_picture

    return _squashed([open_picture(thing).convert("RGB")], size, augment, random)[0]


def read_video(thing: Any, recipe: VideosRecipe, random: np.random.Generator | None) -> np.ndarray:
    """(T, size, size, 3) uint8: frames from the first to the last, all with one crop, squashed to squares."""
    from percepta.media import VideoReader, sample_frames

    with VideoReader(thing) as reader:
        frames = reader.read(sample_frames(reader.frames, recipe.frames))
    return _squashed(frames, recipe.size, recipe.augment, random)


def _squashed(
    pictures: Sequence[Any], size: int, augment: AugmentRecipe, random: np.random.Generator | None
) -> np.ndarray:
    from PIL import Image

    box = None if random is None else _crop_box(pictures[0].size, augment, random)
    return np.stack([np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box)) for picture in pictures])


def _crop_box(
    size: tuple[int, int], augment: AugmentRecipe, random: np.random.Generator
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a random crop; cut to the picture where the ratio asks for more than it has."""
    width, height = size
    area = random.uniform(*augment.area) * width * height
    ratio = np.exp(random.uniform(*np.log(augment.aspect)))
    crop_width, crop_height = min(width, np.sqrt(area * ratio)), min(height, np.sqrt(area / ratio))
    left, top = random.uniform(0, width - crop_width), random.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height
