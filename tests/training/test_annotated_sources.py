from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from percepta.datasets.scenes import SceneConfig, make_clip, make_scene
from percepta.errors import BadInput, BadMedia
from percepta.media import write_video
from percepta.results import Masks
from percepta.training.data import Batch, Mixture
from percepta.training.recipe import DataRecipe, make_recipe


def data(**sources: Any) -> DataRecipe:
    values = {"workers": 0, "mixing": "alternate", "validation_samples": 3, **sources}
    return make_recipe({"model": "x", "steps": 1, "batch_size": 4, "learning_rate": 1, "data": values}).data


def picture(batch: Batch) -> np.ndarray:
    return batch.parts[0].pictures


def test_scenes_come_with_their_visible_masks() -> None:
    mixture = Mixture(data(scene_masks={"size": 48, "objects": 2}), 4, seed=3)
    part = mixture.batch(2).parts[0]
    assert part.masks is not None
    assert (part.pictures.shape, part.masks.shape) == ((4, 48, 48, 3), (4, 2, 48, 48))
    scene = make_scene(3 * 100_003 + 8, SceneConfig(size=48))
    assert np.array_equal(part.pictures[0], scene.picture)
    known = {mask.tobytes() for mask in scene.visible_masks}
    assert all(mask.tobytes() in known for mask in part.masks[0])


def test_a_pool_gives_the_same_scenes_again_with_other_objects() -> None:
    mixture = Mixture(data(scene_masks={"size": 32, "objects": 1, "pool": 4, "least": 1}), 4, seed=0)
    first, second = mixture.batch(0).parts[0], mixture.batch(1).parts[0]
    pictures = [{picture.tobytes() for picture in part.pictures} for part in (first, second)]
    assert pictures[0] == pictures[1]
    masks = [np.asarray(part.masks)[:, 0].astype(int) for part in (first, second)]
    assert not np.array_equal(np.sort(masks[0], axis=0), np.sort(masks[1], axis=0))


def test_masklets_are_pieces_of_clips_in_which_the_object_starts() -> None:
    mixture = Mixture(data(scene_masklets={"size": 48, "frames": 4, "length": 10, "strides": [2]}), 4, seed=0)
    part = mixture.batch(0).parts[0]
    assert part.masks is not None
    assert (part.pictures.shape, part.masks.shape[2:]) == ((4, 4, 48, 48, 3), (4, 48, 48))
    clip = make_clip(0, SceneConfig(size=48), 10)
    (first,) = [n for n in range(10) if np.array_equal(clip.frames[n], part.pictures[0, 0])]
    assert np.array_equal(part.pictures[0], clip.frames[first : first + 8 : 2])
    there = part.masks.any((2, 3, 4))
    assert (part.masks[:, :, 0].sum((2, 3))[there] >= 20).all()


def test_as_many_clips_hide_an_object_as_the_recipe_says() -> None:
    world = {"size": 32, "frames": 8, "length": 8, "strides": [1], "objects": 9, "least": 1}
    found = []
    for hiding in (0.0, 1.0):
        mixture = Mixture(data(scene_masklets={**world, "hiding": hiding}), 4, seed=0)
        seen = [np.asarray(mixture.batch(step).parts[0].masks).any((3, 4)) for step in range(5)]
        found.append([(~clip.all(1) & clip[:, 0]).any() for clips in seen for clip in clips])
    usual, hiding = np.mean(found, axis=1)
    assert usual < 0.4 < 0.8 < hiding, "an object may also be hidden before it is first seen"


def test_validation_uses_other_scenes_and_all_their_objects() -> None:
    mixture = Mixture(data(scene_masks={"size": 32, "objects": 1, "least": 1}, scene_masklets={"size": 32}), 4, 0)
    pictures, clips = mixture.heldout()
    assert (pictures.source, clips.source) == ("scene_masks", "scene_masklets")
    assert np.array_equal(pictures.pictures[0], make_scene(900_000, SceneConfig(size=32)).picture)
    assert pictures.masks is not None
    assert pictures.masks.shape[1] > 1
    assert clips.pictures.shape == (3, 8, 32, 32, 3)


def test_batches_alternate_in_proportion_and_leave_no_sample_out() -> None:
    sources = {"scene_masks": {"weight": 3, "size": 16}, "scene_masklets": {"weight": 1, "batch_size": 2, "size": 16}}
    mixture = Mixture(data(**sources), 4, seed=0)
    turns = mixture.turns(4000)
    assert np.bincount(turns) / 4000 == pytest.approx([0.75, 0.25], abs=0.03)
    assert np.array_equal(turns[:100], mixture.turns(100))
    clips = [step for step in range(20) if turns[step] == 1][:2]
    positions: list[int] = []
    source: Any = mixture.sources["scene_masklets"]
    original = source.part
    source.part = lambda position, rows: positions.append(position) or original(position, rows)
    for step in clips:
        assert len(mixture.batch(step).parts[0]) == 2
    assert positions == [0, 2]


