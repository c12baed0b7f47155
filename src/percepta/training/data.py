"""The data mixture: batches that are functions of (seed, step), so that a resumed run needs no replay.

Order of this file: batch, mixture, batches made ahead in a second process.
Unusual: no torch here, so that the second process starts at once and stays small. It is a plain subprocess that is fed
through pipes: it needs no guarded main module, and it ends when its parent ends, even by a kill.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np

from percepta.datasets.conversations_mixture import share_of_losses
from percepta.errors import BadInput, PerceptaError
from percepta.training.annotated_sources import ANNOTATED_SOURCES
from percepta.training.data_recipe import AugmentRecipe, DataRecipe
from percepta.training.question_sources import QUESTION_SOURCES
from percepta.training.sources import SOURCES, Part, Source

OPENED = {**SOURCES, **ANNOTATED_SOURCES, **QUESTION_SOURCES}


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of update number `step` (from 0): all of them, or the share of one process and one pass of several.

    Attributes:
        parts: of each source.
        micro: number of the pass.
        losses: what sources had to leave out so far, by name, as states of `Losses`.
    """

    step: int
    parts: tuple[Part, ...]
    micro: int = 0
    losses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Mixture:
    """Batches with samples of every source in proportion to the weights.

    Several processes share a batch, and so do the passes of each: its samples, source after source, are dealt out one
    by one. Together they see the samples that one process would in one pass, whatever their number.

    Args:
        recipe: the sources.
        batch_size: samples of a whole batch over all sources; a multiple of `processes` times `passes`.
        seed: decides every order and every draw.
        process, processes: whose share is made, of how many.
        passes: micro-batches of a step in each process.
        losses: what sources of all processes had left out before, as in a `Batch`; they go on counting.
    """

    def __init__(
        self,
        recipe: DataRecipe,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        passes: int = 1,
        losses: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.recipe, self.seed, self.losses_before = recipe, seed, losses or {}
        self.process, self.processes, self.passes = process, processes, passes
        hands = processes * passes
        weights = [source.weight for source in recipe.sources.values()]
        self.alternating = recipe.mixing == "alternate"
        self.counts = shares(weights, batch_size)
        if self.alternating:
            self.counts = [getattr(source, "batch_size", 0) or batch_size for source in recipe.sources.values()]
            if uneven := [count for count in self.counts if count % hands]:
                shared = f"{processes} devices" if passes == 1 else f"{processes} devices times {passes} passes"
                raise BadInput(f"each batch_size must be a multiple of the {shared}; got {uneven[0]}.")
        self.edges = np.cumsum(weights) / np.sum(weights)

    @functools.cached_property
    def sources(self) -> dict[str, Source]:
        """The sources by name; opened on first use, in the process that makes the batches."""
        opened = {name: OPENED[type(source)](source, self.seed) for name, source in self.recipe.sources.items()}
        for name, before in self.losses_before.items():
            if losses := getattr(opened.get(name), "losses", None):
                losses.load_state_dict(share_of_losses(before, self.process, self.processes))
        return opened

    def batch(self, step: int, micro: int = 0) -> Batch:
        """The batch of update number `step`, or this process's share of it in pass number `micro`."""
        hand, hands = self.process + self.processes * micro, self.processes * self.passes
        if self.alternating:
            return Batch(step, (self._part_of(step, hand, hands),), micro, self._losses())
        parts, before = [], 0
        for source, count in zip(self.sources.values(), self.counts, strict=True):
            rows = np.arange((hand - before) % hands, count, hands)
            before += count
            if len(rows):
                parts.append(replace(source.part(step * count, rows), rows=rows, total=count))
        return Batch(step, tuple(parts), micro, self._losses())

    def _losses(self) -> dict[str, Mapping[str, Any]]:
        sources = self.sources.items()
        return {name: source.losses.state_dict() for name, source in sources if hasattr(source, "losses")}

    def _part_of(self, step: int, hand: int, hands: int) -> Part:
        """The samples of a batch of one source; each source's list is gone through without gaps."""
        turns = self.turns(step + 1)
        number = int(turns[-1])
        before = int((turns[:-1] == number).sum())
        count, (name, source) = self.counts[number], list(self.sources.items())[number]
        rows = np.arange(hand, count, hands)
        return replace(source.part(before * count, rows), source=name, rows=rows, total=count)

    def turns(self, steps: int) -> np.ndarray:
        """(steps,) the number of the source of each of the first batches, where they alternate."""
        draws = np.random.default_rng((self.seed, 12)).random(steps)
        return np.minimum(np.searchsorted(self.edges, draws, side="right"), len(self.edges) - 1)

    def heldout(self) -> list[Part]:
        """Validation samples of every source that has some, not varied; the first process validates for all."""
        if self.process:
            return []
        count = self.recipe.validation_samples
        parts = {name: source.heldout(count) for name, source in self.sources.items()}
        return [replace(part, source=name, augment=AugmentRecipe()) for name, part in parts.items() if part is not None]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """`total` split in proportion to `weights`, by largest remainders."""
    exact = np.asarray(weights, float) / sum(weights) * total
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    return [int(count) for count in counts]


@contextlib.contextmanager
def batches(mixture: Mixture, first: int, last: int) -> Iterator[tuple[Iterator[Batch], list[Part]]]:
    """Batches of the updates `first` to `last` - 1, and the validation samples; made ahead where the recipe says so."""
    places = ((step, micro) for step in range(first, last) for micro in range(mixture.passes))
    if mixture.recipe.workers == 0:
        yield (mixture.batch(*place) for place in places), mixture.heldout()
        return
    with _Producer(mixture) as producer:
        heldout = producer.receive()
        yield producer.batches(places, mixture.recipe.ahead), heldout


class _Producer:
    """The second process, seen from the first."""

    def __init__(self, mixture: Mixture) -> None:
        command = [sys.executable, "-c", "from percepta.training.data import serve; serve()"]
        # One thread: the cores belong to the training.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        search = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment = {**os.environ, **threads, **search}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._send(mixture)

    def __enter__(self) -> _Producer:
        return self

    def __exit__(self, *problem: object) -> None:
        self.process.kill()
        self.process.communicate()

    def batches(self, places: Iterator[tuple[int, int]], ahead: int) -> Iterator[Batch]:
        """Batches in order of (step, pass), `ahead` of them being asked for in advance."""
        asked = 0
        for place in places:
            self._send(place)
            asked += 1
            if asked > ahead:
                asked -= 1
                yield self.receive()
        for _ in range(asked):
            yield self.receive()

    def receive(self) -> Any:
        """The next answer; raises what the other process raised."""
        assert self.process.stdout is not None
        try:
            answer = pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise PerceptaError("the process that makes batches ended; run with data.workers=0 to see why.") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send(self, message: object) -> None:
        assert self.process.stdin is not None
        pickle.dump(message, self.process.stdin, protocol=5)
        self.process.stdin.flush()


def serve() -> None:
    """The second process: reads a mixture, then steps, and writes batches until its input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the training, which then ends this process
        signal.signal(number, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not mix with the batches
    with contextlib.suppress(EOFError, BrokenPipeError):
        _answer(sys.stdin.buffer, output)


def _answer(requests: BinaryIO, output: BinaryIO) -> None:
    def write(answer: object) -> None:
        pickle.dump(answer, output, protocol=5)
        output.flush()

    mixture: Mixture | None = None
    while True:
        request = pickle.load(requests)
        try:
            if mixture is None:
                mixture = request
                write(mixture.heldout())
            else:
                write(mixture.batch(*request))
        except (PerceptaError, ImportError, OSError, ValueError, RuntimeError, TypeError) as error:
            # As plain text: an error class may need more than its message to be rebuilt on the other side.
            write(PerceptaError(str(error) if isinstance(error, PerceptaError) else f"{type(error).__name__}: {error}"))
            return
