from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from percepta.training.augmentation import Draws, jitter, prepare_pictures, resize
from percepta.training.recipe import PHOTOGRAPHS, AugmentRecipe


def pictures(count: int = 6, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def draws(total: int = 6, seed: int = 0, **changes: Any) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), total, **changes)


def test_without_variation_pixels_are_only_normalised() -> None:
    given = pictures()
    x = prepare_pictures(given, 32)
    expected = torch.from_numpy(given).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(prepare_pictures(given, 32, AugmentRecipe()), expected)


def test_sizes_change_without_changing_the_mean() -> None:
    flat = np.full((2, 64, 64, 3), 51, np.uint8)
    for size in (32, 48, 96):
        x = prepare_pictures(flat, size, PHOTOGRAPHS.__class__(area=(0.5, 1), flip=0.5, translate=0.1), draws(2))
        assert x.shape == (2, 3, size, size)
        torch.testing.assert_close(x, torch.full_like(x, -0.6))


def test_a_certain_flip_is_a_mirror() -> None:
    x = prepare_pictures(pictures(), 32, AugmentRecipe(flip=1.0), draws())
    torch.testing.assert_close(x, prepare_pictures(pictures(), 32).flip(-1), atol=2e-4, rtol=0)


def test_crops_show_a_part_of_the_picture() -> None:
    """On a horizontal ramp a crop keeps order and spans sqrt(area) of the range."""
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (40, 64, 64, 3))
    x = prepare_pictures(np.ascontiguousarray(ramp), 32, AugmentRecipe(area=(0.25, 0.25)), draws(40))
    assert (x.diff(dim=-1) >= -1e-4).all()
    span = (x[..., -1] - x[..., 0]).mean((1, 2)) / 2
    torch.testing.assert_close(span, torch.full((40,), 0.5), atol=0.03, rtol=0)
    starts = x[:, 0, 0, 0]
    assert starts.std() > 0.1


def test_shifts_stay_within_their_limit() -> None:
    dot = np.zeros((60, 33, 33, 3), np.uint8)
    dot[:, 16, 16] = 255
    x = prepare_pictures(dot, 33, AugmentRecipe(translate=0.1), draws(60)) + 1
    columns = (x.sum((1, 2)) * torch.arange(33)).sum(1) / x.sum((1, 2, 3))
    assert (columns - 16).abs().max() <= 3.3 + 0.1
    assert columns.std() > 0.5


def test_the_same_generator_gives_the_same_pictures() -> None:
    first = prepare_pictures(pictures(), 24, PHOTOGRAPHS, draws(seed=5))
    torch.testing.assert_close(first, prepare_pictures(pictures(), 24, PHOTOGRAPHS, draws(seed=5)), atol=0, rtol=0)
    assert not torch.equal(first, prepare_pictures(pictures(), 24, PHOTOGRAPHS, draws(seed=6)))


def test_saturation_keeps_grey_and_brightness_scales() -> None:
    grey = torch.full((3, 3, 4, 4), 0.4)
    torch.testing.assert_close(jitter(grey, AugmentRecipe(saturation=0.9), draws(3)), grey)
    brighter = jitter(grey, AugmentRecipe(brightness=0.5), draws(3))
    assert ((brighter >= 0.2 - 1e-6) & (brighter <= 0.6 + 1e-6)).all()
    assert brighter.flatten(1).std(1).max() < 1e-6
    assert brighter[:, 0, 0, 0].std() > 0.01


def test_resizing_is_antialiased() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(32).expand(1, 3, 64, 64)
    assert (resize(stripes, 16) - 0.5).abs().max() < 0.2
    assert resize(stripes, 64) is stripes


def test_bfloat_is_never_used_for_pixels() -> None:
    assert prepare_pictures(pictures(), 16, PHOTOGRAPHS, draws()).dtype == torch.float32
    with pytest.raises(RuntimeError):
        prepare_pictures(np.zeros((2, 4, 4), np.uint8), 4)
