"""Hydra attention: what it costs beside softmax attention, and what the paper claims of it, in miniature.

Costs: the cores alone (no projections) in one process, in turns, in CPU time of one thread; the exponent of time in
tokens is fitted, and the numbers that are allocated are counted. Quality: a small ViT trained on the handwritten digits
of scikit-learn with Hydra attention in some blocks, every setting from the same weights, on the same pictures in the
same order.

    python benchmarks/hydra.py                         # costs
    python benchmarks/hydra.py --parts quality         # every setting trained over three seeds, ten minutes on one core
    python benchmarks/hydra.py --parts tuned --weights model.safetensors --data cifar10-test.parquet

The last says what `percepta train pe-core-nano-hydra` regains of what its conversion loses.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import percepta
from _verdicts import verdict
from percepta.layers.hydra import hydra
from percepta.speedups import hydra_attention
from token_merging_accuracy import measure, photographs_score, scenes_score

TOKENS = (197, 577, 1024, 2048, 4096, 8192)
SETTINGS = {
    "softmax": ([], "cosine"),
    "back:1": ("back:1", "cosine"),
    "back:2": ("back:2", "cosine"),
    "interleave:2": ("interleave:2", "cosine"),
    "front:2": ("front:2", "cosine"),
    "all cosine": ("all", "cosine"),
    "all mean": ("all", "mean"),
    "all tanh-softmax": ("all", "tanh-softmax"),
    "all sigmoid-softmax": ("all", "sigmoid-softmax"),
}
BATCH, RATE = 64, 4e-3
CLAIMS = (
    ("back:1 is no worse than softmax", "back:1", "softmax", False),
    ("back:2 is no worse than softmax", "back:2", "softmax", False),
    ("back:2 is better than softmax", "back:2", "softmax", True),
    ("softmax is better than all cosine", "softmax", "all cosine", True),
    ("back:2 is better than front:2", "back:2", "front:2", True),
    ("back:2 is no worse than interleave:2", "back:2", "interleave:2", False),
    ("interleave:2 is better than front:2", "interleave:2", "front:2", True),
    ("all: cosine is better than mean", "all cosine", "all mean", True),
    ("all: cosine is better than tanh-softmax", "all cosine", "all tanh-softmax", True),
    ("all: cosine is better than sigmoid-softmax", "all cosine", "all sigmoid-softmax", True),
)
"""(claim, first, second, whether a difference is claimed or only that there is no loss)."""


class Allocated(TorchDispatchMode):
    """Counts the numbers of all new tensors, the most that can be alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.seen = 0, set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor) and part.untyped_storage().data_ptr() not in self.seen:
                self.seen.add(part.untyped_storage().data_ptr())
                self.numbers += part.numel()
        return result


def cores(tokens: int, width: int, heads: int) -> dict[str, Callable[[], Any]]:
    """Both attentions on the same thirds of a projection, by name."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, tokens, 3 * width, generator=generator)
    q, k, v = qkv.chunk(3, -1)
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    return {"hydra": lambda: hydra(q, k, v), "softmax": lambda: F.scaled_dot_product_attention(*split)}


@torch.no_grad()
def cost(width: int, heads: int, rounds: int) -> None:
    """Print seconds, ratios, allocated numbers and exponents."""
    print(f"cores alone, D = {width}, float32, one thread, least CPU time of {rounds} rounds")
    least: dict[str, list[float]] = {"hydra": [], "softmax": []}
    allocated = []
    for tokens in TOKENS:
        runs = cores(tokens, width, heads)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds + 1):  # the first warms up
            for name, run in list(runs.items())[:: 1 if turn % 2 else -1]:
                start = time.thread_time()
                run()
                seconds[name].append(time.thread_time() - start)
        for name, taken in seconds.items():
            least[name].append(min(taken[1:]))
        with Allocated() as counted:
            kept = runs["hydra"]()  # noqa: F841 - alive, so that its memory is not counted twice
        allocated.append(counted.numbers / (tokens * width))
        fast, slow = least["hydra"][-1], least["softmax"][-1]
        print(
            f"N {tokens:5}  hydra {fast * 1e3:8.2f} ms  softmax {slow * 1e3:9.2f} ms  ratio {slow / fast:6.1f}  "
            f"numbers allocated by hydra {allocated[-1]:.2f} N D",
            flush=True,
        )
    for name, taken in least.items():
        slope = float(np.polyfit(np.log(TOKENS), np.log(taken), 1)[0])
        steepest = max(
            math.log(taken[i + 1] / taken[i]) / math.log(TOKENS[i + 1] / TOKENS[i]) for i in range(len(TOKENS) - 1)
        )
        print(f"exponent of time in tokens, {name}: {slope:.2f} (steepest step {steepest:.2f})")
    print(f"memory: at most {max(allocated):.2f} N D numbers allocated, at every N: linear")


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training pictures (1297, 1, 8, 8) and labels, and 500 of each to test on, parted anew for every seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pictures, labels = load_digits(return_X_y=True)
    pictures = (pictures.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    parts = train_test_split(pictures, labels, test_size=500, random_state=seed, stratify=labels)
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return train, train_labels, test, test_labels


def small_vit(seed: int) -> nn.Module:
    """D 32, 6 blocks, 16 patches of 2 x 2 pixels and a class token."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    return VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=6, num_heads=2, mlp_ratio=2.0
    )


