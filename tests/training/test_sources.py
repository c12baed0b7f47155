"""Videos as samples, and batches that several processes share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import TinyModel
from PIL import Image
from samples import picture, write_cifar

from percepta.datasets.scenes import SceneConfig, make_clip
from percepta.errors import BadMedia
from percepta.media import write_video
from percepta.training.batching import Tokens, heldout_inputs, make_inputs, sample_means
from percepta.training.data import Batch, Mixture
from percepta.training.recipe import DataRecipe, make_recipe
from percepta.training.sources import SCENE_VALIDATION_START


def data(**fields: Any) -> DataRecipe:
    values = {"model": "tiny", "steps": 1, "batch_size": 1, "learning_rate": 1, "data": {"workers": 0, **fields}}
    return make_recipe(values).data


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips that fade from one grey to another, each with captions; one more without."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "below").mkdir()
    for number in range(7):
        frames = [np.full((32, 48, 3), 30 * number + 2 * time, np.uint8) for time in range(12)]
        path = folder / ("below" if number % 2 else "") / f"{number}.mp4"
        write_video(path, [Image.fromarray(frame) for frame in frames], 12)
        if number < 6:
            path.with_suffix(".txt").write_text(f"grey {number}\nstill grey {number}\n")
    return folder


def test_clips_are_samples_of_several_frames() -> None:
    mixture = Mixture(data(clips={"size": 32, "frames": 3}), 4, seed=2)
    part = mixture.batch(5).parts[0]
    clip = make_clip(2 * 100_003 + 5 * 4 + 1, SceneConfig(size=32), 3)
    assert (part.pictures.shape, part.frames) == ((4, 3, 32, 32, 3), 3)
    assert np.array_equal(part.pictures[1], clip.frames)
    assert part.captions[1] == clip.content_caption
    assert part.hard_negatives is not None
    assert part.hard_negatives[1] == clip.content_hard_negatives[0]
    told = Mixture(data(clips={"size": 32, "frames": 1, "captions": "motion", "hard_negatives": False}), 4, seed=2)
    assert told.batch(5).parts[0].captions[1] == clip.caption
    assert told.batch(5).parts[0].hard_negatives is None
    few = Mixture(replace(mixture.recipe, validation_samples=3), 4, seed=2).heldout()
    assert len(few[0].captions) == 3
    assert few[0].captions[0] == make_clip(SCENE_VALIDATION_START, SceneConfig(size=32), 1).content_caption


def test_a_folder_of_videos_gives_frames_and_captions(videos: Path) -> None:
    recipe = data(videos={"path": str(videos), "size": 16, "frames": 4, "holdout": 0.34})
    mixture = Mixture(recipe, 8, seed=0)
    parts = [mixture.batch(step).parts[0] for step in range(4)]
    assert parts[0].pictures.shape == (8, 4, 16, 16, 3)
    for part in parts:
        for frames, caption in zip(part.pictures, part.captions, strict=True):
            levels = frames.mean((1, 2, 3)) - 30 * int(caption[-1])
            np.testing.assert_allclose(levels, [0, 2 * 3, 2 * 7, 2 * 11], atol=4)  # frames 0, 3, 7 and 11 of 12
    captions = {caption for part in parts for caption in part.captions}
    assert {caption.split()[0] for caption in captions} == {"grey", "still"}
    held = mixture.heldout()[0]
    assert len(held.captions) == 2
    assert not {caption[-1] for caption in held.captions} & {caption[-1] for caption in captions}
    assert len(captions) == 8


def test_shards_of_videos(videos: Path, tmp_path: Path) -> None:
    import webdataset

    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as sink:
            for number in range(2):
                path = videos / f"{2 * number}.mp4"
                sample = {"__key__": f"{shard}{number}", "mp4": path.read_bytes(), "txt": f"clip {2 * number}"}
                sink.write(sample)
    recipe = data(
        videos={"path": str(tmp_path / "*.tar"), "size": 16, "frames": 2, "validation": str(tmp_path / "1.tar")}
    )
    mixture = Mixture(recipe, 4, seed=1)
    part = mixture.batch(0).parts[0]
    assert part.pictures.shape == (4, 2, 16, 16, 3)
    for frames, caption in zip(part.pictures, part.captions, strict=True):
        np.testing.assert_allclose(frames[0].mean() - 30 * int(caption[-1]), 0, atol=4)
    assert len(mixture.heldout()[0].captions) == 2


def test_places_without_captioned_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadMedia, match="must hold videos with captions"):
        Mixture(data(videos={"path": str(tmp_path)}), 2, 0).batch(0)
    with pytest.raises(BadMedia, match="none is neither"):
        Mixture(data(videos={"path": str(tmp_path / "none")}), 2, 0).batch(0)


def test_a_crop_is_the_same_in_all_frames_of_a_video(videos: Path) -> None:
    """Frames of a video that stands still stay equal through cropping, shifting and jitter; videos differ."""
    recipe = data(clips={"size": 32, "frames": 3, "augment": {"area": [0.3, 0.6], "flip": 0.5, "brightness": 0.5}})
    part = Mixture(recipe, 6, seed=0).batch(0).parts[0]
    still = replace(part, pictures=np.repeat(part.pictures[:1, :1], 18, 0).reshape(6, 3, 32, 32, 3))
    inputs = make_inputs(Batch(0, (still,)), 16, Tokens(TinyModel().tokenize), seed=0)
    frames = inputs.pictures.unflatten(0, (6, 3))
    assert inputs.runs == ((6, 3),)
    assert torch.equal(frames[:, 0], frames[:, 1])
    assert torch.equal(frames[:, 0], frames[:, 2])
    assert not any(torch.equal(frames[0, 0], frames[other, 0]) for other in range(1, 6))


def test_a_video_is_the_mean_of_its_frames_and_a_picture_is_itself() -> None:
    import percepta

    torch.manual_seed(0)
    model = percepta.build("pe-core-nano", depth=1).eval()
    recipe = data(scenes={"size": 32}, clips={"size": 32, "frames": 3})
    inputs = make_inputs(Mixture(recipe, 6, 0).batch(0), 32, Tokens(model.tokenize), seed=0)
    assert inputs.runs == ((3, 1), (3, 3))
    with torch.no_grad():
        samples = sample_means(model.encode_image(inputs.pictures), inputs.runs)
        expected = model.encode_video(inputs.pictures[3:].unflatten(0, (3, 3)))
        torch.testing.assert_close(samples[3:], expected)
        torch.testing.assert_close(samples[:3], model.encode_image(inputs.pictures[:3]))


def test_held_out_clips_are_scored_as_clips() -> None:
    from percepta.training.validation import validate

    model = TinyModel().eval()
    parts = Mixture(replace(data(clips={"size": 16, "frames": 2}), validation_samples=12), 2, 0).heldout()
    tokens = Tokens(model.tokenize)
    figures = validate(model, parts, 16, tokens, torch.device("cpu"))
    assert set(figures) == {"clips.accuracy", "clips.recall", "clips.hard_accuracy"}
    inputs = heldout_inputs(parts[0], 16, tokens)
    with torch.no_grad():
        images = torch.nn.functional.normalize(
            model.encode_image(inputs.pictures).unflatten(0, (12, 2)).mean(1), dim=-1
        )
        texts = torch.nn.functional.normalize(model.encode_text(inputs.tokens), dim=-1)[: len(set(parts[0].captions))]
    right = ((images @ texts.T).argmax(1) == inputs.caption_ids).float().mean().item()
    assert figures["clips.accuracy"] == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batch_of_one(tmp_path: Path, processes: int) -> None:
    """Their shares are disjoint and together the whole batch, picture for picture after augmentation."""
    cifar = write_cifar(tmp_path / "train.parquet", 60)
    (tmp_path / "classes" / "red").mkdir(parents=True)
    for number in range(5):
        Image.fromarray(picture(number, np.random.default_rng(number), 40)).save(tmp_path / f"classes/red/{number}.png")
    recipe = data(
        validation_samples=2,
        scenes={"size": 32, "pool": 9},
        cifar10={"path": str(cifar), "holdout": 10, "weight": 0.5},
        folder={"path": str(tmp_path / "classes"), "size": 32, "weight": 0.3},
        clips={"size": 32, "frames": 2, "weight": 0.4},
    )
    tokens = Tokens(TinyModel().tokenize)
    whole = make_inputs(Mixture(recipe, 12, 3).batch(4), 24, tokens, seed=3)
    shares = [Mixture(recipe, 12, 3, number, processes) for number in range(processes)]
    parts = [make_inputs(share.batch(4), 24, tokens, seed=3) for share in shares]
    assert [len(part.caption_ids) for part in parts] == [12 // processes] * processes
    keys = torch.empty(12, dtype=torch.int64)
    for number, part in enumerate(parts):
        keys[number::processes] = part.caption_keys
    assert torch.equal(keys, whole.caption_keys)
    for number, part in enumerate(parts):
        for mine, sample in enumerate(samples_of(part)):
            assert torch.equal(sample, samples_of(whole)[number + mine * processes])
    assert shares[0].heldout()
    assert all(not share.heldout() for share in shares[1:])


def samples_of(inputs: Any) -> list[torch.Tensor]:
    """The pictures of each sample."""
    stretches = inputs.pictures.split([count * frames for count, frames in inputs.runs])
    return [sample for rows, run in zip(stretches, inputs.runs, strict=True) for sample in rows.unflatten(0, run)]


def test_caption_keys_are_equal_where_captions_are() -> None:
    recipe = data(scenes={"size": 32, "pool": 3})
    batch = Mixture(recipe, 9, 0).batch(0)
    inputs = make_inputs(batch, 16, Tokens(TinyModel().tokenize), seed=0)
    captions = np.array(batch.parts[0].captions)
    equal = inputs.caption_keys[:, None] == inputs.caption_keys[None]
    assert np.array_equal(equal.numpy(), captions[:, None] == captions[None])
