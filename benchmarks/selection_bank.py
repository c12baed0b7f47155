"""Which score foretells fine-tuning? A bank of small models, fine-tuned for real on seven targets, and every score.

    python benchmarks/selection_bank.py --data FOLDER [--out runs/selection-bank]     # about 15 minutes of one core
    python benchmarks/selection_bank.py --report [--out runs/selection-bank]

FOLDER holds cifar10-train.parquet and cifar10-test.parquet. Sources are trained on the training photographs and on
scenes of training seeds, targets are made of the test photographs and of test seeds, which none of the models has
seen; the packaged models do know the classes and the scene world. A model is not judged on the task that it was
trained on. Each source, fine-tune and set of features is kept in --out and not made again, so that a run may be broken
off at any time.

Fine-tuning is the same for all: all weights, 1,000 pictures of 32 px, 4 epochs in batches of 25, AdamW, warm-up and
cosine, rate 2e-3 for the convolutional networks and 5e-4 for the transformers, no augmentation; accuracy on 1,500
others (as many as there are). One seed each. Probes are drawn from the 1,000 pictures.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import percepta
from percepta.datasets.cifar import read_cifar10
from percepta.datasets.scenes import COLOURS, SHAPES, TEST_SEED_START, TEXTURES, SceneConfig, make_batch
from percepta.datasets.scenes.pictures import plan_scene
from percepta.evaluation import bootstrap_interval
from percepta.selection import (
    ESTIMATORS,
    RECOMMENDED,
    OracleTable,
    ScoreEvaluation,
    as_targets,
    evaluate_scores,
    parameters_prior,
    sample_probe,
    z_scores,
)
from percepta.selection.ranking import PRIOR_WEIGHT

SIDE, FITTED, TESTED = 32, 1000, 1500
SOURCE_PICTURES, SOURCE_EPOCHS, EPOCHS, BATCH = 6000, 2, 4, 25
BUDGET, RUNS = 300, 5
ARCHITECTURES = {"narrow": (8, 1), "deep": (12, 3), "wide": (24, 1)}
"""Width of the first stage, blocks of each of the three stages."""
SOURCES = ("random", "cifar-vehicles", "cifar-animals", "scenes-shape", "scenes-colour")
CIFAR = {"cifar-10": range(10), "cifar-vehicles": (0, 1, 8, 9), "cifar-animals": (2, 3, 4, 5, 6, 7)}
SCENES = {
    "scenes-shape": SHAPES,
    "scenes-colour": tuple(COLOURS),
    "scenes-texture": TEXTURES,
    "scenes-count": (2, 3, 4),
}
TARGETS = (
    "cifar-10", "scenes-shape", "scenes-colour", "cifar-animals", "scenes-texture", "cifar-vehicles", "scenes-count",
)  # fmt: skip
ENCODERS = ("pe-core-nano", "pe-core-nano-cut-3", "pe-lang-nano", "hiera-nano", "pe-random")
MODELS = (*(f"{name} {source}" for name in ARCHITECTURES for source in SOURCES), *ENCODERS)
OWN = {"hiera-nano": "cifar-10"}
"""Packaged models that were trained as a classifier of a target."""


class Block(nn.Module):
    """Two convolutions and a shortcut, as in ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class SmallNet(nn.Module):
    """Three stages at 16, 8 and 4 px, each twice as wide as the last; features are their mean."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 3
        for stage in range(3):
            after = width * 2**stage
            stages += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            stages += [Block(after) for _ in range(blocks)]
            before = after
        self.body, self.width, self.depth = nn.Sequential(*stages), before, 3 + 6 * blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean(dim=(2, 3))


class MeanTokens(nn.Module):
    """An encoder of ours as a vector: the mean token of its last layer."""

    def __init__(self, tower: Any, blocks: int) -> None:
        super().__init__()
        self.tower, self.width, self.depth = tower, 192, 2 * blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.tower.intermediates(x, -1, norm=True)[0].mean(dim=1)


class Classifier(nn.Module):
    """Features and a linear head."""

    def __init__(self, body: Any, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(body.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, 3, 32, 32) from -1 to 1 and labels (N,)."""

    x: Tensor
    y: Tensor

    def __getitem__(self, rows: slice) -> Pictures:
        return Pictures(self.x[rows], self.y[rows])


