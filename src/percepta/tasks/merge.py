"""`merge`: several trained models become one, and a table says what that is worth.

Order of this file: the verb, a sweep over where the zip stops, what comes back.
Unusual: without labelled data it merges all the same, by the weights; but then nothing says how good the result is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from percepta.errors import BadInput, one_of, out_of_range
from percepta.media.curves import Line, Panel, draw_curves
from percepta.merging import METHODS, STATE_METHODS, Merged, cuts_of, input_grams, merge_models, reset_norms, trace
from percepta.merging.norms import batch_norms
from percepta.merging.partial import Cut
from percepta.merging.spaces import Blueprint
from percepta.merging.statistics import Batches
from percepta.merging.trunks import save_merged
from percepta.results import Failure
from percepta.tasks.merging_models import Mergeable, open_all, open_mergeable
from percepta.tasks.merging_scores import (
    Prepared,
    Row,
    Task,
    answers_of,
    classifies,
    prepare_data,
    scored,
    singles,
    tasks_of,
)

LIMIT, TESTED, BATCH = 1000, 2000, 50
STOPS = 8  # places of a sweep, at most
CLOSE = 0.08  # joint accuracy below the ensemble's that is still worth its savings
MERGED_COLOUR = (52, 120, 198)


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """What `merge` gives.

    Attributes:
        model: the merged model.
        method: how it was merged.
        names: of the models.
        rows: the table: each model alone, the ensemble, the plain average where there is one, the merged one last.
        tasks: the classes of each model, by name.
        stops: of a sweep, (share of the layers that are merged, row), from the first place on.
        correlations: by place, the mean correlation of features that became one.
        verdict: whether it is worth it, in a sentence; empty without data.
        notes: what else to know.
        failures: pictures that could not be read.
    """

    model: Any
    method: str
    names: tuple[str, ...]
    rows: tuple[Row, ...]
    tasks: tuple[tuple[str, ...], ...]
    stops: tuple[tuple[float, Row], ...]
    correlations: Mapping[str, float]
    verdict: str
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema": 1,
            "method": self.method,
            "models": list(self.names),
            "tasks": [list(task) for task in self.tasks],
            "rows": [row.to_dict() for row in self.rows],
            "stops": [{"share": round(share, 4), **row.to_dict()} for share, row in self.stops],
            "correlations": {name: round(value, 4) for name, value in self.correlations.items()},
            "verdict": self.verdict,
            "notes": list(self.notes),
        }

    def picture(self) -> Image.Image:
        """Accuracy, and what it costs, against how much of the network is merged. Raises BadInput without a sweep."""
        if len(self.stops) < 2:
            raise BadInput("a picture needs a sweep over places where the zip stops; pass sweep=True.")
        ensemble = next(row for row in self.rows if row.name == "ensemble")
        places = [share for share, _ in self.stops]
        names = {places[0]: f"{places[0]:.0%} of the layers", places[-1]: f"{places[-1]:.0%}"}
        panels = [
            Panel(title, subtitle, [Line(places, values, MERGED_COLOUR, mark=None)], names, level)
            for title, subtitle, values, level in (
                (
                    "All classes together",
                    "joint accuracy in %",
                    [100 * row.accuracy.joint for _, row in self.stops],
                    ("ensemble", 100 * ensemble.accuracy.joint),
                ),
                (
                    "Each task by itself",
                    "mean accuracy in %",
                    [100 * row.accuracy.mean for _, row in self.stops],
                    ("ensemble", 100 * ensemble.accuracy.mean),
                ),
                (
                    "Cost",
                    "multiply-adds of a picture, % of the ensemble's",
                    [100 * row.macs / ensemble.macs for _, row in self.stops],
                    None,
                ),
            )
        ]
        return draw_curves(f"{' + '.join(self.names)}, {self.method}, by how much is merged", panels)


def merge(  # noqa: PLR0913 (the front door)
    models: Sequence[str | Path | nn.Module],
    data: str | Path | None = None,
    out: str | Path | None = None,
    method: str = "zipit",
    stop: str | float | None = None,
    sweep: bool = False,
    classes: Sequence[Sequence[str]] | None = None,
    base: str | Path | nn.Module | None = None,
    alpha: float = 0.3,
    beta: float = 1.0,
    architecture: str | None = None,
    limit: int = LIMIT,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Merge:
    """Merge trained models of one architecture into one, without training.

    Args:
        models: two or more: names, files that `save` wrote, or our modules; with `architecture`, files of state dicts.
        data: labelled pictures of all tasks: a folder of classes, tar, parquet, or a CSV of paths and labels. Some are
            looked at to see what features have in common, others tell how good the result is.
        out: a safetensors file for the merged model, which `percepta.load` opens.
        method: "zipit", "least-squares", "permute", "weights", "optimal" or "average" for networks trained by
            themselves; "task_arithmetic", "ties", "dare", "breadcrumbs", "model_stock", "tsv", "iso" or "regmean" for
            fine-tunes of one model.
        stop: where the zip ends and the models stay separate: a cut's name, or a share of the layers.
        sweep: try up to eight such places, too.
        classes: of each model, in the order of its outputs; by default each model's are those it knows.
        base: the model that fine-tunes come from, for methods that need it.
        alpha, beta: of ZipIt!.
        architecture: "timm/NAME" or "torchvision/NAME" of files that are plain state dicts.
        limit: pictures for statistics, at most.
        options: further options of a method for fine-tunes, such as {"scale": 0.3}.
        progress: makes a bar of what is being done, such as `percepta.running.progress.Progress`.

    Raises: BadInput, with the first difference, for models that do not fit together; UnknownModel, MissingWeights,
        CheckpointMismatch, BadMedia.
    """
    if method not in (*METHODS, *STATE_METHODS):
        raise one_of("method", method, (*METHODS, *STATE_METHODS), "merge")
    if limit < 2:
        raise out_of_range("limit", limit, "2 or more", "merge")
    if data is None and (sweep or classes is not None):
        raise BadInput("a sweep and classes need labelled pictures; pass data.")
    opened = open_all(models, architecture)
    bar = None if progress is None else progress("pictures")
    prepared = None if data is None else prepare_data(data, opened[0], limit, TESTED, BATCH, bar)
    answers, tasks = [], []
    if prepared is not None and all(map(classifies, opened)):
        answers = [answers_of(one.model, prepared)[0] for one in opened]
        tasks = tasks_of(opened, answers, prepared, classes)
    run = _Run(opened, prepared, answers, tasks, method, alpha, beta, base, architecture, dict(options or {}), progress)
    merged = run.merged(run.needed_stop(stop))
    if out is not None:
        save_merged(merged, [one.model for one in opened], out, [one.maker for one in opened])
    return run.result(merged, run.sweep() if sweep else [])


@dataclass(frozen=True, eq=False)
class _Watched:
    """Batches that can be gone through again and again, and tell how far somebody is."""

    batches: Sequence[torch.Tensor]
    tell: Callable[[int], None]

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in self.batches:
            yield batch
            self.tell(len(batch))


@dataclass(frozen=True, eq=False)
class _Run:
    """One call of `merge`: what it was given, and what each model answers to the test pictures."""

    opened: Sequence[Mergeable]
    data: Prepared | None
    answers: Sequence[torch.Tensor]
    tasks: Sequence[Task]
    method: str
    alpha: float
    beta: float
    base: str | Path | nn.Module | None
    architecture: str | None
    options: dict[str, Any]
    progress: Callable[[str], Any] | None

    @property
    def models(self) -> list[Any]:
        """The networks."""
        return [one.model for one in self.opened]

    def batches(self) -> list[torch.Tensor]:
        """Pictures for statistics; without data, noise, which shows the shapes of things and nothing else."""
        if self.data is not None:
            return list(self.data.batches)
        side = getattr(getattr(self.models[0], "config", None), "image_size", 224)
        sides = (side, side) if isinstance(side, int) else tuple(side)
        return [torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(0))]

    def needed_stop(self, stop: str | float | None) -> str | float | None:
        """Heads of different classes stay apart, whatever was asked."""
        if stop is not None and self.method not in METHODS:
            raise BadInput(f"the method {self.method} merges whole models; stop is for {', '.join(METHODS)}.")
        shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in self.models]
        same_keys = all(list(one) == list(shapes[0]) for one in shapes)
        apart = same_keys and any(one != shapes[0] for one in shapes)
        if self.data is not None and len(set(self.tasks)) > 1:
            apart |= self.answers[0].shape[1] != len(self.data.names)
        return 1.0 if stop is None and apart and self.method in METHODS else stop

    def merged(self, stop: str | float | None = None) -> Merged:
        """The merged model, with a bar over the pictures that are looked at."""
        with nullcontext() if self.progress is None else self.progress("looking at features") as bar:
            if bar is not None:
                bar.start()
            batches = self.batches() if bar is None else _Watched(self.batches(), bar.advance)
            if self.method not in METHODS:
                return self._fine_tunes(batches)
            known = self.data is not None
            statistics = "data" if known else "weights"
            given = (self.models, batches, self.method, self.alpha, self.beta, stop)
            return merge_models(*given, reset=known, statistics=statistics)

    def _fine_tunes(self, batches: Batches) -> Merged:
        """Methods over state dicts."""
        method = STATE_METHODS[self.method]
        states = [one.state_dict() for one in self.models]
        given: list[Any] = [states]
        if method.base:
            if self.base is None:
                raise BadInput(f"the method {self.method} needs the model that the others were tuned from; pass base.")
            given.insert(0, open_mergeable(self.base, self.architecture).model.state_dict())
        if method.data:
            if self.data is None:
                raise BadInput(f"the method {self.method} needs pictures; pass data.")
            given.append([input_grams(one, batches) for one in self.models])
        state = method.function(*given, **self.options)
        model = deepcopy(self.models[0]).eval()
        model.load_state_dict(state)
        if self.data is not None:
            reset_norms(model, batches)
        return Merged(model, {}, {}, Blueprint({}, {}), None)

    def rows(self, merged: Merged) -> list[Row]:
        """The table; empty without data."""
        if self.data is None or not self.tasks:
            return []
        found = singles(self.opened, self.answers, self.tasks, self.data)
        if self.method != "average" and merged.cut is None:
            plain = merge_models(self.models, self.batches(), "average").model
            found.append(scored("average", plain, self.tasks, self.data))
        name = self.method if merged.cut is None else f"{self.method}, up to {merged.cut.name}"
        return [*found, scored(name, merged.model, self.tasks, self.data)]

    def sweep(self) -> list[tuple[float, Row]]:
        """The same method with the zip stopping at up to eight places."""
        if self.method not in METHODS:
            raise BadInput(f"a sweep needs a method that can stop early ({', '.join(METHODS)}); got {self.method}.")
        if self.data is None or not self.tasks:
            raise BadInput("a sweep compares classifiers; these models give no classes.")
        quiet, found = replace(self, progress=None), []
        chosen = _spread(cuts_of(trace(self.models[0])))
        with nullcontext() if self.progress is None else self.progress("places to stop") as bar:
            if bar is not None:
                bar.start(len(chosen))
            for cut in chosen:
                found.append((cut.share, scored(cut.name, quiet.merged(cut.name).model, self.tasks, self.data)))
                if bar is not None:
                    bar.advance()
        return found

    def result(self, merged: Merged, stops: Sequence[tuple[float, Row]]) -> Merge:
        """All that is to be told."""
        rows = self.rows(merged)
        known = () if self.data is None else self.data.names
        return Merge(
            merged.model,
            self.method,
            tuple(one.name for one in self.opened),
            tuple(rows),
            tuple(tuple(known[one] for one in task) for task in self.tasks),
            tuple(stops),
            merged.correlations,
            judged(rows, len(self.opened)) if rows else "",
            self.notes(merged),
            () if self.data is None else self.data.failures,
        )

    def notes(self, merged: Merged) -> tuple[str, ...]:
        """What to know beside the figures."""
        found = []
        if self.data is None:
            found.append("merged by the weights alone; with labelled pictures features are matched, and judged.")
            if batch_norms(merged.model):
                found.append("batch norms hold merged statistics; without pictures little of the accuracy is left.")
        elif not self.tasks:
            found.append("these models give no classes: features were matched on the pictures, and nothing is scored.")
        if merged.cut is not None:
            share = f"{merged.cut.share:.0%} of the layers are merged"
            found.append(f"{len(self.opened)} heads behind {merged.cut.name} ({share}).")
        poor = {name: value for name, value in merged.correlations.items() if value < 0.3}
        if poor:
            found.append(
                f"features match poorly at {len(poor)} of {len(merged.correlations)} places, such as "
                f"{min(poor, key=lambda name: poor[name])}: stop the zip earlier, or train the models longer."
            )
        return tuple(found)


def _spread(cuts: Sequence[Cut]) -> list[Cut]:
    """At most eight of the places, evenly, the last among them."""
    if len(cuts) <= STOPS:
        return list(cuts)
    step = (len(cuts) - 1) / (STOPS - 1)
    return [cuts[round(number * step)] for number in range(STOPS)]


def judged(rows: Sequence[Row], count: int) -> str:
    """Whether merging is worth it, in a sentence.

    Args:
        rows: as of `Merge`.
        count: number of models.
    """
    merged, ensemble = rows[-1], next(row for row in rows if row.name == "ensemble")
    alone = max(row.accuracy.joint for row in rows[:count])
    lost, cost = ensemble.accuracy.joint - merged.accuracy.joint, merged.macs / ensemble.macs
    figures = (
        f"{100 * merged.accuracy.joint:.1f} % of all classes against {100 * ensemble.accuracy.joint:.1f} for the "
        f"ensemble and {100 * alone:.1f} for the best model alone, at {cost:.0%} of the ensemble's cost"
    )
    if math.isnan(lost) or merged.accuracy.joint <= alone:
        return f"Not worth it: {figures}; merge less of the network, or keep the models apart."
    if lost <= CLOSE:
        return f"Worth it: {figures}."
    return f"Worth it where {100 * lost:.1f} points are not missed: {figures}."
