"""How well copies of pictures are told from other pictures, and how fast, by distortion.

Every picture is distorted in each way; a copy counts as found when the pair passes both stages. Pairs of different
pictures that pass are listed in a sheet to be looked at: real photographs hold true duplicates of their own.

    python benchmarks/duplicates.py --cifar cifar10-test.parquet --sheet pairs.png
    python benchmarks/duplicates.py --rows 100000
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from percepta.datasets.cifar import read_cifar10
from percepta.datasets.scenes import TEST_SEED_START, SceneConfig, make_batch
from percepta.tasks.indexing.looks import ROUGH, Likeness, Look, alike, likeness, look_of_picture, same_tint

Distort = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(quality: int) -> Distort:
    def distort(picture: Image.Image, _: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return distort


def resized(factor: float) -> Distort:
    return lambda picture, _: picture.resize(
        (round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS
    )


def cropped(share: float) -> Distort:
    """A random window of 1 - share of each side."""

    def distort(picture: Image.Image, random: np.random.Generator) -> Image.Image:
        width, height = picture.width * (1 - share), picture.height * (1 - share)
        left, top = random.random() * (picture.width - width), random.random() * (picture.height - height)
        size = round(width), round(height)
        return picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))

    return distort


DISTORTIONS: dict[str, Distort] = {
    "JPEG quality 90": jpeg(90),
    "JPEG quality 50": jpeg(50),
    "JPEG quality 20": jpeg(20),
    "half size": resized(0.5),
    "double size": resized(2),
    "half size, JPEG 50": lambda picture, random: jpeg(50)(resized(0.5)(picture, random), random),
    "20 % brighter": lambda picture, _: picture.point(lambda value: min(255, value * 1.2)),
    "2 % cropped": cropped(0.02),
    "5 % cropped": cropped(0.05),
    "10 % cropped": cropped(0.10),
    "15 % cropped": cropped(0.15),
}


def compared(first: list[Look], second: list[Look]) -> tuple[np.ndarray, Likeness]:
    found = likeness(*(np.concatenate([look.fine for look in looks]) for looks in (first, second)))
    tint = same_tint(*(np.concatenate([look.colour for look in looks]) for looks in (first, second)))
    return found.copies & tint, found


def measure(name: str, pictures: list[Image.Image], distorted: int, sheet: Path | None) -> None:
    looks = [look_of_picture(picture) for picture in pictures]
    rough = np.stack([look.rough for look in looks])
    began = time.process_time()
    pairs = np.concatenate(list(alike(rough)))
    seconds = time.process_time() - began
    began = time.process_time()
    copies, found = compared([looks[row] for row in pairs[:, 0]], [looks[row] for row in pairs[:, 1]])
    each = (time.process_time() - began) / max(len(pairs), 1)
    count = len(pictures) * (len(pictures) - 1) // 2
    print(
        f"{name}: {count:,} pairs of different pictures, {len(pairs):,} compared closely, {copies.sum()} called copies"
    )
    print(f"  {seconds:.2f} s for all pairs, {each * 1e6:.0f} us for one compared closely (process time)")
    if sheet is not None:
        save_sheet(sheet, pictures, pairs[copies], found.correlation[copies])
    for what, distort in DISTORTIONS.items():
        random = np.random.default_rng(0)
        others = [look_of_picture(distort(picture, random)) for picture in pictures[:distorted]]
        near = np.array([look.rough @ other.rough for look, other in zip(looks, others, strict=False)]) >= ROUGH
        right, _ = compared(looks[:distorted], others)
        print(f"  {what:20} found {100 * (near & right).mean():5.1f} %")


def save_sheet(path: Path, pictures: list[Image.Image], pairs: np.ndarray, scores: np.ndarray) -> None:
    side, columns = 64, 8
    page = Image.new("RGB", (columns * (2 * side + 8), (len(pairs) // columns + 1) * (side + 14)))
    draw = ImageDraw.Draw(page)
    for place, row in enumerate(np.argsort(scores)):
        left, top = place % columns * (2 * side + 8), place // columns * (side + 14)
        for offset, number in enumerate(pairs[row]):
            page.paste(pictures[number].resize((side, side)), (left + offset * side, top))
        draw.text((left, top + side), f"{scores[row]:.3f}")
    page.save(path)


def measure_rows(count: int) -> None:
    """All pairs of as many random looks: time and memory of the first stage."""
    import resource

    rows = np.random.default_rng(0).normal(size=(count, 63)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = sum(len(pairs) for pairs in alike(rows))
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{count:,} rows: {found:,} pairs in {seconds:.1f} s, {(after - before) / 1024:.0f} MB beyond the rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--distorted", type=int, default=1000)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--sheet", type=Path, help="a picture of the pairs of photographs that were called copies")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}")
    if options.rows:
        measure_rows(options.rows)
        return
    seeds = range(TEST_SEED_START, TEST_SEED_START + options.scenes)
    scenes = make_batch(seeds, SceneConfig(64)).pictures
    measure("scenes", [Image.fromarray(picture) for picture in scenes], options.distorted, None)
    if options.cifar is not None:
        photographs = read_cifar10(options.cifar).pictures
        measure("photographs", [Image.fromarray(picture) for picture in photographs], options.distorted, options.sheet)


if __name__ == "__main__":
    main()
