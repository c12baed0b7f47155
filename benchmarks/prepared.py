"""The prepared path of the Perception Encoder against timm: exact float32, and bfloat16 where the machine has it.

One process, the same weights, inputs, threads and allocator; the sides take turns, and the median of the per-round
ratios is printed with its spread, beside the ratio of the best rounds (which other programs disturb least). `--levers`
shows each lever by itself, with its gain over plain and its change of the embedding. Cost: the first call packs.

    python benchmarks/prepared.py --models t b l --batches 1 8 --rounds 9 --levers --allocator tuned
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
from percepta.layers.packed import PackedLinear, missing
from percepta.running import machine
from percepta.running.preparing import precision_of, prepare, summary

MODELS = {
    "t": ("pe-core-t16-384", "vit_pe_core_tiny_patch16_384", 384),
    "b": ("pe-core-b16-224", "vit_pe_core_base_patch16_224", 224),
    "l": ("pe-core-l14-336", "vit_pe_core_large_patch14_336", 336),
}


def taking(**ways: str) -> Callable[..., str]:
    """A choice of ways by kind of part, plain where none is named."""
    return lambda kind, shape, dtype: ways.get(kind, "fused" if kind == "attention" else "plain")


LEVERS = {
    "packed linear": taking(linear="packed"),
    "packed, GELU fused": taking(linear="packed", mlp="packed"),
    "attention by heads": taking(attention="heads"),
    "attention by rows": taking(attention="rows"),
    "all chosen here": machine.choose,
}


def sides(size: str) -> tuple[dict[str, nn.Module], int]:
    """timm's encoder and ours, plain and prepared, with the same weights."""
    name, timm_name, pixels = MODELS[size]
    torch.manual_seed(0)
    peer = timm.create_model(timm_name).eval()
    torch.nn.init.zeros_(peer.get_parameter("head.bias"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "peer.pt"
        torch.save(peer.state_dict(), file)
        plain = percepta.load(name, weights=file, text=None)
    found: dict[str, nn.Module] = {"timm": peer, "plain": plain, "float32": prepare(copy.deepcopy(plain))}
    low = prepare(copy.deepcopy(plain), "bfloat16")
    if precision_of(low) == torch.bfloat16:
        found["bfloat16"] = low
    return found, pixels


@torch.no_grad()
def race(encoders: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each encoder; all take their turn in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for turn in range(rounds):
        for name in encoders if turn % 2 == 0 else reversed(encoders):
            start = time.perf_counter()
            encoders[name](x)
            seconds[name].append(time.perf_counter() - start)
    return seconds


@torch.no_grad()
def compare(title: str, encoders: dict[str, nn.Module], x: Tensor, rounds: int, closeness: float = 1e-5) -> None:
    """Print every encoder's speed and change relative to the first one's."""
    outputs, first = {}, {}
    for name, encode in encoders.items():
        start = time.perf_counter()
        outputs[name] = encode(x)
        first[name] = time.perf_counter() - start
    seconds = race(encoders, x, rounds)
    base, *others = encoders
    for name in others:
        ratios = sorted(theirs / mine for mine, theirs in zip(seconds[name], seconds[base], strict=True))
        best = min(seconds[base]) / min(seconds[name])
        change = float((outputs[name] - outputs[base]).norm() / outputs[base].norm())
        cosine = float(torch.cosine_similarity(outputs[name].double(), outputs[base].double()).min())
        assert change <= closeness or name == "bfloat16", f"{name} differs from {base} by {change:.1e}"
        spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f}; best rounds {best:.2f})"
        print(
            f"{title:<24} {name:<19} {statistics.median(ratios):5.2f} times {base} {spread}  change {change:.0e}, "
            f"worst cosine {cosine:.6f}{cost(encoders[name], first[name] - min(seconds[name]))}",
            flush=True,
        )


def cost(encoder: nn.Module, seconds: float) -> str:
    """What the first call of a prepared encoder took beyond a later one, and the memory of its packed weights."""
    packings = [part.packing for part in encoder.modules() if isinstance(part, PackedLinear) and part.packing]
    size = sum(packing.weight.numel() * packing.weight.element_size() for packing in packings)
    return f"  first call + {seconds:.2f} s, {size / 1e6:.0f} MB packed" if packings else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["t", "b"], choices=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--levers", action="store_true", help="each lever by itself, over our plain encoder")
    parser.add_argument("--allocator", choices=("default", "tuned"), default="default", help="of all sides")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tuned = arguments.allocator == "tuned" and machine.tune_allocator()
    print(f"{machine.signature()} | timm {timm.__version__} | allocator {'tuned' if tuned else 'default'}")
    print(f"packed bfloat16: {missing(torch.bfloat16) or 'yes'}")
    for size in arguments.models:
        encoders, pixels = sides(size)
        print(f"{MODELS[size][0]}: {summary(encoders['float32'])}")
        for batch in arguments.batches:
            title = f"{MODELS[size][0]} batch {batch}"
            x = torch.rand(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(0)) * 2 - 1
            compare(title, encoders, x, arguments.rounds)
            if arguments.levers:
                levers = {name: prepare(copy.deepcopy(encoders["plain"]), choose=way) for name, way in LEVERS.items()}
                compare(title, {"plain": encoders["plain"], **levers}, x, arguments.rounds)


if __name__ == "__main__":
    main()
