"""Merging of fine-tunes by the singular vectors of what tuning added to each matrix.

A task matrix has few directions that matter, and those of different tasks overlap. TSV-M keeps each task's share of
the ranks and turns all of them apart (arXiv 2412.00081); Iso-C sums and gives all directions one length (2502.04959).
Order of this file: the two methods, their rules, matrices, the polar factor.
Unusual: kernels of convolutions are matrices from all inputs of a place to its outputs, where the published code
leaves everything but two-dimensional weights to the mean; directions without length are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from percepta.errors import out_of_range
from percepta.merging.fine_tunes import ROUNDING, check_scale
from percepta.merging.streams import FineTunes, KeyRule, State


def tsv_merge(
    base: State, states: Sequence[State], share: float | None = None, scale: float = 1.0
) -> dict[str, Tensor]:
    """TSV-M: base + scale * U S V of each matrix, U and V the nearest with orthonormal columns to those of all tasks'
    largest singular vectors side by side (arXiv 2412.00081, §4.2). Vectors move by the mean of the task vectors.

    Args:
        base: the common ancestor.
        states: one or more.
        share: of each task matrix's ranks that is kept, above 0 to 1; None for 1 / number of models, so that all
            together have room. At least one rank stays.
        scale: the authors' alpha.

    Raises: BadInput for models that do not fit, and for settings out of range.
    """
    models = FineTunes(states, base, "tsv")
    return models.build(tsv_rule(models, share, scale))


def iso_merge(base: State, states: Sequence[State], scale: float = 1.0) -> dict[str, Tensor]:
    """Iso-C: base + scale * mean(S) U V of each summed task matrix U S V (arXiv 2502.04959, §4.1).

    Args:
        base: the common ancestor.
        states: one or more.
        scale: the authors' alpha, which they choose on data. Vectors move by the mean of the task vectors times it.

    Raises: BadInput for models that do not fit, and for settings out of range.
    """
    models = FineTunes(states, base, "iso")
    return models.build(iso_rule(models, scale))


def tsv_rule(models: FineTunes, share: float | None = None, scale: float = 1.0) -> KeyRule:
    """See `tsv_merge`."""
    kept = 1 / len(models) if share is None else share
    if not 0 < kept <= 1:
        raise out_of_range("share", share, "above 0 and up to 1", "tsv")

    def merged(key: str) -> Tensor:
        lefts, lengths, rights = [], [], []
        for model in range(len(models)):
            left, length, right = _largest(models.delta(model, key).flatten(1), kept)
            lefts.append(left)
            lengths.append(length)
            rights.append(right)
        left, right = orthonormal(torch.cat(lefts, dim=1)), orthonormal(torch.cat(rights, dim=1))
        return (left * torch.cat(lengths)) @ right.T

    return _by_matrices(models, merged, scale)


def iso_rule(models: FineTunes, scale: float = 1.0) -> KeyRule:
    """See `iso_merge`."""

    def merged(key: str) -> Tensor:
        total = models.delta(0, key)
        for model in range(1, len(models)):
            total += models.delta(model, key)
        left, length, right = torch.linalg.svd(total.flatten(1), full_matrices=False)
        # Singular vectors without length are arbitrary; the mean is over all ranks, as published.
        held = length > _least(total.flatten(1), length)
        return (left[:, held] * length.mean()) @ right[held]

    return _by_matrices(models, merged, scale)


def orthonormal(columns: Tensor) -> Tensor:
    """The orthogonal polar factor of (M, K) columns: the nearest matrix with orthonormal columns (Procrustes).

    Of columns that depend on each other it is that of their span, so that equal tasks are one direction.
    """
    if not columns.shape[1]:
        return columns
    left, length, right = torch.linalg.svd(columns, full_matrices=False)
    held = length > _least(columns, length)
    return left[:, held] @ right[held]


def _by_matrices(models: FineTunes, merge: KeyRule, scale: float) -> KeyRule:
    """A rule that moves matrices by `merge` and all else by the mean of the task vectors."""
    check_scale(scale, models.method)

    def merged(key: str) -> Tensor:
        origin = models.origin(key)
        if _is_matrix(models.forms[key][1]):
            return origin.add_(merge(key).view_as(origin).to(origin.dtype), alpha=scale)
        return origin.add_(models.mean(key).sub_(origin), alpha=scale)

    return models.rule(merged)


def _is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a weight maps several numbers to several; a table of positions (1, L, D) does not."""
    return len(shape) >= 2 and shape[0] > 1 and torch.Size(shape[1:]).numel() > 1


def _largest(matrix: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """The share of largest singular vectors as columns, with their lengths; none that has no length.

    Those would be arbitrary, and would turn the directions of other tasks.
    """
    left, length, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = max(1, int(share * len(length) + ROUNDING))
    held = length[:rank] > _least(matrix, length)
    return left[:, :rank][:, held], length[:rank][held], right[:rank][held].T


def _least(matrix: Tensor, length: Tensor) -> Tensor:
    """Singular values up to this one are rounding."""
    return length.max() * (max(matrix.shape) * torch.finfo(matrix.dtype).eps)
