"""How many tokens each block should lose: a schedule found on a few pictures without labels.

The paper removes as many tokens in every block. Which blocks bear more than others depends on the model and its
pictures; here the schedule is searched that changes the model's outputs least at the same multiply-adds: blocks take
turns, each tries to lose more and less, at the expense of all others, and keeps what helps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.speedups.adapters import adapter_for
from percepta.speedups.cost import Shape, schedule_for
from percepta.speedups.merging import merge_tokens
from percepta.speedups.strategies import Strategy

TRIES = 3  # a block and round


@torch.no_grad()
def calibrate_schedule(
    model: nn.Module,
    pictures: Tensor,
    flops: float,
    strategy: str | Strategy = "agglomerative",
    rounds: int = 2,
    encode: Callable[[Tensor], Tensor] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[int]:
    """The tokens to remove in each block so that the outputs on some pictures change least.

    Args:
        model: what `merge_tokens` takes; left as it was, without merging.
        pictures: (B, 3, H, W) preprocessed, of the model's own size; 16 to 64 are enough.
        flops: share of the multiply-adds to keep.
        strategy: the one that the schedule is meant for.
        rounds: how often every block is tried; each round runs the model three times a block.
        encode: pictures → outputs (B, D) whose cosine to those without merging counts; by default what the model
            gives for pictures.
        report: called with the tries done and their number.

    Returns: a schedule for `merge_tokens(model, schedule=...)`.

    Raises: BadInput for pictures of another shape, or a share that cannot be reached.
    """
    if pictures.ndim != 4 or not len(pictures):
        raise BadInput(f"calibrate_schedule needs pictures (B, 3, H, W); got a tensor {tuple(pictures.shape)}.")
    adapter, run = adapter_for(model), encode or outputs_of(model)
    merge_tokens(model, r=0)
    shape, wanted = adapter.shape(), run(pictures)
    tried: dict[tuple[int, ...], float] = {}

    def change(weights: Sequence[float]) -> float:
        schedule = tuple(schedule_for(shape, flops, weights))
        if schedule not in tried:
            with merge_tokens(model, schedule=schedule, strategy=strategy):
                tried[schedule] = float(1.0 - F.cosine_similarity(run(pictures), wanted).mean())
        return tried[schedule]

    blocks = adapter.depth if adapter.last_block_matters else adapter.depth - 1
    best = [1.0] * blocks + [0.0] * (adapter.depth - blocks)
    least, done = change(best), 0
    for _ in range(rounds):
        for block in range(blocks):
            for weights in other_weights(best, block):
                if reachable(shape, flops, weights) and (found := change(weights)) < least:
                    best, least = weights, found
                done += 1
                if report:
                    report(done, rounds * blocks * TRIES)
    return schedule_for(shape, flops, best)


def other_weights(weights: Sequence[float], block: int) -> list[list[float]]:
    """A block's share of the removed tokens at nothing, half and twice; for one at nothing at parts of the mean."""
    own, mean = weights[block], sum(weights) / len(weights)
    shares = (0.0, own / 2, own * 2) if own else (mean / 4, mean / 2, mean)
    return [[*weights[:block], share, *weights[block + 1 :]] for share in shares]


def reachable(shape: Shape, flops: float, weights: Sequence[float]) -> bool:
    """Whether any schedule of these weights costs so little."""
    try:
        return bool(schedule_for(shape, flops, weights))
    except (BadInput, ZeroDivisionError):
        return False


def outputs_of(model: Any) -> Callable[[Tensor], Tensor]:
    """What encodes pictures as one vector each: `encode_image` where a model has it, else its forward."""
    encode = getattr(model, "encode_image", model)

    def run(pictures: Tensor) -> Tensor:
        output = encode(pictures)
        for name in ("image_embeds", "pooler_output", "logits", "last_hidden_state"):  # of transformers
            output = output if isinstance(output, Tensor) else getattr(output, name, None) or output
        return output.flatten(1).float()

    return run
