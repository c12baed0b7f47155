"""What merging on a grid costs and saves in self-attention, and which of its design claims hold on photographs.

One process, in turns; the median of the per-round ratios to plain attention, with its spread. "core" is match, merge,
attend and unmerge without projections; "layer" has the projections of queries, keys, values and output too; "level" is
five such cores with one match, as `reuse` runs the five blocks of Stable Diffusion's finest level.
`--claims` compares errors instead: without trained weights there are no pictures to judge, so tokens are made from
photographs by a fixed random projection, and the output of merged self-attention is compared with that of plain.

    python benchmarks/diffusion.py --threads 1
    python benchmarks/diffusion.py --threads 1 --claims --photographs FOLDER
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from percepta.layers import coarsen, hash_picks, match_grid
from percepta.layers.token_merging import Plan, log_size, take

SHAPES = {"SD 1": (8, 40), "SDXL": (10, 64)}
LEVEL = 5
"""Transformer blocks at the finest level of Stable Diffusion 1."""

SIDE, HEADS, WIDTH = 64, 8, 320
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png")


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """(B, N, D), (B, M, D), (B, M, D) → (B, N, D)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


# What it costs


@torch.no_grad()
def compare(name: str, side: int, ratio: float, rounds: int) -> None:
    """Print the ratios of one shape."""
    heads, channels = SHAPES[name]
    width = heads * channels
    torch.manual_seed(0)
    x = torch.randn(2, side * side, width)
    into, out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
    picks = hash_picks(side, side, (2, 2), torch.tensor([0]))

    def match(reach: int | None = None) -> Plan:
        return match_grid(x, side, side, int(x.shape[1] * ratio), (2, 2), picks, reach)

    def core(tokens: Tensor) -> Tensor:
        return attention(tokens, tokens, tokens, heads)

    def layer(tokens: Tensor) -> Tensor:
        q, k, v = into(tokens).chunk(3, dim=-1)
        return out(attention(q, k, v, heads))

    def merged(plan: Plan, sublayer: Callable[[Tensor], Tensor], times: int = 1) -> None:
        for _ in range(times):
            plan.unmerge(sublayer(plan.merge_weighted(x)[0]))

    ways: dict[str, Callable[[], object]] = {
        "plain core": lambda: core(x),
        "plain layer": lambda: layer(x),
        "core": lambda: merged(match(), core),
        "core, reach 1": lambda: merged(match(1), core),
        "layer": lambda: merged(match(), layer),
        "layer, reach 1": lambda: merged(match(1), layer),
        "level": lambda: merged(match(), core, LEVEL),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way in ways if turn % 2 else reversed(ways):
            start = time.perf_counter()
            ways[way]()
            if turn:  # the first is the warm-up
                seconds[way].append(time.perf_counter() - start)
    for way in list(ways)[2:]:
        plain = seconds["plain layer" if way.startswith("layer") else "plain core"]
        times = LEVEL if way == "level" else 1
        ratios = sorted(ours / (times * theirs) for ours, theirs in zip(seconds[way], plain, strict=True))
        print(
            f"{name:<5} {side * side} tokens, ratio {ratio}, {way:<14} {statistics.median(ratios):.3f} of plain "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f})",
            flush=True,
        )


# What it loses


def photographs(folder: Path | None) -> list[Path]:
    """Three pictures of a folder, or those that scikit-image ships."""
    if folder is None:
        package = importlib.util.find_spec("skimage")
        if package is None or package.origin is None:
            raise SystemExit("--claims needs --photographs FOLDER, or scikit-image, whose photographs it takes.")
        return [Path(package.origin).with_name("data") / name for name in PHOTOGRAPHS]
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:3]
    if not found:
        raise SystemExit(f"{folder} has no .jpg or .png pictures.")
    return found


