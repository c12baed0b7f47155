"""Merging two halves of CIFAR-10 in miniature, and the speed of matching.

  python benchmarks/merging.py cifar --data cifar10-train.parquet --test cifar10-test.parquet
      Two resnet20-w2 a seed, each trained on five classes of its own by the recipe resnet20-w2, from different initial
      weights; then every way to make one of them, on held-out photographs (arXiv 2305.03053, section 5). Bases are kept
      in --out and not trained again; a run that was interrupted goes on.
  python benchmarks/merging.py speed
      Greedy matching that keeps every unit's best partner, beside the search of the whole matrix at each step.

Alpha and beta are the same for all seeds; --grid tries the paper's on the first seed alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import percepta
from percepta.datasets.cifar import LabelledPictures, read_cifar10
from percepta.evaluation.joint import JointAccuracy, joint_accuracy
from percepta.merging import MultiHead, merge_models, zip_features
from percepta.tasks.merging_scores import macs_of
from percepta.training import run
from percepta.training.recipe import read_recipe

RECIPE = "resnet20-w2"
GRID = [(alpha, beta) for alpha in (1e-4, 0.01, 0.1, 0.3, 1.0) for beta in (0.0, 0.075, 0.25, 1.0)]
STOPS = ("layer1", "layer2", "layer3")
MUST, GOAL, NEAR, FITTED = 5.0, 10.0, 8.0, 2.0


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("cifar", "speed"), default="speed")
    parser.add_argument("--data", help="parquet file of training photographs")
    parser.add_argument("--test", help="parquet file of test photographs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2880, help="of training, 125 photographs each; 192 are an epoch")
    parser.add_argument("--pictures", type=int, default=1000, help="training photographs to see features on")
    parser.add_argument("--tested", type=int, default=5000, help="test photographs")
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--grid", action="store_true", help="try the paper's alpha and beta on the first seed, and end")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/merging"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    {"cifar": cifar, "speed": speed}[given.what](given)


class Halves:
    """One seed: two networks, their classes, photographs."""

    def __init__(self, seed: int, train: LabelledPictures, test: LabelledPictures, given: argparse.Namespace) -> None:
        order = np.random.default_rng(seed).permutation(10)
        self.seed, self.tasks = seed, [tuple(sorted(half.tolist())) for half in (order[:5], order[5:])]
        self.models = [trained(seed, name, task, given) for name, task in zip("ab", self.tasks, strict=True)]
        prepare = self.models[0].preprocess
        rows = np.sort(np.random.default_rng(seed).choice(len(train), given.pictures, replace=False))
        self.batches = list(tensors(train.pictures[rows], prepare).split(100))
        self.asked = tensors(test.pictures[: given.tested], prepare).split(250)
        self.labels = test.labels[: given.tested]

    @torch.no_grad()
    def logits(self, model: Any) -> list[Tensor]:
        """Of each task (n, 5)."""
        results = [model(x) for x in self.asked]
        if isinstance(model, MultiHead):
            return [torch.cat([one[head] for one in results])[:, list(task)] for head, task in enumerate(self.tasks)]
        whole = torch.cat(results)
        return [whole[:, list(task)] for task in self.tasks]

    def score(self, logits: Sequence[Tensor]) -> JointAccuracy:
        """Alone and together."""
        return joint_accuracy(logits, self.tasks, self.labels, 10)


def trained(seed: int, half: str, task: tuple[int, ...], given: argparse.Namespace) -> Any:
    """One network of its five classes."""
    out = given.out / f"{seed}-{half}"
    file = out / "model.safetensors"
    if not file.is_file():
        changes = [f"data.cifar10.path={given.data}", f"data.cifar10.classes={list(task)}", f"steps={given.steps}"]
        changes += [f"seed={100 * seed + (half == 'b')}", f"threads={given.threads}", f"out={out}"]
        if not run(read_recipe(RECIPE, [*changes, "data.validation_samples=500"]), progress=_told).finished:
            raise SystemExit(130)
    return percepta.load(file)


def _told(step: int, steps: int, figures: Any) -> None:
    if step % 100 == 0:
        print(f"    {step} of {steps} {figures}", flush=True)


def tensors(pictures: np.ndarray, prepare: Any) -> Tensor:
    """(n, 3, 32, 32) normalised."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (prepare.mean, prepare.std))
    return (x - mean) / std


def cifar(given: argparse.Namespace) -> None:
    """Train what is missing, merge in every way, judge."""
    train, test = read_cifar10(given.data), read_cifar10(given.test)
    if given.grid:
        grid(Halves(given.seeds[0], train, test, given))
        return
    table: dict[str, list[JointAccuracy]] = {}
    costs: dict[str, float] = {}
    for seed in given.seeds:
        halves = Halves(seed, train, test, given)
        for name, make in ways(halves, given).items():
            file = given.out / f"{seed}-scores" / f"{name}-{given.alpha}-{given.beta}-{given.tested}.json"
            if not file.is_file():
                model = make()
                found = halves.score(halves.logits(model) if not isinstance(model, list) else model)
                cost = macs_of(model, halves.asked[0][:1]) if not isinstance(model, list) else 0.0
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"joint": found.joint, "tasks": found.tasks, "macs": cost}))
            kept = json.loads(file.read_text())
            table.setdefault(name, []).append(JointAccuracy(kept["joint"], tuple(kept["tasks"])))
            costs[name] = kept["macs"]
            tasks = ", ".join(f"{100 * value:.1f}" for value in kept["tasks"])
            print(f"  seed {seed} {name:24} joint {100 * kept['joint']:5.1f}   tasks {tasks}", flush=True)
    report(table, costs, given)


