"""Three protocols on generated scenes: retrieval, hard negatives, retrieval of clips by their content.

All use test seeds whose captions are true of their own scene alone, rendered at one fixed size. The generator's version
and fingerprint are part of each protocol, hence of its hash.
Unusual: what a judge without binding, and one without eyes, would score is computed on the very same scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.scenes import (
    COLOURS,
    SHAPES,
    TEST_SEED_START,
    TEXTURES,
    VERSION,
    SceneConfig,
    SceneObject,
    blind_baseline,
    distinct_clips,
    distinct_scenes,
    fingerprint,
    make_batch,
    make_clip,
    parse,
)
from percepta.datasets.scenes.baselines import attribute_score
from percepta.datasets.scenes.clips import plan_clip
from percepta.datasets.scenes.pictures import plan_scene
from percepta.evaluation.metrics import choices, hits_at_k, same
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol, measured
from percepta.evaluation.retrieval import both_ways
from percepta.evaluation.zero_shot import unit
from percepta.media import sample_frames

EncodePictures = Callable[[np.ndarray], Tensor]
EncodeTexts = Callable[[Sequence[str]], Tensor]
RANKS = (1, 5, 10)
BLIND_SEEDS = 20_000
BAG = "an oracle that sees every colour, shape and texture of a scene without error but binds none to an object"


def scenes_retrieval_protocol(count: int = 1000, size: int = 64) -> Protocol:
    """Text to picture and back among `count` scenes with distinct captions."""
    return Protocol(
        "scenes-retrieval",
        {**world(count, size), "ranks": RANKS, "score": "cosine", "reweighting": "none and dual softmax, scale 1"},
    )


def scenes_hard_negatives_protocol(count: int = 1000, size: int = 64) -> Protocol:
    """The true caption against each hard negative of `count` scenes."""
    return Protocol(
        "scenes-hard-negatives",
        {**world(count, size), "negatives": "all of each scene", "ties": "one half", "blind seeds": BLIND_SEEDS},
    )


def scenes_video_retrieval_protocol(count: int = 200, size: int = 64) -> Protocol:
    """Content caption to clip and back among `count` clips with distinct content captions."""
    return Protocol(
        "scenes-video-retrieval",
        {
            **world(count, size),
            "captions": "content, without motion words",
            "frames of a clip": 16,
            "frames seen": 8,
            "sampling": "ends",
            "pooling": "mean of unit frame embeddings, not scaled again",
            "score": "dot product with the unit text embedding",
            "ranks": RANKS,
            "reweighting": "none and dual softmax, scale 1",
        },
    )


def evaluate_scenes_retrieval(
    encode_image: EncodePictures, encode_text: EncodeTexts, protocol: Protocol | None = None
) -> Evaluation:
    """Recall at 1, 5 and 10 both ways, with and without dual softmax.

    Args:
        encode_image: (B, H, W, 3) uint8 → (B, D), of any length.
        encode_text: B captions → (B, D).
    """
    protocol = protocol or scenes_retrieval_protocol()
    seeds, config = _scenes_of(protocol)
    batch = make_batch(seeds, config)
    pictures, texts = unit(encode_image(batch.pictures)), unit(encode_text(batch.captions))
    objects = [plan_scene(seed, config).objects for seed in seeds]
    return Evaluation(
        protocol,
        _recalls((texts @ pictures.T).numpy(), batch.captions, "picture", protocol),
        _bag_both_ways(batch.captions, objects, "picture"),
        details_of(seeds),
    )


def evaluate_scenes_hard_negatives(
    encode_image: EncodePictures, encode_text: EncodeTexts, protocol: Protocol | None = None
) -> Evaluation:
    """Accuracy at choosing the true caption, over all negatives and by what was changed; arguments as for retrieval.

    The intervals draw scenes, since the negatives of one scene are not independent.
    """
    protocol = protocol or scenes_hard_negatives_protocol()
    seeds, config = _scenes_of(protocol)
    plans = [plan_scene(seed, config) for seed in seeds]
    rows = np.array([row for row, plan in enumerate(plans) for _ in plan.negatives], np.int64)
    false = [negative.caption for plan in plans for negative in plan.negatives]
    kinds = np.array([negative.kind for plan in plans for negative in plan.negatives])
    pictures = unit(encode_image(make_batch(seeds, config).pictures))
    texts, lies = unit(encode_text([plan.caption for plan in plans])), unit(encode_text(false))
    points = choices((pictures * texts).sum(1)[rows], (pictures[rows] * lies).sum(1))
    by_kind = [
        measured(kind, points[kinds == kind], 0.5, groups=rows[kinds == kind]) for kind in sorted(set(kinds.tolist()))
    ]
    bag = choices(
        [attribute_score(plans[row].caption, plans[row].objects) for row in rows],
        [attribute_score(text, plans[row].objects) for row, text in zip(rows, false, strict=True)],
    )
    blind = blind_baseline(range(protocol.settings["blind seeds"]), seeds, config)
    return Evaluation(
        protocol,
        (measured("all", points, 0.5, headline=True, groups=rows), *by_kind),
        (
            Baseline("attributes only", "all", float(bag.mean()), f"{BAG}: one half by construction"),
            Baseline(
                "blind", "all", blind, "naive Bayes over words and word pairs, on the first negative of each scene"
            ),
        ),
        details_of(seeds) | {"negatives": len(false)},
    )


def evaluate_scenes_video_retrieval(
    encode_video: EncodePictures, encode_text: EncodeTexts, protocol: Protocol | None = None
) -> Evaluation:
    """Recall at 1, 5 and 10 both ways, with and without dual softmax.

    Args:
        encode_video: (B, T, H, W, 3) uint8, the frames that were sampled → (B, D), the mean of unit frame embeddings,
            not scaled again (the published protocol of video retrieval).
        encode_text: B captions → (B, D), of any length.
    """
    protocol = protocol or scenes_video_retrieval_protocol()
    settings = protocol.settings
    config = SceneConfig(settings["size"])
    seeds = distinct_clips(settings["first seed"], settings["count"], config)
    chosen = sample_frames(settings["frames of a clip"], settings["frames seen"], settings["sampling"])
    frames = np.stack([make_clip(seed, config, settings["frames of a clip"]).frames[chosen] for seed in seeds])
    plans = [plan_clip(seed, config) for seed in seeds]
    captions = [plan.content_caption for plan in plans]
    scores = (unit(encode_text(captions)) @ encode_video(frames).float().T).numpy()
    return Evaluation(
        protocol,
        _recalls(scores, captions, "clip", protocol),
        _bag_both_ways(captions, [plan.choreography.objects for plan in plans], "clip"),
        details_of(seeds),
    )


def attribute_scores(captions: Sequence[str], scenes: Sequence[Sequence[SceneObject]]) -> NDArray[np.float64]:
    """(captions, scenes): the share of a caption's colours, shapes and textures that occur somewhere in a scene.

    The whole matrix of `attribute_score`, a thousand times faster than by pairs.
    """
    words = {word: number for number, word in enumerate((*COLOURS, *SHAPES, *TEXTURES))}
    said, present = (np.zeros((len(rows), len(words)), np.int64) for rows in (captions, scenes))
    for row, caption in enumerate(captions):
        for named in parse(caption).things:
            for word in filter(None, (named.colour, named.shape, named.texture)):
                said[row, words[word]] += 1
    for row, objects in enumerate(scenes):
        for thing in objects:
            for word in (thing.colour, thing.shape, thing.texture):
                present[row, words[word]] += 1
    shared = sum(np.minimum(said[:, None, word], present[None, :, word]) for word in range(len(words)))
    return np.asarray(shared / said.sum(axis=1, keepdims=True))


def world(count: int, size: int) -> dict[str, Any]:
    """The settings that all protocols on scenes share."""
    return {
        "generator": f"percepta scenes {VERSION}",
        "fingerprint": fingerprint(),
        "first seed": TEST_SEED_START,
        "count": count,
        "size": size,
        "choice": "seeds whose captions are true of their own scene alone",
        "preprocessing": "the model's own",
    }


def _scenes_of(protocol: Protocol) -> tuple[NDArray[np.int64], SceneConfig]:
    settings = protocol.settings
    config = SceneConfig(settings["size"])
    return distinct_scenes(settings["first seed"], settings["count"], config), config


def _recalls(scores: np.ndarray, captions: Sequence[str], thing: str, protocol: Protocol) -> tuple[Measure, ...]:
    """Of a matrix (texts, things), one caption per thing."""
    return both_ways(scores, same(captions, captions), thing, protocol.settings["ranks"])


def _bag_both_ways(
    captions: Sequence[str], scenes: Sequence[Sequence[SceneObject]], thing: str
) -> tuple[Baseline, ...]:
    table, positives = attribute_scores(captions, scenes), same(captions, captions)
    return tuple(
        Baseline("attributes only", f"{way} R@1", float(hits_at_k(scores, positives, 1).mean()), f"{BAG}; ties shared")
        for way, scores in ((f"text to {thing}", table), (f"{thing} to text", table.T))
    )


def details_of(seeds: NDArray[np.int64]) -> dict[str, Any]:
    """The details that all protocols on scenes share."""
    return {"generator": VERSION, "fingerprint": fingerprint(), "seeds": f"{seeds.min()} to {seeds.max()}"}
