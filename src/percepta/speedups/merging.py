"""`merge_tokens`: fewer tokens in a vision transformer that is trained already (ToMe, arXiv 2210.09461).

Between attention and MLP of each block the most similar tokens are averaged, so every later layer has fewer. Nothing is
trained; outputs change a little, speed a lot. Unusual: the model itself is told, once, what each block does; nothing is
kept between calls, so threads, compilation and gradient checkpointing see pure functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from percepta.errors import BadInput, one_of, out_of_range
from percepta.layers import Tokens, removals
from percepta.speedups.adapters import Adapter, FrameAdapter, adapter_for
from percepta.speedups.cost import schedule_for
from percepta.speedups.frames import MergeFrames
from percepta.speedups.strategies import STRATEGIES, Merge, Moment, Strategy


class TokenMerging:
    """What `merge_tokens` did to a model, and the way back; calling it calls the model.

    Attributes:
        model: the model that was told to merge.
        removed: tokens that each block removes, at the model's own picture size.
        tokens: tokens behind each block there.
        macs: multiply-adds of each block there.
        plain_macs: the same without merging.
        flops: multiply-adds of the whole model over those without merging, 0..1.
        strategy: name of the strategy.
        proportional: whether attention counts merged tokens by their size.
        seams: blocks at which two sequences of a video become one of the same length; costs are then those of a frame.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        removed: Sequence[int],
        strategy: str,
        proportional: bool,
        seams: tuple[int, ...] = (),
    ) -> None:
        plain = adapter.shape()
        shape = replace(plain, seams=seams)
        self.model, self._adapter = model, adapter
        self.strategy, self.proportional, self.seams = strategy, proportional, seams
        self.tokens = shape.counts(removed)
        self.removed = [n - m for n, m in itertools.pairwise([shape.tokens, *self.tokens])]
        nothing = [0] * len(removed)
        self.macs, self.plain_macs = shape.layers(removed), plain.layers(nothing)
        self.flops = shape.total(removed) / plain.total(nothing)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The model, merging."""
        return self.model(*arguments, **options)

    def trace(self, x: Tensor) -> Tokens:
        """Preprocessed pictures (B, 3, H, W) → the tokens after the last block, before any final norm, with their
        sizes (B, n) and the group map (B, input tokens); both None where nothing was merged."""
        return self._adapter.last_tokens(x)

    def remove(self) -> None:
        """The model as it was before it merged anything."""
        self._adapter.install(None)

    def __enter__(self) -> TokenMerging:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def __str__(self) -> str:
        rows = [
            f"{index:>5} {count:>7} {macs / 1e6:>12,.1f} {macs / plain:>8.0%}"
            for index, (count, macs, plain) in enumerate(zip(self.tokens, self.macs, self.plain_macs))
        ]
        head = f"{'block':>5} {'tokens':>7} {'million MACs':>12} {'of plain':>8}"
        whole = "a frame of a video" if self.seams else "whole model"
        return "\n".join([head, *rows, f"{whole}: {self.flops:.1%} of the multiply-adds ({self.strategy})"])


def merge_tokens(
    model: nn.Module,
    r: int | tuple[int, float] | Sequence[int] | None = None,
    *,
    schedule: Sequence[int] | None = None,
    flops: float | None = None,
    strategy: str | Strategy = "bipartite",
    proportional: bool | str = "auto",
    last_block: bool | str = "auto",
    frames: int = 1,
) -> TokenMerging:
    """Let a vision transformer merge tokens from now on; `r=0` turns it off.

    Exactly one of `r`, `schedule` and `flops` says how many.

    Args:
        model: an encoder of percepta, or a vision transformer of timm or transformers; changed in place, and told
            anew by a second call. Its weights, its keys and its training are untouched.
        r: tokens that each block removes; (number, inflection) for a straight line with that mean from -1 (most in
            the first blocks) to 1 (most in the last).
        schedule: tokens that each block removes, one by one; missing ones are 0.
        flops: share of the multiply-adds to keep at the model's own picture size, such as 0.5.
        strategy: a name of `percepta.speedups.STRATEGIES`, or a function like those.
        proportional: whether attention counts a merged token by its size; "auto" is yes but for models trained as
            masked autoencoders, which the paper found better without.
        last_block: whether the last block merges; "auto" leaves it out where it cannot change the output.
        frames: how many consecutive frames of a video become one sequence (1, 2, 4, 8): tokens then merge over time,
            too, in `encode_video` alone, and `flops` counts a frame of such a video. Needs a Perception Encoder.

    Returns: what was done, with tokens and multiply-adds a block; it undoes it as well.

    Raises: BadInput for a model that merging would make wrong, or a number that cannot be.
    """
    adapter = adapter_for(model)
    chosen, name = _strategy(strategy)
    seams = _seams(adapter, frames)
    removed = _removed(adapter, r, schedule, flops, seams)
    if proportional not in (True, False, "auto"):
        raise one_of("proportional", proportional, (True, False, "auto"))
    if last_block not in (True, False, "auto"):
        raise one_of("last_block", last_block, (True, False, "auto"))
    if not (adapter.last_block_matters if last_block == "auto" else last_block):
        removed[-1] = 0
    weighted = adapter.proportional if proportional == "auto" else bool(proportional)
    adapter.install(None)
    adapter.check()
    last = max(1, adapter.depth - 1)
    moments = [Moment(number, adapter.protected, index / last) for index, number in enumerate(removed)]
    policies = [Merge(chosen, moment, weighted) if moment.remove else None for moment in moments]
    if any(policies):
        adapter.install(policies)
    if seams:
        assert isinstance(adapter, FrameAdapter)  # or there would be no seams
        everything = replace(moments[0], remove=adapter.shape().tokens)
        joins = {seam: MergeFrames(chosen, replace(everything, depth=seam / last), weighted) for seam in seams}
        adapter.install_frames([joins.get(index, policy) for index, policy in enumerate(policies)], seams)
    return TokenMerging(model, adapter, removed, name, weighted, seams)


def _seams(adapter: Adapter, frames: int) -> tuple[int, ...]:
    """Blocks at which two sequences of frames become one: the first block, then every other one."""
    if frames == 1:
        return ()
    most = 2 ** ((adapter.depth + 1) // 2)
    if isinstance(frames, bool) or not isinstance(frames, int) or frames & (frames - 1) or not 1 <= frames <= most:
        raise out_of_range("frames", frames, f"a power of two, 1 to {most}")
    if not isinstance(adapter, FrameAdapter):
        raise BadInput("frames of a video merge with each other in Perception Encoders of percepta alone.")
    return tuple(range(0, 2 * (frames.bit_length() - 1), 2))


def _strategy(strategy: str | Strategy) -> tuple[Strategy, str]:
    if callable(strategy):
        return strategy, getattr(strategy, "__name__", "own")
    if strategy not in STRATEGIES:
        raise one_of("strategy", strategy, STRATEGIES)
    return STRATEGIES[strategy], strategy


def _removed(adapter: Adapter, r: Any, schedule: Any, flops: float | None, seams: tuple[int, ...]) -> list[int]:
    given = [name for name, value in (("r", r), ("schedule", schedule), ("flops", flops)) if value is not None]
    if len(given) != 1:
        raise BadInput(f"merge_tokens takes exactly one of r, schedule and flops; got {' and '.join(given) or 'none'}.")
    if flops is not None:
        shape = replace(adapter.shape(), seams=seams)
        weights = [1.0] * adapter.depth
        if not adapter.last_block_matters and adapter.depth > 1:
            weights[-1] = 0.0
        return schedule_for(shape, flops, weights)
    return removals(adapter.depth, r if schedule is None else list(schedule))
