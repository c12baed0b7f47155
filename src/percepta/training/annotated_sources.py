"""Sources of pictures and clips with masks of their objects: the procedural world, SA-1B's files, video data sets.

As all sources these are endless lists that are read by position, without torch. Unusual: which objects of a sample are
taught is drawn anew with each use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from percepta.training.data_recipe import SceneMaskletsRecipe, SceneMasksRecipe
from percepta.training.sources import SCENE_VALIDATION_START, Order, Part


class SceneMasksSource:
    """Pictures of the procedural world with the visible masks of their objects."""

    def __init__(self, recipe: SceneMasksRecipe, seed: int) -> None:
        self.recipe, self.seed, self.first = recipe, seed, seed * 100_003
        self.order = Order(recipe.pool, seed, stream=13) if recipe.pool else None
        self.pool: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        places = position + rows
        numbers = places if self.order is None else self.order(places)
        seeds = [int(number) for number in (self.first + numbers) % SCENE_VALIDATION_START]
        draws = [np.random.default_rng((self.seed, 14, place)) for place in places]
        return self._part([self._scene(seed) for seed in seeds], draws)

    def heldout(self, count: int) -> Part:
        """See `Source`; every object of each picture counts."""
        return self._part([self._made(SCENE_VALIDATION_START + number) for number in range(count)], None)

    def _scene(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if self.order is None:
            return self._made(seed)
        if seed not in self.pool:
            self.pool[seed] = self._made(seed)
        return self.pool[seed]

    def _made(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture (H, W, 3) and a map (H, W) of the numbers of its objects, from 1."""
        from percepta.datasets.scenes import SceneConfig, make_scene

        scene = make_scene(seed, SceneConfig(size=self.recipe.size))
        return scene.picture, numbered(scene.visible_masks)

    def _part(self, samples: Sequence[tuple[np.ndarray, np.ndarray]], draws: Any) -> Part:
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
        self.recipe, self.seed, self.first = recipe, seed, seed * 100_003
        self.order = Order(recipe.pool, seed, stream=15) if recipe.pool else None
        self.pool: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        places = position + rows
        numbers = places if self.order is None else self.order(places)
        seeds = [int(number) for number in (self.first + numbers) % SCENE_VALIDATION_START]
        draws = [np.random.default_rng((self.seed, 16, place)) for place in places]
        return self._part([self._clip(seed) for seed in seeds], draws)

    def heldout(self, count: int) -> Part:
        """See `Source`; whole clips, as many frames as a sample has, with every object of the first frame."""
        return self._part([self._made(SCENE_VALIDATION_START + number) for number in range(count)], None)

    def _clip(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if self.order is None:
            return self._made(seed)
        if seed not in self.pool:
            self.pool[seed] = self._made(seed)
        return self.pool[seed]

    def _made(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        from percepta.datasets.scenes import SceneConfig, make_clip

        clip = make_clip(seed, SceneConfig(size=self.recipe.size), self.recipe.length)
        return clip.frames, numbered(np.stack([track.visible_masks for track in clip.tracks]))

    def _part(self, samples: Sequence[tuple[np.ndarray, np.ndarray]], draws: Any) -> Part:
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


ANNOTATED_SOURCES: dict[type, Any] = {
    SceneMasksRecipe: SceneMasksSource,
    SceneMaskletsRecipe: SceneMaskletsSource,
}
"""What opens each of the recipes."""
