"""How long a search takes, and how large the index is, at 100,000 pictures.

    python benchmarks/search.py [--count 100000] [--dimension 1024] [--rounds 30]

Vectors are random, names as long as those of a collection of photographs. Warm is `ranking.nearest`, the whole exact
search with its second pass, beside one float32 product of NumPy and the same of torch, in turns, in one process. Cold
is a new process from the opening of the file to the first ranked hits, without the imports and the model; the file may
still be in the cache of the system. Prints medians with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from percepta.tasks.indexing.ranking import nearest
from percepta.tasks.indexing.store import FileRow, Index, Maker, Part

COLD = """
import sys, time, torch
from percepta.tasks.indexing.ranking import nearest
from percepta.tasks.indexing.store import Index
began = time.perf_counter()
with Index.open(sys.argv[1]) as index:
    vectors, entries = index.vectors, index.entries
    nearest(vectors, vectors[0].float(), 20)
print(time.perf_counter() - began)
"""


def written(place: Path, count: int, dimension: int) -> None:
    """An index of random vectors."""
    maker, random = Maker("random", "", "0", "{}", "{}", dimension), np.random.default_rng(0)
    with Index.create(place, place.parent, maker) as index:
        for start in range(0, count, 1000):
            vectors = random.standard_normal((1000, dimension)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            index.add(
                (
                    FileRow(
                        f"Pictures/2026/{start // 1000:03d} a summer holiday/IMG_{row:05d}.jpg",
                        "picture",
                        row,
                        start,
                        bytes(16),
                        0.5,
                    ),
                    [Part(vector)],
                )
                for row, vector in enumerate(vectors[: count - start])
            )


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=30)
    settings = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "random.index"
        written(place, settings.count, settings.dimension)
        print(f"{settings.count:,} vectors of {settings.dimension}: {place.stat().st_size / 1e6:.1f} MB")
        command = [sys.executable, "-c", COLD, str(place)]
        cold = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
        print(f"cold: {statistics.median(cold):.2f} s ({min(cold):.2f} - {max(cold):.2f})")
        with Index.open(place) as index:
            vectors = index.vectors
        wide, queries = (
            vectors.float(),
            torch.nn.functional.normalize(torch.randn(settings.rounds, settings.dimension), dim=1),
        )
        plain = wide.numpy()
        ways: dict[str, Callable[[torch.Tensor], object]] = {
            "search": lambda query: nearest(vectors, query, 20),
            "NumPy float32": lambda query: np.argpartition(plain @ query.numpy(), -20)[-20:],
            "torch float32": lambda query: torch.topk(torch.mv(wide, query), 20),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for query in queries:
            for name, way in ways.items():
                times[name].append(timed(lambda way=way, query=query: way(query)))  # type: ignore[misc]
        for name, values in times.items():
            print(f"{name}: {statistics.median(values):.1f} ms ({min(values):.1f} - {max(values):.1f})")


if __name__ == "__main__":
    main()
