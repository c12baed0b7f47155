"""What merging tokens costs in accuracy: every strategy on `pe-core-nano`, over three parts of the data.

Zero-shot accuracy on photographs of CIFAR-10 (with --data, the test set as parquet) and words to pictures on generated
scenes (recall at 1 among 333), without merging, with the same number of tokens removed in every block, and with
schedules calibrated on other pictures to the same multiply-adds. The verdict compares the best strategy's loss with
that of the paper's rule where the latter loses three points or more. With --videos words to clips instead, with tokens
of neighbouring frames merged.

    python benchmarks/token_merging_accuracy.py --data cifar10-test.parquet --removed 8 10 13
    python benchmarks/token_merging_accuracy.py --videos
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import percepta
from percepta.datasets.cifar import CIFAR10_NAMES, PROMPTS, read_cifar10
from percepta.datasets.scenes import (
    TEST_SEED_START,
    SceneConfig,
    distinct_clips,
    distinct_scenes,
    make_batch,
    make_clip,
)
from percepta.datasets.scenes.clips import plan_clip
from percepta.evaluation import classifier, predict
from percepta.evaluation.zero_shot import unit
from percepta.media import sample_frames
from percepta.speedups import STRATEGIES, calibrate_schedule

PARTS = 3
PHOTOGRAPHS = 3000
SCENES = 333
CLIPS = 133
CALIBRATION = 64
WORTH = 3.0  # points that the paper's rule must lose for a comparison to mean something

Score = Callable[[int], float]
"""Number of a part → percent."""
Scores = dict[str, list[float]]
"""Percent on every part, by task."""


@torch.no_grad()
def main() -> None:
    """Measure every strategy, print a table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the CIFAR-10 test set; scenes alone without it")
    parser.add_argument("--removed", type=int, nargs="+", default=[10], help="tokens that each block removes")
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--videos", action="store_true", help="words to clips, with frames merged")
    given = parser.parse_args()
    model = percepta.load("pe-core-nano")
    tasks = {"clips": clips_score(model)} if given.videos else {"scenes": scenes_score(model)}
    if given.data and not given.videos:
        tasks["cifar10"] = photographs_score(model, given.data)
    plain = measure(tasks)
    print(f"{'':<34}{'flops':>6}" + "".join(f"{name:>26}" for name in tasks))
    print(row("plain", 1.0, plain, plain))
    if given.videos:
        videos(model, tasks, plain, given.strategies)
    else:
        pictures(model, tasks, plain, given.strategies, given.removed)


def videos(model: Any, tasks: dict[str, Score], plain: Scores, strategies: Sequence[str]) -> None:
    """Frames alone at several numbers of removed tokens, and frames that become one sequence."""
    for strategy in strategies:
        for setting in ({"r": 6}, {"r": 10}, *({"r": 0, "frames": frames} for frames in (2, 4, 8))):
            with percepta.merge_tokens(model, strategy=strategy, **setting) as merging:
                name = ", ".join([strategy, *(f"{key}={value}" for key, value in setting.items())])
                print(row(name, merging.flops, measure(tasks), plain), flush=True)


def pictures(
    model: Any, tasks: dict[str, Score], plain: Scores, strategies: Sequence[str], removals: Sequence[int]
) -> None:
    """Each strategy at each number of removed tokens, in every block or calibrated."""
    for removed in removals:
        found: dict[str, Scores] = {}
        with percepta.merge_tokens(model, r=removed) as merging:
            share = merging.flops
        for strategy in strategies:
            with percepta.merge_tokens(model, r=removed, strategy=strategy):
                found[f"{strategy}, r={removed}"] = measure(tasks)
            schedule = calibrate_schedule(model, calibration_pictures(model), share, strategy=strategy)
            with percepta.merge_tokens(model, schedule=schedule, strategy=strategy):
                found[f"{strategy}, {list(schedule)}"] = measure(tasks)
        for name, scores in found.items():
            print(row(name, share, scores, plain), flush=True)
        verdict(found, plain, f"bipartite, r={removed}")


def measure(tasks: dict[str, Score]) -> Scores:
    """Percent on every part, by task."""
    return {name: [score(part) for part in range(PARTS)] for name, score in tasks.items()}


