"""The data mixture: batches that are functions of (seed, step), so that a resumed run needs no replay.

Order of this file: batch, sources, mixture, batches made ahead in a second process.
Unusual: no torch here, so that the second process starts at once and stays small. It is a plain subprocess that is fed
through pipes: it needs no guarded main module, and it ends when its parent ends, even by a kill.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

import numpy as np

from percepta.errors import BadMedia, PerceptaError
from percepta.training.recipe import (
    AugmentRecipe,
    CifarRecipe,
    DataRecipe,
    FolderRecipe,
    ScenesRecipe,
    ShardsRecipe,
)

SCENE_VALIDATION_START = 900_000
"""Scenes below this seed are trained on; up to 999,999 they validate; from 1,000,000 they are for tests only."""


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one source in a batch.

    Attributes:
        source: name of the source.
        pictures: (B, H, W, 3) uint8.
        captions: B captions; equal ones mean the same.
        augment: how the pictures are to be varied.
        hard_negatives: B wrong captions, or None.
    """

    source: str
    pictures: np.ndarray
    captions: list[str]
    augment: AugmentRecipe
    hard_negatives: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """All samples of update number `step` (from 0)."""

    step: int
    parts: tuple[Part, ...]


class Source(Protocol):
    """A source of samples; the same arguments always give the same samples."""

    def part(self, position: int, count: int) -> Part:
        """Samples `position` to `position + count` of the endless shuffled training list."""

    def heldout(self, count: int) -> Part | None:
        """At most `count` samples that are never trained on, or None where the source has none."""


