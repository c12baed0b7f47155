"""Plain encode throughput of the Perception Encoder against timm and open_clip.

One process, the same weights, inputs, threads and allocator; the three take turns, and the median of the per-round
ratios is printed with its spread. Outputs are compared before anything is timed.

    python benchmarks/encode.py --models t b l --batches 1 8 --rounds 7
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import timm
import torch

import percepta

MODELS = {
    "t": ("pe-core-t16-384", "vit_pe_core_tiny_patch16_384", "PE-Core-T-16-384", 384),
    "b": ("pe-core-b16-224", "vit_pe_core_base_patch16_224", "PE-Core-B-16", 224),
    "l": ("pe-core-l14-336", "vit_pe_core_large_patch14_336", "PE-Core-L-14-336", 336),
}


def contenders(size: str) -> tuple[dict[str, Callable[[torch.Tensor], torch.Tensor]], int]:
    """Vision encoders of the three libraries with the same weights, by name."""
    name, timm_name, open_clip_name, pixels = MODELS[size]
    torch.manual_seed(0)
    peer = timm.create_model(timm_name).eval()
    torch.nn.init.zeros_(peer.head.bias)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "peer.pt"
        torch.save(peer.state_dict(), file)
        ours = percepta.load(name, weights=file, text=None)
    clip = open_clip.create_model(open_clip_name, pretrained=None, load_weights=False).eval()
    clip.visual.trunk.load_state_dict(peer.state_dict())
    return {"percepta": ours, "timm": peer, "open_clip": clip.encode_image}, pixels


@torch.no_grad()
def compare(size: str, batch: int, rounds: int) -> None:
    """Print seconds and ratios of one model at one batch size."""
    encoders, pixels = contenders(size)
    x = torch.rand(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(0)) * 2 - 1
    outputs = {name: encode(x) for name, encode in encoders.items()}  # also the warm-up
    for name, output in outputs.items():
        difference = (output - outputs["timm"]).abs().max() / outputs["timm"].abs().max()
        assert difference < 1e-4, f"{name} differs from timm by {difference:.1e}"
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for turn in range(rounds):
        order = list(encoders) if turn % 2 == 0 else list(reversed(encoders))
        for name in order:
            start = time.perf_counter()
            encoders[name](x)
            seconds[name].append(time.perf_counter() - start)
    for peer in ("timm", "open_clip"):
        ratios = sorted(theirs / mine for mine, theirs in zip(seconds["percepta"], seconds[peer], strict=True))
        median = statistics.median(ratios)
        pace = batch / statistics.median(seconds["percepta"])
        print(
            f"{MODELS[size][0]:<16} batch {batch}  against {peer:<9}  ratio {median:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})  percepta {pace:.2f} pictures/s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["t", "b", "l"], choices=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, timm {timm.__version__}"
    )
    for size in arguments.models:
        for batch in arguments.batches:
            compare(size, batch, arguments.rounds)


if __name__ == "__main__":
    main()
