"""`select`: which model, or which layer of one, suits some labelled pictures, told without training anything.

A few hundred pictures go through each candidate once; scores that foretell how well a model will learn them
(`percepta.selection`) rank the candidates, with intervals and beside what the size of the models alone would say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from percepta import catalog
from percepta.datasets.targets import CLASSES, TargetSet, open_targets
from percepta.errors import BadInput, BadMedia, PerceptaError, out_of_range
from percepta.results import Failure
from percepta.running.backbones import OUTPUT, PROBABILITIES, Backbone, expand, open_backbone
from percepta.running.progress import Progress
from percepta.selection import RECOMMENDED, Candidate, Ranking, as_targets, rank, sample_probe
from percepta.selection.inputs import as_features
from percepta.selection.ranking import PRIOR_WEIGHT
from percepta.tasks.encoder import NANO, warn_of_toy
from percepta.tasks.selecting import keeping
from percepta.tasks.selecting.features import features_of, keys_of
from percepta.tasks.selecting.selection import LAYERS, MODELS, Option, Selection

BUDGET = 500
RUNS = 50
BROKEN = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What models of other libraries raise when they are not built as theirs usually are."""
Watch = Callable[[str], Progress]


def packaged() -> list[str]:
    """The encoders whose weights come with the library: what is compared unless told."""
    cards = {name: catalog.describe(name) for name in expand(["*"])}
    return [name for name, card in cards.items() if card.packaged and not card.setting]


def select_models(  # noqa: PLR0913 (the front door)
    data: str | Path,
    among: str | nn.Module | Sequence[str | nn.Module] | None = None,
    budget: int = BUDGET,
    estimators: Sequence[str] | None = None,
    runs: int = RUNS,
    seed: int = 0,
    regression: bool = False,
    column: str | None = None,
    random_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    progress: Watch | None = None,
) -> Selection:
    """Rank models by how well they will learn the labels of some pictures, without training any.

    Args:
        data: a folder with one sub-folder a class; tar, parquet or arrow files with labels; or a CSV of paths and
            labels (";" between several labels of a picture).
        among: names and patterns, in a list or with commas between them: ours ("pe-*"), files, "timm/NAME",
            "torchvision/NAME", "hf/OWNER/NAME" or "hf/FOLDER"; or loaded modules of percepta, timm and torchvision.
            Without one, the packaged toys.
        budget: pictures to look at, at most; of classes equally many.
        estimators: names of `percepta.selection.ESTIMATORS`.
        runs: draws of the probe behind each interval; 0 for none.
        seed: of the choice of pictures and of the draws.
        regression: the labels of the CSV are numbers to be foretold; `column` names their column.
        random_weights: the architectures alone, to try a run where there are no weights.
        on_error: "collect" goes on without pictures that cannot be read, "raise" raises BadMedia for the first.
        progress: makes the Progress of a piece of work from its name; None keeps silent.

    Returns: see `Selection`. Models that cannot be loaded or run are named in `left_out`. Features are kept in the
        user's cache folder, so that a run that was interrupted, or has one more model, does what is new alone.

    Raises: BadInput for labels that say nothing (one class, fewer pictures than classes), fewer than two models that
        can be used, a number out of range, an unknown estimator. BadMedia, UnknownModel, MissingExtra.
    """
    chosen = _models(among)
    probe = _Probe.of(data, budget, seed, regression, column)
    watch = progress or _silent
    found: dict[str, _Seen] = {}
    left_out: list[Failure] = []
    for number, (name, model) in enumerate(chosen.items(), start=1):
        try:
            with _usable(name, model):
                backbone = open_backbone(model, None, device, dtype, random_weights)
                bar = watch(f"{name}, {number} of {len(chosen)}")
                found[name] = probe.seen(backbone, False, batch_size, bar, on_error)
        except _LeftOut as error:
            left_out.append(Failure(name, str(error)))
    keeping.trim()
    if len(found) < 2:
        why = f" ({left_out[0].reason})" if left_out else ""
        raise BadInput(f"select models needs two models at least that can be used; {len(found)} can{why}")
    selection = probe.selection(MODELS, "", found, left_out, _chosen_estimators(estimators), runs, watch)
    return _told_random(selection) if random_weights else selection


