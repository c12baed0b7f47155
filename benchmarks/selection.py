"""What the scores of model selection cost, and what they are judged by.

    python benchmarks/selection.py [--rounds 15] [-o selection.json]      # PARC against the plain way; every score
    python benchmarks/selection.py oracle --golden parc-benchmark.json    # static priors on the published oracle

Speed: PARC and the straightforward numpy and scipy way in one process, in turns, on the same features; the ratio of
each round, its median and its spread; then every score. CPU time of one thread (OMP_NUM_THREADS=1), 500 samples.
The oracle is any JSON with `columns`, `transfers` (rows) and `model_layers`, as of the kind parc/benchmark.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from percepta.selection import ESTIMATORS, MEASURES, OracleTable, as_targets, evaluate_scores, parc

SAMPLES, DIMS, CLASSES, SOURCES = 500, (512, 2048), (10, 100), 1000
IMAGES = {
    "nabird": 24633, "oxford_pets": 3669, "cub200": 5794, "caltech101": 2630, "stanford_dogs": 8580, "voc2007": 2501,
    "cifar10": 50000, "imagenet": 150000,
}  # fmt: skip
"""Pictures of each source, as the published size prior counts them."""


def world(dims: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of classes that overlap, labels, and probabilities of a source."""
    random = np.random.default_rng(dims + classes)
    labels = random.permutation(np.arange(SAMPLES) % classes)
    features = np.maximum(0, 0.5 * random.normal(size=(classes, dims))[labels] + random.normal(size=(SAMPLES, dims)))
    return features, labels, random.dirichlet(np.full(SOURCES, 0.1), SAMPLES)


def plainly(features: np.ndarray, labels: np.ndarray) -> float:
    """PARC as it is written down: two tables of correlations, two rankings of all pairs."""
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    of_features = 1 - np.corrcoef(x)
    # Rounded, since the rounding of one-hot correlations would break the ties that the definition counts on.
    of_labels = np.round(1 - np.corrcoef(np.eye(labels.max() + 1)[labels]), 12)
    pairs = np.triu_indices(len(labels), 1)
    return 100 * float(spearmanr(of_features[pairs], of_labels[pairs]).statistic)


def seconds(function: Callable[[], Any]) -> float:
    """CPU time of one call, which other work on the machine hardly moves."""
    started = time.process_time()
    function()
    return time.process_time() - started


def against_the_plain_way(rounds: int) -> list[dict[str, Any]]:
    """Rows of the first table."""
    rows = []
    for dims in DIMS:
        for classes in CLASSES:
            features, labels, _ = world(dims, classes)
            ours, plain = (lambda f=features, y=labels: parc(f, y)), (lambda f=features, y=labels: plainly(f, y))
            difference = abs(ours() - plain())  # and both are warm
            pairs = [(seconds(ours), seconds(plain)) for _ in range(rounds)]
            ratios = [slow / fast for fast, slow in pairs]
            rows.append(
                {
                    "d": dims,
                    "classes": classes,
                    "ours ms": 1000 * statistics.median(fast for fast, _ in pairs),
                    "plain ms": 1000 * statistics.median(slow for _, slow in pairs),
                    "ratio": statistics.median(ratios),
                    "spread": list(np.quantile(ratios, [0.1, 0.9])),
                    "difference": difference,
                }
            )
    return rows


def every_score(rounds: int) -> list[dict[str, Any]]:
    """Rows of the second table: median milliseconds of every estimator, with 10 classes."""
    rows = []
    for name, estimator in ESTIMATORS.items():
        row: dict[str, Any] = {"score": name}
        for dims in DIMS:
            features, labels, likely = world(dims, CLASSES[0])
            targets = as_targets(labels)
            call = lambda e=estimator, f=features, y=targets, p=likely: e(f, y, p)  # noqa: E731
            call()
            row[str(dims)] = 1000 * statistics.median(seconds(call) for _ in range(rounds))
        rows.append(row)
    return rows


def show_speed(rounds: int, out: Path | None) -> None:
    """Print both tables."""
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}, n = {SAMPLES}, {rounds} rounds\n")
    print("| d | classes | ours, ms | plain, ms | ratio | 10 – 90 % | difference |\n|---|---|---|---|---|---|---|")
    plain = against_the_plain_way(rounds)
    for row in plain:
        low, high = row["spread"]
        print(
            f"| {row['d']} | {row['classes']} | {row['ours ms']:.1f} | {row['plain ms']:.1f} | {row['ratio']:.2f} | "
            f"{low:.2f} – {high:.2f} | {row['difference']:.0e} |"
        )
    print(f"\n| score, ms | {' | '.join(f'd = {dims}' for dims in DIMS)} |\n|---|---|---|")
    scores = every_score(max(3, rounds // 3))
    for row in scores:
        print(f"| {row['score']} | {' | '.join(f'{row[str(dims)]:.1f}' for dims in DIMS)} |")
    if out:
        out.write_text(json.dumps({"plain": plain, "scores": scores}, indent=1) + "\n")


def show_oracle(golden: Path, out: Path | None) -> None:
    """What rankings without a picture are worth on the published bank."""
    content = json.loads(golden.read_text())
    table = OracleTable(content["columns"], content["transfers"])
    layers = np.array([content["model_layers"][name] for name in table.column("architecture")], float)
    sources = table.column("source")
    images = np.log([IMAGES[name] for name in sources])
    flag = np.array([float(name == "imagenet") for name in sources])
    static = {
        "layers": layers,
        "layers + log source images": layers + images,
        "log source images": images,
        "is it ImageNet": flag,
        "2 x ImageNet + layers / 50": 2 * flag + layers / 50,
    }
    found = evaluate_scores(table, {}, static)
    print(f"{len(table)} transfers, {len(table.groups())} targets\n\n| static prior | {' | '.join(MEASURES)} |")
    print(f"|---|{'---|' * len(MEASURES)}")
    for name, measures in found.static.items():
        print(f"| {name} | {' | '.join(f'{measures[measure].mean:.2f}' for measure in MEASURES)} |")
    print("\nlayers, Pearson by target: ", end="")
    print(", ".join(f"{target} {value:.2f}" for target, value in found["layers"]["pearson"].per_group.items()))
    if out:
        out.write_text(json.dumps(found.to_dict(), indent=1) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("speed", "oracle"), default="speed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--golden", type=Path, help="JSON with the oracle table")
    parser.add_argument("-o", "--out", type=Path, help="the figures as JSON")
    given = parser.parse_args()
    if given.part == "oracle":
        if given.golden is None:
            parser.error("--golden names the JSON with the oracle table")
        show_oracle(given.golden, given.out)
    else:
        show_speed(given.rounds, given.out)


if __name__ == "__main__":
    main()
