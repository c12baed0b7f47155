"""Fewer visual tokens than the projector gives: the most similar ones of a chunk are averaged (ToMe, arXiv 2210.09461).

Unusual: rows stay in the order of the picture, since the decoder knows places by order alone; a row stands where the
first of its tokens stood.
"""

from __future__ import annotations

import torch
from torch import Tensor

from percepta.errors import out_of_range, wrong_shape
from percepta.layers import match_agglomerative


def merge_visual(visual: Tensor, count: int) -> Tensor:
    """Visual tokens of chunks (C, n, D) → (C, count, D), whatever the n.

    Args:
        count: 1 to n tokens a chunk; n gives the very same tensor.

    Raises: BadInput.
    """
    if visual.ndim != 3:
        raise wrong_shape("visual tokens", visual.shape, "(C, n, D)")
    if isinstance(count, bool) or not 1 <= count <= visual.shape[1]:
        raise out_of_range("visual_tokens", count, f"1 to {visual.shape[1]}, the visual tokens of a chunk")
    if count == visual.shape[1]:
        return visual
    rows, size = visual, visual.new_ones(visual.shape[:2])
    first = torch.arange(visual.shape[1], device=visual.device).expand(visual.shape[:2])
    while rows.shape[1] > count:  # a round removes up to half
        plan = match_agglomerative(rows, rows.shape[1] - count, size=size)
        rows, size = plan.merge_weighted(rows, size)
        kept, joined = first.gather(1, plan.kept), first.gather(1, plan.source)
        first = kept.scatter_reduce(1, plan.target, joined, reduce="amin")
    return rows.gather(1, first.argsort(dim=1)[..., None].expand_as(rows))