class Mixture:
    """Batches with samples of every source in proportion to the weights.

    Args:
        recipe: the sources.
        batch_size: samples of a batch over all sources.
        seed: decides every order and every draw.
    """

    def __init__(self, recipe: DataRecipe, batch_size: int, seed: int) -> None:
        self.recipe = recipe
        self.sources: dict[str, Source] = {
            name: _SOURCES[type(source)](source, seed) for name, source in recipe.sources.items()
        }
        self.counts = shares([source.weight for source in recipe.sources.values()], batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of update number `step`."""
        pairs = zip(self.sources.values(), self.counts, strict=True)
        return Batch(step, tuple(source.part(step * count, count) for source, count in pairs if count))

    def heldout(self) -> list[Part]:
        """Validation samples of every source that has some, not varied."""
        parts = [source.heldout(self.recipe.validation_samples) for source in self.sources.values()]
        return [replace(part, augment=AugmentRecipe()) for part in parts if part is not None]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """`total` split in proportion to `weights`, by largest remainders."""
    exact = np.asarray(weights, float) / sum(weights) * total
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    return [int(count) for count in counts]


class _Order:
    """An endless list of indices below `total`: a fresh permutation for each pass."""

    def __init__(self, total: int, seed: int, stream: int) -> None:
        self.total, self.key = total, (seed, stream)
        self._passes: dict[int, np.ndarray] = {}

    def __call__(self, position: int, count: int) -> np.ndarray:
        positions = np.arange(position, position + count)
        epochs, places = np.divmod(positions, self.total)
        return np.concatenate([self._pass(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _pass(self, epoch: int) -> np.ndarray:
        if epoch not in self._passes:
            while len(self._passes) > 1:
                self._passes.pop(min(self._passes))
            self._passes[epoch] = np.random.default_rng((*self.key, epoch)).permutation(self.total)
        return self._passes[epoch]


class ScenesSource:
    """Pictures of the procedural world, new ones for ever or from a pool that is kept in memory."""

    def __init__(self, recipe: ScenesRecipe, seed: int) -> None:
        from percepta.datasets.scenes import SceneConfig

        self.recipe = recipe
        self.config = SceneConfig(size=recipe.size, **recipe.options)
        self.first = seed * 100_003
        self.order = _Order(recipe.pool, seed, stream=1) if recipe.pool else None
        self.pool: dict[int, tuple[np.ndarray, str, str]] = {}

    def part(self, position: int, count: int) -> Part:
        """See `Source`."""
        numbers = np.arange(position, position + count) if self.order is None else self.order(position, count)
        seeds = [int(number) for number in (self.first + numbers) % SCENE_VALIDATION_START]
        if self.order is None:
            return self._make(seeds)
        missing = [seed for seed in dict.fromkeys(seeds) if seed not in self.pool]
        if missing:
            made = self._make(missing, negatives=True)
            samples = zip(made.pictures, made.captions, made.hard_negatives or (), strict=True)
            self.pool.update(zip(missing, samples, strict=True))
        pictures, captions, negatives = zip(*(self.pool[seed] for seed in seeds), strict=True)
        kept = list(negatives) if self.recipe.hard_negatives else None
        return Part("scenes", np.stack(pictures), list(captions), self.recipe.augment, kept)

    def heldout(self, count: int) -> Part:
        """See `Source`."""
        return self._make([SCENE_VALIDATION_START + number for number in range(count)], negatives=True)

    def _make(self, seeds: list[int], negatives: bool = False) -> Part:
        from percepta.datasets.scenes import make_batch

        made = make_batch(seeds, self.config)
        wrong = list(made.hard_negatives) if negatives or self.recipe.hard_negatives else None
        return Part("scenes", made.pictures, list(made.captions), self.recipe.augment, wrong)


def class_captions(names: Sequence[str], labels: np.ndarray, prompts: Sequence[str], key: tuple[int, ...]) -> list[str]:
    """Captions for labels; each class draws one prompt for the whole batch, so equal classes have equal captions."""
    draws = np.random.default_rng(key).integers(len(prompts), size=len(names))
    captions = [prompts[draw].format(name) for draw, name in zip(draws, names, strict=True)]
    return [captions[label] for label in labels]


class CifarSource:
    """CIFAR-10 from a parquet file, decoded once; its last rows are held out."""

    def __init__(self, recipe: CifarRecipe, seed: int) -> None:
        from percepta.datasets.cifar import read_cifar10

        self.recipe, self.seed = recipe, seed
        self.table = read_cifar10(recipe.path)
        self.trained = len(self.table) - recipe.holdout
        if self.trained < 1:
            raise BadMedia(f"{recipe.path} has {len(self.table)} pictures; holdout={recipe.holdout} must leave some.")
        self.order = _Order(self.trained, seed, stream=2)

    def part(self, position: int, count: int) -> Part:
        """See `Source`."""
        rows = self.order(position, count)
        captions = class_captions(
            self.table.names, self.table.labels[rows], self.recipe.prompts, (self.seed, 3, position)
        )
        return Part("cifar10", self.table.pictures[rows], captions, self.recipe.augment)

    def heldout(self, count: int) -> Part | None:
        """See `Source`; captions use the first prompt."""
        rows = slice(self.trained, self.trained + min(count, self.recipe.holdout))
        captions = [self.recipe.prompts[0].format(self.table.names[label]) for label in self.table.labels[rows]]
        return Part("cifar10", self.table.pictures[rows], captions, self.recipe.augment) if captions else None


class FolderSource:
    """A labelled folder; pictures are read, cropped and resized for every batch."""

    def __init__(self, recipe: FolderRecipe, seed: int) -> None:
        from percepta.datasets.folders import list_picture_folder

        self.recipe, self.seed = recipe, seed
        self.folder = list_picture_folder(recipe.path)
        order = np.random.default_rng((seed, 4)).permutation(len(self.folder))
        kept_back = min(round(recipe.holdout * len(order)), len(order) - 1)
        self.held, self.trained = order[:kept_back], order[kept_back:]
        self.order = _Order(len(self.trained), seed, stream=5)

    def part(self, position: int, count: int) -> Part:
        """See `Source`."""
        rows = self.trained[self.order(position, count)]
        random = np.random.default_rng((self.seed, 6, position))
        labels = self.folder.labels[rows]
        captions = class_captions(self.folder.names, labels, self.recipe.prompts, (self.seed, 7, position))
        return Part("folder", self._read(rows, random), captions, _already_cropped(self.recipe.augment))

    def heldout(self, count: int) -> Part | None:
        """See `Source`; captions use the first prompt."""
        rows = self.held[:count]
        if not len(rows):
            return None
        captions = [self.recipe.prompts[0].format(self.folder.names[label]) for label in self.folder.labels[rows]]
        return Part("folder", self._read(rows, None), captions, self.recipe.augment)

    def _read(self, rows: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
        paths = [self.folder.paths[row] for row in rows]
        return np.stack([_decode(path, self.recipe.size, self.recipe.augment, random) for path in paths])


class ShardsSource:
    """Webdataset shards; pictures are read, cropped and resized for every batch."""

    def __init__(self, recipe: ShardsRecipe, seed: int) -> None:
        from percepta.datasets.shards import Shards

        self.recipe, self.seed = recipe, seed
        self.shards = Shards(recipe.path, recipe.mix)
        self.validation = Shards(recipe.validation, 1) if recipe.validation else None

    def part(self, position: int, count: int) -> Part:
        """See `Source`."""
        samples = [self.shards.sample(position + number, self.seed) for number in range(count)]
        random = np.random.default_rng((self.seed, 8, position))
        size, augment = self.recipe.size, self.recipe.augment
        pictures = np.stack([_decode(sample.picture, size, augment, random) for sample in samples])
        return Part("shards", pictures, [sample.caption for sample in samples], _already_cropped(augment))

    def heldout(self, count: int) -> Part | None:
        """See `Source`."""
        if self.validation is None:
            return None
        samples = [self.validation.sample(number) for number in range(min(count, len(self.validation)))]
        size, augment = self.recipe.size, self.recipe.augment
        pictures = np.stack([_decode(sample.picture, size, augment, None) for sample in samples])
        return Part("shards", pictures, [sample.caption for sample in samples], augment)


_SOURCES: dict[type, Any] = {
    ScenesRecipe: ScenesSource,
    CifarRecipe: CifarSource,
    FolderRecipe: FolderSource,
    ShardsRecipe: ShardsSource,
}


def _already_cropped(augment: AugmentRecipe) -> AugmentRecipe:
    return replace(augment, area=(1.0, 1.0), aspect=(1.0, 1.0))


def _decode(thing: Any, size: int, augment: AugmentRecipe, random: np.random.Generator | None) -> np.ndarray:
    """(size, size, 3) uint8: a random crop, or the whole picture where `random` is None, squashed to a square."""
    from PIL import Image

    from percepta.media import open_picture

    picture = open_picture(thing).convert("RGB")
    box = None if random is None else _crop_box(picture.size, augment, random)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box))


def _crop_box(
    size: tuple[int, int], augment: AugmentRecipe, random: np.random.Generator
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a random crop; cut to the picture where the ratio asks for more than it has."""
    width, height = size
    area = random.uniform(*augment.area) * width * height
    ratio = np.exp(random.uniform(*np.log(augment.aspect)))
    crop_width, crop_height = min(width, np.sqrt(area * ratio)), min(height, np.sqrt(area / ratio))
    left, top = random.uniform(0, width - crop_width), random.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


@contextlib.contextmanager
def batches(
    recipe: DataRecipe, batch_size: int, seed: int, first: int, last: int
) -> Iterator[tuple[Iterator[Batch], list[Part]]]:
    """Batches of the updates `first` to `last` - 1, and the validation samples; made ahead where the recipe says so."""
    if recipe.workers == 0:
        mixture = Mixture(recipe, batch_size, seed)
        yield (mixture.batch(step) for step in range(first, last)), mixture.heldout()
        return
    with _Producer(recipe, batch_size, seed) as producer:
        heldout = producer.receive()
        yield producer.batches(first, last, recipe.ahead), heldout


class _Producer:
    """The second process, seen from the first."""

    def __init__(self, recipe: DataRecipe, batch_size: int, seed: int) -> None:
        command = [sys.executable, "-c", "from percepta.training.data import serve; serve()"]
        # One thread: the cores belong to the training.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        search = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment = {**os.environ, **threads, **search}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._send((recipe, batch_size, seed))

    def __enter__(self) -> _Producer:
        return self

    def __exit__(self, *problem: object) -> None:
        self.process.kill()
        self.process.communicate()

    def batches(self, first: int, last: int, ahead: int) -> Iterator[Batch]:
        """Batches in order, `ahead` of them being asked for in advance."""
        asked: deque[int] = deque()
        for step in range(first, last):
            while len(asked) < ahead + 1 and (upcoming := step + len(asked)) < last:
                asked.append(upcoming)
                self._send(upcoming)
            asked.popleft()
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
    """The second process: reads (recipe, batch size, seed), then steps, and writes batches until its input ends."""
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
                mixture = Mixture(*request)
                write(mixture.heldout())
            else:
                write(mixture.batch(request))
        except (PerceptaError, ImportError, OSError, ValueError, RuntimeError, TypeError) as error:
            # As plain text: an error class may need more than its message to be rebuilt on the other side.
            write(PerceptaError(str(error) if isinstance(error, PerceptaError) else f"{type(error).__name__}: {error}"))
            return
