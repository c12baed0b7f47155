"""What travels between the blocks of every encoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """A batch of tokens and, only once tokens were merged, what each of them stands for.

    Attributes:
        x: features, (B, N, D).
        size: how many input tokens each token stands for, (B, N) float32; None while all sizes are one.
        position: patch coordinates (column, row) of each token, (B, N, 2) float32; None while the grid is whole.
        group: which token each input token went into, (B, input tokens) int64, -1 for one that was dropped; None
            while every token is its own.
        bias: what attention adds to the logits of each key, (B, 1, 1, N) in the dtype of `x`: the logarithm of the
            sizes where attention is proportional; None while that is zero.
    """

    x: Tensor
    size: Tensor | None = None
    position: Tensor | None = None
    group: Tensor | None = None
    bias: Tensor | None = None
