"""Losses of alignment and distillation: signs, zeros, and who receives gradients."""

from __future__ import annotations

import math

import pytest
import torch

from percepta.errors import BadInput
from percepta.training.alignment_losses import contrast_loss, pair_cosines, pair_loss, tempered, token_loss


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_token_loss_is_minus_one_at_equality_and_one_for_opposites() -> None:
    x = tokens(2, 5, 8)
    assert token_loss(3 * x, x).item() == pytest.approx(-1, abs=1e-6)
    assert token_loss(-x, x).item() == pytest.approx(1, abs=1e-6)


def test_following_the_gradient_raises_the_cosine() -> None:
    student, teacher = tokens(2, 5, 8).requires_grad_(), tokens(2, 5, 8, seed=1).requires_grad_()
    before = token_loss(student, teacher)
    before.backward()
    assert teacher.grad is None
    moved = (student - 20 * student.grad).detach()
    cosine = torch.nn.functional.cosine_similarity(moved, teacher, dim=-1).mean()
    assert cosine > 0.2 - before


def test_pairs_are_zero_for_the_tempered_structure_and_the_temperature_is_the_teacher_s_alone() -> None:
    angles = torch.tensor([0.0, 0.1, 0.35])
    teacher = torch.stack([angles.cos(), angles.sin()], -1)[None]
    wanted = torch.exp(20 * (torch.cos(angles[:, None] - angles[None]) - 1))
    assert torch.allclose(tempered(pair_cosines(teacher))[0], wanted, atol=1e-5)
    student = torch.linalg.cholesky(wanted.double())[None].float()  # tokens whose plain cosines are these
    assert pair_loss(student, teacher).item() == pytest.approx(0, abs=1e-9)
    assert pair_loss(teacher, teacher).item() > 0.01  # equal tokens, but the student's cosines are not tempered
    assert pair_loss(teacher, teacher, temperature=None).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_pairs_by_the_formula(temperature: float) -> None:
    student, logits = tokens(2, 6, 4), tokens(2, 6, 9, seed=1)
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (student, logits)]
    total = 0.0
    for row in range(2):
        for i in range(6):
            for j in range(6):
                mine, theirs = ((x[row, i] * x[row, j]).sum().item() for x in unit)
                total += (mine - math.exp(temperature * (theirs - 1))) ** 2
    assert pair_loss(student, logits, temperature).item() == pytest.approx(total / 72, rel=1e-5)


def test_pairs_teach_the_student_alone() -> None:
    student, teacher = tokens(1, 6, 4).requires_grad_(), tokens(1, 6, 9, seed=1).requires_grad_()
    pair_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_contrast_is_zero_for_the_teacher_itself_and_symmetric_in_pictures_and_words() -> None:
    images, texts, others = (tokens(6, 8, seed=seed) for seed in range(3))
    scale = torch.tensor(math.log(50.0))
    assert contrast_loss(images, texts, scale, images, texts, 50.0).item() == pytest.approx(0, abs=1e-6)
    one = contrast_loss(images, texts, scale, others, texts)
    assert one.item() == pytest.approx(contrast_loss(texts, images, scale, texts, others).item(), rel=1e-5)
    assert one > 0


def test_contrast_by_the_formula_with_half_the_temperature() -> None:
    images, texts, wanted_images, wanted_texts = (
        torch.nn.functional.normalize(tokens(4, 8, seed=seed), dim=-1) for seed in range(4)
    )
    learned = torch.tensor(0.0, requires_grad=True)
    got = contrast_loss(images, texts, learned, wanted_images, wanted_texts)
    total = 0.0
    for mine, theirs in (
        (images @ texts.T, wanted_images @ wanted_texts.T),
        (texts @ images.T, wanted_texts @ wanted_images.T),
    ):
        p, q = (200 * theirs).softmax(1), mine.softmax(1)
        total += (p * ((p + 1e-30).log() - q.log())).sum(1).mean().item() / 2
    assert got.item() == pytest.approx(total, rel=1e-4)
    got.backward()
    assert learned.grad.abs() > 0


def test_wrong_shapes_and_temperatures_are_refused() -> None:
    with pytest.raises(BadInput, match="teacher"):
        token_loss(tokens(1, 5, 8), tokens(1, 5, 7))
    with pytest.raises(BadInput, match="teacher"):
        pair_loss(tokens(1, 5, 8), tokens(1, 6, 8))
    with pytest.raises(BadInput, match="temperature"):
        pair_loss(tokens(1, 5, 8), tokens(1, 5, 8), 0.0)
    with pytest.raises(BadInput, match="texts"):
        contrast_loss(tokens(5, 8), tokens(4, 8), torch.tensor(0.0), tokens(5, 8), tokens(5, 8))