def pictures_of(task: str, folder: Path, training: bool, count: int) -> Pictures:
    """Labelled pictures of a task, in a fixed random order."""
    if task in CIFAR:
        everything = read_cifar10(folder / f"cifar10-{'train' if training else 'test'}.parquet")
        order = np.random.default_rng(0).permutation(len(everything))
        rows = order[np.isin(everything.labels[order], list(CIFAR[task]))][:count]
        pictures, labels = everything.pictures[rows], np.searchsorted(list(CIFAR[task]), everything.labels[rows])
    else:
        # Each task has scenes of its own, so that no source has seen those of another one.
        start = (0 if training else TEST_SEED_START) + 50_000 * (1 + list(SCENES).index(task))
        seeds, config = range(start, start + count), SceneConfig(size=SIDE)
        pictures = make_batch(seeds, config).pictures
        labels = np.array([SCENES[task].index(attribute(task, seed, config)) for seed in seeds])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return Pictures(x, torch.from_numpy(labels.astype(np.int64)))


def attribute(task: str, seed: int, config: SceneConfig) -> Any:
    """How many objects there are, or what the largest one looks like."""
    objects = plan_scene(seed, config).objects
    if task == "scenes-count":
        return min(len(objects), 4)
    return getattr(max(objects, key=lambda thing: thing.radius), task.removeprefix("scenes-"))


def train(model: nn.Module, data: Pictures, epochs: int, rate: float, seed: int) -> None:
    """AdamW, a tenth of the steps to warm up, then a cosine to 0."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    steps, step = epochs * (len(data.y) // BATCH), 0
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(data.y), generator=generator)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            warm = min(1.0, (step + 1) / (0.1 * steps))
            optimiser.param_groups[0]["lr"] = rate * warm * (1 + math.cos(math.pi * step / steps)) / 2
            optimiser.zero_grad()
            F.cross_entropy(model(data.x[rows]), data.y[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
    model.eval()


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Of all pictures, in evaluation mode."""
    model.eval()
    return torch.cat([model(part) for part in x.split(250)])


def source_model(name: str, folder: Path, out: Path) -> Classifier:
    """A model of the bank with the head that it was trained with, if any; sources are trained once."""
    torch.manual_seed(MODELS.index(name))
    if name in ENCODERS:
        return Classifier(encoder(name), 1)
    architecture, source = name.split(" ")
    classes = len(CIFAR.get(source, SCENES.get(source, range(10))))
    model = Classifier(SmallNet(*ARCHITECTURES[architecture]), classes)
    file = out / "sources" / f"{architecture}-{source}.pt"
    if source == "random":
        return model
    if not file.is_file():
        started = time.process_time()
        train(model, pictures_of(source, folder, True, SOURCE_PICTURES), SOURCE_EPOCHS, 2e-3, 0)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
        print(f"source {name}: {time.process_time() - started:.0f} s of CPU", flush=True)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def encoder(name: str) -> MeanTokens:
    """A packaged encoder, whole or cut, or the same architecture with random weights."""
    if name == "pe-random":
        return MeanTokens(percepta.build("pe-core-nano").vision, 6)
    model: Any = percepta.load(name.removesuffix("-cut-3"))
    tower = getattr(model, "vision", model)
    return MeanTokens(tower.truncated(3), 3) if name.endswith("-cut-3") else MeanTokens(tower, 6)


