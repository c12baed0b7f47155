"""The chapter of the demonstration that points at things: cut out of scenes by one click, followed through clips.

Unusual: who points is the ground truth: the click lies at the middle of what is seen of an object, and every object of
every scene is asked for. What is wrong stays on the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.apps.cli.common import progress
from percepta.apps.report import Page
from percepta.apps.report.page import layer_figure, layers_row, plural
from percepta.datasets import scenes
from percepta.evaluation.regions import jaccard
from percepta.media import VideoReader, draw_objects, write_video
from percepta.tasks.segment import NANO, Segmenter, segment
from percepta.tasks.track import track

SIDE, SCENES, CLIPS, FRAMES, RATE = 96, 12, 2, 36, 12
SHOWN, STRIP = 4, 6  # scenes with their masks; frames of each clip
SHOT = 288  # pixels a side on the page


def point_and_follow(page: Page, folder: Path, model: Any = NANO) -> str:
    """Add the chapter; returns what was found, in a sentence."""
    segmenter = Segmenter(model)
    cut = _cut_out(page, segmenter)
    followed = _follow(page, segmenter, folder)
    return (
        f"One click cut out the things of {plural(SCENES, 'scene')} with an IoU of {100 * cut:.0f} %, and from a box "
        f"in the first frame those of {plural(CLIPS, 'clip')} were followed with {100 * followed:.0f} %."
    )


def _cut_out(page: Page, segmenter: Segmenter) -> float:
    """All objects of some scenes by one click each; returns the mean IoU."""
    config = scenes.SceneConfig(SIDE)
    figures: list[str] = []
    overlaps: list[float] = []
    with progress("segment") as bar:
        bar.start(SCENES)
        for seed in scenes.distinct_scenes(count=SCENES, config=config).tolist():
            scene = scenes.make_scene(seed, config)
            seen = [mask for mask in scene.visible_masks if mask.any()]
            clicks = [middle_of(mask) for mask in seen]
            found: Any = segment(scene.picture, points=[[click] for click in clicks], model=segmenter.model)
            shares = [float(jaccard(truth, mask)) for mask, truth in zip(found, seen, strict=True)]
            overlaps += shares
            if len(figures) < 2 * SHOWN:
                tags = [f"{100 * share:.0f} %" for share in shares]
                shown = [(x, y, 1) for x, y in clicks]
                figures.append(layer_figure(_large(Image.fromarray(scene.picture)), "the scene"))
                painted = draw_objects(scene.picture, found, tags=tags, clicks=shown)
                figures.append(layer_figure(_fitted(painted), "each thing by one click"))
            bar.advance()
    mean = float(np.mean(overlaps))
    page.section(
        f"Cut out by one click: {100 * mean:.0f} % IoU",
        f"Every one of {len(overlaps)} things in {SCENES} scenes was clicked on once, where the green dot is. The tags "
        "say how well each mask agrees with the truth (intersection over union). The first scenes are shown, none is "
        f"picked by hand. The model is {segmenter.name}.",
        *[layers_row(f"scenes {row + 1} and {row + 2}", figures[2 * row : 2 * row + 4]) for row in range(0, SHOWN, 2)],
    )
    return mean


def _follow(page: Page, segmenter: Segmenter, folder: Path) -> float:
    """All objects of some clips from a box in the first frame; returns the mean IoU over frames and objects."""
    config = scenes.SceneConfig(SIDE)
    rows: list[str] = []
    overlaps: list[float] = []
    (folder / "media" / "objects").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(scenes.distinct_clips(count=CLIPS, config=config).tolist(), start=1):
        clip = scenes.make_clip(seed, config, FRAMES)
        video = write_video(folder / "media" / "objects" / f"clip-{number:02d}.mp4", clip.frames, RATE, quality=8)
        things = [thing for thing in clip.tracks if thing.visible_masks[0].any()]
        home = folder / "tracks" / video.stem
        session: Any = track(video, model=segmenter.model)
        with session:
            for thing in things:
                session.add_box(0, thing.boxes[0].tolist(), name=f"{thing.object.colour} {thing.object.shape}")
            run = session.run()
            with progress("track") as bar:
                bar.start(run.total)
                for result in run.saving(home, overwrite=True):
                    for order, thing in enumerate(things, start=1):
                        overlaps.append(_overlap_of(result.mask_of(order), thing.visible_masks[result.frame]))
                    bar.advance()
        with VideoReader(home / "overlay.mp4") as reader:
            frames = np.linspace(0, reader.frames - 1, STRIP).astype(int).tolist()
            figures = [
                layer_figure(_fitted(picture), f"{frame / RATE:.1f} s")
                for frame, picture in zip(frames, reader.read(frames), strict=True)
            ]
        rows.append(layers_row(f"{clip.caption}: the whole video is {home.name}/overlay.mp4", figures))
    mean = float(np.mean(overlaps))
    page.section(
        f"Followed through a video: {100 * mean:.0f} % IoU",
        f"Each thing was framed by a box in the first frame, and followed through {FRAMES} frames, behind others and "
        f"out of the picture; a hidden thing that gets no mask counts as right. In {folder / 'tracks'} lie a video, "
        "masks and a table of each clip.",
        *rows,
    )
    return mean


def middle_of(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """x and y of the pixel of a mask that is farthest from its rim, going along rows and columns."""
    inner, last = np.pad(mask, 1), np.pad(mask, 1)
    while inner.any():
        last = inner
        inner = inner & np.roll(inner, 1, 0) & np.roll(inner, -1, 0) & np.roll(inner, 1, 1) & np.roll(inner, -1, 1)
    rows, columns = np.nonzero(last)
    middle = len(rows) // 2
    return int(columns[middle]) - 1, int(rows[middle]) - 1


def _overlap_of(found: Any, truth: NDArray[np.bool_]) -> float:
    return float(jaccard(truth, found.dense()[0] if len(found) else np.zeros_like(truth)))


def _large(picture: Image.Image) -> Image.Image:
    return picture.resize((SHOT, SHOT * picture.height // picture.width), Image.Resampling.NEAREST)


def _fitted(picture: Image.Image) -> Image.Image:
    return picture if picture.width <= SHOT else picture.resize((SHOT, SHOT * picture.height // picture.width))
