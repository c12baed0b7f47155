"""The claims of spatial and of language alignment in miniature, with a verdict.

  python benchmarks/alignment.py spatial
      J&F of zero-shot tracking, layer by layer, of pe-core-nano, and of the last layer after alignment by the recipe
      pe-spatial-nano (arXiv 2504.13181, section 5: the last layer becomes as good as the best one was).
  python benchmarks/alignment.py spatial --teachers tokens masks
      The same with one of the two teachers alone.
  python benchmarks/alignment.py language
      Answers about scenes from each layer of pe-core-nano and from the last of pe-lang-nano: the tower stays as it is,
      projector and decoder begin from nothing, equally long for all (arXiv 2504.13181, section 4).

For `spatial` nothing is fitted to the clips: masks of the first frame are handed on by the likeness of tokens. Each run
and each clip is kept in --out and not made again; a run that was interrupted goes on. --quick shows that everything
runs; its verdict means nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import percepta
from percepta.datasets.scenes import TEST_SEED_START, SceneConfig, fingerprint, make_clip
from percepta.evaluation.dense_scenes import clip_parts
from percepta.evaluation.label_propagation import on_patches, track
from percepta.running.fingerprint import weights_hash
from percepta.training import run
from percepta.training.aligning_towers import start_from, tower_of
from percepta.training.recipe import read_recipe

RECIPE = "pe-spatial-nano"
TEACHERS = {"both": (), "tokens": ("align.pairs=0",), "masks": ("align.tokens=0",)}
FIRST = TEST_SEED_START + 100  # frame size and layer were chosen on clips before these
ALLOWED, GAP = 1.0, 3.0  # points below the best layer that the aligned one may be, and that the last one must be


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=("spatial", "language"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=["both"])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--first", type=int, default=FIRST, help="seed of the first clip")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=384, help="side of the frames in pixels")
    parser.add_argument("--cifar", help="parquet file of training photographs; without it, scenes alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--steps", type=int, default=150, help="of projector and decoder, for language")
    parser.add_argument("--pictures", type=int, default=200, help="held out, for language")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.quick:
        given.clips, given.size, given.frames, given.out = 2, 64, 4, given.out / "quick"
        given.set = [*given.set, "batch_size=4", *(["steps=4", "align.points=2"] if given.claim == "spatial" else [])]
        given.steps, given.pictures = 4, 4
    {"spatial": spatial, "language": language}[given.claim](given)


def language(given: argparse.Namespace) -> None:
    """Answers from every layer, and from the last of the aligned tower; verdict."""
    core, aligned = "pe-core-nano", "pe-lang-nano"
    layers = range(percepta.describe(core).config["depth"])
    found: dict[str, list[float]] = {}
    print(f"answers word for word about {given.pictures} held-out pictures after {given.steps} steps, % (token loss)")
    for name, tower, layer in [(f"{core}, layer {one}", core, one) for one in layers] + [(aligned, aligned, None)]:
        runs = [answers_from(tower, layer, seed, given) for seed in range(given.seeds)]
        found[name] = [run["exact"] for run in runs]
        print(f"  {name:24}" + ", ".join(f"{100 * run['exact']:.1f} ({run['loss']:.3f})" for run in runs), flush=True)
    ours = np.array(found.pop(aligned))
    best = np.max(list(found.values()), axis=0)
    holds = "holds" if (ours >= best).all() else "does not hold"
    gains = ", ".join(f"{value:+.1f}" for value in 100 * (ours - best))
    print(f"verdict: {holds}; aligned against the best layer of each seed: {gains} points")


def answers_from(tower: str, layer: int | None, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Held-out figures of a decoder that was trained on one layer of a tower that stays as it is."""
    out = given.out / f"language-{given.steps}" / f"{tower}-{'last' if layer is None else layer}-{seed}"
    file = out / f"held-out-{given.pictures}.json"
    if not file.is_file():
        depth = [] if layer is None else [f"model_overrides.vision.depth={layer + 1}"]
        changes = [
            f"answer.begin=[{tower}]", "answer.train=[projector,decoder]", *depth, f"steps={given.steps}",
            f"evaluate_every={given.steps}", f"data.validation_samples={given.pictures}", f"out={out}", f"seed={seed}",
            f"threads={given.threads}", *given.set,
        ]  # fmt: skip
        result = run(read_recipe("plm-nano-align", changes))
        if not result.finished:
            raise SystemExit(130)
        last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])  # also where the run had ended before
        figures = {name: last[f"validation.scene_questions.{name}"] for name in ("exact", "loss")}
        file.write_text(json.dumps(figures))
    found: dict[str, float] = json.loads(file.read_text())
    return found


