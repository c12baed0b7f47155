"""Does `select layers` find the layer that a probe of every layer finds, and what does it cost?

    python benchmarks/select_layers.py --data cifar10-train.parquet --test cifar10-test.parquet
    python benchmarks/select_layers.py --ratio

Six tasks: the class of a CIFAR-10 photograph, and whether it shows an animal; shape, colour and texture of the largest
object of a generated scene, and how many objects there are. For each, a linear probe is trained on every layer with
all training pictures and tested on others; `select layers` sees 500 of the training pictures and names a layer. The
target: within one point of the best layer on four of five tasks, in 5 % of the probing time. Probing is the pass of all
pictures through the model and the probes of all layers; selecting is the whole verb, pictures and scores, with nothing
kept from before; both in seconds of one processor, so that a busy machine does not count.

With --ratio: all layers' features against one plain forward, in turns, for models of four libraries.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from percepta.datasets.cifar import CIFAR10_NAMES, read_cifar10
from percepta.datasets.picture_sets import file_pictures
from percepta.datasets.scenes import TEST_SEED_START, SceneConfig, make_scene
from percepta.evaluation.probes import linear_probe, ridge_probe
from percepta.evaluation.probing import LINEAR_GRID, RIDGE_GRID
from percepta.running.backbones import Backbone, open_backbone
from percepta.running.modes import evaluating
from percepta.tasks.encoding import encode_each
from percepta.tasks.select import select_layers

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
SCENE_TASKS: dict[str, Callable[[Any], str]] = {
    "shape": lambda scene: str(_largest(scene).shape),
    "colour": lambda scene: str(_largest(scene).colour),
    "texture": lambda scene: str(_largest(scene).texture),
    "count": lambda scene: str(len(scene.objects)),
}
POINT, SHARE, ENOUGH = 0.01, 0.05, 0.8
RATIO = 1.1
MODELS = ("pe-core-nano", "timm/vit_tiny_patch16_224", "torchvision/resnet18", "hiera-nano")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pe-core-nano")
    parser.add_argument("--data", type=Path, help="CIFAR-10's training part as parquet; without it, scenes alone")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--train-count", type=int, default=6000)
    parser.add_argument("--test-count", type=int, default=3000)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--estimators", nargs="*")
    parser.add_argument("--probe", choices=("logistic", "ridge"), default="logistic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ratio", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.ratio:
        ratios(MODELS)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        compare(given, Path(folder))


def compare(given: argparse.Namespace, folder: Path) -> None:
    """All tasks, a line each, and the verdict."""
    sets = [("scenes", _scenes(folder, given.train_count, given.test_count))]
    if given.data is not None:
        sets.insert(0, ("CIFAR-10", _cifar(folder, given)))
    backbone = open_backbone(given.model)
    print(f"{given.model}, {given.train_count} training and {given.test_count} test pictures, budget {given.budget}")
    print("task       named               right best       right   probing  selecting  share")
    close: list[bool] = []
    cheap: list[bool] = []
    for place, (files, labels) in sets:
        began = time.process_time()
        vectors = _encoded(backbone, files)
        seconds = time.process_time() - began
        for task, values in labels.items():
            numbers = np.unique(values, return_inverse=True)[1]
            began = time.process_time()
            right = _probed(vectors, numbers, given.train_count, given.probe)
            probing = seconds + time.process_time() - began
            table = folder / f"{place}-{task}.csv"
            rows = [f"{file},{value}" for file, value in zip(files, values)][: given.train_count]
            table.write_text("path,label\n" + "\n".join(rows) + "\n")
            began = time.process_time()
            found = select_layers(table, given.model, given.budget, given.estimators)
            selecting = time.process_time() - began
            named, best = found.best.name, max(right, key=lambda layer: right[layer])
            close.append(right[named] >= right[best] - POINT)
            cheap.append(selecting <= SHARE * probing)
            _forget(folder)
            print(
                f"{task:<10} {found.answer:<18} {right[named]:>6.1%} {best:<9} {right[best]:>6.1%} {probing:>7.0f} s "
                f"{selecting:>8.1f} s {selecting / probing:>6.1%}"
            )
            print("           " + ", ".join(f"{layer} {value:.1%}" for layer, value in right.items()), flush=True)
    wanted = int(np.ceil(ENOUGH * len(close)))
    met = "met" if sum(close) >= wanted and all(cheap) else "not met"
    print(
        f"within one point of the best layer: {sum(close)} of {len(close)} tasks (wanted {wanted}); in {SHARE:.0%} of "
        f"the probing time: {sum(cheap)} of {len(cheap)}. The target is {met}."
    )


def ratios(names: Sequence[str], rounds: int = 15, batch: int = 8) -> None:
    """All layers' features against one forward of the same model, in turns."""
    for name in names:
        backbone = open_backbone(name, random_weights="/" in name)
        x = torch.randn(batch, *backbone.size)
        forward = _plainly(backbone)
        backbone.vectors(x), forward(x)
        found = []
        for turn in range(rounds):
            seconds = {}
            for run in (backbone.vectors, forward) if turn % 2 else (forward, backbone.vectors):
                began = time.process_time()
                run(x)
                seconds[run] = time.process_time() - began
            found.append(seconds[backbone.vectors] / seconds[forward])
        ratio = statistics.median(found)
        verdict = "met" if ratio <= RATIO else "not met"
        print(
            f"{name}: {len(backbone.layers)} layers, the output and what else there is cost {ratio:.3f} of one forward "
            f"({min(found):.3f} to {max(found):.3f}); the target of {RATIO} is {verdict}."
        )