def select_layers(  # noqa: PLR0913 (the front door)
    data: str | Path,
    model: str | nn.Module = NANO,
    budget: int = BUDGET,
    estimators: Sequence[str] | None = None,
    runs: int = RUNS,
    seed: int = 0,
    regression: bool = False,
    column: str | None = None,
    weights: str | Path | None = None,
    random_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    progress: Watch | None = None,
) -> Selection:
    """Rank the layers of one model, and its pooled output, by how well the labels of some pictures can be read there.

    Every layer comes from the same pass; of each, the mean over its patches or places is judged.

    Args:
        model: a name as of `select_models`, or a loaded module.
        weights: a file or folder for one of our models.
        others: as of `select_models`.

    Returns: see `Selection`; `answer` is such as "layer 17 ± 2".

    Raises: as `select_models`; UnknownModel, MissingWeights, CheckpointMismatch; BadInput for a model without layers.
    """
    watch = progress or _silent
    probe = _Probe.of(data, budget, seed, regression, column)
    backbone = open_backbone(model, weights, device, dtype, random_weights)
    if isinstance(model, str):
        warn_of_toy(model)
    if len(backbone.layers) < 2:
        raise BadInput(f"{backbone.name} shows no layers; use select models, or another model.")
    seen = probe.seen(backbone, True, batch_size, watch(backbone.name), on_error)
    keeping.trim()
    parts = {name: seen.part(name, backbone) for name in (*backbone.layers, OUTPUT)}
    selection = probe.selection(LAYERS, backbone.name, parts, [], _chosen_estimators(estimators), runs, watch)
    return _told_random(selection) if random_weights else selection


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What one model, or a layer of it, sees of the pictures that could be read."""

    option: Option
    vectors: Mapping[str, Any]
    rows: NDArray[np.int64]
    failures: tuple[Failure, ...]

    def part(self, name: str, backbone: Backbone) -> _Seen:
        """One layer alone, or the output."""
        layer = backbone.layers.index(name) if name in backbone.layers else None
        vectors = self.vectors[name]
        depth = len(backbone.layers) + 1 if layer is None else layer + 1
        option = Option(name, vectors.shape[1], backbone.parameters, depth, None, layer, backbone.usage(name))
        return _Seen(option, {OUTPUT: vectors}, self.rows, self.failures)


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    """The pictures that are looked at, with their targets."""

    data: TargetSet
    keys: list[str]
    notes: tuple[str, ...]
    seed: int

    @classmethod
    def of(cls, place: str | Path, budget: int, seed: int, regression: bool, column: str | None) -> _Probe:
        """Raises BadInput for targets that say nothing or a number out of range, BadMedia for other data."""
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 4:
            raise out_of_range("budget", budget, "a whole number of 4 or more pictures")
        data = open_targets(place, regression, column)
        rows = sample_probe(as_targets(data.targets, data.kind), budget, seed=seed)
        probe = data.subset(rows)
        return cls(probe, keys_of(probe.pictures), _notes(data, probe, budget), seed)

    def seen(self, backbone: Backbone, layers: bool, batch_size: int | None, bar: Progress, on_error: str) -> _Seen:
        """Raises BadInput for features that no score can use."""
        made = features_of(backbone, self.data.pictures, self.keys, layers, batch_size, bar, on_error)
        vectors = {name: values.numpy() for name, values in made.vectors.items()}
        as_features(vectors[OUTPUT], what=f"features of {backbone.name}")
        option = Option(
            backbone.name,
            vectors[OUTPUT].shape[1],
            backbone.parameters,
            backbone.depth,
            None if layers else backbone.macs(),
            None,
            backbone.usage(OUTPUT),
        )
        return _Seen(option, vectors, made.rows, made.failures)

    def selection(
        self,
        what: str,
        model: str,
        found: Mapping[str, _Seen],
        left_out: Sequence[Failure],
        estimators: Sequence[str],
        runs: int,
        watch: Watch,
    ) -> Selection:
        """The ranking of what was seen, on the pictures that all could read."""
        rows = reduce(np.intersect1d, [seen.rows for seen in found.values()])
        candidates = {name: _candidate(seen, rows, what) for name, seen in found.items()}
        with watch("scores") as bar:
            bar.start(len(candidates))
            ranking = self._ranked(candidates, rows, estimators, runs, what, bar)
        failures = dict.fromkeys(failure for seen in found.values() for failure in seen.failures)
        return Selection(
            what,
            model,
            self.data.place,
            self.data.names,
            ranking,
            {name: seen.option for name, seen in found.items()},
            self.notes,
            tuple(left_out),
            tuple(failures),
        )

    def _ranked(
        self,
        candidates: Mapping[str, Candidate],
        rows: NDArray[np.int64],
        estimators: Sequence[str],
        runs: int,
        what: str,
        bar: Progress,
    ) -> Ranking:
        return rank(
            candidates,
            as_targets(self.data.targets[rows], self.data.kind),
            estimators,
            runs,
            self.seed,
            prior_weight=0.0 if what == LAYERS else PRIOR_WEIGHT,  # layers of one model are none of them larger
            on_progress=lambda _done, _all: bar.advance(),
        )


def _candidate(seen: _Seen, rows: NDArray[np.int64], what: str) -> Candidate:
    places = np.searchsorted(seen.rows, rows)
    option, likely = seen.option, seen.vectors.get(PROBABILITIES)
    if what == LAYERS:
        return Candidate(seen.vectors[OUTPUT][places])
    return Candidate(
        seen.vectors[OUTPUT][places],
        option.parameters,
        option.depth,
        option.macs,
        None if likely is None else likely[places],
    )


class _LeftOut(Exception):
    """A model cannot be loaded or run; the others can."""


@contextmanager
def _usable(name: str, model: str | nn.Module) -> Iterator[None]:
    """What a model raises, as `_LeftOut`; but what is wrong with the pictures, or with our own code, as it is."""
    try:
        yield
    except BadMedia:
        raise
    except PerceptaError as error:
        raise _LeftOut(f"{name} is left out: {error}") from error
    except BROKEN as error:
        if isinstance(model, str) and "/" not in model:
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise _LeftOut(f"{name} is left out, since it cannot be run: {reason}.") from error


def _models(among: Any) -> dict[str, str | nn.Module]:
    """Candidates by name, modules in hand under a name of their own. Raises BadInput, UnknownModel."""
    if among is None:
        return {name: name for name in packaged()}
    given = [among] if isinstance(among, str | Path | nn.Module) else list(among)
    found: dict[str, str | nn.Module] = {}
    for one in given:
        if isinstance(one, nn.Module):
            base = getattr(one, "name", "") or type(one).__name__
            name = next(n for n in (base, *(f"{base} ({k})" for k in range(2, 10_000))) if n not in found)
            found[name] = one
        else:
            found |= {name: name for name in expand(part.strip() for part in str(one).split(",") if part.strip())}
    if not found:
        raise BadInput("among must name at least two models, such as pe-core-nano,timm/resnet18.a1_in1k; got none.")
    return found


def _chosen_estimators(names: Sequence[str] | None) -> Sequence[str]:
    return RECOMMENDED if names is None else names


def _notes(data: TargetSet, probe: TargetSet, budget: int) -> tuple[str, ...]:
    """How the pictures were chosen, in sentences."""
    whole = f"all {len(data)} pictures" if len(probe) == len(data) else f"{len(probe)} of {len(data):,} pictures"
    if data.kind != CLASSES:
        return (f"{whole} of {data.place} were looked at.",)
    present, before = len(np.unique(probe.targets)), len(np.unique(data.targets))
    notes = [f"{whole} of {data.place} were looked at, of {present} classes."]
    if present < before:
        notes.append(
            f"{before - present} of {before} classes were left out at random, so that each has two pictures; a larger "
            f"budget than {budget} takes more."
        )
    return tuple(notes)


def _told_random(selection: Selection) -> Selection:
    return replace(
        selection, notes=("weights are random: this shows how a run goes, not what to take.", *selection.notes)
    )


def _silent(what: str) -> Progress:
    return Progress(what, shown=False)
