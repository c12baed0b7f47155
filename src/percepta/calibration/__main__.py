"""Fit the prior of a model: python -m percepta.calibration MODEL [--cifar10 FILE] -o MODEL.json

    python -m percepta.calibration pe-core-nano --cifar10 cifar10-train.parquet -o pe-core-nano.json

Fits on generated scenes that no training run sees (seeds from 950,000) and, if given, on the last photographs of the
CIFAR-10 training set, which training holds out. Put the file into the folder that PERCEPTA_PRIORS names, and searches
with that model and these weights are calibrated. For pictures of one's own see `fit_prior`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from percepta.calibration.fitting import fit_prior
from percepta.datasets.cifar import LabelledPictures, read_cifar10
from percepta.datasets.scenes import VERSION, fingerprint
from percepta.evaluation.folders import Mix, World
from percepta.evaluation.worlds import (
    clips_by_picture,
    elsewhere,
    photographs_by_picture,
    photographs_world,
    scenes_world,
)
from percepta.running.fingerprint import weights_hash
from percepta.running.loading import load

FIRST_SEED, TOGETHER = 950_000, 64
MIX = Mix(kinds={"caption": 3.0, "two things": 1.0, "one thing": 1.0})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m percepta.calibration", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a name of `percepta models` with a text tower")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the prior, a JSON file")
    parser.add_argument("--weights", type=Path, help="a file or folder in any layout of the family")
    parser.add_argument("--cifar10", type=Path, help="CIFAR-10 training set: parquet with the columns img and label")
    parser.add_argument("--photographs", type=int, default=2000, help="how many of its last rows (default 2000)")
    parser.add_argument("--scenes", type=int, default=4000, help="how many scenes (default 4000)")
    parser.add_argument("--folders", type=int, default=1500, help="how many folders to draw (default 1500)")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    model = load(given.model, given.weights, device=given.device)
    worlds, said = _worlds(given)
    prior = fit_prior(
        lambda pictures: _pictures(model, pictures),
        lambda texts: _texts(model, texts),
        worlds,
        given.model,
        weights_hash(model),
        said,
        given.folders,
        MIX,
    )
    print(f"wrote {prior.write(given.out)}, fitted on {said}")


def _worlds(given: argparse.Namespace) -> tuple[list[World], str]:
    seeds = np.arange(FIRST_SEED, FIRST_SEED + given.scenes)
    worlds = [scenes_world(seeds), clips_by_picture(seeds[: given.scenes // 2])]
    said = [f"{given.scenes} generated scenes (generator {VERSION}, {fingerprint()})"]
    if given.cifar10 is not None:
        table = read_cifar10(given.cifar10)
        last = slice(-given.photographs, None)
        photographs = LabelledPictures(table.pictures[last], table.labels[last], table.names)
        worlds += [photographs_world(photographs, "cifar10"), photographs_by_picture(photographs, "cifar10")]
        said.append(f"{len(photographs)} CIFAR-10 photographs held out of the training set")
    return [*worlds, elsewhere(tested=False)], " and ".join(said)


@torch.inference_mode()
def _pictures(model: Any, pictures: np.ndarray) -> Tensor:
    parameter = next(model.parameters())
    rows = []
    for start in range(0, len(pictures), TOGETHER):
        batch = torch.stack([model.preprocess(picture) for picture in pictures[start : start + TOGETHER]])
        rows.append(model.encode_image(batch.to(parameter.device, parameter.dtype), normalize=True).float().cpu())
    return torch.cat(rows)


@torch.inference_mode()
def _texts(model: Any, texts: Sequence[str]) -> Tensor:
    device = next(model.parameters()).device
    return torch.cat(
        [
            model.encode_text(model.tokenize(list(texts[start : start + TOGETHER])).to(device), normalize=True).float()
            for start in range(0, len(texts), TOGETHER)
        ]
    ).cpu()


if __name__ == "__main__":
    main()