def spatial(given: argparse.Namespace) -> None:
    """Curve of the unaligned model, figures of the aligned ones, verdict."""
    start = read_recipe(RECIPE, _changes(given)).align
    assert start is not None
    core = percepta.load(start.start)
    depth = core.config.depth
    figures = measured(core, start.start, list(range(depth)), given)
    curve = [figures[f"layer {layer}"] for layer in range(depth)]
    beside = "; ".join(f"{name} {figures[name]:.1f}" for name in ("truth on patches", "first mask kept"))
    print(
        f"J&F on {given.clips} clips from seed {given.first}, {given.frames} frames of {given.size} px, generator "
        f"{fingerprint()}; {beside}"
    )
    print(f"  {start.start}, layers 0 to {depth - 1}: " + ", ".join(f"{value:.1f}" for value in curve))
    begun = measured(started(given), f"start-{start.same_start}", [-1], given)["layer -1"]
    print(f"  {RECIPE} before training, last layer: {begun:.1f} (what the new LayerScale alone does)")
    for teachers in given.teachers:
        aligned = [of_seed(teachers, seed, given) for seed in range(given.seeds)]
        print(f"  {RECIPE}, last layer, {teachers}: " + ", ".join(f"{value:.1f}" for value in aligned))
        print(verdict(curve, aligned, teachers))


def verdict(curve: Sequence[float], aligned: Sequence[float], teachers: str) -> str:
    """Whether there was something to gain, and whether every seed gained it."""
    best, last = max(curve), curve[-1]
    gap = f"layer {int(np.argmax(curve))} is best with {best:.1f}, the last has {last:.1f} ({best - last:.1f} lower)"
    if best - last < GAP:
        return f"verdict ({teachers}): nothing to show, {gap}; {GAP:.0f} points are needed"
    holds = min(aligned) >= best - ALLOWED
    gains = ", ".join(f"{value - best:+.1f}" for value in aligned)
    return f"verdict ({teachers}): {'holds' if holds else 'does not hold'}; {gap}; aligned against the best: {gains}"


def started(given: argparse.Namespace) -> Any:
    """The student as the first update finds it."""
    recipe = read_recipe(RECIPE, _changes(given))
    student = percepta.build(recipe.model)
    assert recipe.align is not None
    start_from(student, tower_of(percepta.load(recipe.align.start)), recipe.align.same_start)
    return student.eval()


def _changes(given: argparse.Namespace) -> list[str]:
    cifar = "data.cifar10=null" if given.cifar is None else f"data.cifar10.path={given.cifar}"
    return [cifar, f"threads={given.threads}", *given.set]


def of_seed(teachers: str, seed: int, given: argparse.Namespace) -> float:
    """J&F of the last layer of one run, which is trained first."""
    out = given.out / f"{teachers}-{seed}"
    changes = [*TEACHERS[teachers], f"out={out}", f"seed={seed}", *_changes(given)]
    began = time.perf_counter()
    result = run(read_recipe(RECIPE, changes), progress=_told)
    if not result.finished:
        raise SystemExit(130)
    minutes = (time.perf_counter() - began) / 60
    if minutes > 0.1:
        print(f"  {out}: {result.step} steps in {minutes:.1f} minutes, {result.figures}", flush=True)
    model = percepta.load(out / "model.safetensors")
    return measured(model, f"{teachers}-{seed}-{weights_hash(model)}", [-1], given)["layer -1"]


def _told(step: int, steps: int, figures: Any) -> None:
    if step % 10 == 0:
        told = {name: figures[name] for name in ("token_loss", "pair_loss") if name in figures}
        print(f"    {step} of {steps} {told}", flush=True)


def measured(model: Any, name: str, layers: list[int], given: argparse.Namespace) -> dict[str, float]:
    """J&F in points by layer, and of what stands beside; over the objects of all clips."""
    folder = given.out / f"clips-{given.size}-{given.frames}"
    sums: dict[str, np.ndarray] = {}
    for seed in range(given.first, given.first + given.clips):
        file = folder / f"{name.replace('/', '+')}-{seed}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(of_clip(model, seed, layers, given)))
        for which, parts in json.loads(file.read_text()).items():
            sums[which] = sums.get(which, np.zeros(3)) + parts
    return {which: 50 * float(parts[:2].sum() / parts[2]) for which, parts in sums.items()}


def of_clip(model: Any, seed: int, layers: list[int], given: argparse.Namespace) -> dict[str, list[float]]:
    """Sums of J and F over the objects of a clip, and their number, by layer."""
    clip = make_clip(seed, SceneConfig(given.size), given.frames)
    masks = np.stack([one.visible_masks for one in clip.tracks])
    truth = (masks * np.arange(1, len(masks) + 1)[:, None, None, None]).sum(axis=0)
    if not truth[0].any():
        return {}
    x = torch.stack([model.preprocess(frame, given.size) for frame in clip.frames])
    with torch.inference_mode():
        maps = [model.intermediates(frame[None], layers, layout="NHWC") for frame in x]
    tracked = {
        f"layer {layer}": track(torch.cat([one[number] for one in maps]), truth[0])
        for number, layer in enumerate(layers)
    }
    grid = (maps[0][0].shape[1], maps[0][0].shape[2])
    tracked |= {"truth on patches": on_patches(truth, grid)}
    tracked |= {"first mask kept": np.broadcast_to(truth[:1], truth.shape)}
    return {which: clip_parts(found, truth).tolist() for which, found in tracked.items()}


if __name__ == "__main__":
    main()
