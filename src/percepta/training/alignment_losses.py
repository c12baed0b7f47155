"""Losses of alignment and distillation: pure functions from tokens to one number.

Perception Encoder, arXiv 2504.13181: spatial alignment (section 5), small models (section 2.3 and the appendix).
Order of this file: the same token, pairs of tokens, pictures and words.
Unusual: the paper prints the first loss without its minus sign; here less is always better. The temperature of pairs
is the teacher's alone, and the student is to reach the tempered structure with its plain cosines.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from percepta.errors import out_of_range, wrong_shape
from percepta.training.objectives import LOG_SCALE_LIMIT

TEMPERATURE = 20.0
"""Of pairs of the teacher's tokens: a cosine of 0.9 becomes exp(-2) = 0.14."""
TEACHER_SCALE = 200.0
"""Scale of a contrastive teacher's similarities: half the temperature that a trained model has."""


def token_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Minus the mean cosine between each token and the teacher's token of the same place; -1 is perfect.

    Args:
        student: (B, N, D), all tokens, hidden ones too.
        teacher: (B, N, D); receives no gradient.

    Returns: 0-d float32 in [-1, 1]. Raises: BadInput where the shapes differ.
    """
    if student.ndim != 3 or student.shape != teacher.shape:
        raise wrong_shape("teacher", teacher.shape, f"of student, {tuple(student.shape)}", "token_loss")
    return -functional.cosine_similarity(student.float(), teacher.detach().float(), dim=-1).mean()


def pair_cosines(tokens: Tensor) -> Tensor:
    """(B, N, D) → (B, N, N) float32, the cosine of each pair of tokens of a picture."""
    units = functional.normalize(tokens.float(), dim=-1)
    return units @ units.transpose(1, 2)


def tempered(cosines: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """exp(t (P - 1)): 1 stays 1, everything else falls towards 0, the faster the larger t."""
    return torch.exp(temperature * (cosines - 1))


def pair_loss(student: Tensor, teacher: Tensor, temperature: float | None = TEMPERATURE) -> Tensor:
    """Mean square difference of the two structures: which tokens of a picture are alike.

    Args:
        student: (B, N, D) tokens.
        teacher: (B, N, K) anything of the same places, such as the logits of K masks; receives no gradient.
        temperature: t of `tempered`, for the teacher's cosines alone; None compares cosines with cosines.

    Returns:
        0-d float32, 0 where P(student) equals the tempered P(teacher). As P(student) may be negative and the tempered
        one not, at most 4.

    Raises: BadInput for other shapes or a temperature that is not positive.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        allowed = f"{tuple(student.shape[:2])} and channels"
        raise wrong_shape("teacher", teacher.shape, allowed, "pair_loss")
    if temperature is not None and not temperature > 0:
        raise out_of_range("temperature", temperature, "positive", "pair_loss")
    wanted = pair_cosines(teacher.detach())
    if temperature is not None:
        wanted = tempered(wanted, temperature)
    return functional.mse_loss(pair_cosines(student), wanted)


def contrast_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    teacher_images: Tensor,
    teacher_texts: Tensor,
    teacher_scale: float = TEACHER_SCALE,
) -> Tensor:
    """KL(teacher || student) of who belongs to whom in a batch, the mean of both directions.

    Args:
        images, texts: (B, D) embeddings of the student; normalised here.
        logit_scale: 0-d, the logarithm of the student's scale, which is learned; used up to ln(100).
        teacher_images, teacher_texts: (B, E) of the teacher; receive no gradient.
        teacher_scale: what multiplies the teacher's cosines.

    Returns: 0-d float32, 0 for a student with the teacher's similarities and scale.

    Raises: BadInput for shapes that do not fit together.
    """
    for name, value in {"texts": texts, "teacher_images": teacher_images, "teacher_texts": teacher_texts}.items():
        if value.ndim != 2 or len(value) != len(images):
            raise wrong_shape(name, value.shape, f"({len(images)}, channels)", "contrast_loss")
    own = logit_scale.float().clamp(max=LOG_SCALE_LIMIT).exp() * _similarities(images, texts)
    wanted = teacher_scale * _similarities(teacher_images.detach(), teacher_texts.detach())
    return (_divergence(wanted, own) + _divergence(wanted.T, own.T)) / 2


def _similarities(images: Tensor, texts: Tensor) -> Tensor:
    return functional.normalize(images.float(), dim=-1) @ functional.normalize(texts.float(), dim=-1).T


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over rows."""
    logs = student.log_softmax(dim=1)
    return functional.kl_div(logs, teacher.log_softmax(dim=1), log_target=True, reduction="batchmean")