def test_processes_share_a_batch_of_one_source() -> None:
    recipe = data(scene_masks={"size": 16})
    whole = picture(Mixture(recipe, 4, 0).batch(5))
    shares = [picture(Mixture(recipe, 4, 0, process, 2).batch(5)) for process in (0, 1)]
    assert np.array_equal(np.stack(shares, 1).reshape(whole.shape), whole)
    with pytest.raises(BadInput, match="multiple of the 3 devices; got 4"):
        Mixture(recipe, 4, 0, 0, 3)


def moved(frame: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((30, size), bool)
    mask[5:20, 4 + 2 * frame : 16 + 2 * frame] = True
    return mask


def test_pictures_with_run_lengths_are_read(tmp_path: Path) -> None:
    whole = np.ones((30, 40), bool)
    for number in range(3):
        Image.fromarray(np.full((30, 40, 3), 50 * number, np.uint8)).save(tmp_path / f"{number}.jpg")
        codes = Masks.from_dense("x", np.stack([moved(0), whole, moved(5)])).to_strings()
        entries = [{"segmentation": {"size": [30, 40], "counts": code}} for code in codes]
        (tmp_path / f"{number}.json").write_text(json.dumps({"annotations": entries}))
    (tmp_path / "notes.json").write_text("{}")  # no picture beside it
    mixture = Mixture(data(annotated_pictures={"path": str(tmp_path), "size": 20, "holdout": 0.34}), 4, 0)
    part = mixture.batch(0).parts[0]
    assert part.masks is not None
    assert (part.pictures.shape, part.masks.shape) == ((4, 20, 20, 3), (4, 2, 20, 20))
    areas = sorted(part.masks[0].mean((1, 2)))
    assert areas == pytest.approx([180 / 1200] * 2, abs=0.03)
    assert len(mixture.heldout()[0]) == 1
    (tmp_path / "1.json").write_text("{}")
    with pytest.raises(BadMedia, match=r"1.json must hold annotations"):
        [Mixture(data(annotated_pictures={"path": str(tmp_path), "size": 20}), 4, 0).batch(n) for n in range(3)]


def write_folders(root: Path, frames: int = 6) -> None:
    for place in ("JPEGImages", "Annotations"):
        (root / "train" / place / "a").mkdir(parents=True)
    for frame in range(frames):
        name = f"{frame:05d}"
        Image.fromarray(np.full((30, 40, 3), 20 * frame, np.uint8)).save(root / "train/JPEGImages/a" / f"{name}.jpg")
        Image.fromarray(moved(frame).astype(np.uint8) * 2).convert("L").save(
            root / "train/Annotations/a" / f"{name}.png"
        )


def test_videos_in_folders_are_read(tmp_path: Path) -> None:
    write_folders(tmp_path)
    mixture = Mixture(data(mose={"path": str(tmp_path), "size": 20, "frames": 4}), 4, 0)
    part = mixture.batch(0).parts[0]
    assert part.masks is not None
    assert (part.source, part.pictures.shape, part.masks.shape) == ("mose", (4, 4, 20, 20, 3), (4, 1, 4, 20, 20))
    starts = {int(frames[0, 0, 0, 0]) for frames in part.pictures}
    assert len(starts) > 1
    middle = part.masks[0, 0].nonzero()
    columns = [middle[2][middle[0] == frame].mean() for frame in range(4)]
    assert np.diff(columns) == pytest.approx([1.0] * 3, abs=0.6)


def test_masklets_beside_videos_are_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((30, 40, 3), 10 * number, np.uint8)) for number in range(20)]
    write_video(tmp_path / "sav_1.mp4", frames, rate=24)
    codes = [[{"size": [30, 40], "counts": Masks.from_dense("x", moved(n)[None]).to_strings()[0]}] for n in range(5)]
    facts = {"video_id": "sav_1", "video_height": 30, "video_width": 40, "video_frame_count": 20, "masklet_id": [7]}
    (tmp_path / "sav_1_manual.json").write_text(json.dumps({**facts, "masklet": codes}))
    recipe = {"path": str(tmp_path), "layout": "masklets", "size": 20, "frames": 5}
    part = Mixture(data(sa_v=recipe), 4, 0).batch(0).parts[0]
    assert part.masks is not None
    assert part.masks.shape == (4, 1, 5, 20, 20)
    assert part.pictures[0, :, 0, 0, 0] == pytest.approx([0, 40, 80, 120, 160], abs=8)  # every fourth frame
    (tmp_path / "sav_1.mp4").unlink()
    with pytest.raises(BadInput, match=r"no sav_1.mp4 beside them"):
        Mixture(data(sa_v=recipe), 4, 0).batch(0)
