"""Choosing seeds whose captions tell the scenes apart, and the fingerprint of the generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from percepta.datasets.scenes.clips import make_clip, plan_clip
from percepta.datasets.scenes.language import parse
from percepta.datasets.scenes.pictures import make_batch, plan_scene
from percepta.datasets.scenes.scene import SceneObject
from percepta.datasets.scenes.vocabulary import TEST_SEED_START, VERSION, SceneConfig
from percepta.errors import BadInput

Names = frozenset[tuple[str, ...]]


class _Chooser:
    """Keeps a world only if it shares no caption with those kept, whatever order or relation the caption gives.

    The caption must name objects that no kept world holds all of, and no kept caption may be true of the new world.
    """

    def __init__(self) -> None:
        self._said: list[Names] = []
        self._held: list[Names] = []

    def keeps(self, caption: str, objects: Sequence[SceneObject]) -> bool:
        said: Names = frozenset(
            (thing.colour, thing.shape) if thing.texture is None else (thing.colour, thing.shape, thing.texture)
            for thing in parse(caption).things
        )
        pairs = [(thing.colour, thing.shape) for thing in objects]
        held: Names = frozenset([*pairs, *((thing.colour, thing.shape, thing.texture) for thing in objects)])
        if any(said <= other for other in self._held) or any(other <= held for other in self._said):
            return False
        self._said.append(said)
        self._held.append(held)
        return True


def distinct_scenes(
    first_seed: int = TEST_SEED_START, count: int = 1000, config: SceneConfig | None = None
) -> np.ndarray:
    """The first `count` seeds from `first_seed` on whose captions are true of their own scene alone: (count,) int64."""
    plans = ((seed, plan_scene(seed, config)) for seed in _seeds_from(first_seed, count))
    return _choose(((seed, plan.caption, plan.objects) for seed, plan in plans), count)


def distinct_clips(
    first_seed: int = TEST_SEED_START, count: int = 200, config: SceneConfig | None = None
) -> np.ndarray:
    """The same for the content captions of clips."""
    plans = ((seed, plan_clip(seed, config)) for seed in _seeds_from(first_seed, count))
    return _choose(((seed, plan.content_caption, plan.choreography.objects) for seed, plan in plans), count)


def _seeds_from(first_seed: int, count: int) -> Iterable[int]:
    return range(first_seed, first_seed + 50 * count + 1000)


def _choose(worlds: Iterable[tuple[int, str, Sequence[SceneObject]]], count: int) -> np.ndarray:
    chooser, kept = _Chooser(), []
    if count < 1:
        raise BadInput(f"the number of distinct seeds must be 1 or more; got {count}.")
    for seed, caption, objects in worlds:
        if chooser.keeps(caption, objects):
            kept.append(seed)
            if len(kept) == count:
                return np.array(kept, np.int64)
    raise BadInput(f"this world has no {count} distinct captions in reach; {len(kept)} were found, ask for fewer.")


def fingerprint() -> str:
    """12 hex digits that change with the generator: its version, probe captions and coarsely averaged probe pixels.

    Averages over 8x8 blocks, in steps of 4 of 255, keep the last bit of a float out of it.
    """
    batch = make_batch(range(TEST_SEED_START, TEST_SEED_START + 12), SceneConfig(64))
    clip = make_clip(TEST_SEED_START, SceneConfig(64), frames=4)
    digest = hashlib.sha256(VERSION.encode())
    for pictures in (batch.pictures, clip.frames):
        blocks = pictures.reshape(len(pictures), 8, 8, 8, 8, 3).astype(np.int64).sum(axis=(2, 4))
        digest.update((blocks // 256).astype(np.uint8).tobytes())
    for text in (*batch.captions, *batch.hard_negatives, clip.caption, clip.content_caption):
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()[:12]