def trained(setting: str, seed: int, epochs: int) -> float:
    """Accuracy on the test pictures, in per cent."""
    pictures, labels, test, test_labels = digits(seed)
    model = small_vit(seed)
    hydra_attention(model, *SETTINGS[setting])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, fused=True)
    generator = torch.Generator().manual_seed(seed)
    steps = len(pictures) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * steps, pct_start=0.1)
    for _ in range(epochs):
        order = torch.randperm(len(pictures), generator=generator)[: steps * BATCH]
        for rows in order.split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(model(pictures[rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        right = model.eval()(test).argmax(1) == test_labels
    return 100 * right.float().mean().item()


def quality(seeds: int, epochs: int) -> None:
    """Print the accuracy of every setting and seed, then the claims."""
    print(f"digits, {epochs} epochs, accuracy in % on 500 pictures, seeds 0 to {seeds - 1}; chance 10")
    found: dict[str, list[float]] = {}
    for setting in SETTINGS:
        found[setting] = [trained(setting, seed, epochs) for seed in range(seeds)]
        each = "  ".join(f"{value:5.1f}" for value in found[setting])
        print(f"{setting:<20} mean {statistics.mean(found[setting]):5.2f}   {each}", flush=True)
    for claim, first, second, difference in CLAIMS:
        paired = [a - b for a, b in zip(found[first], found[second], strict=True)]
        print(f"{claim}: {verdict(paired, difference)}")


@torch.no_grad()
def tuned(weights: Path, data: Path | None) -> None:
    """Print what pe-core-nano scores plain, with its last two blocks converted, and with those fine-tuned weights."""
    for name, file, blocks in (("plain", None, []), ("converted", None, "back:2"), ("tuned", weights, "back:2")):
        model = percepta.load("pe-core-nano", weights=file)
        hydra_attention(model, blocks)
        tasks = {"scenes": scenes_score(model)} | ({"cifar10": photographs_score(model, data)} if data else {})
        for task, scores in measure(tasks).items():
            each = " ".join(f"{score:6.1f}" for score in scores)
            print(f"{name:<10} {task:<8} mean {statistics.mean(scores):5.1f}   {each}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["cost", "quality", "tuned"], default=["cost"])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--weights", type=Path, help="what the recipe pe-core-nano-hydra wrote")
    parser.add_argument("--data", type=Path, help="the CIFAR-10 test set, for its photographs beside scenes")
    given = parser.parse_args()
    if "tuned" in given.parts and not given.weights:
        parser.error("--parts tuned needs --weights")
    torch.set_num_threads(1)
    print(f"{platform.machine()}, one thread, torch {torch.__version__}")
    if "cost" in given.parts:
        cost(given.width, given.heads, given.rounds)
    if "quality" in given.parts:
        quality(given.seeds, given.epochs)
    if "tuned" in given.parts:
        tuned(given.weights, given.data)


if __name__ == "__main__":
    main()
