"""DAVIS in its published layout, written from generated clips, read and tracked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from percepta.datasets.davis import read_davis
from percepta.datasets.scenes import SceneConfig, make_clip
from percepta.errors import BadInput, BadMedia
from percepta.evaluation import davis_tracking_protocol, evaluate_davis
from percepta.evaluation.davis import working_size
from percepta.evaluation.dense_probes import patch_colours

HEIGHT, WIDTH, FRAMES = 48, 64, 5


def write_davis(root: Path, seeds: tuple[int, ...] = (3, 5)) -> dict[str, np.ndarray]:
    """Two clips with paletted masks; the masks by name."""
    truths = {}
    for seed in seeds:
        clip, name = make_clip(seed, SceneConfig((HEIGHT, WIDTH)), FRAMES), f"clip-{seed}"
        pictures, annotations = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
        pictures.mkdir(parents=True)
        annotations.mkdir(parents=True)
        masks = sum((number + 1) * one.visible_masks.astype(np.uint8) for number, one in enumerate(clip.tracks))
        masks[:, 0, 0] = 255  # void
        for number, (frame, mask) in enumerate(zip(clip.frames, masks, strict=True)):
            Image.fromarray(frame).save(pictures / f"{number:05}.jpg", quality=95)
            image = Image.fromarray(mask, "P")
            image.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
            image.save(annotations / f"{number:05}.png")
        truths[name] = masks
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("\n".join(truths) + "\n")
    return truths


def test_reads_what_was_written(tmp_path: Path) -> None:
    truths = write_davis(tmp_path)
    sequences = read_davis(tmp_path)
    assert [one.name for one in sequences] == list(truths)
    for one in sequences:
        expected = truths[one.name].astype(np.int64)
        expected[expected == 255] = 0
        assert (one.masks() == expected).all()
        assert one.size() == (HEIGHT, WIDTH)
        assert one.pictures((24, 40)).shape == (FRAMES, 24, 40, 3)


def test_tracks_them(tmp_path: Path) -> None:
    write_davis(tmp_path)
    seen = []

    def encode(pictures: np.ndarray) -> dict[str, torch.Tensor]:
        seen.append(pictures.shape)
        return {"layer 2": patch_colours(pictures, (pictures.shape[1] // 4, pictures.shape[2] // 4))}

    result = evaluate_davis(read_davis(tmp_path), encode, patch=4, native=96, protocol=davis_tracking_protocol())
    assert seen == [(FRAMES, 96, 128, 3)] * 2
    assert result["J&F"].value > 0.5
    assert result["J&F"].value == pytest.approx((result["J"].value + result["F"].value) / 2)
    assert result["J&F"].count == result.details["objects"] >= 2
    assert {one.name for one in result.baselines} == {"first mask kept"}
    evaluate_davis(read_davis(tmp_path), encode, patch=4, native=96, protocol=davis_tracking_protocol(size=48))
    assert seen[-1] == (FRAMES, 48, 64, 3)


def test_working_size() -> None:
    assert working_size((480, 854), 448, 14) == (448, 798)
    assert working_size((854, 480), 224, 16) == (400, 224)
    assert working_size((10, 10), 2, 8) == (8, 8)


def test_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ImageSets/2017/val\.txt is not there"):
        read_davis(tmp_path)
    write_davis(tmp_path)
    with pytest.raises(BadInput, match="test-dev"):
        read_davis(tmp_path, split="test-dev")
    (tmp_path / "Annotations/480p/clip-3/00002.png").write_bytes(b"nothing")
    with pytest.raises(BadMedia, match=r"00002\.png of clip-3 must be a mask"):
        read_davis(tmp_path)[0].masks()
    (tmp_path / "Annotations/480p/clip-3/00002.png").unlink()
    with pytest.raises(BadMedia, match="mask for each frame"):
        read_davis(tmp_path)
    (tmp_path / "ImageSets/2017/val.txt").write_text("clip-9\n")
    with pytest.raises(BadMedia, match="at least 3 frames"):
        read_davis(tmp_path)
    (tmp_path / "ImageSets/2017/val.txt").write_text("\n")
    with pytest.raises(BadInput, match="at least one video"):
        read_davis(tmp_path)
    with pytest.raises(BadInput, match="needs sequences"):
        evaluate_davis([], lambda pictures: {}, 4, 96)