def tokens_of(path: Path, seed: int) -> Tensor:
    """(1, 64 * 64, 320): random projections of patches of 8 x 8 pixels at three blurs, each of mean 0 and variance 1
    over the picture and then over the token, as behind a norm."""
    pixels = np.asarray(Image.open(path).convert("RGB").resize((8 * SIDE, 8 * SIDE)), dtype=np.float32) / 255
    picture = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    blurred = [picture] + [
        F.avg_pool2d(picture, size, 1, size // 2, count_include_pad=False)[..., : 8 * SIDE, : 8 * SIDE]
        for size in (16, 32)
    ]
    patches = torch.cat([F.pixel_unshuffle(scale, 8).flatten(2) for scale in blurred], dim=1).transpose(1, 2)
    patches = (patches - patches.mean(1, keepdim=True)) / (patches.std(1, keepdim=True) + 1e-6)
    projection = torch.randn(patches.shape[-1], WIDTH, generator=torch.Generator().manual_seed(seed))
    return F.layer_norm(patches @ projection, (WIDTH,))


@torch.no_grad()
def errors(x: Tensor, seed: int) -> dict[str, float]:
    """Relative error of the output of self-attention by each way of having fewer tokens."""
    generator = torch.Generator().manual_seed(1000 + seed)
    look, give = (torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(2))
    picks = hash_picks(SIDE, SIDE, (2, 2), torch.tensor([seed]))

    def attend(queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        return attention(queries @ look, keys @ look, keys @ give, HEADS, bias)

    plain = attend(x, x)

    def error(output: Tensor) -> float:
        return float((output - plain).norm() / plain.norm())

    def match(ratio: float, stride: tuple[int, int] = (2, 2), reach: int | None = None, fixed: bool = False) -> Plan:
        return match_grid(x, SIDE, SIDE, int(SIDE * SIDE * ratio), stride, None if fixed else picks, reach)

    def merged(plan: Plan, sized: bool = False) -> float:
        fewer, size = plan.merge_weighted(x)
        return error(plan.unmerge(attend(fewer, fewer, log_size(size, x.dtype) if sized else None)))

    def pruned(plan: Plan) -> float:
        fewer = take(x, plan.kept)
        return error(plan.unmerge(attend(fewer, fewer)))

    coarse = coarsen(x, SIDE, SIDE)
    repeated = attend(coarse, coarse).unflatten(1, (SIDE // 2, SIDE // 2)).transpose(1, 3)
    repeated = F.interpolate(repeated, (SIDE, SIDE), mode="nearest").transpose(1, 3).flatten(1, 2)
    half, stripes = match(0.5), match(0.5, (1, 2), fixed=True)
    return {
        "merge .25": merged(match(0.25)),
        "merge .5": merged(half),
        "merge .75": merged(match(0.75)),
        "merge .5, stripes": merged(stripes),
        "merge .5, first": merged(match(0.5, fixed=True)),
        "merge .5, sizes": merged(half, sized=True),
        "stripes, sizes": merged(stripes, sized=True),
        "merge .5, reach 1": merged(match(0.5, reach=1)),
        "prune .5": pruned(half),
        "downsample-keys": error(attend(x, coarse)),
        "every 4th token": error(repeated),
    }


CLAIMS = (
    ("a random destination of 2 x 2 errs less than stripes", "merge .5", "merge .5, stripes"),
    ("the same where attention counts sizes", "merge .5, sizes", "stripes, sizes"),
    ("a random destination of 2 x 2 errs less than the first", "merge .5", "merge .5, first"),
    ("merging errs less than pruning", "merge .5", "prune .5"),
    ("attention that ignores sizes errs less than one that counts them", "merge .5", "merge .5, sizes"),
    ("merging by likeness errs less than every 4th token", "merge .75", "every 4th token"),
    ("at 1,024 keys, coarser keys err less than merging (ToDo)", "downsample-keys", "merge .75"),
    ("half the tokens err less than a quarter", "merge .5", "merge .75"),
    ("looking at all rows of windows errs less than at the nearest", "merge .5", "merge .5, reach 1"),
)
"""What is claimed, and the two ways whose errors decide: the first is the smaller one where it holds."""


def claims(folder: Path | None, seeds: int) -> None:
    """Print the errors and a verdict on each claim, over pictures and seeds."""
    rows = [errors(tokens_of(path, seed), seed) for path in photographs(folder) for seed in range(seeds)]
    print(f"relative error of self-attention's output, {SIDE * SIDE} tokens, median of {len(rows)} (least to most)")
    for way in rows[0]:
        found = sorted(row[way] for row in rows)
        print(f"  {way:<18} {statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})")
    for claim, better, worse in CLAIMS:
        margins = [1 - row[better] / row[worse] for row in rows]
        margin, least = statistics.median(margins), min(len(rows), max(1, round(0.9 * len(rows))))
        verdict = "open"
        if margin > 0.02 and sum(m > 0 for m in margins) >= least:
            verdict = "holds"
        elif margin < -0.02 and sum(m < 0 for m in margins) >= least:
            verdict = "contradicted"
        print(f"{verdict:<13} {claim}: {margin:+.1%} ({min(margins):+.1%} to {max(margins):+.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--claims", action="store_true")
    parser.add_argument("--photographs", type=Path, help="a folder, for --claims")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if arguments.claims:
        claims(arguments.photographs, arguments.seeds)
        return
    for name in SHAPES:
        compare(name, 64, arguments.ratio, arguments.rounds)


if __name__ == "__main__":
    main()
