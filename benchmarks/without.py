"""What is not wanted in a search: ways to make it fall, on generated scenes.

    python benchmarks/without.py [--count 2000] [--questions 150] [--seed 4000000]

Asked is "a star" without "red" and the like; right is a scene that holds the one and nothing of the other. Prints, for
each way and kind of question, the mean average precision of what is right, and the share of the first twenty that shows
what was not wanted. In the last kind nothing shows the unwanted, so that a way can only lose.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import normalize

from percepta.datasets.scenes import COLOURS, SHAPES, SceneConfig, make_batch
from percepta.datasets.scenes.pictures import plan_scene
from percepta.tasks.encoder import NANO, Encoder

Way = Callable[[Tensor, Tensor, Tensor], Tensor]
ABSENT = "a wedding in the rain"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A kind of question, its two texts, and which scenes show the wanted and the unwanted, (N,) bool each."""

    kind: str
    wanted: str
    unwanted: str
    shows: NDArray[np.bool_]
    spoils: NDArray[np.bool_]


def less(weight: float) -> Way:
    """The unwanted taken off the query."""
    return lambda vectors, query, unwanted: vectors @ normalize(query - weight * unwanted, dim=0)


def projected(vectors: Tensor, query: Tensor, unwanted: Tensor) -> Tensor:
    """What is left of the query beside the direction of the unwanted."""
    return vectors @ normalize(query - (query @ unwanted) * unwanted, dim=0)


def penalised(vectors: Tensor, query: Tensor, unwanted: Tensor) -> Tensor:
    """The score less what the unwanted exceeds its median over the index."""
    scores = vectors @ unwanted
    return vectors @ query - (scores - scores.median()).clamp(min=0)


WAYS: dict[str, Way] = {
    "nothing taken off": less(0.0),
    "a quarter": less(0.25),
    "half": less(0.5),
    "three quarters": less(0.75),
    "all": less(1.0),
    "projection": projected,
    "excess over the median": penalised,
}


def cases(seeds: range, questions: int) -> list[Case]:
    """Questions about shapes, colours and coloured shapes, drawn at random."""
    things = [{(thing.colour, thing.shape) for thing in plan_scene(seed).objects} for seed in seeds]
    random, colours, shapes = np.random.default_rng(0), list(COLOURS), list(SHAPES)

    def showing(colour: str | None, shape: str | None) -> NDArray[np.bool_]:
        return np.array([any(colour in (None, c) and shape in (None, s) for c, s in scene) for scene in things], bool)

    found = []
    for _ in range(questions):
        colour, other = random.choice(colours, 2, replace=False)
        shape, second = random.choice(shapes, 2, replace=False)
        thing, nothing = f"a {colour} {shape}", np.zeros(len(things), bool)
        found += [
            Case("shape, other shape", f"a {shape}", f"a {second}", showing(None, shape), showing(None, second)),
            Case("shape, colour", f"a {shape}", other, showing(None, shape), showing(other, None)),
            Case("thing, colour", thing, other, showing(colour, shape), showing(other, None)),
            Case("thing, other shape", thing, f"a {second}", showing(colour, shape), showing(None, second)),
            Case("thing, absent", thing, ABSENT, showing(colour, shape), nothing),
        ]
    return [case for case in found if int((case.shows & ~case.spoils).sum()) >= 2]


def figures_of(way: Way, case: Case, vectors: Tensor, words: dict[str, Tensor]) -> tuple[float, float]:
    """Average precision of what is right, and the share of the first twenty that shows the unwanted."""
    scores = way(vectors, words[case.wanted], words[case.unwanted]).numpy()
    first = np.argsort(-scores, kind="stable")[:20]
    return average_precision_score(case.shows & ~case.spoils, scores), float(case.spoils[first].mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--seed", type=int, default=4_000_000)
    settings = parser.parse_args()
    seeds = range(settings.seed, settings.seed + settings.count)
    encoder = Encoder(NANO)
    config, prepare = SceneConfig(encoder.model.config.image_size), encoder.model.preprocess
    pieces = (make_batch(list(seeds[start : start + 50]), config).pictures for start in range(0, settings.count, 50))
    vectors = torch.cat([encoder.embed(torch.stack([prepare(picture) for picture in piece])) for piece in pieces])
    asked = cases(seeds, settings.questions)
    texts = sorted({text for case in asked for text in (case.wanted, case.unwanted)})
    words = dict(zip(texts, encoder.words(texts), strict=True))
    kinds = list(dict.fromkeys(case.kind for case in asked))
    print(f"{settings.count} scenes of {NANO}; mean average precision / unwanted among the first twenty")
    print(f"{'':<24}" + "".join(f"{kind:<20}" for kind in kinds))
    for name, way in WAYS.items():
        means = [
            np.mean([figures_of(way, case, vectors, words) for case in asked if case.kind == kind], axis=0)
            for kind in kinds
        ]
        print(f"{name:<24}" + "".join(f"{f'{precision:.3f} / {spoilt:.2f}':<20}" for precision, spoilt in means))


if __name__ == "__main__":
    main()
