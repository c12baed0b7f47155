"""Protocols on generated scenes for any layers: segmentation, depth, position, tracking, and what the whole shows.

Nothing of what is fitted or judged was ever trained on: scenes come from the seeds kept for tests, those to fit from
far behind those to judge. Order of this file: protocols, scenes with their truth, the evaluations, what they share.
Unusual: beside each figure stands what is had without looking (a constant; the place of the patch alone), and what the
true values would give, one a patch (no strict bound: mixed patches can do a little better).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.scenes import (
    SHAPES,
    TEST_SEED_START,
    VERSION,
    SceneConfig,
    fingerprint,
    make_batch,
    make_clip,
    make_scene,
    scene_classes,
)
from percepta.datasets.scenes.pictures import plan_scene
from percepta.datasets.scenes.scene import ScenePlan
from percepta.evaluation import dense_probes as probes
from percepta.evaluation.label_propagation import PropagationRule, on_patches, track
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol
from percepta.evaluation.regions import score_masks
from percepta.evaluation.tallies import Tally, ratio

EncodeMaps = Callable[[np.ndarray], Mapping[str, Tensor]]
"""(B, H, W, 3) uint8 → patch tokens (B, h, w, D) float32 on the CPU, by the names of layers such as "layer 3"."""
Layers = Sequence[int | str]
LAYERS: Layers = ("last",)
FIT_SEED_START = TEST_SEED_START + 500_000
AT_ONCE = 250  # pictures whose tokens are held at once where only their mean is kept
BACKGROUND = "background"
CONSTANT, PLACE_ALONE, PATCH_TRUTH = "constant", "place alone", "truth on patches"
NOTES = {
    CONSTANT: "the best single answer for every patch",
    PLACE_ALONE: "the same probe on row, column, their squares and product",
    PATCH_TRUTH: "the true values of patches, enlarged like the probe's",
}


def scenes_segmentation_protocol(
    count: int = 400, size: int = 64, layers: Layers = LAYERS, fit_count: int = 400
) -> Protocol:
    """Mean IoU of a linear probe that names the shape (or the background) at each pixel."""
    return Protocol(
        "scenes-segmentation",
        {
            **_common(count, size, layers),
            **_fit(fit_count),
            "classes": (BACKGROUND, *SHAPES),
            "probe": "batch norm and 1 x 1 convolution at its optimum: softmax over the classes of a patch, LBFGS",
            "enlarged": "logits, bilinear",
        },
    )


def scenes_depth_protocol(count: int = 400, size: int = 64, layers: Layers = LAYERS, fit_count: int = 400) -> Protocol:
    """RMSE in metres of a linear probe of depth."""
    return Protocol(
        "scenes-depth",
        {
            **_common(count, size, layers),
            **_fit(fit_count),
            "probe": "ridge regression of the mean depth of a patch in metres, closed form",
            "enlarged": "depth, bilinear",
        },
    )


def scenes_position_protocol(
    count: int = 400, size: int = 64, layers: Layers = LAYERS, fit_count: int = 400
) -> Protocol:
    """RMSE of a linear probe that tells from one patch the centre of its object, and its own place."""
    return Protocol(
        "scenes-position",
        {
            **_common(count, size, layers),
            **_fit(fit_count),
            "probe": "ridge regression of row and column, closed form",
            "object": "the one that covers most of a patch, and at least half of it; its whole centre, hidden or not",
            "unit": "sides of the picture",
        },
    )


def scenes_tracking_protocol(
    count: int = 40, size: int = 128, layers: Layers = LAYERS, frames: int = 16, rule: PropagationRule | None = None
) -> Protocol:
    """J&F of masks handed on from the first frame of clips, zero-shot."""
    rule = rule or PropagationRule()
    return Protocol(
        "scenes-tracking",
        {
            **_common(count, size, layers),
            "frames of a clip": frames,
            **propagation_settings(rule),
            "objects": "those that the first frame shows",
        },
    )


def scenes_objects_protocol(
    count: int = 1000, size: int = 64, layers: Layers = LAYERS, fit_count: int = 2000
) -> Protocol:
    """What a picture shows as a whole, such as a red star: the global task beside the four dense ones."""
    return Protocol(
        "scenes-objects",
        {
            **_common(count, size, layers),
            **_fit(fit_count),
            "pooling": "mean of the patches",
            "probe": "ridge regression to 0 and 1 for each of the 64 pairs of colour and shape, closed form",
            "score": "of the n pairs that a scene holds, the share among its n likeliest",
        },
    )


def propagation_settings(rule: PropagationRule) -> dict[str, Any]:
    """The settings of a protocol that hands labels on."""
    return {
        "last frames": rule.last_frames,
        "neighbourhood": rule.neighbourhood,
        "top": rule.top,
        "temperature": rule.temperature,
        "enlarged": "bilinear, each class scaled to 0..1 over the frame, argmax",
        "score": "DAVIS 2017: J and F by object over the frames but the first and the last; boundary 0.008",
    }


def propagation_rule(settings: Mapping[str, Any]) -> PropagationRule:
    """The rule that `propagation_settings` wrote."""
    return PropagationRule(settings["last frames"], settings["neighbourhood"], settings["top"], settings["temperature"])


@dataclass(frozen=True, slots=True, eq=False)
class SceneTruth:
    """Pictures of scenes and what is true of every pixel.

    Attributes:
        pictures: (S, H, W, 3) uint8.
        classes: (S, H, W) int64, 0 for the background, then the shapes in order.
        depth: (S, H, W) float32, metres.
        objects: (S, H, W) int64, 0 for the background, then the objects of each scene in order.
        centres: for each scene the (N, 2) rows and columns of the centres of its objects, 0 to 1.
    """

    pictures: np.ndarray
    classes: NDArray[np.int64]
    depth: NDArray[np.float32]
    objects: NDArray[np.int64]
    centres: tuple[NDArray[np.float64], ...]

    def centre_of_patches(self, grid: tuple[int, int]) -> Tensor:
        """(S, h, w, 2): the centre of the object that covers at least half of a patch; NaN where none does."""
        shares = probes.patch_shares(self.objects, grid, int(self.objects.max()) + 1)
        shares[..., 0] = 0
        share, number = shares.max(dim=-1)
        found = torch.full((*share.shape, 2), float("nan"))
        for row, centres in enumerate(self.centres):
            inside = share[row] >= 0.5
            found[row][inside] = torch.from_numpy(centres).float()[number[row][inside] - 1]
        return found


def scene_truth(seeds: Sequence[int] | NDArray[np.int64], size: int) -> SceneTruth:
    """The scenes of these seeds at one size."""
    scenes = [make_scene(int(seed), SceneConfig(size)) for seed in seeds]
    objects = np.stack([(scene.visible_masks * _numbers(len(scene.objects))).sum(axis=0) for scene in scenes])
    names = [np.array([0, *(SHAPES.index(thing.shape) + 1 for thing in scene.objects)]) for scene in scenes]
    return SceneTruth(
        np.stack([scene.picture for scene in scenes]),
        np.stack([shape[numbers] for shape, numbers in zip(names, objects, strict=True)]),
        np.stack([scene.depth for scene in scenes]),
        objects,
        tuple(np.array([thing.centre[::-1] for thing in scene.objects], np.float64) for scene in scenes),
    )


def evaluate_scenes_segmentation(encode: EncodeMaps, protocol: Protocol | None = None) -> Evaluation:
    """mIoU by layer, over the pixels of scenes.

    Args:
        encode: pictures → patch tokens by the names of layers.

    Raises:
        BadInput: a grid of patches that does not divide the picture.
    """
    protocol = protocol or scenes_segmentation_protocol()
    fit, test = scenes_to_fit(protocol), scenes_to_judge(protocol)
    known, asked = encode(fit.pictures), encode(test.pictures)
    count, strength = len(protocol.settings["classes"]), protocol.settings["strength"]
    tallies, beside = segmented(known, fit.classes, asked, test.classes, count, strength)
    return by_layer(protocol, {"mIoU": tallies}, {"mIoU": beside})


def segmented(
    known: Mapping[str, Tensor],
    known_classes: NDArray[np.int64],
    asked: Mapping[str, Tensor],
    asked_classes: NDArray[np.int64],
    count: int,
    strength: float,
) -> tuple[dict[str, Tally], dict[str, Tally]]:
    """mIoU by layer, and of what stands beside; arguments as of `probe_segmentation`, tokens by layer."""
    tallies = {
        layer: probes.probe_segmentation(maps, known_classes, asked[layer], asked_classes, count, strength)
        for layer, maps in known.items()
    }
    grid = grid_of(asked)
    places = [probes.place_features(grid, len(classes)) for classes in (known_classes, asked_classes)]
    shares = torch.from_numpy(np.bincount(known_classes[known_classes >= 0], minlength=count)).float()
    beside = {
        CONSTANT: probes.score_classes(shares.expand(len(asked_classes), *grid, count), asked_classes),
        PLACE_ALONE: probes.probe_segmentation(places[0], known_classes, places[1], asked_classes, count, strength),
        PATCH_TRUTH: probes.score_classes(probes.patch_shares(asked_classes, grid, count), asked_classes),
    }
    return tallies, beside


def evaluate_scenes_depth(encode: EncodeMaps, protocol: Protocol | None = None) -> Evaluation:
    """RMSE in metres by layer, over the pixels of scenes; arguments as of `evaluate_scenes_segmentation`."""
    protocol = protocol or scenes_depth_protocol()
    fit, test = scenes_to_fit(protocol), scenes_to_judge(protocol)
    known, asked = encode(fit.pictures), encode(test.pictures)
    strength = protocol.settings["strength"]
    tallies = {
        layer: probes.probe_depth(maps, fit.depth, asked[layer], test.depth, strength) for layer, maps in known.items()
    }
    grid = grid_of(asked)
    places = [probes.place_features(grid, len(truth.pictures)) for truth in (fit, test)]
    middle = torch.full((len(test.pictures), *grid, 1), float(fit.depth.mean()))
    beside = {
        CONSTANT: probes.score_depth(middle, test.depth),
        PLACE_ALONE: probes.probe_depth(places[0], fit.depth, places[1], test.depth, strength),
        PATCH_TRUTH: probes.score_depth(probes.patch_means(test.depth, grid), test.depth),
    }
    return by_layer(protocol, {"RMSE": tallies}, {"RMSE": beside}, unit="m")


def evaluate_scenes_position(encode: EncodeMaps, protocol: Protocol | None = None) -> Evaluation:
    """RMSE of the object's centre and of the patch's own place, by layer; arguments as of the others."""
    protocol = protocol or scenes_position_protocol()
    fit, test = scenes_to_fit(protocol), scenes_to_judge(protocol)
    known, asked = encode(fit.pictures), encode(test.pictures)
    strength = protocol.settings["strength"]
    grid = grid_of(asked)
    truths = {
        "object's centre": [truth.centre_of_patches(grid) for truth in (fit, test)],
        "own place": [probes.patch_places(grid).expand(len(truth.pictures), -1, -1, -1) for truth in (fit, test)],
    }
    places = [probes.place_features(grid, len(truth.pictures)) for truth in (fit, test)]
    tallies: dict[str, dict[str, Tally]] = {}
    beside: dict[str, dict[str, Tally]] = {}
    for what, (learned, wanted) in truths.items():
        tallies[what] = {
            layer: probes.probe_places(maps, learned, asked[layer], wanted, strength) for layer, maps in known.items()
        }
        middle = learned.flatten(0, 2).nanmean(dim=0)
        beside[what] = {CONSTANT: probes.score_places(middle.expand_as(wanted), wanted)}
    beside["object's centre"][PLACE_ALONE] = probes.probe_places(
        places[0], truths["object's centre"][0], places[1], truths["object's centre"][1], strength
    )
    return by_layer(protocol, tallies, beside, unit="sides")


def evaluate_scenes_tracking(encode: EncodeMaps, protocol: Protocol | None = None) -> Evaluation:
    """J&F, J and F by layer, over the objects of clips; arguments as of the others.

    Beside them: the mask of the first frame kept, the same propagation on the colours of patches, and the true masks at
    the resolution of patches.
    """
    protocol = protocol or scenes_tracking_protocol()
    settings = protocol.settings
    config, rule = SceneConfig(settings["size"]), propagation_rule(settings)
    first = settings["first seed"]
    found: dict[str, list[NDArray[np.float64]]] = {}
    for seed in range(first, first + settings["count"]):
        clip = make_clip(seed, config, settings["frames of a clip"])
        numbers = _numbers(len(clip.tracks))[..., None]
        truth = (np.stack([one.visible_masks for one in clip.tracks]) * numbers).sum(axis=0)
        if not truth[0].any():
            continue
        maps = dict(encode(clip.frames))
        colours = probes.patch_colours(clip.frames, grid_of(maps))
        tracked = {layer: track(tokens, truth[0], rule) for layer, tokens in (maps | {"colours": colours}).items()}
        tracked["first mask kept"] = np.broadcast_to(truth[:1], truth.shape)
        tracked[PATCH_TRUTH] = on_patches(truth, grid_of(maps))
        for name, masks in tracked.items():
            found.setdefault(name, []).append(clip_parts(masks, truth))
    tallies = tracking_tallies(found)
    others = ("colours", "first mask kept", PATCH_TRUTH)
    return by_layer(
        protocol,
        {what: {layer: one for layer, one in by.items() if layer not in others} for what, by in tallies.items()},
        {what: {name: by[name] for name in others} for what, by in tallies.items()},
        notes={
            "colours": "the same propagation on the mean colours of 4 x 4 parts of each patch",
            "first mask kept": "nothing moves",
            PATCH_TRUTH: "the true masks of every frame as one label a patch, enlarged like the others",
        },
    )


def evaluate_scenes_objects(encode: EncodeMaps, protocol: Protocol | None = None) -> Evaluation:
    """The share of a scene's objects that its mean token names, by layer; arguments as of the others."""
    protocol = protocol or scenes_objects_protocol()
    settings, config = protocol.settings, SceneConfig(protocol.settings["size"])
    pooled: list[dict[str, Tensor]] = []
    present: list[Tensor] = []
    for first, count in (
        (settings["first seed to fit"], settings["count to fit"]),
        (settings["first seed"], settings["count"]),
    ):
        parts = []
        for start in range(0, count, AT_ONCE):
            seeds = range(first + start, first + min(start + AT_ONCE, count))
            maps = encode(make_batch(seeds, config).pictures)
            parts.append({layer: values.mean(dim=(1, 2)) for layer, values in maps.items()})
        pooled.append({layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]})
        present.append(torch.stack([_pairs(plan_scene(seed, config)) for seed in range(first, first + count)]))
    known, asked = pooled
    tallies = {
        layer: _named(probes.fit_ridge(values, present[0], settings["strength"])(asked[layer]), present[1])
        for layer, values in known.items()
    }
    beside = {CONSTANT: _named(present[0].mean(dim=0).expand_as(present[1]), present[1])}
    return by_layer(protocol, {"objects": tallies}, {"objects": beside})


