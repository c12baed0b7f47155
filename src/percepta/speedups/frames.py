"""Merging over space and time: neighbouring frames of a video become one sequence of tokens.

An encoder of pictures sees the frames of a video one by one. At a seam, between the attention and the MLP of a block,
the sequences of every two consecutive frames are put together and merged down to the length of one, so what stays still
is encoded once. From there on the tokens of both frames attend to each other; where two frames are the same the result
is too, since attention and pooling count each token by its size (arXiv 2210.09461, §5, merges the space-time tokens of
video models; encoders of pictures have none until frames are joined).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from percepta.layers import Tokens, shortened
from percepta.speedups.strategies import Moment, Strategy


@dataclass(frozen=True, slots=True)
class MergeFrames:
    """A policy of one block: every two consecutive sequences of a batch become one of the same length."""

    strategy: Strategy
    moment: Moment
    proportional: bool = True

    def __call__(self, tokens: Tokens, keys: Tensor) -> Tokens:
        together = joined(tokens, self.moment.protected)
        keys = paired(keys.transpose(1, 2), self.moment.protected).transpose(1, 2)
        return shortened(together, self.strategy(together, keys, self.moment), self.proportional)


def joined(tokens: Tokens, protected: int) -> Tokens:
    """Sequences 2i and 2i + 1 of a batch as sequence i: (2B, n, D) → (B, 2n - protected, D).

    The protected tokens in front are averaged by size. The others alternate, one of the first frame and one of the
    second, so that a bipartite matching compares frame with frame. Input tokens of a group map stand one frame after
    the other.
    """
    x, inputs = tokens.x, tokens.x.shape[1]
    size = x.new_ones(x.shape[:2], dtype=torch.float32) if tokens.size is None else tokens.size
    group = torch.arange(inputs, device=x.device).expand(len(x), -1) if tokens.group is None else tokens.group
    weights = size.unflatten(0, (-1, 2))[:, :, :protected]
    lead = x.unflatten(0, (-1, 2))[:, :, :protected].float() * weights.unsqueeze(-1)
    features, sizes = paired(x, protected), paired(size, protected)
    sizes = torch.cat([weights.sum(dim=1), sizes[:, protected:]], dim=1)
    mean = lead.sum(dim=1) / weights.sum(dim=1).unsqueeze(-1)
    return Tokens(
        x=torch.cat([mean.to(x.dtype), features[:, protected:]], dim=1),
        size=sizes,
        position=None if tokens.position is None else paired(tokens.position, protected),
        group=joined_groups(group, protected),
    )


def paired(values: Tensor, protected: int) -> Tensor:
    """(2B, n, ...) → (B, 2n - protected, ...): protected rows of the first sequence, then rows of both in turn."""
    pairs = values.unflatten(0, (-1, 2))
    return torch.cat([pairs[:, 0, :protected], pairs[:, :, protected:].transpose(1, 2).flatten(1, 2)], dim=1)


def joined_groups(group: Tensor, protected: int) -> Tensor:
    """(2B, inputs) rows of each frame → (B, 2 inputs) rows of `paired`; -1 stays."""
    pairs = group.unflatten(0, (-1, 2))
    second = torch.arange(2, device=group.device)[:, None]
    rows = torch.where(pairs < protected, pairs, 2 * pairs - protected + second)
    return torch.where(pairs < 0, pairs, rows).flatten(1)
