"""How much of a model's bare throughput is left when a folder of JPEGs is indexed.

    python benchmarks/index.py [--model pe-core-b16-224] [--megapixels 1 12] [--pictures 96] [--rounds 3]

Bare is the model alone on batches that are ready in memory. End to end is `percepta.index` into a new file: walking
the folder, hashing, reading the time, decoding, resizing, embedding, committing. The two take turns in one process,
with the same model, threads and batch size. Weights are random and the text tower is left out: neither changes the
work. Prints the median ratio of the rounds with the smallest and the largest, and the same of processor time, which
is steadier on a machine that has other work (and blind to waiting).
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import percepta
from percepta.tasks.encoder import Encoder
from percepta.tasks.indexing import index

DISTINCT = 4  # pictures that are drawn; the others are copies of them


def photographs(folder: Path, megapixels: float, count: int) -> Path:
    """A folder of JPEGs of 4:3 with the smooth shapes and the grain of photographs."""
    folder.mkdir()
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(width * 3 / 4)
    for number in range(min(DISTINCT, count)):
        draw = np.random.default_rng(number)
        shapes = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        smooth += draw.normal(0, 4, (height, width, 1)).astype(np.float32)
        Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=90)
    for number in range(DISTINCT, count):
        shutil.copyfile(folder / f"{number % DISTINCT:05}.jpg", folder / f"{number:05}.jpg")
    return folder


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of all cores."""
    began, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - processor


def bare(encoder: Encoder, count: int, batch_size: int) -> None:
    """Embed so many pictures that are ready."""
    side = encoder.model.config.image_size
    pictures = torch.rand(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for start in range(0, count, batch_size):
        encoder.embed(pictures[: count - start])


def end_to_end(encoder: Encoder, folder: Path, place: Path, batch_size: int) -> None:
    """Index a folder into a new file."""
    index(folder, place, model=encoder, batch_size=batch_size, overwrite=True).close()


def main() -> None:
    """Print one line a size of pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pe-core-b16-224")
    parser.add_argument("--megapixels", nargs="+", type=float, default=[1, 12])
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = Encoder(percepta.build(arguments.model, text=None).eval())
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.model}")
    bare(encoder, arguments.batch_size, arguments.batch_size)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "pictures.index"
        for size in arguments.megapixels:
            folder = photographs(Path(temporary) / f"{size:g}", size, arguments.pictures)
            rounds = []
            for turn in range(arguments.rounds):
                work = (
                    lambda: bare(encoder, arguments.pictures, arguments.batch_size),
                    lambda folder=folder: end_to_end(encoder, folder, place, arguments.batch_size),
                )
                times = {which: timed(work[which]) for which in ((0, 1) if turn % 2 else (1, 0))}
                rounds.append((*times[0], *times[1]))
            print(f"{size:g} megapixels: {summary(rounds, arguments.pictures)}", flush=True)


def summary(rounds: list[tuple[float, float, float, float]], pictures: int) -> str:
    """Rounds of (clock, processor) of bare and (clock, processor) of indexing, in words."""
    clock = sorted(alone / whole for alone, _, whole, _ in rounds)
    processor = sorted(alone / whole for _, alone, _, whole in rounds)
    alone, _, whole, _ = (pictures / statistics.median(column) for column in zip(*rounds, strict=True))
    return (
        f"{statistics.median(clock):.2f} of the bare throughput ({clock[0]:.2f} to {clock[-1]:.2f}), bare {alone:.2f}, "
        f"indexing {whole:.2f} pictures/s; {statistics.median(processor):.2f} by processor time "
        f"({processor[0]:.2f} to {processor[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