def _pairs(plan: ScenePlan) -> Tensor:
    """(64,) 1 for each pair of colour and shape that a scene holds."""
    held = {f"{thing.colour} {thing.shape}" for thing in plan.objects}
    return torch.tensor([float(name in held) for name in scene_classes()])


def _named(scores: Tensor, present: Tensor) -> Tally:
    """By scene: how many of its pairs are among its likeliest, and how many it has. Of ties the first is taken."""
    counts = present.sum(dim=1).long()
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    right = ((ranks < counts[:, None]) & (present > 0)).sum(dim=1)
    return Tally(torch.stack([right, counts], dim=1).double().numpy(), ratio)


def clip_parts(found: NDArray[np.integer], truth: NDArray[np.integer]) -> NDArray[np.float64]:
    """(3,) sums of J and F over the objects of a clip, and their number."""
    regions, boundaries = score_masks(found, truth)
    return np.array([regions.sum(), boundaries.sum(), len(regions)])


def tracking_tallies(found: Mapping[str, Sequence[NDArray[np.float64]]]) -> dict[str, dict[str, Tally]]:
    """The three figures of tracking by name and layer, from the `clip_parts` of each layer's clips."""
    tallies: dict[str, dict[str, Tally]] = {"J&F": {}, "J": {}, "F": {}}
    for layer, parts in found.items():
        table = np.stack(parts)
        queries = int(table[:, 2].sum())
        for name, sums in (("J&F", table[:, :2].mean(axis=1)), ("J", table[:, 0]), ("F", table[:, 1])):
            tallies[name][layer] = Tally(np.stack([sums, table[:, 2]], axis=1), ratio, queries)
    return tallies


