from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.training.annotated_augmentation import vary_annotated
from percepta.training.data_recipe import ANNOTATED_VIDEOS, AnnotatedAugmentRecipe
from percepta.training.sources import Part


def clips(count: int = 6, frames: int = 4, size: int = 48) -> tuple[Tensor, Tensor]:
    """A white square that moves to the right over black, brightest in the last frame."""
    pictures = torch.zeros(count, frames, size, size, 3, dtype=torch.uint8)
    masks = torch.zeros(count, 2, frames, size, size, dtype=torch.bool)
    for frame in range(frames):
        masks[:, 0, frame, 16:28, 8 + 3 * frame : 20 + 3 * frame] = True
        pictures[:, frame][masks[:, 0, frame]] = 150 + 20 * frame
    return pictures, masks


def vary(recipe: AnnotatedAugmentRecipe, size: int = 48, seed: int = 0) -> tuple[Tensor, Tensor]:
    pictures, masks = clips()
    part = Part("test", np.zeros(0), [], recipe)
    return vary_annotated(pictures, masks, size, part, torch.Generator().manual_seed(seed))


def test_masks_move_with_their_objects() -> None:
    x, masks = vary(AnnotatedAugmentRecipe(flip=0.5, rotate=25, shear=20, scale=(0.7, 1.3), translate=0.1))
    assert (x.shape, masks.shape) == ((6, 4, 3, 48, 48), (6, 2, 4, 48, 48))
    bright = x.mean(2) > 0.3
    both, either = (bright & masks[:, 0]).sum((2, 3)), (bright | masks[:, 0]).sum((2, 3))
    assert (both / either).min() > 0.85
    assert not masks[:, 1].any()
    plain = clips()[1][:, 0]
    assert not any(torch.equal(one, other) for one, other in zip(masks[:, 0], plain, strict=True))


def test_nothing_is_varied_by_default() -> None:
    pictures, masks = clips()
    x, same = vary(AnnotatedAugmentRecipe())
    assert torch.equal(x, pictures.permute(0, 1, 4, 2, 3).float() / 255)
    assert torch.equal(same, masks)


def test_a_clip_turned_round_is_turned_round_as_a_whole() -> None:
    x, masks = vary(AnnotatedAugmentRecipe(reverse=1.0))
    pictures, before = clips()
    assert torch.equal(masks, before.flip(2))
    assert torch.equal(x, pictures.flip(1).permute(0, 1, 4, 2, 3).float() / 255)
    some = vary(AnnotatedAugmentRecipe(reverse=0.5), seed=1)[1]
    turned = [torch.equal(one, other) for one, other in zip(some, before.flip(2), strict=True)]
    assert any(turned)
    assert not all(turned)


def test_colours_change_for_a_clip_and_a_little_for_each_frame() -> None:
    pictures, masks = clips()
    pictures[masks[:, 0]] = 100
    part = Part("test", np.zeros(0), [], AnnotatedAugmentRecipe(brightness=0.4))
    x, _ = vary_annotated(pictures, masks, 48, part, torch.Generator().manual_seed(0))
    levels = x.amax((2, 3, 4))
    assert torch.allclose(levels, levels[:, :1].expand_as(levels))
    assert levels[:, 0].std() > 0.03
    part = replace(part, augment=AnnotatedAugmentRecipe(frame_brightness=0.1))
    x, _ = vary_annotated(pictures, masks, 48, part, torch.Generator().manual_seed(0))
    assert (x.amax((2, 3, 4)).std(1) > 0.001).all()


def test_grey_clips_have_no_colour() -> None:
    pictures, masks = clips()
    pictures[..., 0] = 90
    part = Part("test", np.zeros(0), [], AnnotatedAugmentRecipe(grey=1.0))
    x, _ = vary_annotated(pictures, masks, 48, part, torch.Generator())
    assert torch.allclose(x[:, :, 0], x[:, :, 2])


def test_the_paper_s_variation_keeps_its_promises() -> None:
    x, masks = vary(ANNOTATED_VIDEOS, size=32)
    assert (x.shape, masks.shape) == ((6, 4, 3, 32, 32), (6, 2, 4, 32, 32))
    assert 0 <= x.min() <= x.max() <= 1
    again, _ = vary(ANNOTATED_VIDEOS, size=32)
    assert torch.equal(x, again)


@pytest.mark.parametrize("field", [{"rotate": 90}, {"scale": (2.0, 1.0)}, {"reverse": 1.5}])
def test_impossible_variation_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(field))} of augment must be"):
        AnnotatedAugmentRecipe(**field)  # type: ignore[arg-type]