def run(name: str, target: str, data: Pictures, folder: Path, out: Path) -> None:
    """Features of one model for one target, and its accuracy after fine-tuning."""
    record, kept = out / f"{name} on {target}.json", out / f"{name} on {target}.npz"
    if record.is_file():
        return
    started = time.process_time()
    model = source_model(name, folder, out)
    fitted, tested = data[slice(0, FITTED)], data[slice(FITTED, None)]
    features = outputs(model.body, fitted.x)
    arrays = {"features": features.numpy(), "labels": fitted.y.numpy()}
    if name not in ENCODERS:
        with torch.no_grad():
            arrays["probabilities"] = model.head(features).double().softmax(dim=1).numpy()
    torch.manual_seed(0)
    tuned = Classifier(model.body, int(data.y.max()) + 1)
    rate = 5e-4 if name in ENCODERS else 2e-3
    train(tuned, fitted, EPOCHS, rate, 0)
    accuracy = float((outputs(tuned, tested.x).argmax(dim=1) == tested.y).double().mean())
    content = {
        "model": name,
        "target": target,
        "accuracy": round(100 * accuracy, 3),
        "parameters": sum(weights.numel() for weights in model.body.parameters()),
        "depth": model.body.depth,
        "fitted": len(fitted.y),
        "tested": len(tested.y),
        "seconds": round(time.process_time() - started, 1),
    }
    np.savez_compressed(kept, **arrays)
    record.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{name} on {target}: {content['accuracy']:.1f} % ({content['seconds']:.0f} s of CPU)", flush=True)


@dataclass(frozen=True)
class Bank:
    """What lies in the folder: the oracle, and what every model sees of every target."""

    table: OracleTable
    records: list[dict[str, Any]]
    arrays: list[dict[str, np.ndarray]]


def read(out: Path, keep: Callable[[str], bool]) -> Bank:
    """All records of models that are kept; a model on its own task has the accuracy -1, unusable."""
    records = [json.loads(file.read_text()) for file in sorted(out.glob("*.json")) if " on " in file.stem]
    records = [record for record in records if keep(record["model"])]
    rows = [[one["model"], one["target"], -1.0 if is_own(one) else one["accuracy"]] for one in records]
    arrays = [dict(np.load(out / f"{one['model']} on {one['target']}.npz")) for one in records]
    return Bank(OracleTable(("model", "target", "oracle"), rows), records, arrays)


def is_own(record: dict[str, Any]) -> bool:
    """Whether the model was trained on that very task."""
    return record["target"] in (record["model"].split(" ")[-1], OWN.get(record["model"]))


