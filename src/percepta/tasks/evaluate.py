"""Evaluate a model by named protocols: figures that carry their protocol, its hash, intervals and baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from percepta.errors import BadInput, one_of, out_of_range
from percepta.evaluation import (
    Evaluation,
    Protocol,
    cifar10_protocol,
    evaluate_cifar10,
    evaluate_scenes_hard_negatives,
    evaluate_scenes_retrieval,
    evaluate_scenes_video_retrieval,
    scenes_hard_negatives_protocol,
    scenes_retrieval_protocol,
    scenes_video_retrieval_protocol,
)
from percepta.running.loading import load
from percepta.running.progress import Progress
from percepta.tasks.encoder import NANO, Encoder

PROTOCOLS: dict[str, Callable[[], Protocol]] = {
    "cifar10-zero-shot": cifar10_protocol,
    "scenes-retrieval": scenes_retrieval_protocol,
    "scenes-hard-negatives": scenes_hard_negatives_protocol,
    "scenes-video-retrieval": scenes_video_retrieval_protocol,
}
GROUPS = {"nano": tuple(PROTOCOLS), "all": tuple(PROTOCOLS)}
"""Protocols by one name: "nano" are those of the nano model's card."""


def evaluate(
    protocols: str | Protocol | Sequence[str | Protocol],
    model: str | nn.Module = NANO,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int = 64,
    progress: Callable[[str], Progress] | None = None,
) -> Iterator[Evaluation]:
    """The figures of each protocol, as they are made.

    Args:
        protocols: names of `PROTOCOLS`, "nano" or "all" for all four, or protocols of these names with other settings.
        model: a name or a loaded model with a text tower.
        weights: a file or folder for the model's name, in any layout of its family.
        data: the CIFAR-10 test set as a parquet file with the columns img and label; for cifar10-zero-shot alone.
        batch_size: pictures, frames or texts at once, 1 or more.
        progress: makes the Progress of a piece of work from its name, such as the class itself; None keeps silent.

    Raises:
        BadInput: an unknown protocol, no data where they are needed, weights beside a loaded model, a model without
            words, a batch size below 1. BadMedia: the data cannot be read. UnknownModel, MissingWeights,
            CheckpointMismatch.
    """
    chosen = protocols_of(protocols)
    if batch_size < 1:
        raise out_of_range("batch_size", batch_size, "1 or more", "evaluate")
    if data is None and any(protocol.name == "cifar10-zero-shot" for protocol in chosen):
        raise BadInput(
            "cifar10-zero-shot needs the CIFAR-10 test photographs: pass data (on the command line --data) with a "
            "parquet file of the columns img and label, or name protocols of scenes, which need none."
        )
    if weights is not None:
        if isinstance(model, nn.Module):
            raise BadInput("weights must be None for a model in hand; load them into it, or pass its name.")
        model = load(model, weights)
    encoder = Encoder(model, device, dtype)
    encoder.need_words("evaluate")
    batches = _Batches(encoder, batch_size, progress)
    return _run(chosen, batches, None if data is None else Path(data), "" if weights is None else Path(weights).name)


def protocols_of(protocols: str | Protocol | Sequence[str | Protocol]) -> tuple[Protocol, ...]:
    """Protocols by name or as they are, groups opened, each once. Raises BadInput for an unknown name or none."""
    given = [protocols] if isinstance(protocols, str | Protocol) else list(protocols)
    found: dict[str, Protocol] = {}
    for item in given:
        name = item.name if isinstance(item, Protocol) else item
        if name not in PROTOCOLS and (isinstance(item, Protocol) or name not in GROUPS):
            raise one_of("protocol", name, (*PROTOCOLS, *GROUPS))
        for single in (
            [item] if isinstance(item, Protocol) else [PROTOCOLS[each]() for each in GROUPS.get(name, (name,))]
        ):
            found.setdefault(single.hash, single)
    if not found:
        raise BadInput(f"evaluate needs a protocol: {', '.join((*PROTOCOLS, *GROUPS))}; got none.")
    return tuple(found.values())


def _run(protocols: Sequence[Protocol], batches: _Batches, data: Path | None, weights: str) -> Iterator[Evaluation]:
    preprocess = batches.encoder.model.preprocess
    described = {
        "name": batches.encoder.name,
        "weights": weights,
        "image size": preprocess.image_size,
        "resize": preprocess.resize,
        "dtype": str(batches.encoder.dtype).removeprefix("torch."),
    }
    for protocol in protocols:
        began = time.perf_counter()
        found = _evaluate_one(protocol, batches, data)
        seconds = round(time.perf_counter() - began, 1)
        yield replace(found, model=described, details={**found.details, "seconds": seconds})


def _evaluate_one(protocol: Protocol, batches: _Batches, data: Path | None) -> Evaluation:
    if protocol.name == "cifar10-zero-shot":
        from percepta.datasets.cifar import read_cifar10

        assert data is not None, "checked before the model was loaded"
        return evaluate_cifar10(read_cifar10(data), batches.pictures, batches.texts, protocol)
    if protocol.name == "scenes-video-retrieval":
        return evaluate_scenes_video_retrieval(batches.videos, batches.texts, protocol)
    scenes = {
        "scenes-retrieval": evaluate_scenes_retrieval,
        "scenes-hard-negatives": evaluate_scenes_hard_negatives,
    }
    return scenes[protocol.name](batches.pictures, batches.texts, protocol)


@dataclass(frozen=True, slots=True)
class _Batches:
    """The callables that protocols take, over one encoder: arrays and texts to (B, D) float32 unit vectors."""

    encoder: Encoder
    size: int
    progress: Callable[[str], Progress] | None = None

    def pictures(self, pictures: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8, through the model's own preprocessing."""
        prepare = self.encoder.model.preprocess

        def encode(part: Any) -> Tensor:
            return self.encoder.embed(torch.stack([prepare(item) for item in part]))

        return self._over("pictures", pictures, encode)

    def videos(self, videos: np.ndarray) -> Tensor:
        """(B, T, H, W, 3) uint8: the mean of unit frame embeddings, not scaled again."""
        frames = self.pictures(videos.reshape(-1, *videos.shape[2:]))
        return frames.unflatten(0, videos.shape[:2]).mean(dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """B texts, as they are."""
        return self._over("texts", texts, lambda part: self.encoder.words(part, self.size))

    def _over(self, what: str, items: Any, encode: Callable[[Any], Tensor]) -> Tensor:
        found = []
        with Progress(what, shown=False) if self.progress is None else self.progress(f"evaluate {what}") as progress:
            progress.start(len(items))
            for start in range(0, len(items), self.size):
                part = items[start : start + self.size]
                found.append(encode(part))
                progress.advance(len(part))
        return torch.cat(found)
