"""Small data sets of video segmentation in their published layouts, from generated clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from percepta.datasets.scenes import SceneConfig, make_clip
from percepta.datasets.scenes.scene import Clip

HEIGHT, WIDTH, FRAMES = 32, 48, 9


def clip_of(seed: int, frames: int = FRAMES) -> Clip:
    return make_clip(seed, SceneConfig((HEIGHT, WIDTH)), frames)


def labels_of(clip: Clip) -> np.ndarray:
    """(T, H, W) numbers of objects, from 1."""
    return np.asarray(sum((n + 1) * one.visible_masks.astype(np.uint8) for n, one in enumerate(clip.tracks)))


def write_frames(folder: Path, clip: Clip) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / f"{number:05}.jpg", quality=95)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """A paletted PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
    image.save(path)


def write_mose(root: Path, seeds: tuple[int, ...] = (3, 5), every: int = 1) -> dict[str, np.ndarray]:
    """Masks of every so many frames; the labels by name."""
    truths = {}
    for seed in seeds:
        clip, name = clip_of(seed), f"clip-{seed}"
        write_frames(root / "JPEGImages" / name, clip)
        truths[name] = labels_of(clip)
        for number in range(0, FRAMES, every):
            write_mask(root / "Annotations" / name / f"{number:05}.png", truths[name][number])
    return truths


def write_sav(root: Path, seeds: tuple[int, ...] = (3, 5)) -> dict[str, np.ndarray]:
    """Masks of every fourth frame, a folder for each object, numbered from 0."""
    truths = {}
    for seed in seeds:
        clip, name = clip_of(seed), f"sav_{seed:06}"
        write_frames(root / "JPEGImages_24fps" / name, clip)
        truths[name] = labels_of(clip)
        for number in range(0, FRAMES, 4):
            for thing in range(len(clip.tracks)):
                mask = truths[name][number] == thing + 1
                write_mask(root / "Annotations_6fps" / name / f"{thing:03}" / f"{number:05}.png", mask)
    (root / f"{root.name}.txt").write_text("\n".join(truths) + "\n")
    return truths
