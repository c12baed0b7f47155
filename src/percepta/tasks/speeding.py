"""`speedup`: the fastest way to run a model on some data within a loss that is allowed, found by trying.

Levers are tried one after the other: what is exact (prepared, compiled), then fewer tokens by each strategy, mild to
strong, until too much is lost, then bfloat16 and batch sizes on the best. Loss is counted in points of accuracy where
classes are known, else as the mean of 1 - cosine between the vectors of the plain model and the faster one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from percepta import catalog
from percepta.errors import BadInput, one_of, out_of_range
from percepta.results import Failure
from percepta.running import preparing
from percepta.running.fingerprint import made_with
from percepta.running.loading import load
from percepta.running.machine import processor
from percepta.running.progress import Progress
from percepta.running.settings import Setting, as_dict
from percepta.speedups import STRATEGIES
from percepta.tasks.encoder import Encoder
from percepta.tasks.prompts import classifier, templates_of
from percepta.tasks.speeding_data import Sample, sample_of
from percepta.tasks.trials import MEASURES, Bench, Trial, compiler_works

LIMIT = 200
BUDGETS = (0.85, 0.7, 0.6, 0.5, 0.4)
BATCHES = (1, 32)
TOO_FAR = 3.0  # times the bound; what is stronger than a budget that loses more is not tried
WORTH_COMPILING = 1.1  # times as fast as without, since compiling takes its time in every process


@dataclass(frozen=True)
class SpeedupReport:
    """What `speedup` found.

    Attributes:
        model: whose settings these are; `weights` the file that was named, or "".
        made_with: of `running.fingerprint`.
        data: what was looked at, in words; `pictures` how many.
        measure: what a loss is: "accuracy" (points, 0..1), "cosine" (mean of 1 - cosine), "neighbours" (share of
            pictures whose nearest neighbour is another one).
        loss_at_most: the bound that was set.
        accuracy: of the plain model, None without labels.
        trials: every setting that was tried, in order; the first is the plain model against itself.
        chosen: the fastest within the bound.
        machine: what it was measured on.
        notes: sentences on what was left out and why.
        failures: pictures that could not be read.
    """

    model: str
    weights: str
    made_with: dict[str, str]
    data: str
    pictures: int
    measure: str
    loss_at_most: float
    accuracy: float | None
    trials: tuple[Trial, ...]
    chosen: Trial
    machine: str
    notes: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Of the trials."""
        return tuple(trial.setting for trial in self.trials)

    def loss(self, trial: Trial) -> float:
        """What a trial lost, by the measure of this report."""
        return trial.loss(self.measure, self.accuracy)

    def save(self, name: str, overwrite: bool = False) -> Path:
        """Keep the chosen setting under a name that `load` and every verb take as a model.

        Raises: BadInput for a name that is taken or cannot be used, or a model that has no card.
        """
        if self.model not in catalog.cards():
            raise BadInput(f"only settings of a model of `percepta models` can be saved; this one is of {self.model}.")
        loss = f"{100 * self.loss(self.chosen):.2g} % {WORDS[self.measure]} lost"
        return catalog.save_setting(
            name,
            {
                "of": self.model,
                "weights": self.weights,
                "summary": f"{self.model}, {self.chosen.setting}: {self.chosen.speedup:.2f} x plain, {loss}.",
                "setting": as_dict(self.chosen.setting),
                "report": {key: value for key, value in self.to_dict().items() if key != "trials"},
            },
            overwrite,
        )

    def picture(self) -> Any:
        """The trade-off as a PIL picture: speed-up across, loss up, the chosen one ringed."""
        from percepta.media.tradeoff import Point, tradeoff_picture

        points = [
            Point(trial.speedup, max(0.0, self.loss(trial)), trial.setting.strategy or "no merging", str(trial.setting))
            for trial in self.trials
        ]
        title = f"{self.model} on {self.data}, {self.pictures} pictures"
        return tradeoff_picture(
            points, self.trials.index(self.chosen), self.loss_at_most, LOSSES[self.measure], title, self.machine
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "model": self.model,
            "weights": self.weights,
            "made_with": self.made_with,
            "data": self.data,
            "pictures": self.pictures,
            "measure": LOSSES[self.measure],
            "loss_at_most": self.loss_at_most,
            "accuracy": self.accuracy,
            "chosen": self.chosen.to_dict() | {"loss": self.loss(self.chosen)},
            "trials": [trial.to_dict() | {"loss": self.loss(trial)} for trial in self.trials],
            "machine": self.machine,
            "notes": list(self.notes),
        }