def row(name: str, share: float, scores: Scores, plain: Scores) -> str:
    """Mean score over the parts, and mean loss with its range."""
    cells = [f"{name:<34}{share:>6.3f}"]
    for task, values in scores.items():
        losses = [before - now for before, now in zip(plain[task], values, strict=True)]
        span = f"-{statistics.mean(losses):.1f} ({min(losses):.1f}..{max(losses):.1f})"
        cells.append(f"{statistics.mean(values):>8.2f}{span:>18}")
    return "".join(cells)


def verdict(found: dict[str, Scores], plain: Scores, rule: str) -> None:
    """Print, for each task, the best setting's loss as a share of the rule's."""
    loss = {
        name: {task: statistics.mean(plain[task]) - statistics.mean(values) for task, values in scores.items()}
        for name, scores in found.items()
    }
    for task, lost in loss.get(rule, {}).items():
        if lost < WORTH:
            print(f"{task}: {rule} loses {lost:.1f} points, too few to compare")
            continue
        shares = {name: losses[task] / lost for name, losses in loss.items() if name != rule}
        best = min(shares, key=lambda name: shares[name])
        print(f"{task}: {best} loses {shares[best]:.0%} of what {rule} loses ({lost:.1f} points)")


def scenes_score(model: Any) -> Score:
    """Recall at 1 of scenes for their captions, in percent."""
    batch = make_batch(distinct_scenes(TEST_SEED_START, PARTS * SCENES))
    x = prepared(model, batch.pictures)
    texts = unit(torch.cat([model.encode_text(model.tokenize(batch.captions[i : i + 100])) for i in starts(len(x))]))

    def score(part: int) -> float:
        rows = slice(part * SCENES, (part + 1) * SCENES)
        similar = texts[rows] @ unit(encoded(model, x[rows])).T
        return float((similar.argmax(dim=1) == torch.arange(SCENES)).float().mean()) * 100

    return score


def photographs_score(model: Any, data: Path) -> Score:
    """Zero-shot accuracy in percent."""
    photographs = read_cifar10(data)
    x = prepared(model, photographs.pictures[: PARTS * PHOTOGRAPHS])
    labels = torch.as_tensor(photographs.labels[: len(x)])
    classes = classifier(lambda texts: model.encode_text(model.tokenize(texts)), CIFAR10_NAMES, PROMPTS)

    def score(part: int) -> float:
        rows = slice(part * PHOTOGRAPHS, (part + 1) * PHOTOGRAPHS)
        logits = predict(encoded(model, x[rows]), classes)
        return float((logits.argmax(dim=1) == labels[rows]).float().mean()) * 100

    return score


def clips_score(model: Any) -> Score:
    """Recall at 1 of clips for what they show, in percent; eight frames each, the published protocol of retrieval."""
    config = SceneConfig(64)
    seeds = distinct_clips(TEST_SEED_START, PARTS * CLIPS, config)
    chosen = sample_frames(16, 8, "ends")
    x = torch.stack([prepared(model, make_clip(seed, config, 16).frames[chosen]) for seed in seeds])
    captions = [plan_clip(seed, config).content_caption for seed in seeds]
    texts = unit(torch.cat([model.encode_text(model.tokenize(captions[i : i + 100])) for i in starts(len(x))]))

    def score(part: int) -> float:
        rows = slice(part * CLIPS, (part + 1) * CLIPS)
        clips = torch.cat([model.encode_video(some, normalize=True) for some in x[rows].split(16)])
        return float(((texts[rows] @ clips.T).argmax(dim=1) == torch.arange(CLIPS)).float().mean()) * 100

    return score


def calibration_pictures(model: Any) -> Tensor:
    """Scenes of the training seeds: none of what is measured."""
    return prepared(model, make_batch(range(CALIBRATION)).pictures)


def prepared(model: Any, pictures: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 → what the model takes."""
    return torch.stack([model.preprocess(picture) for picture in pictures])


def encoded(model: Any, x: Tensor) -> Tensor:
    """Embeddings of any number of pictures."""
    return torch.cat([model.encode_image(x[i : i + 100]) for i in starts(len(x))])


def starts(count: int) -> Sequence[int]:
    """First rows of batches of 100."""
    return range(0, count, 100)


if __name__ == "__main__":
    main()
