from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from percepta.errors import BadInput
from percepta.training.segment_recipe import LossRecipe
from percepta.training.segmentation_loss import dice_loss, focal_loss, mask_iou, segmentation_losses, summed


def given(masks: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 10, 10, generator=draws) > 0.6
    truth[2] = False
    logits = torch.randn(4, masks, 10, 10, generator=draws)
    return logits, torch.rand(4, masks, generator=draws), torch.randn(4, 1, generator=draws), truth


def test_focal_loss_is_the_published_formula() -> None:
    logits, _, _, truth = given()
    p = logits[:, 0].sigmoid().double()
    right = torch.where(truth, p, 1 - p)
    weight = torch.where(truth, 0.25, 0.75)
    torch.testing.assert_close(
        focal_loss(logits[:, 0], truth.float()).double(), -weight * (1 - right) ** 2 * right.log(), atol=1e-5, rtol=1e-5
    )
    plain = functional.binary_cross_entropy_with_logits(logits[:, 0], truth.float(), reduction="none")
    torch.testing.assert_close(focal_loss(logits[:, 0], truth.float(), -1.0, 0.0), plain)


def test_dice_and_iou_of_masks_known_by_hand() -> None:
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert dice_loss(torch.tensor([100.0, -100.0, 100.0, -100.0]), truth).item() == pytest.approx(1 - 3 / 5)
    a, b = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, 1:3] = True, True
    a[1] = b[1] = True
    assert mask_iou(a, b).tolist() == pytest.approx([1 / 3, 1.0, 0.0])


def test_only_the_best_mask_is_taught_but_every_quality() -> None:
    logits, iou, score, truth = given()
    logits[0, 1] = torch.where(truth[0], 5.0, -5.0)
    for value in (logits, iou):
        value.requires_grad_(True)
    losses = segmentation_losses(logits, iou, score, truth)
    (losses.mask + losses.dice).sum().backward(retain_graph=True)
    assert logits.grad is not None
    taught = logits.grad.flatten(2).any(2)
    assert taught.sum(1).tolist() == [1, 1, 0, 1]
    assert taught[0].tolist() == [False, True, False]
    losses.iou.sum().backward()
    assert iou.grad is not None
    assert iou.grad.ne(0).all(1).tolist() == [True, True, False, True]
    assert losses.best[0] == 1.0


def test_a_share_for_the_other_masks_teaches_all_of_them() -> None:
    logits, iou, score, truth = given()
    logits.requires_grad_(True)
    plain, shared = (segmentation_losses(logits, iou, score, truth, LossRecipe(others=share)) for share in (0.0, 0.5))
    every = torch.stack([segmentation_losses(logits[:, [n]], iou[:, [n]], score, truth).dice for n in range(3)])
    torch.testing.assert_close(shared.dice, plain.dice + 0.5 * every.mean(0))
    shared.mask.sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten(2).any(2).sum(1).tolist() == [3, 3, 0, 3]


def test_what_is_not_there_has_no_mask_but_a_presence() -> None:
    logits, iou, score, truth = given(1)
    losses = segmentation_losses(logits, iou, score, truth)
    assert [losses.mask[2], losses.dice[2], losses.iou[2], losses.best[2]] == [0, 0, 0, 0]
    there = truth.flatten(1).any(1).float()
    torch.testing.assert_close(
        losses.presence, functional.binary_cross_entropy_with_logits(score[:, 0], there, reduction="none")
    )


def test_sums_are_weighted_and_divided_by_objects() -> None:
    steps = [segmentation_losses(*given()), segmentation_losses(*given(1))]
    found = summed(steps, 4.0)
    torch.testing.assert_close(found.mask, sum(step.mask.sum() for step in steps) / 4)
    torch.testing.assert_close(found.total, 20 * found.mask + found.dice + found.iou + found.presence)
    torch.testing.assert_close(summed(steps, 0.0).dice, 4 * found.dice)
    other = summed(steps, 4.0, LossRecipe(mask=0, iou=0, presence=0, dice=2.0))
    torch.testing.assert_close(other.total, 2 * found.dice)


def test_shapes_that_do_not_fit_are_refused() -> None:
    logits, iou, score, truth = given()
    with pytest.raises(BadInput, match="truth of segmentation_losses must have the shape"):
        segmentation_losses(logits, iou, score, truth[:, :5])
    with pytest.raises(BadInput, match="dice of loss must be 0 or more"):
        LossRecipe(dice=-1)
