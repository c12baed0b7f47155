"""Hiera and its windowed trunk against timm: plain eager float32, and prepared.

One process, the same weights, inputs and threads; the sides take turns, and the median of the per-round ratios is
printed with its spread. `--masked` shows what a masked pass saves of the encoder, `--shares` where the time goes.

    python benchmarks/hiera.py --models tiny abswin trunk --rounds 7 --threads 2 --masked
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import percepta
from percepta.models.hiera import HieraDet, TrunkConfig, random_keep
from percepta.models.hiera.keys import OFFICIAL_TRUNK
from percepta.running import machine
from percepta.running.preparing import prepare

MODELS = {
    "tiny": ("hiera-tiny-224", "hiera_tiny_224", 224),
    "base": ("hiera-base-224", "hiera_base_224", 224),
    "abswin": ("hiera-small-abswin-256", "hiera_small_abswin_256", 256),
    "trunk": ("", "sam2_hiera_tiny", 512),
}
Run = Callable[[Tensor], Tensor]


def peer_of(name: str, **options: int) -> nn.Module:
    """timm's model with random weights: its own have a head of zeros."""
    torch.manual_seed(0)
    peer: nn.Module = timm.create_model(name, **options).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return peer


def sides(size: str) -> tuple[dict[str, Run], int]:
    """timm's model and ours, plain and prepared, with the same weights, by name."""
    name, timm_name, pixels = MODELS[size]
    if size == "trunk":
        peer = peer_of(timm_name, num_classes=0)
        trunk = HieraDet(TrunkConfig(96, 1, (1, 2, 7, 2), global_blocks=(5, 7, 9), background=(7, 7))).eval()
        names = {"mlp.fc1": "mlp.layers.0", "mlp.fc2": "mlp.layers.1"}
        state = {}
        for key, value in peer.state_dict().items():
            for theirs, official in names.items():
                key = key.replace(theirs, official)
            state[key] = value
        trunk.load_state_dict(OFFICIAL_TRUNK.to_native(state)[0], strict=True)
        fast = prepare(copy.deepcopy(trunk))
        return {
            "timm": lambda x: peer.forward_intermediates(x, intermediates_only=True)[-1],
            "plain": lambda x: trunk(x)[-1],
            "prepared": lambda x: fast(x)[-1],
        }, pixels
    peer = peer_of(timm_name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "peer.pt"
        torch.save(peer.state_dict(), file)
        overrides = {"background": tuple(peer.pos_embed.shape[-2:])} if size == "abswin" else {}
        plain: nn.Module = percepta.load(name, weights=file, **overrides)
    return {"timm": peer, "plain": plain, "prepared": prepare(copy.deepcopy(plain))}, pixels


@torch.inference_mode()
def compare(title: str, runs: dict[str, Run], x: Tensor, rounds: int) -> None:
    """Print every side's speed and change relative to the first one's."""
    outputs = {name: run(x) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in runs if turn % 2 == 0 else reversed(runs):
            start = time.perf_counter()
            runs[name](x)
            seconds[name].append(time.perf_counter() - start)
    base, *others = runs
    for name in others:
        ratios = sorted(theirs / mine for mine, theirs in zip(seconds[name], seconds[base], strict=True))
        change = float((outputs[name] - outputs[base]).norm() / outputs[base].norm())
        assert change < 1e-4, f"{name} differs from {base} by {change:.1e}"
        spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f}; best rounds {min(seconds[base]) / min(seconds[name]):.2f})"
        print(
            f"{title:<20} {name:<9} {statistics.median(ratios):5.2f} times {base} {spread}  change {change:.0e}",
            flush=True,
        )


@torch.inference_mode()
def masked(rounds: int) -> None:
    """What a mask of 0.6 saves of the encoder of a masked autoencoder."""
    model = percepta.build("mae-hiera-tiny-224").eval()
    x, keep = torch.randn(4, 3, 224, 224), random_keep(4, 49, 0.6, torch.Generator().manual_seed(0))
    every = torch.ones_like(keep)
    ratios = []
    for _ in range(rounds + 1):
        times = []
        for mask in (every, keep):
            start = time.perf_counter()
            model.latent(x, mask)
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    print(f"mae-hiera-tiny-224, encoder, batch 4: {statistics.median(ratios[1:]):.2f} times faster at a mask of 0.6")


@torch.inference_mode()
def shares(title: str, model: Run, x: Tensor) -> None:
    """Print what share of the time each kind of operation takes by itself, the five largest."""
    model(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    largest = sorted(spent, key=lambda name: -spent[name])[:5]
    told = ", ".join(f"{name.removeprefix('aten::')} {spent[name] / sum(spent.values()):.0%}" for name in largest)
    print(f"{title:<20} plain spends: {told}", flush=True)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny", "abswin", "trunk"], choices=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--masked", action="store_true")
    parser.add_argument("--shares", action="store_true", help="also which operations take the time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine.signature()} | timm {timm.__version__}")
    for size in arguments.models:
        runs, pixels = sides(size)
        for batch in arguments.batches:
            x = torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
            compare(f"{size} batch {batch}", runs, x, arguments.rounds)
            if arguments.shares:
                shares(f"{size} batch {batch}", runs["plain"], x)
    if arguments.masked:
        masked(arguments.rounds)


if __name__ == "__main__":
    main()
