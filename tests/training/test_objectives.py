from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as functional

from percepta.errors import BadInput
from percepta.training.objectives import contrastive_loss, masked_token_loss


def embeddings(count: int = 12, width: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, count, width, generator=generator)
    return functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1)


def test_distinct_captions_give_the_loss_of_open_clip() -> None:
    from open_clip.loss import ClipLoss

    images, texts = embeddings()
    scale = torch.tensor(math.log(20.0))
    expected = ClipLoss()(images, texts, scale.exp())
    torch.testing.assert_close(contrastive_loss(images, texts, scale), expected)
    torch.testing.assert_close(contrastive_loss(images, texts, scale, torch.arange(12)), expected)


def test_embeddings_need_not_be_unit_vectors() -> None:
    images, texts = embeddings()
    scale = torch.tensor(2.0)
    torch.testing.assert_close(contrastive_loss(images * 7, texts * 0.3, scale), contrastive_loss(images, texts, scale))


def test_equal_captions_share_the_target() -> None:
    images, texts = embeddings(4)
    texts = texts[[0, 1, 0, 3]]
    scale = torch.tensor(1.0)
    logits = scale.exp() * images @ texts.T
    targets = torch.eye(4)
    targets[0, 2] = targets[2, 0] = targets[0, 0] = targets[2, 2] = 0.5
    expected = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, scale, torch.tensor([5, 1, 5, 2])), expected)


def test_duplicates_do_not_push_each_other_away() -> None:
    """Perfect embeddings of two classes reach the smallest possible loss; with distinct targets they cannot."""
    ids = torch.tensor([0, 0, 0, 1, 1, 1])
    perfect = functional.one_hot(ids).float()
    scale = torch.tensor(math.log(100.0))
    assert contrastive_loss(perfect, perfect, scale, ids).item() == pytest.approx(math.log(3), abs=1e-4)
    perfect.requires_grad_(True)
    contrastive_loss(perfect, perfect.detach(), scale, ids).backward()
    assert perfect.grad is not None
    assert perfect.grad.abs().max() < 1e-5


def test_hard_negatives_raise_the_loss_of_images_only() -> None:
    images, texts = embeddings()
    scale = torch.tensor(math.log(10.0))
    plain = contrastive_loss(images, texts, scale)
    near = functional.normalize(texts + 0.1 * torch.randn(12, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    with_one = contrastive_loss(images, texts, scale, hard_negatives=near)
    with_two = contrastive_loss(images, texts, scale, hard_negatives=torch.stack([near, near], 1))
    heavier = contrastive_loss(images, texts, scale, hard_negatives=near, hard_negative_weight=2.0)
    assert plain < with_one < with_two
    torch.testing.assert_close(heavier, with_two)
    logits = torch.cat([10 * images @ texts.T, 10 * (images * near).sum(1, keepdim=True)], 1)
    by_hand = (
        functional.cross_entropy(logits, torch.arange(12))
        + functional.cross_entropy(10 * texts @ images.T, torch.arange(12))
    ) / 2
    torch.testing.assert_close(with_one, by_hand)


def test_masked_hard_negatives_do_not_exist() -> None:
    images, texts = embeddings()
    scale = torch.tensor(2.0)
    nowhere = torch.zeros(12, dtype=torch.bool)
    none = contrastive_loss(images, texts, scale, hard_negatives=texts, hard_negative_mask=nowhere)
    torch.testing.assert_close(none, contrastive_loss(images, texts, scale))
    some = contrastive_loss(
        images, texts, scale, hard_negatives=texts, hard_negative_mask=nowhere.index_fill(0, torch.tensor([3]), True)
    )
    assert some > none


def test_scale_is_never_above_one_hundred() -> None:
    images, texts = embeddings()
    limit = contrastive_loss(images, texts, torch.tensor(math.log(100.0)))
    torch.testing.assert_close(contrastive_loss(images, texts, torch.tensor(9.0)), limit)


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    images, texts = embeddings()
    loss = contrastive_loss(images.bfloat16(), texts.bfloat16(), torch.tensor(2.0))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"texts": torch.zeros(3, 16)}, "texts of contrastive_loss"),
        ({"caption_ids": torch.zeros(3)}, "caption_ids of contrastive_loss"),
        ({"hard_negatives": torch.zeros(12, 2, 8)}, "hard_negatives of contrastive_loss"),
    ],
)
def test_wrong_shapes_are_named(arguments: dict[str, torch.Tensor], words: str) -> None:
    images, texts = embeddings()
    with pytest.raises(BadInput, match=words):
        contrastive_loss(**{"images": images, "texts": texts, "logit_scale": torch.tensor(1.0), **arguments})


def test_only_hidden_tokens_are_compared() -> None:
    tokens, targets = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, 1] = hidden[2, 4] = True
    cosines = [functional.cosine_similarity(tokens[i, j], targets[i, j], dim=0) for i, j in ((0, 1), (2, 4))]
    torch.testing.assert_close(masked_token_loss(tokens, targets, hidden), 1 - sum(cosines) / 2)
    tokens.requires_grad_(True)
    masked_token_loss(tokens, targets, hidden).backward()
    assert tokens.grad is not None
    assert torch.equal(tokens.grad.abs().sum(-1) > 0, hidden)


def test_equal_tokens_have_no_mask_loss_and_targets_no_gradient() -> None:
    tokens = torch.randn(2, 4, 8, requires_grad=True)
    targets = (3 * tokens.detach()).requires_grad_(True)
    hidden = torch.ones(2, 4, dtype=torch.bool)
    loss = masked_token_loss(tokens, targets, hidden)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert targets.grad is None
    assert masked_token_loss(tokens, -targets, hidden).item() == pytest.approx(2)


@pytest.mark.parametrize(
    ("targets", "hidden", "words"),
    [
        (torch.zeros(2, 4, 7), torch.ones(2, 4), "targets of masked_token_loss"),
        (torch.zeros(2, 4, 8), torch.ones(2, 5), "hidden of masked_token_loss"),
    ],
)
def test_wrong_shapes_of_masks_are_named(targets: torch.Tensor, hidden: torch.Tensor, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        masked_token_loss(torch.zeros(2, 4, 8), targets, hidden.bool())
