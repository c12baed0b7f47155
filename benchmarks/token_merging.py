"""What merging tokens gains in time, beside what its multiply-adds promise.

One process, plain and merging in turns, on the same inputs and weights; the median of the per-round speed-ups is
printed with its spread, and as a share of the ideal (multiply-adds without merging over those with it). `--prepared`
measures both sides on the prepared path. `--peer` measures our merging, prepared, against timm without merging.

    python benchmarks/token_merging.py
    python benchmarks/token_merging.py --prepared --models vit-b16 pe-b
    python benchmarks/token_merging.py --peer
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import percepta
from percepta.running.preparing import prepare
from percepta.speedups import STRATEGIES


@dataclass(frozen=True)
class Subject:
    """A model, the batch that the sheet measures it with, and the tokens that each block removes."""

    build: Callable[[], nn.Module]
    size: int
    batch: int
    removed: tuple[Any, ...]


def timm_model(name: str) -> nn.Module:
    """A model of timm with seeded weights."""
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=1000).eval()


def our_model(name: str) -> nn.Module:
    """A vision tower with seeded weights."""
    torch.manual_seed(0)
    return percepta.build(name, text=None).eval()


SUBJECTS = {
    "vit-b16": Subject(lambda: timm_model("vit_base_patch16_224"), 224, 8, (8, 13, 16, (16, -1.0))),
    "vit-ti16": Subject(lambda: timm_model("vit_tiny_patch16_224"), 224, 1, (13,)),
    "pe-b": Subject(lambda: our_model("pe-core-b16-224"), 224, 8, (8, 13, 16)),
    "pe-l": Subject(lambda: our_model("pe-core-l14-336"), 336, 4, (8, 16, 23)),
}


@torch.inference_mode()
def compare(name: str, prepared: bool, strategies: Sequence[str], rounds: int) -> None:
    """Print the speed-up of a model at each number of removed tokens."""
    subject = SUBJECTS[name]
    model = subject.build()
    shorter = copy.deepcopy(model)
    if prepared:
        prepare(model)
        prepare(shorter)
    x = pictures(subject)
    for removed in subject.removed:
        for strategy in strategies:
            merging = percepta.merge_tokens(shorter, r=removed, strategy=strategy)
            gains = ratios(model, merging, x, rounds)
            ideal, gain = 1 / merging.flops, statistics.median(gains)
            print(
                f"{name:<9} batch {subject.batch}  r {removed!s:<12}{strategy:<15} speed-up {gain:.2f} "
                f"({gains[0]:.2f} to {gains[-1]:.2f})  ideal {ideal:.2f}  share {gain / ideal:.2f}",
                flush=True,
            )


@torch.inference_mode()
def against_timm(rounds: int) -> None:
    """Print how many times as fast as timm's Perception Encoder ours is, prepared and at half of the multiply-adds."""
    peer, ours = timm_model("vit_pe_core_base_patch16_224"), prepare(our_model("pe-core-b16-224"))
    x = pictures(SUBJECTS["pe-b"])
    for share in (1.0, 0.5):
        merging = percepta.merge_tokens(ours, flops=share)
        gains = ratios(peer, merging, x, rounds)
        print(
            f"pe-b      batch {len(x)}  {merging.flops:.0%} of the multiply-adds, prepared, against timm: "
            f"{statistics.median(gains):.2f} ({gains[0]:.2f} to {gains[-1]:.2f})",
            flush=True,
        )


def pictures(subject: Subject) -> Tensor:
    """Seeded pictures of a subject's size."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(subject.batch, 3, subject.size, subject.size, generator=generator) * 2 - 1


def ratios(slow: Callable[[Tensor], Any], fast: Callable[[Tensor], Any], x: Tensor, rounds: int) -> list[float]:
    """Time of the one over that of the other in each round, ascending; both run once before."""
    found = []
    for turn in range(rounds + 1):
        seconds = {}
        for run in (slow, fast) if turn % 2 else (fast, slow):
            start = time.perf_counter()
            run(x)
            seconds[run] = time.perf_counter() - start
        if turn:
            found.append(seconds[slow] / seconds[fast])
    return sorted(found)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit-ti16", "vit-b16"], choices=list(SUBJECTS))
    parser.add_argument("--strategies", nargs="+", default=["bipartite"], choices=list(STRATEGIES))
    parser.add_argument("--prepared", action="store_true", help="both sides on the prepared path")
    parser.add_argument("--peer", action="store_true", help="against timm, prepared, at half of the multiply-adds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if given.peer:
        against_timm(given.rounds)
        return
    for name in given.models:
        compare(name, given.prepared, given.strategies, given.rounds)


if __name__ == "__main__":
    main()
