"""Fit how cosines with words become probabilities: python -m percepta.tasks.fit_words pe-core-nano -o FILE

    python -m percepta.tasks.fit_words pe-core-nano --masks sam2-nano -o pe-core-nano.words.json

Fits on generated scenes that no training run sees (seeds from 960,000). Put the file into the folder that
PERCEPTA_PRIORS names, and `segment --text` and `track --text` with this encoder and these weights are calibrated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from percepta.calibration.words import Table, WordsPrior, fit_words, region_inputs
from percepta.datasets.scenes import VERSION, SceneConfig, fingerprint, make_scene
from percepta.evaluation.regions import jaccard
from percepta.evaluation.words import MATCH, questions
from percepta.running.fingerprint import weights_hash
from percepta.running.progress import Progress
from percepta.tasks.segment import Segmenter
from percepta.tasks.words import WordFinder

FIRST_SEED, SIZE = 960_000, 128


def fit(finder: WordFinder, scenes: int = 400) -> WordsPrior:
    """The curve of a finder's encoder, over the candidates of `scenes` scenes, each asked for what is there and what
    is not."""
    tables: list[Table] = []
    right: list[NDArray[np.bool_]] = []
    with Progress("scenes") as progress:
        progress.start(scenes)
        for number in range(scenes):
            for table, outcome in _of_scene(finder, number):
                tables.append(table)
                right.append(outcome)
            progress.advance()
    said = f"{scenes} generated scenes (generator {VERSION}, {fingerprint()}), seeds from {FIRST_SEED:,}"
    model = finder.encoder
    return fit_words(tables, right, model.name, weights_hash(model.model), finder.segmenter.name, said)


def _of_scene(finder: WordFinder, number: int) -> Iterator[tuple[Table, NDArray[np.bool_]]]:
    """The inputs of all candidates and whether they are right, for what is there and for what is not."""
    scene = make_scene(FIRST_SEED + number, SceneConfig(size=SIZE))
    asked = questions(scene, number)
    found = finder.candidates(torch.from_numpy(scene.picture).permute(2, 0, 1))
    if asked is None or not len(found.masks) or found.masks.scores is None:
        return
    wanted, there, absent, _ = asked
    fits = np.array([bool(jaccard(scene.visible_masks[wanted], mask) >= MATCH) for mask in found.masks])
    share = found.masks.area / SIZE**2
    for text, outcome in ((there, fits), (absent, np.zeros(len(fits), bool))):
        yield region_inputs(finder.cosines(found, text), found.neutral, found.masks.scores, share), outcome


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m percepta.tasks.fit_words", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("model", help="a name of `percepta models` with a text tower")
    parser.add_argument("-o", "--out", required=True, type=Path, help="a JSON file")
    parser.add_argument("--masks", default="sam2-nano", help="the model that makes masks (default sam2-nano)")
    parser.add_argument("--masks-weights", type=Path, help="a file with its weights")
    parser.add_argument("--scenes", type=int, default=400, help="how many scenes (default 400)")
    given = parser.parse_args(arguments)
    finder = WordFinder(Segmenter(given.masks, weights=given.masks_weights), given.model)
    print(f"wrote {fit(finder, given.scenes).write(given.out)}")


if __name__ == "__main__":
    main()