WORDS = {"accuracy": "of accuracy", "cosine": "(1 - cosine)", "neighbours": "of nearest neighbours"}
LOSSES = {
    "accuracy": "points of accuracy lost",
    "cosine": "mean 1 - cosine to the plain model's vectors",
    "neighbours": "share of nearest neighbours changed",
}


def speedup(  # noqa: PLR0913 (the front door)
    model: str | nn.Module,
    on: Any,
    loss_at_most: float = 0.01,
    labels: str | Sequence[str] | None = None,
    measure: str | None = None,
    limit: int = LIMIT,
    strategies: Sequence[str] | None = None,
    budgets: Sequence[float] | None = None,
    batch_sizes: Sequence[int] | None = None,
    compile: bool | None = None,
    templates: str | Sequence[str] | None = None,
    device: str | torch.device | None = None,
    weights: str | Path | None = None,
    progress: Callable[[str], Progress] | None = None,
    known: Sequence[Trial] = (),
    tell: Callable[[Trial], Any] | None = None,
) -> SpeedupReport:
    """Try ways to run a model faster on some pictures, and choose the fastest within a loss.

    Args:
        model: a name, or a loaded model that pools, neither prepared nor merging; it stays as it is.
        on: pictures: whatever `classify` takes; one sub-folder a class, tar files or parquet give classes too.
        loss_at_most: 0.01 allows one point of accuracy where classes are known, else a mean 1 - cosine of 0.01.
        labels: None takes the names of sub-folders or of the table as classes where the model tells them apart; texts
            say which classes; "none" never looks at classes.
        measure: "accuracy", "cosine" or "neighbours", instead of what `labels` lead to.
        limit: at most so many pictures, evenly spread.
        strategies: names of `STRATEGIES`; all by default.
        budgets: shares of the multiply-adds to merge down to, tried from mild to strong; `BUDGETS` by default.
        batch_sizes: tried on the best settings, beside the usual 8 (32 on a GPU); `BATCHES` by default.
        compile: try torch's compiler, where one works; None does so on a GPU alone, since on a CPU it takes about as
            long as all the rest.
        templates: for the class names, as of `classify`.
        weights: a file or folder for the model's name.
        progress: makes the Progress of a piece of work from its name; None keeps silent.
        known: trials of an earlier run of the same model and pictures, which are not measured again.
        tell: called with every trial as it is made.

    Raises: BadInput for a number out of range, no picture, labels that do not match, a model without one vector a
        picture. BadMedia, UnknownModel, MissingWeights, CheckpointMismatch.
    """
    budgets = BUDGETS if budgets is None else budgets
    batch_sizes = BATCHES if batch_sizes is None else batch_sizes
    _check(loss_at_most, limit, measure, strategies, budgets, batch_sizes)
    encoder = _plain_encoder(model, device, weights)
    sample = sample_of(on, labels, limit, None if progress is None else progress("reading"), encoder)
    bench = _bench(encoder, sample, templates)
    measure, notes = _measure(bench, sample, measure, labels is not None)
    search = _Search(bench, measure, loss_at_most, known, tell)
    names = list(STRATEGIES) if strategies is None else list(strategies)
    steps = search.run(names, sorted(budgets, reverse=True), batch_sizes, compile)
    with Progress("speedup", shown=False) if progress is None else progress("speedup") as bar:
        bar.start(search.planned)
        for _ in steps:
            bar.advance()
    file = "" if weights is None else os.path.abspath(os.path.expanduser(weights))
    return _report(bench, sample, search, file, [*notes, *search.notes])