def _plainly(backbone: Backbone) -> Callable[[Any], Any]:
    """The model's own forward."""

    def run(x: Any) -> Any:
        with evaluating(backbone.model), torch.no_grad():
            return backbone.forward(x)

    return run


def _encoded(backbone: Backbone, files: Sequence[Path]) -> dict[str, Any]:
    vectors, rows, _ = encode_each(file_pictures(files), backbone.prepare, backbone.vectors, 8, None)
    assert len(rows) == len(files)
    return vectors


def _probed(vectors: dict[str, Any], labels: NDArray[np.int64], train: int, kind: str) -> dict[str, float]:
    """Accuracy on the test pictures by layer."""
    right = {}
    for layer, values in vectors.items():
        known, asked = values[:train], values[train:]
        if kind == "ridge":
            probe = ridge_probe(known, labels[:train], asked, RIDGE_GRID)
        else:
            probe = linear_probe(known, labels[:train], asked, LINEAR_GRID)
        right[layer] = float((probe.scores.argmax(axis=1) == labels[train:]).mean())
    return right


def _largest(scene: Any) -> Any:
    return max(scene.objects, key=lambda thing: thing.radius)


def _scenes(folder: Path, train: int, test: int) -> tuple[list[Path], dict[str, list[str]]]:
    """Pictures of training seeds that no training of the nano models saw, then of test seeds; and their labels."""
    (folder / "scenes").mkdir()
    files: list[Path] = []
    labels: dict[str, list[str]] = {task: [] for task in SCENE_TASKS}
    seeds = [*range(900_000, 900_000 + train), *range(TEST_SEED_START, TEST_SEED_START + test)]
    config = SceneConfig(size=64)
    for seed in seeds:
        scene = make_scene(seed, config)
        files.append(folder / "scenes" / f"{seed}.png")
        Image.fromarray(scene.picture).save(files[-1])
        for task, label in SCENE_TASKS.items():
            labels[task].append(label(scene))
    return files, labels


def _cifar(folder: Path, given: argparse.Namespace) -> tuple[list[Path], dict[str, list[str]]]:
    """The first pictures of both parts, and their labels."""
    (folder / "photographs").mkdir()
    files: list[Path] = []
    labels: dict[str, list[str]] = {"class": [], "animal": []}
    for part, count in ((given.data, given.train_count), (given.test, given.test_count)):
        data = read_cifar10(part)
        for row in range(min(count, len(data))):
            files.append(folder / "photographs" / f"{part.stem}-{row}.png")
            Image.fromarray(data.pictures[row]).save(files[-1])
            name = CIFAR10_NAMES[data.labels[row]]
            labels["class"].append(name)
            labels["animal"].append("animal" if name in ANIMALS else "vehicle")
    return files, labels


def _forget(folder: Path) -> None:
    """Delete kept features, so that the next task is not helped by this one."""
    for file in (folder / "cache").rglob("*.safetensors"):
        file.unlink()


if __name__ == "__main__":
    main()
