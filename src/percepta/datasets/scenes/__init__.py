"""Scenes: small worlds of coloured, textured, shaded objects with complete ground truth, made on the CPU by seed.

`make_scene(seed)` gives a picture with caption, hard negatives, boxes, masks and depth; `make_clip(seed)` a short
video with tracks; `make_batch(seeds)` many pictures at once for training. One seed is one world at every resolution.
Order of reading: vocabulary, scene, layout, language, shapes, render, pictures, motion, clips, distinct, baselines.
People with gaze, and night, will be further layers between layout and render.
"""

from __future__ import annotations

from percepta.datasets.scenes.baselines import attribute_only_baseline, blind_baseline
from percepta.datasets.scenes.clips import make_clip
from percepta.datasets.scenes.distinct import distinct_clips, distinct_scenes, fingerprint
from percepta.datasets.scenes.language import is_true, parse
from percepta.datasets.scenes.pictures import make_batch, make_scene, scene_classes
from percepta.datasets.scenes.scene import Clip, Scene, SceneBatch, SceneObject, Track
from percepta.datasets.scenes.vocabulary import COLOURS, SHAPES, TEST_SEED_START, TEXTURES, VERSION, SceneConfig

__all__ = [
    "COLOURS",
    "SHAPES",
    "TEST_SEED_START",
    "TEXTURES",
    "VERSION",
    "Clip",
    "Scene",
    "SceneBatch",
    "SceneConfig",
    "SceneObject",
    "Track",
    "attribute_only_baseline",
    "blind_baseline",
    "distinct_clips",
    "distinct_scenes",
    "fingerprint",
    "is_true",
    "make_batch",
    "make_clip",
    "make_scene",
    "parse",
    "scene_classes",
]
