"""Ways to choose the tokens to merge, by name.

A strategy is a pure function of the tokens in front of the merge and the keys of the attention before it. All of them
remove the same number of tokens, so they cost the same; what they keep apart differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from percepta.layers import Plan, Tokens, match_agglomerative, match_bipartite, shortened


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a merge happens: tokens to remove, leading tokens to protect, and the place of the block, 0 to 1."""

    remove: int
    protected: int
    depth: float


Strategy = Callable[[Tokens, Tensor, Moment], Plan]
"""(tokens, keys (B, heads, N, head_dim), moment) → a plan."""


def bipartite(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """The rule of the paper: even tokens join the closest odd token, by the cosine of keys averaged over heads."""
    return match_bipartite(keys.mean(dim=1), moment.remove, moment.protected)


def bipartite_ward(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """Even tokens join odd ones, those first whose features lose least, each token counted by its size."""
    return match_bipartite(centred(tokens.x), moment.remove, moment.protected, sizes(tokens))


def agglomerative(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """The two clusters whose union loses least, again and again, among all tokens."""
    return match_agglomerative(centred(tokens.x), moment.remove, moment.protected, sizes(tokens))


def centred(x: Tensor) -> Tensor:
    """Features without their mean over channels, which the next norm takes away anyway: (B, N, D) float32."""
    x = x.detach().float()
    return x - x.mean(dim=-1, keepdim=True)


def sizes(tokens: Tokens) -> Tensor:
    """(B, N): ones before the first merge."""
    return torch.ones_like(tokens.x[..., 0]) if tokens.size is None else tokens.size


STRATEGIES: dict[str, Strategy] = {
    "bipartite": bipartite,
    "bipartite-ward": bipartite_ward,
    "agglomerative": agglomerative,
}


@dataclass(frozen=True, slots=True)
class Merge:
    """A policy of one block: choose by a strategy, average, carry sizes, positions and group maps along."""

    strategy: Strategy
    moment: Moment
    proportional: bool = True

    def __call__(self, tokens: Tokens, keys: Tensor) -> Tokens:
        return shortened(tokens, self.strategy(tokens, keys, self.moment), self.proportional)
