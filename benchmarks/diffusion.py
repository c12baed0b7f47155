"""What merging on a grid costs and saves in self-attention: match, merge, attend and unmerge beside plain attention.

One process, in turns; the median of the per-round ratios to plain attention, with its spread. Only the cores are timed,
without projections.

    python benchmarks/diffusion.py --threads 1
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from percepta.layers import hash_picks, match_grid

SHAPES = {"SD 1": (8, 40), "SDXL": (10, 64)}


def attention(x: Tensor, heads: int) -> Tensor:
    split = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(split, split, split).transpose(1, 2).flatten(2)


@torch.no_grad()
def compare(name: str, side: int, ratio: float, rounds: int) -> None:
    """Print the ratios of one shape, with every row of windows in reach and with the nearest alone."""
    heads, width = SHAPES[name]
    x = torch.randn(2, side * side, heads * width, generator=torch.Generator().manual_seed(0))
    picks = hash_picks(side, side, (2, 2), torch.tensor([0]))

    def merged(reach: int | None) -> Tensor:
        plan = match_grid(x, side, side, int(x.shape[1] * ratio), (2, 2), picks, reach)
        return plan.unmerge(attention(plan.merge_weighted(x)[0], heads))

    ways = {"plain": lambda: attention(x, heads), "all": lambda: merged(None), "reach 1": lambda: merged(1)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way in ways if turn % 2 else reversed(ways):
            start = time.perf_counter()
            ways[way]()
            if turn:  # the first is the warm-up
                seconds[way].append(time.perf_counter() - start)
    for way in ("all", "reach 1"):
        ratios = sorted(ours / plain for ours, plain in zip(seconds[way], seconds["plain"], strict=True))
        print(
            f"{name:<5} {side * side} tokens, ratio {ratio}, {way:<8} {statistics.median(ratios):.3f} of plain "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in SHAPES:
        compare(name, 64, arguments.ratio, arguments.rounds)


if __name__ == "__main__":
    main()
