"""What a transformer costs when it loses tokens on the way: multiply-adds in closed form.

A block with n tokens before its merge and m after it costs a·n + 2·n²·D + b·m, where a and b count the weights of its
linear layers before and after the merge (4 D² and 8 D² for the usual ViT) and D the channels of its attention. Softmax,
norms and the matching itself are not counted, as in the tables of the paper (arXiv 2210.09461).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from percepta.errors import out_of_range
from percepta.layers.token_merging import token_counts


@dataclass(frozen=True, slots=True)
class BlockCost:
    """Of one block: weights used before and after the merge for each token, and channels of its attention (0 for one
    whose cost does not grow with the square of the tokens)."""

    before: int
    after: int
    channels: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model costs.

    Attributes:
        blocks: the cost of each block.
        tokens: tokens of one picture at the model's own size, protected ones included.
        protected: leading tokens that never merge.
        start: multiply-adds before the first block.
        end: multiply-adds a token behind the last block, and those that do not depend on tokens.
        seams: blocks at which two sequences of a video become one of the same length; costs are those of a frame.
    """

    blocks: tuple[BlockCost, ...]
    tokens: int
    protected: int
    start: int = 0
    end: tuple[int, int] = (0, 0)
    seams: tuple[int, ...] = ()

    def counts(self, removed: Sequence[int]) -> list[int]:
        """Tokens of a sequence behind each block when it removes so many; a seam removes what the seam brought."""
        own = [0 if index in self.seams else number for index, number in enumerate(removed)]
        return token_counts(self.tokens, own, self.protected)

    def layers(self, removed: Sequence[int]) -> list[int]:
        """Multiply-adds of each block when it removes so many tokens."""
        costs, frames = [], 1
        for index, (n, m) in enumerate(itertools.pairwise([self.tokens, *self.counts(removed)])):
            block = self.blocks[index]
            before = (block.before * n + 2 * n * n * block.channels) // frames
            frames *= 1 + (index in self.seams)
            costs.append(before + block.after * m // frames)
        return costs

    def total(self, removed: Sequence[int]) -> int:
        """Multiply-adds of the whole model for one picture."""
        end = self.end[0] * self.counts(removed)[-1] + self.end[1]
        return self.start + sum(self.layers(removed)) + end // 2 ** len(self.seams)


def schedule_for(shape: Shape, flops: float, weights: Sequence[float] | None = None) -> list[int]:
    """Tokens to remove in each block so that the model costs at most `flops` of its full cost.

    Args:
        shape: the model.
        flops: share of the multiply-adds, above 0 and at most 1.
        weights: how the removed tokens are spread over the blocks, any numbers of 0 or more; the same for every block
            by default.

    Returns: the schedule with the fewest tokens removed, and those as late as the rounding allows.

    Raises: BadInput for a share outside its range, or one that no schedule of these weights reaches (the message
        gives the smallest that can be reached).
    """
    if not 0.0 < flops <= 1.0:
        raise out_of_range("flops", flops, "above 0 and at most 1")
    shares = [1.0] * len(shape.blocks) if weights is None else [float(weight) for weight in weights]
    heaviest = max(shares)
    full = replace(shape, seams=()).total([0] * len(shares))

    def spread(level: float) -> list[int]:
        """Rounded so that the running sum is right: what a block loses by rounding, a later one gets."""
        found, wanted, given = [], 0.0, 0
        for share in shares:
            wanted += level * share / heaviest
            found.append(int(wanted + 1e-9) - given)
            given += found[-1]
        return found

    low, high = 0.0, float(shape.tokens)
    if shape.total(spread(high)) > flops * full:
        least = shape.total(spread(high)) / full
        raise out_of_range("flops", flops, f"at least {least:.2f}, the least that this model can reach")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if shape.total(spread(middle)) <= flops * full else (middle, high)
    found = spread(high)
    return [before - after for before, after in itertools.pairwise([shape.tokens, *shape.counts(found)])]
