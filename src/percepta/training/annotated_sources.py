"""Sources of pictures and clips with masks of their objects: the procedural world, SA-1B's files, video data sets.

As all sources these are endless lists that are read by position, without torch. Unusual: which objects of a sample are
taught is drawn anew with each use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from percepta.datasets.folders import PICTURE_SUFFIXES
from percepta.errors import BadInput, BadMedia
from percepta.training.data_recipe import (
    AnnotatedPicturesRecipe,
    AnnotatedVideosRecipe,
    SceneMaskletsRecipe,
    SceneMasksRecipe,
)
from percepta.training.sources import SCENE_VALIDATION_START, Order, Part, split

Sample = tuple[np.ndarray, np.ndarray]
"""Pictures (..., H, W, 3) and maps (..., H, W) of the numbers of their objects, from 1."""


class _Worlds:
    """Generated samples by position, new ones for ever or from a pool that is kept in memory.

    Args:
        make: a scene's seed → its sample.
        stream: numbers the draws of a source, so that two sources of one run draw apart.
    """

    def __init__(self, make: Callable[[int], Sample], pool: int, seed: int, stream: int) -> None:
        self.make, self.seed, self.stream = make, seed, stream
        self.order = Order(pool, seed, stream) if pool else None
        self.pool: dict[int, Sample] = {}

    def at(self, places: np.ndarray) -> tuple[list[Sample], list[np.random.Generator]]:
        """The samples at some places of the endless list, and what draws for each."""
        numbers = places if self.order is None else self.order(places)
        seeds = [int(number) for number in (self.seed * 100_003 + numbers) % SCENE_VALIDATION_START]
        draws = [np.random.default_rng((self.seed, self.stream + 1, place)) for place in places]
        return [self._sample(seed) for seed in seeds], draws

    def heldout(self, count: int) -> list[Sample]:
        """The first samples that are never trained on."""
        return [self.make(SCENE_VALIDATION_START + number) for number in range(count)]

    def _sample(self, seed: int) -> Sample:
        if self.order is None:
            return self.make(seed)
        if seed not in self.pool:
            self.pool[seed] = self.make(seed)
        return self.pool[seed]


class SceneMasksSource:
    """Pictures of the procedural world with the visible masks of their objects."""

    def __init__(self, recipe: SceneMasksRecipe, seed: int) -> None:
        self.recipe, self.worlds = recipe, _Worlds(self._made, recipe.pool, seed, stream=13)

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        return self._part(*self.worlds.at(position + rows))

    def heldout(self, count: int) -> Part:
        """See `Source`; every object of each picture counts."""
        return self._part(self.worlds.heldout(count), None)

    def _made(self, seed: int) -> Sample:
        from percepta.datasets.scenes import SceneConfig, make_scene

        scene = make_scene(seed, SceneConfig(size=self.recipe.size))
        return scene.picture, numbered(scene.visible_masks)

    def _part(self, samples: Sequence[Sample], draws: Any) -> Part:
        recipe = self.recipe
        pictures = np.stack([picture for picture, _ in samples])
        chosen = [
            choose_objects(numbers, numbers, recipe.objects, recipe.least, None if draws is None else draws[row])
            for row, (_, numbers) in enumerate(samples)
        ]
        return Part("scene_masks", pictures, [], recipe.augment, masks=padded(chosen))


class SceneMaskletsSource:
    """Clips of the procedural world with the visible masks of their objects; pieces of longer clips."""

    def __init__(self, recipe: SceneMaskletsRecipe, seed: int) -> None:
        self.recipe, self.worlds = recipe, _Worlds(self._made, recipe.pool, seed, stream=15)

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        return self._part(*self.worlds.at(position + rows))

    def heldout(self, count: int) -> Part:
        """See `Source`; whole clips, as many frames as a sample has, with every object of the first frame."""
        return self._part(self.worlds.heldout(count), None)

    def _made(self, seed: int) -> Sample:
        from percepta.datasets.scenes import SceneConfig, make_clip

        config, length = SceneConfig(size=self.recipe.size), self.recipe.length
        clip = make_clip(seed, config, length)
        draw = np.random.default_rng((seed, 16))
        if seed < SCENE_VALIDATION_START and draw.random() < self.recipe.hiding:
            while not clip.hides:
                clip = make_clip(int(draw.integers(SCENE_VALIDATION_START)), config, length)
        return clip.frames, numbered(np.stack([track.visible_masks for track in clip.tracks]))

    def _part(self, samples: Sequence[Sample], draws: Any) -> Part:
        recipe, pictures, chosen = self.recipe, [], []
        for row, (frames, numbers) in enumerate(samples):
            draw = None if draws is None else draws[row]
            taken = self._frames(draw)
            pictures.append(frames[taken])
            own = numbers[taken]
            chosen.append(choose_objects(own, own[0], recipe.objects, recipe.least, draw))
        return Part("scene_masklets", np.stack(pictures), [], recipe.augment, masks=padded(chosen))

    def _frames(self, draw: np.random.Generator | None) -> np.ndarray:
        recipe = self.recipe
        if draw is None:
            return np.linspace(0, recipe.length - 1, recipe.frames).round().astype(int)
        strides = [stride for stride in recipe.strides if (recipe.frames - 1) * stride < recipe.length] or [1]
        stride = int(draw.choice(strides))
        first = int(draw.integers(recipe.length - (recipe.frames - 1) * stride))
        return first + stride * np.arange(recipe.frames)


def numbered(masks: np.ndarray) -> np.ndarray:
    """(N, ..., H, W) bool masks that do not overlap, to a map (..., H, W) uint8 of their numbers from 1."""
    numbers = np.arange(1, len(masks) + 1, dtype=np.uint8).reshape(-1, *[1] * (masks.ndim - 1))
    return np.asarray((masks * numbers).sum(0, dtype=np.uint8))


def choose_objects(
    numbers: np.ndarray, first: np.ndarray, most: int, least: int, draw: np.random.Generator | None
) -> np.ndarray:
    """(O, ...) bool masks of some objects of a map; at most `most`, all of them where `draw` is None.

    Args:
        numbers: map (..., H, W) of objects from 1.
        first: (H, W), in which an object must have `least` pixels.
    """
    areas = np.bincount(first.ravel())
    there = [number for number in range(1, len(areas)) if areas[number] >= least]
    if draw is not None:
        there = [int(number) for number in draw.permutation(there)[:most]]
    return numbers[None] == np.array(there, np.uint8).reshape(-1, *[1] * numbers.ndim)


def padded(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Masks (O, ...) of several samples, to (B, O, ...) of as many objects, empty ones at the end; at least one."""
    most = max(1, *(len(own) for own in masks))
    full = np.zeros((len(masks), most, *masks[0].shape[1:]), bool)
    for row, own in zip(full, masks, strict=True):
        row[: len(own)] = own
    return full