def _bench(encoder: Encoder, sample: Sample, templates: str | Sequence[str] | None) -> Bench:
    if not sample.names:
        return Bench(encoder, sample.pictures)
    encoder.need_words("accuracy")
    classes = classifier(encoder, sample.names, templates_of(templates))
    return Bench(encoder, sample.pictures, classes, sample.labels)


def _measure(bench: Bench, sample: Sample, measure: str | None, asked: bool) -> tuple[str, list[str]]:
    """What a loss is, and why. Raises BadInput for accuracy without classes."""
    notes, found = list(sample.notes), measure or ("cosine" if bench.accuracy is None else "accuracy")
    if found == "accuracy" and bench.accuracy is None:
        raise BadInput("the measure accuracy needs classes: one sub-folder a class, tar files or parquet.")
    if found == "accuracy" and not asked and not _above_chance(bench, len(sample.names or ())):
        notes.append("the plain model is right no more often than by chance, so the names of classes are not used.")
        found = "cosine"
    return found, notes


def _report(bench: Bench, sample: Sample, search: _Search, weights: str, notes: Sequence[str]) -> SpeedupReport:
    encoder = bench.encoder
    machine = processor() if encoder.device.type == "cpu" else torch.cuda.get_device_name(encoder.device)
    threads = torch.get_num_threads()
    return SpeedupReport(
        encoder.name,
        weights,
        made_with(encoder.model),
        sample.place,
        len(sample.pictures),
        search.measure,
        search.bound,
        bench.accuracy,
        tuple(search.trials),
        search.best(),
        f"{machine}, {threads} thread{'' if threads == 1 else 's'}, torch {torch.__version__}",
        tuple(notes),
        sample.failures,
    )


class _Search:
    """The trials, one lever after the other."""

    def __init__(
        self,
        bench: Bench,
        measure: str,
        bound: float,
        known: Sequence[Trial],
        tell: Callable[[Trial], Any] | None,
    ) -> None:
        self.bench, self.measure, self.bound, self.tell = bench, measure, bound, tell
        self.known = {trial.setting: trial for trial in known}
        self.trials: list[Trial] = []
        self.notes: list[str] = []
        self.planned = 0

    def run(
        self, strategies: Sequence[str], budgets: Sequence[float], batches: Sequence[int], compile: bool | None
    ) -> Iterator[None]:
        """Makes the trials, and yields after each."""
        self.planned = 4 + len(strategies) * len(budgets) + 2 + len(batches)
        return self._steps(strategies, budgets, batches, compile)

    def best(self) -> Trial:
        """The fastest trial within the bound; the plain one where nothing is faster."""
        within = [trial for trial in self.trials if self.loss(trial) <= self.bound]
        worth = {
            trial: trial.speedup / (WORTH_COMPILING if trial.setting.compiled else 1.0)
            for trial in within
            if trial.speedup > 1
        }
        return max(worth, key=lambda trial: worth[trial]) if worth else self.trials[0]

    def loss(self, trial: Trial) -> float:
        return trial.loss(self.measure, self.bench.accuracy)

    def _steps(
        self, strategies: Sequence[str], budgets: Sequence[float], batches: Sequence[int], compile: bool | None
    ) -> Iterator[None]:
        plain = Setting(batch_size=self.bench.batch)
        on_cpu = self.bench.encoder.device.type == "cpu"
        self._try(plain)
        yield
        exact = [replace(plain, prepared=True)] if on_cpu else []
        if compile is None and on_cpu:
            self.notes.append("the compiler was not tried; on a CPU it is only when asked for (compile).")
        elif compile is not False and compiler_works():
            exact.append(replace(plain, compiled=True))
        elif compile is not False:
            self.notes.append("torch finds no compiler that works here, so nothing was compiled.")
        for setting in exact:
            self._try(setting)
            yield
        base = max(self.trials, key=lambda trial: trial.speedup / (WORTH_COMPILING if trial.setting.compiled else 1.0))
        low = replace(base.setting, dtype="bfloat16")
        rounded = self._try(low) if self._can(low) else None
        yield
        yield from self._merge(base.setting, strategies, budgets)
        if rounded is not None and rounded.speedup > base.speedup:
            for trial in self._merged_within()[:2]:
                self._try(replace(trial.setting, dtype="bfloat16"), trial.flops)
                yield
        best = self.best()
        for size in batches:
            if size != best.setting.batch_size:
                self._try(replace(best.setting, batch_size=size), best.flops)
            yield

    def _merge(self, base: Setting, strategies: Sequence[str], budgets: Sequence[float]) -> Iterator[None]:
        for strategy in strategies:
            for budget in budgets:
                try:
                    setting, flops = self.bench.merged(base, strategy, budget)
                except BadInput as error:
                    self.notes.append(f"{strategy} at {budget:.0%}: {error}")
                    break
                trial = self._try(setting, flops)
                yield
                if self.loss(trial) > TOO_FAR * self.bound:
                    break

    def _merged_within(self) -> list[Trial]:
        found = [trial for trial in self.trials if trial.setting.strategy and self.loss(trial) <= self.bound]
        return sorted(found, key=lambda trial: -trial.speedup)

    def _can(self, setting: Setting) -> bool:
        """Whether bfloat16 would be taken here: where this machine is no faster at it, `prepare` stays exact."""
        if not setting.prepared:
            return self.bench.encoder.device.type != "cpu"
        model: nn.Module = self.bench.changed(setting)
        return preparing.precision_of(model) == torch.bfloat16

    def _try(self, setting: Setting, flops: float = 1.0) -> Trial:
        trial = self.known.get(setting)
        if trial is None:
            trial = self.bench.trial(setting, flops)
            if self.tell is not None:
                self.tell(trial)
        self.trials.append(trial)
        return trial


