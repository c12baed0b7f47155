"""Two claims about Hiera in miniature, over seeds, with a verdict each.

  python benchmarks/hiera_claims.py pretraining --cifar cifar10-train.parquet --test cifar10-test.parquet
      Masked pre-training, then fine-tuning, against training from scratch at equal cost of the supervised part
      (arXiv 2306.00989: without pre-training the plain architecture loses).
  python benchmarks/hiera_claims.py positions
      Digits on a grey canvas, trained at 64 px and read on larger canvases without fine-tuning: absolute-win positions
      against a learned table that is resized, and that table split (arXiv 2311.05613: resizing the table is a bug).

Each run is resumable: finished parts are kept in --out and not made again. --quick makes small versions that show that
everything runs; their verdicts mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

import percepta

CANVASES = (64, 96, 128, 160)
TRAINED, ASKED = 64, 96
DIGIT = 32


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=("pretraining", "positions"))
    parser.add_argument("--cifar", default="cifar10-train.parquet")
    parser.add_argument("--test", default="cifar10-test.parquet")
    parser.add_argument("--out", type=Path, default=Path("runs/hiera-claims"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--encoders", type=int, help="masked pre-trainings; with fewer than seeds, they are shared")
    parser.add_argument("--steps", type=int, nargs=2, default=(750, 250), help="of masked pre-training, of fine-tuning")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    {"pretraining": pretraining, "positions": positions}[options.claim](options)


def kept(path: Path, make: Any) -> Any:
    """What `make` gives, from the file where it was made before."""
    if not path.exists():
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return json.loads(path.read_text())


# Pre-training


def pretraining(options: argparse.Namespace) -> None:
    """MAE and fine-tuning beside training from scratch."""
    pretrained, tuned = (60, 40) if options.quick else options.steps
    folder = options.out / f"pretraining-{pretrained}-{tuned}"
    rows = []
    for seed in range(options.seeds):
        first = seed % (options.encoders or options.seeds)
        encoder = folder / f"mae-{first}"
        accuracies = {}
        for name in ("scratch", "masked"):

            def score(
                seed: int = seed, name: str = name, encoder: Path = encoder, first: int = first
            ) -> dict[str, float]:
                began = time.perf_counter()
                if name == "masked":
                    train(options, "mae-hiera-nano", encoder, pretrained, first)
                start = str(encoder / "model.safetensors") if name == "masked" else ""
                # Rates that fall with depth are for tuning what is known; from scratch every block has the highest.
                own = [] if name == "masked" else ["rates.layer_decay=1.0", "learning_rate=2.0e-3"]
                out = folder / f"{name}-{seed}"
                train(options, "hiera-nano", out, tuned, seed, f"classify.encoder={start!r}", *own)
                return {"accuracy": accuracy(out, options.test), "minutes": (time.perf_counter() - began) / 60}

            accuracies[name] = kept(folder / f"{name}-{seed}.json", score)
        rows.append(accuracies)
        print(
            f"seed {seed}: "
            + ", ".join(f"{k} {v['accuracy']:.2%} ({v['minutes']:.0f} min)" for k, v in accuracies.items())
        )
    gains = [row["masked"]["accuracy"] - row["scratch"]["accuracy"] for row in rows]
    print(
        f"\nCIFAR-10 test, top-1, {tuned} supervised steps of 256; {pretrained} masked steps before, without labels, "
        f"of {options.encoders or options.seeds} encoders"
    )
    for name in ("scratch", "masked"):
        values = [row[name]["accuracy"] for row in rows]
        print(f"  {name:8} {np.mean(values):.2%} (seeds {', '.join(f'{v:.2%}' for v in values)})")
    verdict = "holds" if min(gains) > 0 else "does not hold"
    print(f"verdict: pre-training wins with every seed: {verdict}; gain {np.mean(gains):+.2%}, least {min(gains):+.2%}")


def train(options: argparse.Namespace, recipe: str, out: Path, steps: int, seed: int, *more: str) -> None:
    """One run of a recipe; goes on where it was interrupted."""
    from percepta.training import run
    from percepta.training.recipe import read_recipe

    changes = [
        f"data.cifar10.path={options.cifar}", f"out={out}", f"steps={steps}", f"seed={seed}",
        f"threads={options.threads}", "evaluate_every=0", *more,
    ]  # fmt: skip
    if not run(read_recipe(recipe, changes)).finished:
        raise SystemExit(130)


def accuracy(folder: Path, test: str) -> float:
    """Top-1 on the test photographs."""
    from percepta.datasets.cifar import read_cifar10

    model, table = percepta.load(folder / "model.safetensors"), read_cifar10(test)
    x = (torch.from_numpy(table.pictures).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        found = torch.cat([model(some).argmax(1) for some in x.split(256)])
    return float((found == torch.from_numpy(table.labels)).float().mean())


# Positions


def positions(options: argparse.Namespace) -> None:
    """Absolute-win positions beside a table."""
    epochs, samples = (1, 150) if options.quick else (40, 1300)
    folder = options.out / f"positions-{epochs}-{samples}"
    found: dict[str, list[dict[str, float]]] = {"table": [], "table, split": [], "absolute win": []}
    for seed in range(options.seeds):
        for kind in ("table", "window"):
            scores = kept(folder / f"{kind}-{seed}.json", lambda k=kind, s=seed: digits(k, s, epochs, samples))
            for name, values in scores.items():
                found[name].append(values)
        told = (f"{name} {rows[-1][str(TRAINED)]:.1%} → {rows[-1][str(ASKED)]:.1%}" for name, rows in found.items())
        print(f"seed {seed}: {'; '.join(told)}", flush=True)
    print(f"\ndigits of {DIGIT} px on canvases of these sides, trained at {TRAINED}, not tuned; means of seeds, top-1")
    print(f"  {'':14}" + "".join(f"{side:>8}" for side in CANVASES))
    for name, rows in found.items():
        print(f"  {name:14}" + "".join(f"{np.mean([row[str(side)] for row in rows]):8.1%}" for side in CANVASES))
    for asked in CANVASES[:0:-1]:  # the verdict is about the last one
        drops = {name: [row[str(TRAINED)] - row[str(asked)] for row in rows] for name, rows in found.items()}
        for name, values in drops.items():
            each = ", ".join(f"{value:.1%}" for value in values)
            print(f"  drop from {TRAINED} to {asked}, {name}: {np.mean(values):.1%} (seeds {each})")
    ratio = np.mean(drops["absolute win"]) / np.mean(drops["table"])
    better = all(a < b for a, b in zip(drops["absolute win"], drops["table"], strict=True))
    verdict = "holds" if ratio < 0.5 else "does not hold"
    print(f"verdict: the drop of absolute win is less than half of the resized table's: {verdict} (ratio {ratio:.2f})")
    print(f"         it is smaller with every seed: {'yes' if better else 'no'}")


def canvas(seed: int, pictures: np.ndarray, side: int) -> torch.Tensor:
    """(B, 1, side, side): each digit at a random place, 0 to 1 on -1."""
    random = np.random.default_rng(seed)
    digits = functional.interpolate(torch.from_numpy(pictures)[:, None] / 16, (DIGIT, DIGIT), mode="bilinear")
    x = torch.full((len(pictures), 1, side, side), -1.0)
    for number, digit in enumerate(digits):
        top, left = random.integers(0, side - DIGIT + 1, 2)
        x[number, 0, top : top + DIGIT, left : left + DIGIT] = digit[0] * 2 - 1
    return x


def digits(kind: str, seed: int, epochs: int, samples: int) -> dict[str, dict[int, float]]:
    """One model trained and read on every canvas; a table also with its positions split."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pictures, labels = pictures.reshape(-1, 8, 8).astype(np.float32), torch.from_numpy(labels)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:samples], order[1300:]
    torch.manual_seed(seed)
    model = percepta.build(
        "hiera-tiny-224", image_size=TRAINED, in_channels=1, embed_dim=32, stages=(1, 1, 2, 1), classes=10,
        head_init_scale=1.0, positions=kind, background=(2, 2), position_rule="interpolate",
    )  # fmt: skip
    named = dict(model.named_parameters())
    places = [value for name, value in named.items() if name.startswith("positions.")]
    others = [value for name, value in named.items() if not name.startswith("positions.")]
    optimiser = torch.optim.AdamW([{"params": others}, {"params": places, "lr": 1e-2, "weight_decay": 0.0}], lr=1e-3)
    steps, step = epochs * (len(train) // 50), 0
    for epoch in range(epochs):
        mixed = np.random.default_rng((seed, epoch)).permutation(train)
        x = canvas(1000 * seed + epoch, pictures[mixed], TRAINED)
        for start in range(0, len(mixed) - 49, 50):
            factor = min(1.0, (step + 1) / 20) * 0.5 * (1 + np.cos(np.pi * step / steps))
            for group, rate in zip(optimiser.param_groups, (1e-3, 1e-2), strict=True):
                group["lr"] = rate * factor
            loss = functional.cross_entropy(model(x[start : start + 50]), labels[mixed[start : start + 50]])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
    model.eval()
    names = {"table": ("table", "table, split"), "window": ("absolute win",)}[kind]
    scores: dict[str, dict[int, float]] = {}
    for name in names:
        scores[name] = {}
        if name == "table, split":
            model.positions.rule = "split"
        for side in CANVASES:
            x = canvas(77, pictures[test], side)
            with torch.inference_mode():
                got = torch.cat([model(some).argmax(1) for some in x.split(64)])
            scores[name][side] = float((got == labels[test]).float().mean())
    return scores


if __name__ == "__main__":
    main()
