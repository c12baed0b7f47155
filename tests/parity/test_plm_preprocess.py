"""Pictures and videos against transformers' processors of PerceptionLM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from percepta.media.chunks import ChunkPreprocess
from percepta.media.tiling import tile_grid

GREY_LEVEL = 2 / 255


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def port(tiles: int, mode: str = "thumb+tile") -> object:
    from transformers.models.perception_lm.image_processing_perception_lm import PerceptionLMImageProcessor

    return PerceptionLMImageProcessor(
        tile_size=28, max_num_tiles=tiles, vision_input_type=mode, size={"width": 28, "height": 28}
    )


def test_the_port_has_the_same_grids() -> None:
    processor = port(36)
    for width, height in np.random.default_rng(1).integers(1, 200, (150, 2)).tolist():
        fitting = processor._fit_image_to_canvas(width, height, 28)  # type: ignore[attr-defined]
        want = fitting or processor._find_closest_aspect_ratio(width, height, 28)  # type: ignore[attr-defined]
        assert tuple(tile_grid(width, height, 36, 28)) == (*want, fitting is not None)


@pytest.mark.parametrize("size", [(60, 40), (23, 50), (200, 31)])
def test_the_ports_pictures_by_name(size: tuple[int, int]) -> None:
    picture = noise(*size)
    want = torch.as_tensor(np.array(port(6)(picture, return_tensors="np")["pixel_values"][0]))  # type: ignore[operator]
    named = ChunkPreprocess(28, tiles=6, rule="transformers")(picture).pixels
    official = ChunkPreprocess(28, tiles=6)(picture).pixels
    assert named.shape == want.shape
    assert torch.allclose(named, want, atol=1e-6)
    assert (official - want).abs().max() >= 0.99 * GREY_LEVEL


def test_the_ports_videos_by_name() -> None:
    from transformers.models.perception_lm.video_processing_perception_lm import PerceptionLMVideoProcessor

    frames = np.stack([np.asarray(noise(60 + number, 40))[:, :60] for number in range(9)])
    processor = PerceptionLMVideoProcessor(size={"height": 28, "width": 28})
    named = ChunkPreprocess(28, frames=4, rule="transformers").video(frames)
    want = processor(torch.from_numpy(frames[list(named.frames)]).permute(0, 3, 1, 2), return_tensors="pt")
    assert named.frames == (0, 2, 4, 6)
    assert torch.allclose(named.pixels, want["pixel_values_videos"][0], atol=1e-6)


def test_the_port_tiles_every_one_of_several_pictures_and_we_do_not() -> None:
    pictures = [noise(60, 40), noise(60, 40)]
    tiled = port(6)(pictures, return_tensors="np")["pixel_values"]  # type: ignore[operator]
    plain = port(6, "vanilla")(pictures, return_tensors="pt")["pixel_values"]  # type: ignore[operator]
    named = ChunkPreprocess(28, tiles=6, rule="transformers")(pictures)
    assert len(tiled[0]) == 7
    assert named.pixels.shape == (2, 3, 28, 28)
    assert torch.allclose(named.pixels, plain.flatten(0, 1), atol=1e-6)
