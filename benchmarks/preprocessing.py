"""Preprocessing against the official pipeline, alternating in one process, at exact equality.

    python benchmarks/preprocessing.py [PICTURE] [--size 224] [--rounds 60]

Without a picture, a photograph-like JPEG of 1800x1200 is made. Peers: the official transform (PIL decode, torchvision
Resize on the PIL picture, convert to RGB, ToTensor, Normalize), and the same after `Image.open(...).convert("RGB")`, as
most people call it. Prints the median of the ratios of neighbouring runs and their 10 to 90 % range.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from percepta.media import Preprocess


def official(size: int, resize: str) -> Any:
    """The published transform."""
    bilinear = transforms.InterpolationMode.BILINEAR
    steps: list[Any] = [transforms.Resize((size, size), interpolation=bilinear)]
    if resize == "shorter_side_center_crop":
        steps = [transforms.Resize(size, interpolation=bilinear), transforms.CenterCrop(size)]
    convert = transforms.Lambda(lambda picture: picture.convert("RGB"))
    return transforms.Compose(
        [*steps, convert, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3, inplace=True)]
    )


def photograph(path: Path, width: int = 1800, height: int = 1200) -> Path:
    """A JPEG with the smooth shapes and the grain of a photograph."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8))
    smooth = small.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    grain = rng.normal(0, 4, (height, width, 1))
    Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)).save(path, quality=85)
    return path


def compare(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> tuple[float, float, float, float, float]:
    """(median ratio, 10 %, 90 %, our median ms, their median ms) of alternating runs, order swapped every round."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(rounds + 3):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (ours, theirs)[which]()
            if turn >= 3:
                times[which].append(time.perf_counter() - start)
    mine, other = np.array(times[0]), np.array(times[1])
    ratios = other / mine
    low, high = np.quantile(ratios, [0.1, 0.9])
    return (
        float(np.median(ratios)),
        float(low),
        float(high),
        1e3 * float(np.median(mine)),
        1e3 * float(np.median(other)),
    )


def main() -> None:
    """Print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (the peer uses them)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.picture or photograph(Path(folder) / "photograph.jpg")
        with Image.open(path) as picture:
            print(f"{path.name}: {picture.width}x{picture.height} {picture.mode}, to {arguments.size}")
        for resize in ("squash", "shorter_side_center_crop"):
            transform, prepare = official(arguments.size, resize), Preprocess(arguments.size, resize)
            fast = Preprocess(arguments.size, resize, fast=True)
            expected, got, rough = transform(Image.open(path)), prepare(path), fast(path)
            assert torch.equal(expected, got), "not exact"
            rows: tuple[tuple[str, Callable[[], Any], Callable[[], Any]], ...] = (
                ("exact, official", lambda p=prepare: p(path), lambda t=transform: t(Image.open(path))),
                (
                    "exact, convert first",
                    lambda p=prepare: p(path),
                    lambda t=transform: t(Image.open(path).convert("RGB")),
                ),
                ("fast, official", lambda f=fast: f(path), lambda t=transform: t(Image.open(path))),
            )
            for name, ours, theirs in rows:
                median, low, high, mine, other = compare(ours, theirs, arguments.rounds)
                print(
                    f"{resize:26} {name:22} {median:.2f}x  [{low:.2f}, {high:.2f}]  {mine:.1f} against {other:.1f} ms"
                )
            error = (rough - expected).abs()
            print(f"{resize:26} fast differs by {error.mean():.4f} on average, {error.max():.3f} at most")


if __name__ == "__main__":
    main()