def scenes_to_fit(protocol: Protocol) -> SceneTruth:
    """The scenes that the probe of a protocol is fitted on."""
    settings = protocol.settings
    first = settings["first seed to fit"]
    return scene_truth(range(first, first + settings["count to fit"]), settings["size"])


def scenes_to_judge(protocol: Protocol) -> SceneTruth:
    """The scenes that a protocol's figures are over."""
    settings = protocol.settings
    first = settings["first seed"]
    return scene_truth(range(first, first + settings["count"]), settings["size"])


def grid_of(maps: Mapping[str, Tensor]) -> tuple[int, int]:
    """Rows and columns of the patches, which are the same in every layer."""
    one = next(iter(maps.values()))
    return int(one.shape[1]), int(one.shape[2])


def by_layer(
    protocol: Protocol,
    tallies: Mapping[str, Mapping[str, Tally]],
    beside: Mapping[str, Mapping[str, Tally]],
    unit: str = "",
    notes: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Evaluation:
    """An evaluation from tallies by measure and layer, and the baselines of each measure; the first is the headline.

    Its table "layers" also says how far each layer lies from the last one asked, with the interval of that difference.
    """
    measures: list[Measure] = []
    baselines: list[Baseline] = []
    curves: dict[str, list[list[float]]] = {}
    differences: dict[str, list[list[float]]] = {}
    known = {**NOTES, **(notes or {})}
    for number, (what, by) in enumerate(tallies.items()):
        others = beside.get(what, {})
        chance = others[CONSTANT].value if CONSTANT in others else None
        for layer, tally in by.items():
            name = what if len(by) == 1 else f"{what}, {layer}"
            value, (low, high) = tally.value, tally.interval()
            measures.append(Measure(name, value, low, high, tally.count, chance, number == 0, unit))
            curves.setdefault(what, []).append([value, low, high])
            differences.setdefault(what, []).append(list(tally.beyond(list(by.values())[-1])))
            baselines += [
                Baseline(other, name, one.value, known[other]) for other, one in others.items() if other != CONSTANT
            ]
    layers = list(next(iter(tallies.values())))
    return Evaluation(
        protocol,
        tuple(measures),
        tuple(baselines),
        details if details is not None else {"generator": VERSION, "fingerprint": fingerprint()},
        tables={"layers": {"layers": layers, "measures": curves, "minus the last": differences}},
    )


def _common(count: int, size: int, layers: Layers) -> dict[str, Any]:
    return {
        "generator": f"percepta scenes {VERSION}",
        "fingerprint": fingerprint(),
        "first seed": TEST_SEED_START,
        "count": count,
        "size": size,
        "layers": tuple(layers),
        "norm": False,
        "preprocessing": "the model's own, at this size",
    }


def _fit(count: int) -> dict[str, Any]:
    return {
        "first seed to fit": FIT_SEED_START,
        "count to fit": count,
        "strength": probes.STRENGTH,
        "scaling": "mean 0 and variance 1 over the patches to fit",
    }


def _numbers(count: int) -> NDArray[np.int64]:
    """(N, 1, 1) numbers of objects, from 1."""
    return np.arange(1, count + 1)[:, None, None]