def _plain_encoder(model: str | nn.Module, device: str | torch.device | None, weights: str | Path | None) -> Encoder:
    """Raises BadInput for a model that is prepared, merges already, or gives no single vector."""
    if not isinstance(model, nn.Module):
        if not isinstance(model, str | Path) or not str(model):
            raise BadInput(f"a model must be a name, a file or a loaded model; got {model!r}.")
        encoder = Encoder(load(model, weights, device="cpu" if device is None else device))
    else:
        encoder = Encoder(model, device, None, weights)
    found = encoder.model
    tower = getattr(found, "vision", found)
    if getattr(found, "setting", None) is not None:
        raise BadInput(f"{encoder.name} is a saved setting already; name its model instead.")
    if preparing.is_prepared(found) or getattr(tower, "shorten", None) is not None:
        raise BadInput(f"speedup needs a plain model; {encoder.name} is prepared or merges already.")
    if not getattr(tower, "pooled", True):
        raise BadInput(f"{encoder.name} gives no single vector for a picture; use a pe-core model.")
    return encoder


def _check(
    bound: float,
    limit: int,
    measure: str | None,
    strategies: Sequence[str] | None,
    budgets: Sequence[float],
    batches: Sequence[int],
) -> None:
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound < 1:
        raise out_of_range("loss_at_most", bound, "0 to 1, such as 0.01 for one per cent")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 2:
        raise out_of_range("limit", limit, "a whole number of 2 or more")
    if measure is not None and measure not in MEASURES:
        raise one_of("measure", measure, MEASURES)
    for strategy in strategies or ():
        if strategy not in STRATEGIES:
            raise one_of("strategy", strategy, STRATEGIES)
    for budget in budgets:
        if not 0 < budget < 1:
            raise out_of_range("a budget", budget, "a share of the multiply-adds above 0 and below 1")
    for size in batches:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise out_of_range("a batch size", size, "a whole number of 1 or more")


def _above_chance(bench: Bench, classes: int) -> bool:
    """Whether the plain model is right more often than guessing, by two standard errors."""
    chance, count = 1 / max(classes, 1), len(bench.pictures)
    return bench.accuracy is not None and bench.accuracy > chance + 2 * (chance * (1 - chance) / count) ** 0.5