def ways(halves: Halves, given: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """All ways to have one classifier of ten classes; a list is of the tasks' logits themselves."""

    def merged(method: str, stop: str | None = None, reset: bool = True, **settings: Any) -> Callable[[], Any]:
        chosen = {"alpha": given.alpha, "beta": given.beta} | settings
        return lambda: merge_models(halves.models, halves.batches, method, stop=stop, reset=reset, **chosen).model

    def ensemble() -> list[Tensor]:
        return [halves.logits(model)[number] for number, model in enumerate(halves.models)]

    return {
        "ensemble": ensemble,
        "average": merged("average"),
        "weights": merged("weights"),
        "permute": merged("permute"),
        "zipit": merged("zipit"),
        "least-squares": merged("least-squares"),
        **{f"zipit to {stop}": merged("zipit", stop) for stop in STOPS},
        "least-squares to layer2": merged("least-squares", "layer2"),
        "zipit, norms as merged": merged("zipit", reset=False),
        "zipit, beta 0": merged("zipit", beta=0.0),
        "zipit, alpha 0": merged("zipit", alpha=0.0),
    }


def report(table: dict[str, list[JointAccuracy]], costs: dict[str, float], given: argparse.Namespace) -> None:
    """Means over seeds with their deviation, and the verdicts."""
    one = costs["zipit"]
    count = len(next(iter(table.values())))
    print(f"CIFAR-10, 5 + 5 classes, {RECIPE} of {given.steps} steps, {count} seeds, {given.tested} test photographs")
    print(f"{'':26}{'joint':>16}{'mean of tasks':>18}   multiply-adds of one model")
    for name, rows in table.items():
        cells = []
        for values in ([row.joint for row in rows], [row.mean for row in rows]):
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{100 * np.mean(values):.1f} ± {100 * spread:.1f}")
        times = 2.0 if name == "ensemble" else costs[name] / one
        print(f"{name:26}{cells[0]:>16}{cells[1]:>18}   {times:.2f}")

    def gains(better: str, worse: str) -> list[float]:
        return [100 * (a.joint - b.joint) for a, b in zip(table[better], table[worse], strict=True)]

    for better, worse in (("zipit", "permute"), ("permute", "average")):
        told(f"{better} above {worse}", gains(better, worse), MUST, f"at least {MUST:.0f}, goal {GOAL:.0f}")
    told("zipit to layer2 above the ensemble", gains("zipit to layer2", "ensemble"), -NEAR, f"at least -{NEAR:.0f}")
    told("least squares above zipit", gains("least-squares", "zipit"), FITTED, f"at least {FITTED:.0f}, equal cost")


def told(what: str, values: Sequence[float], least: float, wanted: str) -> None:
    """One verdict: in the mean, and in every seed."""
    mean = float(np.mean(values))
    word = (
        "holds with every seed" if min(values) >= least else "holds in the mean" if mean >= least else "does not hold"
    )
    each = ", ".join(f"{value:+.1f}" for value in values)
    print(f"verdict, {what}: {mean:+.1f} points ({each}); wanted {wanted}: {word}")


def grid(halves: Halves) -> None:
    """Joint accuracy of the paper's settings on one seed."""
    for alpha, beta in GRID:
        found = halves.score(halves.logits(merge_models(halves.models, halves.batches, alpha=alpha, beta=beta).model))
        print(
            f"  alpha {alpha:<7} beta {beta:<6} joint {100 * found.joint:.1f}, tasks {100 * found.mean:.1f}", flush=True
        )


def speed(given: argparse.Namespace) -> None:
    """Ours and the plain search, alternating, median of their ratios."""
    print("greedy matching of two models, alpha 0.3, beta 0.5; random features; the results are equal")
    for units, rounds in ((512, 5), (1024, 3), (2048, 1)):
        features = np.random.default_rng(units).standard_normal((2 * units, 256))
        correlation = np.corrcoef(features).astype(np.float32)
        correlation = np.maximum(correlation, correlation.T)
        ratios, ours = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            groups = zip_features(correlation, 2, 0.3, 0.5).groups
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            plain = plain_zip(correlation, 0.3, 0.5)
            ratios.append((time.perf_counter() - began) / ours[-1])
            assert np.array_equal(groups.reshape(-1), plain)
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        print(f"  {units} units: {np.median(ratios):.1f} times as fast ({spread}); {np.median(ours):.3f} s")


def plain_zip(correlation: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """The same greedy choice of two models, the whole matrix searched at each step."""
    similarity, total = correlation.copy(), len(correlation)
    count = total // 2
    np.fill_diagonal(similarity, -np.inf)
    members = [[place] for place in range(total)]
    origin = np.arange(total) // count
    budget = [int(count // 2 * beta + 1e-4)] * 2
    while len(members) > count:
        kept, gone = sorted(divmod(int(similarity.argmax()), len(similarity)))
        row = np.minimum(similarity[kept], similarity[gone]) * np.float32(alpha)
        similarity[kept] = similarity[:, kept] = row
        similarity = np.delete(np.delete(similarity, gone, axis=0), gone, axis=1)
        members[kept] += members.pop(gone)
        home, other, origin = origin[kept], origin[gone], np.delete(origin, gone)
        if home == other:
            budget[home] -= 1
            if budget[home] <= 0:
                own = np.flatnonzero(origin == home)
                similarity[np.ix_(own, own)] = -np.inf
    found = np.empty(total, np.int64)
    for number, places in enumerate(members):
        found[places] = number
    return found


if __name__ == "__main__":
    main()
