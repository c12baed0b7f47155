"""Duplicates: what counts as a copy and what does not, which one is kept, and that nothing is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.datasets.scenes import SceneConfig, make_batch
from percepta.errors import BadInput, BadMedia
from percepta.media import write_video
from percepta.results import Duplicates
from percepta.tasks.indexing.duplicates import duplicates
from percepta.tasks.indexing.looks import Look, alike, likeness, look_of_picture
from tests.tasks import nano

SCENES = 40


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [
        Image.fromarray(array) for array in make_batch(range(1_000_000, 1_000_000 + SCENES), SceneConfig(128)).pictures
    ]


def names(found: Duplicates, folder: Path) -> dict[str, list[list[str]]]:
    """By kind: the groups as names inside the folder, the kept one first."""
    inside = lambda name: os.path.relpath(name, folder)  # noqa: E731
    table: dict[str, list[list[str]]] = {}
    for group in found:
        table.setdefault(group.kind, []).append([inside(group.keep), *map(inside, group.others)])
    return {kind: sorted(groups) for kind, groups in table.items()}


def dated(picture: Image.Image, path: Path, second: int) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = f"2024:05:01 10:00:{second:02d}"
    picture.save(path, exif=exif, quality=92)


def cropped(picture: Image.Image, share: float) -> Image.Image:
    width, height = picture.size
    return picture.crop((round(share * width), round(share / 2 * height), width, height - round(share / 2 * height)))


def test_exact_near_and_others(tmp_path: Path, scenes: list[Image.Image]) -> None:
    first, second, third = scenes[:3]
    first.save(tmp_path / "a.jpg", quality=95)
    (tmp_path / "a copy.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    first.resize((64, 64)).save(tmp_path / "a small.jpg", quality=60)
    second.save(tmp_path / "b.png")
    second.save(tmp_path / "b.bmp")
    second.convert("RGBA").save(tmp_path / "b with alpha.png")
    cropped(second, 0.05).save(tmp_path / "b cropped.jpg", quality=90)
    third.save(tmp_path / "c.jpg")
    before = {path.name: path.stat() for path in tmp_path.iterdir()}
    found = duplicates(tmp_path)
    exact, near = found.of("exact"), found.of("near")
    assert names(found, tmp_path)["exact"][0] == ["a.jpg", "a copy.jpg"]
    assert {Path(group.keep).name for group in exact} == {"a.jpg", "b.png"}
    assert {Path(name).name for group in exact for name in group.others} == {"a copy.jpg", "b.bmp", "b with alpha.png"}
    assert names(found, tmp_path)["near"] == [["a.jpg", "a small.jpg"], ["b.png", "b cropped.jpg"]]
    assert near[0].why == "most pixels: 16,384"
    spare = [path for path in tmp_path.iterdir() if str(path) in found.others]
    assert found.savings == sum(path.stat().st_size for path in spare)
    assert (found.count, len(found.others)) == (8, 5)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == {
        name: status.st_mtime_ns for name, status in before.items()
    }


def test_every_distortion_is_found_and_no_other_scene(tmp_path: Path, scenes: list[Image.Image]) -> None:
    distortions: dict[str, Callable[[Image.Image], Image.Image]] = {
        "plain": lambda picture: picture,
        "half": lambda picture: picture.resize((64, 64), Image.Resampling.LANCZOS),
        "double": lambda picture: picture.resize((256, 256), Image.Resampling.BICUBIC),
        "darker": lambda picture: picture.point(lambda value: value * 0.85),
        "crop": lambda picture: cropped(picture, 0.03),
    }
    for number, scene in enumerate(scenes):
        for name, distort in distortions.items():
            distort(scene).save(tmp_path / f"{number:02d} {name}.jpg", quality=70)
    found = duplicates(tmp_path, ["near"])
    right = wrong = 0
    for group in found:
        numbers = {Path(name).name[:2] for name in (group.keep, *group.others)}
        right += len(group.others) if len(numbers) == 1 else 0
        wrong += len(numbers) - 1
        assert Path(group.keep).name.endswith("double.jpg")
    assert wrong == 0
    assert right >= 0.97 * SCENES * (len(distortions) - 1)


def test_either_may_be_the_crop(scenes: list[Image.Image]) -> None:
    whole = np.stack([look_of_picture(scene).fine[0] for scene in scenes])
    part = np.stack([look_of_picture(cropped(scene, 0.06)).fine[0] for scene in scenes])
    forth, back = likeness(whole, part), likeness(part, whole)
    assert forth.copies.mean() >= 0.9
    assert np.array_equal(forth.copies, back.copies)
    others = likeness(whole, np.roll(part, 1, axis=0))
    assert not others.copies.any()


def test_one_small_change_is_no_copy() -> None:
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 255, (6, 6), dtype=np.uint8))
    picture = np.asarray(small.resize((256, 256), Image.Resampling.BICUBIC)).copy()
    changed = picture.copy()
    changed[96:144, 96:144] = 255 - changed[96:144, 96:144]
    fine = [look_of_picture(array).fine for array in (picture, changed)]
    assert not likeness(fine[0], fine[1]).copies[0]
    assert likeness(fine[0], fine[0]).copies[0]


def test_another_colour_is_no_copy(tmp_path: Path) -> None:
    for name, colour in (("red", (200, 60, 60)), ("green", (52, 123, 60)), ("grey", (102, 102, 102))):
        array = np.full((60, 80, 3), colour, np.uint8)  # three colours of one brightness
        array[:20, :40] = 255
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    assert not duplicates(tmp_path).groups


def test_pictures_without_contrast_are_copies_only_when_equal(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (60, 40), (number, number, number)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (60, 40), (2, 2, 2)).save(tmp_path / "2 again.png")
    assert names(duplicates(tmp_path), tmp_path) == {"exact": [["2.png", "2 again.png"]]}


def test_groups_do_not_chain() -> None:
    """A row of pictures that each resemble the next: the ends do not come into one group."""
    base = np.random.default_rng(1).integers(0, 255, (8, 8), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(base).resize((400, 100), Image.Resampling.BICUBIC))
    pictures = [wide[:, shift : shift + 100] for shift in range(0, 100, 4)]
    found = duplicates(pictures, ["near"])
    shown = {f"{number}": picture for number, picture in enumerate(pictures)}
    assert len(found) >= 2
    assert max(len(group) for group in found) < len(shown) / 2


def test_bursts_keep_the_sharpest(tmp_path: Path, scenes: list[Image.Image]) -> None:
    wide = scenes[0].resize((256, 256), Image.Resampling.BICUBIC)
    moved = [wide.crop((number * 4, 0, 200 + number * 4, 200)) for number in range(4)]
    for number, picture in enumerate(moved):
        blurred = picture if number == 2 else picture.resize((60, 60)).resize((200, 200))
        dated(blurred, tmp_path / f"burst {number}.jpg", number)
    dated(scenes[1].resize((200, 200)), tmp_path / "another sight.jpg", 2)
    dated(moved[0].rotate(5), tmp_path / "later.jpg", 40)
    found = duplicates(tmp_path, "burst")
    assert names(found, tmp_path) == {"burst": [["burst 2.jpg", "burst 0.jpg", "burst 1.jpg", "burst 3.jpg"]]}
    assert found[0].why == "sharpest"
    assert not duplicates(tmp_path, "burst", seconds=0.5).groups


def test_without_a_date_only_what_is_very_alike_is_a_burst(tmp_path: Path, scenes: list[Image.Image]) -> None:
    wide = scenes[2].resize((256, 256), Image.Resampling.BICUBIC)
    for number in range(2):
        wide.crop((number * 3, 0, 240 + number * 3, 240)).save(tmp_path / f"near {number}.png")
    for number in range(3, 8):
        scenes[number].save(tmp_path / f"{number}.png")
    for path in tmp_path.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))  # as after a copy of the folder
    (group,) = duplicates(tmp_path, "burst")
    assert {Path(name).name for name in (group.keep, *group.others)} == {"near 0.png", "near 1.png"}


def video(path: Path, number: int, black: int = 0, rate: int = 10, side: int = 96, step: int = 1) -> Path:
    """A second and a half of something that moves, after a black beginning."""
    base = np.random.default_rng(number).integers(0, 255, (5, 9, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(base).resize((2 * 96, 96), Image.Resampling.BICUBIC))
    frames = [np.zeros((96, 96, 3), np.uint8)] * black + [wide[:, 2 * n : 2 * n + 96] for n in range(30)]
    return write_video(path, [Image.fromarray(frame).resize((side, side)) for frame in frames[::step]], rate)


def test_videos(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 1)
    video(tmp_path / "a small and half as often.mp4", 1, rate=5, side=64, step=2)
    (tmp_path / "a copy.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    video(tmp_path / "b.mp4", 2)
    video(tmp_path / "longer.mp4", 1, rate=5)
    found = duplicates(tmp_path)
    assert names(found, tmp_path) == {
        "exact": [["a.mp4", "a copy.mp4"]],
        "near": [["a.mp4", "a small and half as often.mp4"]],
    }


def test_videos_that_begin_black_are_not_duplicates(tmp_path: Path) -> None:
    for number in range(3):
        video(tmp_path / f"{number}.mp4", number, black=60)
    write_video(tmp_path / "all black.mp4", np.zeros((90, 96, 96, 3), np.uint8), 10)
    write_video(tmp_path / "all black, other.mp4", np.zeros((90, 96, 96, 3), np.uint8) + 1, 10)
    assert not duplicates(tmp_path).groups


def test_links_are_no_duplicates(tmp_path: Path, scenes: list[Image.Image]) -> None:
    scenes[0].save(tmp_path / "a.png")
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    (tmp_path / "0 link.png").symlink_to(tmp_path / "a.png")
    found = duplicates(tmp_path)
    assert (len(found), found.count) == (0, 1)


def test_of_equals_the_earliest_then_the_shortest_name(tmp_path: Path, scenes: list[Image.Image]) -> None:
    for name, time in (("late.png", 3000), ("early.png", 1000), ("early too.png", 1000)):
        scenes[0].save(tmp_path / name)
        os.utime(tmp_path / name, (time, time))
    found = duplicates(tmp_path, "exact")
    assert (Path(found[0].keep).name, found[0].why) == ("early.png", "shortest name")
    (tmp_path / "early too.png").unlink()
    assert duplicates(tmp_path, "exact")[0].why == "earliest"


def test_what_cannot_be_read_is_told(tmp_path: Path, scenes: list[Image.Image]) -> None:
    scenes[0].save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 3])
    found = duplicates(tmp_path)
    assert [Path(failure.source).name for failure in found.failures] == ["broken.png"]
    assert found.count == 1
    with pytest.raises(BadMedia):
        duplicates(tmp_path, on_error="raise")


def test_an_index_and_its_file(tmp_path: Path) -> None:
    folder = nano.pictures(tmp_path / "photos")
    (folder / "red again.png").write_bytes((folder / "red.png").read_bytes())
    with percepta.index(folder, to=tmp_path / "photos.index", model=nano.model()) as index:
        of_index = duplicates(index)
    assert [Path(group.keep).name for group in of_index] == ["red.png"]
    assert duplicates(str(tmp_path / "photos.index")).groups == of_index.groups == duplicates(folder).groups
    assert of_index.source == str(tmp_path / "photos.index")
    (folder / "red again.png").unlink()
    gone = duplicates(tmp_path / "photos.index")
    assert (len(gone), len(gone.failures)) == (0, 1)


def test_pairs_are_those_of_the_whole_product() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(5000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = np.concatenate(list(alike(rows, 0.97, 5000)))
    product = np.triu(rows @ rows.T, 1)
    assert {tuple(pair) for pair in found.tolist()} == {tuple(pair) for pair in np.argwhere(product >= 0.97).tolist()}
    few = np.concatenate(list(alike(rows, 0.9, 2)))
    assert np.bincount(few[:, 0]).max() == 2
    for first in (0, 2500):
        best = np.argsort(-product[first])[:2]
        assert set(few[few[:, 0] == first, 1].tolist()) == set(best[product[first][best] >= 0.9].tolist())


def test_a_look_of_black_is_nothing() -> None:
    grey = np.full((8, 4, 4, 2), 128, np.uint8)
    black = Look(np.zeros((8, 32, 32), np.uint8), grey, 100)
    assert not black.shows.any()
    assert not black.rough.any()
    half = Look(np.concatenate([black.fine[:4], np.tile(np.arange(32, dtype=np.uint8) * 8, (4, 32, 1))]), grey, 100)
    assert np.linalg.norm(half.rough) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": "exct"}, "did you mean 'exact'"),
        ({"kinds": []}, "needs a kind"),
        ({"seconds": 0}, "seconds of duplicates"),
        ({"on_error": "ignore"}, "on_error"),
        ({"workers": 0}, "workers of duplicates"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        duplicates(tmp_path, **settings)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="holds no picture or video"):
        duplicates(tmp_path)


def test_records_are_ready_for_json(tmp_path: Path, scenes: list[Image.Image]) -> None:
    scenes[0].save(tmp_path / "a.png")
    scenes[0].save(tmp_path / "b.png")
    record = percepta.duplicates(tmp_path).to_dict()
    assert record["groups"][0]["keep"].endswith("a.png")
    assert record["savings"] == (tmp_path / "b.png").stat().st_size
    assert torch.initial_seed is not None
