"""Bit-exact with the torchvision pipeline for every mode that it handles, and sensible for the others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision import transforms

from percepta.errors import BadInput, BadMedia
from percepta.media import Preprocess, VideoReader, write_video
from percepta.media.drawing import thumbnail
from percepta.media.resizing import resize_bilinear
from tests.media.broken import png_of_long_transparency

BILINEAR = transforms.InterpolationMode.BILINEAR
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    array = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), array.tobytes())


def official(size: int, resize: str, mean: tuple[float, ...], std: tuple[float, ...]) -> transforms.Compose:
    steps = [transforms.Resize((size, size), interpolation=BILINEAR)]
    if resize != "squash":
        steps = [transforms.Resize(size, interpolation=BILINEAR), transforms.CenterCrop(size)]
    convert = transforms.Lambda(lambda seen: seen.convert("RGB"))
    return transforms.Compose([*steps, convert, transforms.ToTensor(), transforms.Normalize(mean, std)])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("resize", ["squash", "shorter_side_center_crop"])
@pytest.mark.parametrize("size", [(61, 90), (90, 61), (33, 20), (48, 48), (47, 201)])
def test_equal_to_torchvision(mode: str, resize: str, size: tuple[int, int]) -> None:
    thing = picture(*size, mode)
    for mean, std in (((0.5,) * 3, (0.5,) * 3), (CLIP_MEAN, CLIP_STD)):
        got = Preprocess(48, resize, mean, std)(thing)
        assert got.dtype == torch.float32
        assert torch.equal(got, official(48, resize, mean, std)(thing))


@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
def test_a_crop_that_keeps_less_is_equal_to_torchvision(filter_: str) -> None:
    thing = picture(61, 90)
    way = transforms.InterpolationMode(filter_)
    steps = [transforms.Resize(int(256 / 224 * 28), way), transforms.CenterCrop(28), transforms.ToTensor()]
    wanted = transforms.Compose(steps)(thing) * 2 - 1
    got = Preprocess(28, "shorter_side_center_crop", filter=filter_, kept=0.875)(thing)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    with pytest.raises(BadInput, match=r"kept .*between 0.1 and 1"):
        Preprocess(28, kept=0)


def test_equal_on_a_large_jpeg(tmp_path: Path) -> None:
    smooth = picture(36, 24).resize((1800, 1200), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "x.jpg", quality=90)
    transform = official(224, "squash", (0.5,) * 3, (0.5,) * 3)
    assert torch.equal(Preprocess(224)(tmp_path / "x.jpg"), transform(Image.open(tmp_path / "x.jpg")))
    fast = Preprocess(224, fast=True)(tmp_path / "x.jpg")
    difference = (fast - transform(Image.open(tmp_path / "x.jpg"))).abs()
    assert 0 < difference.mean() < 0.01


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(61, 90), (90, 61), (33, 20), (48, 48), (47, 201)])
def test_floats_are_equal_to_torchvision(mode: str, filter_: str, size: tuple[int, int]) -> None:
    """The order of SAM 2's image predictor: to floats, antialiased resize, normalise."""
    thing, how = picture(*size, mode), transforms.InterpolationMode(filter_)
    for resize in ("squash", "shorter_side_center_crop"):
        steps = [transforms.Resize((48, 48) if resize == "squash" else 48, interpolation=how, antialias=True)]
        steps += [] if resize == "squash" else [transforms.CenterCrop(48)]
        wanted = transforms.Normalize(CLIP_MEAN, CLIP_STD)(
            transforms.Compose(steps)(transforms.ToTensor()(thing.convert("RGB")))
        )
        prepare = Preprocess(48, resize, CLIP_MEAN, CLIP_STD, filter=filter_, arithmetic="floats")
        got = prepare(thing)
        assert got.is_contiguous()
        assert torch.equal(got, wanted)
        assert torch.equal(prepare.tensor(prepare.picture(thing)), wanted)
    assert prepare(thing, size=(20, 30)).shape == (3, 20, 30)
    assert torch.equal(prepare(thing, size=None), Preprocess(48, "none", CLIP_MEAN, CLIP_STD)(thing))


@pytest.mark.parametrize("size", [(61, 90), (900, 700), (48, 48)])
def test_bicubic_is_that_of_pil(size: tuple[int, int], tmp_path: Path) -> None:
    """The order of SAM 2's video loader: PIL's bicubic filter on bytes, then floats."""
    picture(*size).save(tmp_path / "x.jpg")
    pixels = np.array(Image.open(tmp_path / "x.jpg").convert("RGB").resize((48, 48)))  # bicubic is PIL's default
    wanted = transforms.Normalize(CLIP_MEAN, CLIP_STD)(torch.from_numpy(pixels / 255.0).permute(2, 0, 1).float())
    got = Preprocess(48, "squash", CLIP_MEAN, CLIP_STD, filter="bicubic")(tmp_path / "x.jpg")
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    assert not torch.equal(got, Preprocess(48, "squash", CLIP_MEAN, CLIP_STD)(tmp_path / "x.jpg")) or size == (48, 48)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "RGBA"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "size", [(64, 64), (64, 700), (500, 31), (301, 64), (250, 300), (250, 306), (250, 305), (280, 40)]
)
def test_bands_change_no_bit(mode: str, bands: int, size: tuple[int, int]) -> None:
    whole = picture(301, 407, mode)
    assert np.array_equal(
        np.asarray(resize_bilinear(whole, size, bands)), np.asarray(whole.resize(size, Image.Resampling.BILINEAR))
    )