def scored(out: Path, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Every estimator of one model on one target, a value a probe; NaN where probabilities are missing; kept."""
    file = out / "scores" / f"{record['model']} on {record['target']}.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    missing = [one for name, one in ESTIMATORS.items() if name not in found]
    for estimator in missing:
        found[estimator.name] = []
        for turn in range(RUNS):
            rows = sample_probe(arrays["labels"], BUDGET, seed=turn)
            likely = arrays["probabilities"][rows] if "probabilities" in arrays else None
            known = likely is not None or not estimator.needs_probabilities
            features, targets = arrays["features"][rows].astype(np.float64), as_targets(arrays["labels"][rows])
            found[estimator.name].append(estimator(features, targets, likely) if known else math.nan)
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found) + "\n")
    return found


def scores_of(bank: Bank, out: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """(runs, rows) of the estimators, and of the ensemble that `rank` makes, with and without its prior."""
    rows = [scored(out, record, arrays) for record, arrays in zip(bank.records, bank.arrays)]
    found = {name: np.array([row[name] for row in rows]).T for name in names}
    plain, added = np.zeros((RUNS, len(rows))), np.zeros((RUNS, len(rows)))
    # Only models that may be judged stand in one ranking, since a z-score depends on the others.
    for places in bank.table.groups().values():
        votes = [[z_scores(found[name][turn, places]) for name in RECOMMENDED] for turn in range(RUNS)]
        plain[:, places] = np.mean(votes, axis=1)
        sizes = z_scores(parameters_prior([bank.records[place]["parameters"] for place in places]))
        added[:, places] = plain[:, places] + PRIOR_WEIGHT * sizes
    return {**found, "ensemble": added, "ensemble without prior": plain}


def judged(bank: Bank, out: Path, names: Sequence[str]) -> ScoreEvaluation:
    """Every score and the static rankings, by every measure."""
    static = {
        "parameters": [math.log10(record["parameters"]) for record in bank.records],
        "depth": [record["depth"] for record in bank.records],
    }
    return evaluate_scores(bank.table, scores_of(bank, out, names), static)


def show(title: str, evaluation: ScoreEvaluation) -> None:
    """A table of Markdown, by Kendall's tau."""
    print(f"\n{title}\n\n| score | Kendall | 95 % | Pearson | weighted | regret@1 | regret@3 | top-1 hit |")
    print("|---|---|---|---|---|---|---|---|")
    named = [(name, one, "") for name, one in evaluation.methods.items()]
    named += [(name, one, " (static)") for name, one in evaluation.static.items()]
    for name, one, note in sorted(named, key=lambda entry: -entry[1]["kendall"].mean):
        tau = one["kendall"]
        cells = [f"{one[measure].mean:.1f}" for measure in ("pearson", "weighted kendall", "regret@1", "regret@3")]
        print(
            f"| {name}{note} | {tau.mean:.1f} | {tau.low:.1f} – {tau.high:.1f} | {' | '.join(cells)} | "
            f"{one['top-1 hit'].mean:.0f} |"
        )


def verdict(evaluation: ScoreEvaluation) -> str:
    """Whether the recommended ensemble is above every single score and every static ranking, in a sentence."""
    own = evaluation["ensemble"]["kendall"]
    rivals = {name: one["kendall"] for name, one in {**evaluation.methods, **evaluation.static}.items()}
    rivals = {name: one for name, one in rivals.items() if not name.startswith("ensemble")}
    best = max(rivals, key=lambda name: rivals[name].mean)
    differences = [own.per_group[target] - rivals[best].per_group[target] for target in own.per_group]
    low, high = bootstrap_interval(differences)
    word = "is above" if own.mean > rivals[best].mean else "is not above"
    sure = "the interval excludes 0" if low > 0 or high < 0 else "the interval holds 0, so chance may explain it"
    return (
        f"The recommended ensemble ({', '.join(RECOMMENDED)} and the prior) {word} every single score and static "
        f"ranking by mean Kendall tau: {own.mean:.1f} against {rivals[best].mean:.1f} of the best ({best}), a "
        f"difference of {own.mean - rivals[best].mean:+.1f} ({low:+.1f} to {high:+.1f} over {len(differences)} "
        f"targets; {sure})."
    )


def report(out: Path) -> None:
    """Everything that the bank says, printed and kept as JSON."""
    bank = read(out, lambda model: True)
    print("| target | models | best | worst | mean | best model |\n|---|---|---|---|---|---|")
    for target in bank.table.groups():
        found = [(one["accuracy"], one["model"]) for one in bank.records if one["target"] == target]
        values = [accuracy for accuracy, _ in found]
        shown = " | ".join(f"{value:.1f}" for value in (max(values), min(values), np.mean(values)))
        print(f"| {target} | {len(found)} | {shown} | {max(found)[1]} |")
    names = [name for name, one in ESTIMATORS.items() if not one.needs_probabilities]
    whole = judged(bank, out, names)
    show(f"All models, {RUNS} probes of {BUDGET} pictures a target", whole)
    print(f"\n{verdict(whole)}")
    classifiers = judged(read(out, lambda model: model not in ENCODERS), out, list(ESTIMATORS))
    show("Convolutional networks with a classifier (for LEEP and NCE)", classifiers)
    content = {"all": whole.to_dict(), "classifiers": classifiers.to_dict(), "verdict": verdict(whole)}
    (out / "report.json").write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Fill the bank, or report on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/selection-bank"))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.report:
        if given.data is None:
            parser.error("--data names the folder of the CIFAR-10 parquet files; or give --report")
        given.out.mkdir(parents=True, exist_ok=True)
        for target in given.targets:
            data = pictures_of(target, given.data, False, FITTED + TESTED)
            for name in given.models:
                run(name, target, data, given.data, given.out)
    report(given.out)


if __name__ == "__main__":
    main()
