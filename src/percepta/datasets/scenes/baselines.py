"""What can be scored without seeing which attribute belongs to which object, or without seeing at all.

Both choose between a caption and its hard negative; a tie counts one half, so chance is 0.5. A model's score on hard
negatives means something only as far as it exceeds these.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from percepta.datasets.scenes.language import parse
from percepta.datasets.scenes.pictures import plan_scene
from percepta.datasets.scenes.scene import SceneObject
from percepta.datasets.scenes.vocabulary import SceneConfig
from percepta.errors import BadInput


def attribute_score(caption: str, objects: Sequence[SceneObject]) -> float:
    """The share of the caption's colours, shapes and textures that occur somewhere in the scene, 0 to 1."""
    present = Counter(word for thing in objects for word in (thing.colour, thing.shape, thing.texture))
    said = Counter(
        word for thing in parse(caption).things for word in (thing.colour, thing.shape, thing.texture) if word
    )
    return sum(min(count, present[word]) for word, count in said.items()) / sum(said.values())


def attribute_only_baseline(seeds: Iterable[int], config: SceneConfig | None = None) -> float:
    """Accuracy of the bag of true attributes at telling captions from their first hard negatives: 0.5 by construction.

    It knows every colour, shape and texture of the scene without error, but not which belong together nor where.
    """
    plans = [plan_scene(seed, config) for seed in seeds]
    return _accuracy(
        (attribute_score(plan.caption, plan.objects), attribute_score(plan.negatives[0].caption, plan.objects))
        for plan in plans
    )


def attribute_only_retrieval(seeds: Sequence[int], config: SceneConfig | None = None) -> float:
    """Text to picture R@1, 0 to 1, of the same bag of true attributes among the scenes of `seeds`.

    Ties are shared out evenly. This is what retrieval gives without any binding: state it beside a model's R@1.
    """
    plans = [plan_scene(seed, config) for seed in seeds]
    found = 0.0
    for own, plan in enumerate(plans):
        scores = [attribute_score(plan.caption, other.objects) for other in plans]
        best = max(scores)
        found += (scores[own] == best) / scores.count(best)
    return found / len(plans)


def blind_baseline(train_seeds: Iterable[int], test_seeds: Iterable[int], config: SceneConfig | None = None) -> float:
    """Accuracy of a text-only judge at telling captions from their first hard negatives; chance is 0.5.

    The judge is naive Bayes over words and pairs of neighbouring words, fitted on the captions and hard negatives of
    `train_seeds`: whatever it scores above one half is a trace that the grammar leaves in the negatives.
    """
    true, false = Counter[str](), Counter[str]()
    for seed in train_seeds:
        plan = plan_scene(seed, config)
        true.update(_grams(plan.caption))
        false.update(_grams(plan.negatives[0].caption))

    def score(text: str) -> float:
        return sum(math.log((true[gram] + 1) / (false[gram] + 1)) for gram in _grams(text))

    plans = [plan_scene(seed, config) for seed in test_seeds]
    return _accuracy((score(plan.caption), score(plan.negatives[0].caption)) for plan in plans)


def _grams(text: str) -> list[str]:
    words = text.replace(",", " ,").split()
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _accuracy(pairs: Iterable[tuple[float, float]]) -> float:
    points = [1.0 if right > wrong else 0.5 if right == wrong else 0.0 for right, wrong in pairs]
    if not points:
        raise BadInput("a baseline needs at least one seed; got none.")
    return sum(points) / len(points)