def test_palettes_are_converted_first() -> None:
    palette = picture(61, 90).quantize(64)
    assert torch.equal(Preprocess(32)(palette), Preprocess(32)(palette.convert("RGB")))
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=3)
    seen = Image.open(io.BytesIO(buffer.getvalue()))
    assert torch.equal(Preprocess(32)(buffer.getvalue()), Preprocess(32)(seen.convert("RGBA")))
    one = picture(61, 90, "L").convert("1")
    assert torch.equal(Preprocess(32)(one), Preprocess(32)(one.convert("L")))


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"],
)
def test_every_mode_gives_a_tensor(mode: str) -> None:
    for resize in ("squash", "shorter_side_center_crop", "none"):
        got = Preprocess(16, resize)(Image.new(mode, (40, 30)))
        assert got.shape == ((3, 30, 40) if resize == "none" else (3, 16, 16))
        assert torch.isfinite(got).all()


def test_damage_that_shows_after_decoding_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(png_of_long_transparency())
    with pytest.raises(BadMedia, match=r"x\.png' is damaged: it cannot be converted \(palette index out of range\)\.$"):
        Preprocess(16)(tmp_path / "x.png")
    with pytest.raises(BadMedia, match=r"x\.png' is damaged"):
        thumbnail(tmp_path / "x.png")

    def refuse(*profiles: object) -> None:
        raise ImageCms.PyCMSError("cannot build transform")

    monkeypatch.setattr(ImageCms, "buildTransform", refuse)
    with pytest.raises(BadMedia, match=r"the PIL picture .* \(Lab colours: cannot build transform\)\.$"):
        Preprocess(16)(Image.new("LAB", (20, 20)))


def test_sizes() -> None:
    prepare = Preprocess(32)
    thing = picture(61, 90)
    assert prepare(thing, size=(20, 30)).shape == (3, 20, 30)
    assert prepare(thing, size=None).shape == (3, 90, 61)
    assert Preprocess((20, 30))(thing).shape == (3, 20, 30)
    assert Preprocess(32, "shorter_side_center_crop")(thing, size=(20, 30)).shape == (3, 20, 30)
    assert prepare.picture(picture(61, 90, "L")).mode == "L"
    untouched = prepare(thing, size=None)
    assert torch.equal(untouched, transforms.ToTensor()(thing).sub(0.5).div(0.5))


@pytest.mark.parametrize("rule", ["ends", "even"])
def test_video(rule: str, tmp_path: Path) -> None:
    frames = [np.full((32, 48, 3), 20 * number, dtype=np.uint8) for number in range(10)]
    path = write_video(tmp_path / "x.mp4", frames)
    prepare = Preprocess(16)
    got = prepare.video(path, count=4, rule=rule)
    indices = {"ends": [0, 3, 6, 9], "even": [0, 2, 5, 7]}[rule]
    with VideoReader(path) as reader:
        wanted = torch.stack([prepare(frame) for frame in reader.read(indices)])
        assert torch.equal(prepare.video(reader, count=4, rule=rule), wanted)
    assert torch.equal(got, wanted)
    assert prepare.video(frames, count=20, rule=rule).shape == (20, 3, 16, 16)


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": 0},
        {"image_size": (3,)},
        {"image_size": 2.5},
        {"image_size": 10**6},
        {"image_size": 8, "resize": "squish"},
        {"image_size": 8, "filter": "nearest"},
        {"image_size": 8, "arithmetic": "halves"},
        {"image_size": 8, "std": (0.5, 0.5, 0.0)},
        {"image_size": 8, "mean": (0.5, 0.5)},
        {"image_size": 8, "mean": (0.5, 0.5, float("nan"))},
    ],
)
def test_bad_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"\.$"):
        Preprocess(**arguments)  # type: ignore[arg-type]


def test_bad_calls(tmp_path: Path) -> None:
    prepare = Preprocess(8, "shorter_side_center_crop")
    with pytest.raises(BadInput):
        prepare(picture(9, 9), size=-1)
    with pytest.raises(BadMedia, match="too narrow"):
        Preprocess(224, "shorter_side_center_crop")(Image.new("L", (1, 60_000)))
    with pytest.raises(BadInput, match="a video must be"):
        prepare.video(5)
    with pytest.raises(BadInput, match="count"):
        prepare.video([picture(9, 9)], count=0)
    with pytest.raises(BadMedia):
        prepare.video(tmp_path / "none.mp4")