class AnnotatedPicturesSource:
    """Pictures with COCO run-length masks beside them, as SA-1B is published."""

    def __init__(self, recipe: AnnotatedPicturesRecipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.files = [path for path in sorted(Path(recipe.path).expanduser().rglob("*.json")) if _picture_of(path)]
        if not self.files:
            raise BadInput(f"{recipe.path!r} must hold pictures with masks, a.jpg beside a.json; there are none.")
        self.held, self.trained = split(len(self.files), recipe.holdout, (seed, 17))
        self.order = Order(len(self.trained), seed, stream=18)

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        numbers = self.trained[self.order(position + rows)]
        return self._part(numbers, [np.random.default_rng((self.seed, 19, place)) for place in position + rows])

    def heldout(self, count: int) -> Part | None:
        """See `Source`; the first objects of each picture."""
        numbers = self.held[:count]
        return self._part(numbers, [None] * len(numbers)) if len(numbers) else None

    def _part(self, numbers: np.ndarray, draws: Sequence[np.random.Generator | None]) -> Part:
        pictures, masks = zip(*(self._read(self.files[n], draw) for n, draw in zip(numbers, draws)), strict=True)
        return Part("annotated_pictures", np.stack(pictures), [], self.recipe.augment, masks=padded(masks))

    def _read(self, path: Path, draw: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """A picture (S, S, 3), and masks (O, S, S) of some of its objects."""
        from percepta.media import open_picture
        from percepta.results.masks import counts_of, decode

        recipe = self.recipe
        try:
            codes = [entry["segmentation"] for entry in json.loads(path.read_text(encoding="utf-8"))["annotations"]]
            shaped = [(counts_of(code["counts"]), (int(code["size"][0]), int(code["size"][1]))) for code in codes]
        except (OSError, ValueError, KeyError, TypeError, BadInput) as error:
            raise BadMedia(f"{path.name} must hold annotations with run-length masks; {error}.") from error
        shares = [np.asarray(counts)[1::2].sum() / (size[0] * size[1]) for counts, size in shaped]
        fitting = [number for number, share in enumerate(shares) if 0 < share <= recipe.largest]
        order = fitting if draw is None else draw.permutation(fitting)
        masks = [resized_mask(decode(*shaped[int(number)]), recipe.size) for number in order[: recipe.objects]]
        picture = _picture_of(path)
        assert picture is not None
        pixels = squashed(open_picture(picture).convert("RGB"), recipe.size)
        return pixels, np.stack(masks) if masks else np.zeros((0, recipe.size, recipe.size), bool)


def _picture_of(path: Path) -> Path | None:
    return next((one for suffix in PICTURE_SUFFIXES if (one := path.with_suffix(suffix)).is_file()), None)


class AnnotatedVideosSource:
    """Videos with masks: DAVIS, MOSE and their like, or SA-V's masklets."""

    def __init__(self, recipe: AnnotatedVideosRecipe, seed: int) -> None:
        from percepta.datasets.masklets import open_masklets
        from percepta.datasets.vos import open_vos

        self.recipe, self.seed = recipe, seed
        self.videos: list[Any] = []
        if recipe.layout == "masklets":
            self.videos = [one for kind in recipe.kinds for one in open_masklets(recipe.path, kind)]
            if lost := next((one.name for one in self.videos if one.video is None), None):
                raise BadInput(f"{lost} has masklets but no {lost}.mp4 beside them.")
        else:
            self.videos = list(open_vos(recipe.path, recipe.split or None, recipe.resolution))
        self.held, self.trained = split(len(self.videos), recipe.holdout, (seed, 20))
        self.order = Order(len(self.trained), seed, stream=21)

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        numbers = self.trained[self.order(position + rows)]
        return self._part(numbers, [np.random.default_rng((self.seed, 22, place)) for place in position + rows])

    def heldout(self, count: int) -> Part | None:
        """See `Source`; the first annotated frames."""
        numbers = self.held[:count]
        return self._part(numbers, [None] * len(numbers)) if len(numbers) else None

    def _part(self, numbers: np.ndarray, draws: Sequence[np.random.Generator | None]) -> Part:
        clips, masks = zip(*(self._read(self.videos[n], draw) for n, draw in zip(numbers, draws)), strict=True)
        return Part("annotated_videos", np.stack(clips), [], self.recipe.augment, masks=padded(masks))

    def _read(self, video: Any, draw: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """Frames (T, S, S, 3), and masks (O, T, S, S) of some of the objects of the first of them."""
        recipe = self.recipe
        places = range(len(video.annotated))
        first = 0 if draw is None else int(draw.integers(max(1, len(places) - recipe.frames + 1)))
        taken = [min(first + number, len(places) - 1) for number in range(recipe.frames)]
        objects = [_objects_of(video, place) for place in taken]
        there = sorted(objects[0])
        chosen = there[: recipe.objects] if draw is None else list(draw.permutation(there)[: recipe.objects])
        empty = np.zeros((recipe.size, recipe.size), bool)
        rows = [
            np.stack([resized_mask(found[one], recipe.size) if one in found else empty for found in objects])
            for one in chosen
        ]
        frames = _frames_of(video, [video.annotated[place] for place in taken])
        pixels = np.stack([squashed(frame, recipe.size) for frame in frames])
        return pixels, np.stack(rows) if rows else np.zeros((0, recipe.frames, *empty.shape), bool)


def _objects_of(video: Any, place: int) -> dict[int, np.ndarray]:
    """The objects of an annotated frame, by identity."""
    if hasattr(video, "codes"):
        masks = video.masks(place)
        return {identity: mask for identity, mask in zip(video.objects, masks, strict=True) if mask.any()}
    found: dict[int, np.ndarray] = video.objects(video.annotated[place])
    return found


def _frames_of(video: Any, frames: Sequence[int]) -> list[Any]:
    if not hasattr(video, "codes"):
        return [video.picture(frame) for frame in frames]
    from percepta.media import VideoReader

    with VideoReader(video.video) as reader:
        return reader.read([min(frame, reader.frames - 1) for frame in frames])


def squashed(picture: Any, size: int) -> np.ndarray:
    """(size, size, 3) uint8 of a picture, bilinear; the aspect ratio is not kept."""
    from PIL import Image

    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def resized_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """(size, size) bool: the nearest pixel of a mask."""
    rows = ((np.arange(size) + 0.5) * mask.shape[0] / size).astype(int)
    columns = ((np.arange(size) + 0.5) * mask.shape[1] / size).astype(int)
    return mask[rows[:, None], columns]


ANNOTATED_SOURCES: dict[type, Any] = {
    AnnotatedPicturesRecipe: AnnotatedPicturesSource,
    AnnotatedVideosRecipe: AnnotatedVideosSource,
    SceneMasksRecipe: SceneMasksSource,
    SceneMaskletsRecipe: SceneMaskletsSource,
}
"""What opens each of the recipes."""
