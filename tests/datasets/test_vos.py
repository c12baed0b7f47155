"""Readers of video segmentation against what was written, and what they say of broken data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from percepta.datasets.vos import layout_of, open_vos
from percepta.errors import BadInput, BadMedia
from tests.datasets.test_davis import write_davis
from tests.datasets.vos_on_disk import FRAMES, HEIGHT, WIDTH, write_mask, write_mose, write_sav


def test_davis(tmp_path: Path) -> None:
    truths = write_davis(tmp_path)
    assert layout_of(tmp_path) == "davis"
    videos = open_vos(tmp_path)
    assert [video.name for video in videos] == list(truths)
    for video in videos:
        truth = np.where(truths[video.name] == 255, 0, truths[video.name])
        assert video.annotated == tuple(range(len(video)))
        assert all(np.array_equal(video.masks(frame), truth[frame]) for frame in video.annotated)
    with pytest.raises(BadInput, match=r"split .* must be one of val"):
        open_vos(tmp_path, "train")


@pytest.mark.parametrize("part", ["", "valid", "train"])
def test_mose(tmp_path: Path, part: str) -> None:
    truths = write_mose(tmp_path / part, every=2)
    assert layout_of(tmp_path) == "mose"
    for video in open_vos(tmp_path, part or None):
        assert video.annotated == tuple(range(0, FRAMES, 2))
        assert video.size() == (HEIGHT, WIDTH)
        assert video.picture(1).size == (WIDTH, HEIGHT)
        for frame in video.annotated:
            truth = truths[video.name][frame]
            assert np.array_equal(video.masks(frame), truth)
            objects = video.objects(frame)
            assert list(objects) == [number for number in np.unique(truth).tolist() if number]
            assert all(np.array_equal(mask, truth == number) for number, mask in objects.items())


def test_splits_by_their_usual_names(tmp_path: Path) -> None:
    write_mose(tmp_path / "train", (3,))
    write_mose(tmp_path / "valid", (5,))
    assert [video.name for video in open_vos(tmp_path)] == ["clip-5"]
    assert [video.name for video in open_vos(tmp_path, "val")] == ["clip-5"]
    assert [video.name for video in open_vos(tmp_path, "train")] == ["clip-3"]
    with pytest.raises(BadInput, match=r"split .* must be one of train, valid; got 'test'"):
        open_vos(tmp_path, "test")


def test_sav(tmp_path: Path) -> None:
    truths = write_sav(tmp_path / "sav_val")
    assert layout_of(tmp_path) == "sa-v"
    videos = open_vos(tmp_path, "val")
    assert [video.name for video in videos] == list(truths)
    for video in videos:
        assert video.annotated == (0, 4, 8)
        masks = video.masks(4)
        assert isinstance(masks, dict)
        assert all(np.array_equal(mask, truths[video.name][4] == number + 1) for number, mask in masks.items())
        assert all(mask.any() for mask in video.objects(4).values())
    (tmp_path / "sav_val" / "sav_val.txt").write_text("sav_000005\n")
    assert [video.name for video in open_vos(tmp_path / "sav_val")] == ["sav_000005"]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_mose(tmp_path, (3,))
    for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "png")):
        for number in range(FRAMES):
            path = tmp_path / folder / "clip-3" / f"{number:05}.{ending}"
            path.rename(path.with_name(f"{number + 8}.{ending}"))
    (video,) = open_vos(tmp_path)
    assert [path.stem for path in video.frames] == [str(number + 8) for number in range(FRAMES)]
    assert video.annotated == tuple(range(FRAMES))


def test_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="must hold videos with masks"):
        open_vos(tmp_path)
    with pytest.raises(BadInput, match="must hold videos with masks"):
        open_vos(tmp_path / "nowhere")
    write_mose(tmp_path)
    masks = tmp_path / "Annotations" / "clip-3"
    write_mask(masks / "00099.png", np.zeros((HEIGHT, WIDTH)))
    with pytest.raises(BadMedia, match=r"00099\.png of clip-3 belongs to no frame"):
        open_vos(tmp_path)
    (masks / "00099.png").unlink()
    (masks / "00002.png").write_bytes(b"nothing")
    with pytest.raises(BadMedia, match=r"00002\.png of clip-3 must be a mask"):
        open_vos(tmp_path)[0].masks(2)
    for path in masks.iterdir():
        path.unlink()
    with pytest.raises(BadMedia, match="clip-3 needs at least one mask"):
        open_vos(tmp_path)
    (tmp_path / "Annotations" / "clip-9").mkdir()
    with pytest.raises(BadMedia, match="clip-9 has masks but no folder"):
        open_vos(tmp_path)
    (tmp_path / "JPEGImages" / "clip-9").mkdir()
    masks.rmdir()
    with pytest.raises(BadMedia, match="clip-9 needs frames"):
        open_vos(tmp_path)


def test_what_is_wrong_with_sav(tmp_path: Path) -> None:
    write_sav(tmp_path)
    listing = tmp_path / f"{tmp_path.name}.txt"
    listing.write_text("sav_000003\nsav_000003\n")
    with pytest.raises(BadInput, match="sav_000003 stands there twice"):
        open_vos(tmp_path)
    listing.write_text("sav_000009\n")
    with pytest.raises(BadMedia, match="sav_000009 needs frames"):
        open_vos(tmp_path)
    listing.unlink()
    (tmp_path / "Annotations_6fps" / "sav_000003" / "cat").mkdir()
    with pytest.raises(BadMedia, match="numbers of objects; got 'cat'"):
        open_vos(tmp_path)
