"""What the verbs share: a model by name or in hand, pictures and videos to vectors, words to vectors.

Unusual: a video is the mean of the raw embeddings of 8 frames, first and last included (the published protocol of
video classification); a nano model says once per process that it is a toy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.media import Source, collect
from percepta.results import Failure
from percepta.running.feed import DEFAULT_BATCH, Stream, run_over
from percepta.running.loading import as_device, as_dtype, load
from percepta.running.modes import evaluating

FRAMES = 8
NANO = "pe-core-nano"
REAL = "pe-core-l14-336"
REAL_SAM2 = "sam2.1-hiera-base-plus"
REAL_PLM = "plm-1b"
_told: set[str] = set()


def real_model(toy: str) -> str:
    """The model for real pictures that does what a nano model does."""
    return REAL_SAM2 if toy.startswith("sam2") else REAL_PLM if toy.startswith("plm") else REAL


class ToyModelWarning(UserWarning):
    """Said once per process when a nano model is used; names the model to pass for real pictures."""

    def __init__(self, name: str) -> None:
        real = real_model(name)
        self.on_command_line = f"{name} is a toy that fits on a laptop; for real pictures pass --model {real}."
        super().__init__(f"{name} is a toy that fits on a laptop; for real pictures pass model={real!r}.")


class Encoder:
    """A loaded model with what the verbs need of it.

    Args:
        model: a name of `list_models()`, a file that `save` wrote, or a model in hand, which is left as it is: it runs
            in evaluation mode and is in the mode that it was in before and after each batch.
        device, dtype: where and how precise, float32 on the CPU by default; for a model in hand, its own or None. A
            model loaded here is prepared (see `load`).
        weights: a file or folder for a name, in any layout of its family.

    Raises: UnknownModel, MissingWeights, CheckpointMismatch; BadInput, also to move a model in hand or fill it, and
        for one that is not of this library or has no weights (the meta device).
    """

    def __init__(
        self,
        model: str | nn.Module,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        weights: str | Path | None = None,
    ) -> None:
        in_hand = isinstance(model, nn.Module)
        if in_hand and weights is not None:
            raise BadInput("weights must be None for a model in hand; load them into it, or pass its name.")
        self.model: Any = model
        if not isinstance(model, nn.Module):
            if not isinstance(model, str | Path) or not str(model):
                raise BadInput(f"a model must be a name, a file or a loaded model; got {model!r}.")
            place = "cpu" if device is None else device
            self.model = load(model, weights, device=place, dtype=dtype, prepare=True)
        self.name: str = getattr(self.model, "name", type(self.model).__name__)
        if not hasattr(self.model, "preprocess"):
            raise BadInput(f"a model in hand must come from percepta.load or percepta.build; got {self.name}.")
        parameter = next(self.model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        if in_hand:
            self._check_stays(device, as_dtype(dtype))
        if self.device.type == "meta":
            raise BadInput(f"{self.name} is on the meta device, where it has no weights to compute with; load it.")
        warn_of_toy(self.name)

    def _check_stays(self, device: str | torch.device | None, dtype: torch.dtype | None) -> None:
        place = self.device if device is None else as_device(device)
        if (
            place.type != self.device.type
            or (place.index or 0) != (self.device.index or 0)
            or dtype not in (None, self.dtype)
        ):
            raise BadInput(
                f"a model in hand stays where it is, {self.dtype} on {self.device}; move it yourself with "
                "model.to(...), or pass its name."
            )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode and without gradients; afterwards every module is in the mode it was in."""
        with evaluating(self.model), torch.inference_mode():
            yield

    @property
    def has_words(self) -> bool:
        """Whether the model has a text tower."""
        return hasattr(self.model, "encode_text")

    def need_words(self, verb: str) -> None:
        """Raises BadInput for a model without a text tower."""
        if not self.has_words:
            raise BadInput(f"{verb} needs a model that knows words, such as {REAL}; {self.name} has no text tower.")

    @property
    def scale(self) -> float:
        """What the model multiplies cosines with before a softmax."""
        return float(self.model.logit_scale.detach().float().exp())

    def prepare(self, source: Source) -> Tensor:
        """(3, H, W) of a picture, (T, 3, H, W) of a video."""
        if source.kind == "video":
            frames: Tensor = self.model.preprocess.video(source.thing, FRAMES)
            return frames
        picture: Tensor = self.model.preprocess(source.thing)
        return picture

    def embed(self, batch: Tensor, normalize: bool = True) -> Tensor:
        """(B, 3, H, W) or (B, T, 3, H, W) → (B, D) float32 on the CPU; of videos the mean of raw frame embeddings."""
        pictures = batch.flatten(0, 1) if batch.ndim == 5 else batch
        with self.evaluating():
            vectors = self._encode(pictures.to(self.device, self.dtype)).float()
            if batch.ndim == 5:
                vectors = vectors.unflatten(0, batch.shape[:2]).mean(dim=1)
            return (torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors).cpu()

    def words(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Texts → (B, D) float32 unit vectors on the CPU."""
        with self.evaluating():
            rows = [
                self.model.encode_text(self.model.tokenize(list(texts[start : start + batch_size])), normalize=True)
                for start in range(0, len(texts), batch_size)
            ]
            return torch.cat(rows).float().cpu()

    def run(
        self,
        inputs: Any,
        compute: Callable[[Tensor, list[Source]], Sequence[Any]],
        batch_size: int | None = None,
        on_error: str = "collect",
        prepare: Callable[[Source], Tensor] | None = None,
    ) -> Stream[Any]:
        """`compute` over all inputs, in order."""
        if batch_size is None and (setting := getattr(self.model, "setting", None)) is not None:
            batch_size = setting.batch_size
        size = DEFAULT_BATCH.get(self.device.type, 8) if batch_size is None else batch_size
        return run_over(sources_of(inputs), prepare or self.prepare, compute, size, on_error=on_error)

    def _encode(self, pictures: Tensor) -> Tensor:
        if hasattr(self.model, "encode_image"):
            return self.model.encode_image(pictures)
        if not getattr(self.model, "pooled", True):
            raise BadInput(f"{self.name} gives no single vector for a picture; use features, or a pe-core model.")
        return self.model(pictures)


def sources_of(inputs: Any) -> Any:
    """The sources of whatever people hand over; a list of sources stays as it is, with its length."""
    if isinstance(inputs, list) and inputs and all(isinstance(item, Source | Failure) for item in inputs):
        return inputs
    return collect(inputs)


def warn_of_toy(name: str) -> None:
    """Say once per process that a nano model is a toy, and which name to pass for real pictures."""
    if name.endswith("-nano") and name not in _told:
        _told.add(name)
        warnings.warn(ToyModelWarning(name), stacklevel=4)
