"""The pictures of a batch as a model wants them, for all objectives that see nothing beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.training.augmentation import Draws, prepare_pictures
from percepta.training.data_recipe import AugmentRecipe
from percepta.training.draws import number_of
from percepta.training.sources import Part

AT_ONCE = 64
"""Held-out samples that are scored in one go."""


def model_pictures(part: Part, size: int, preprocess: Any, generator: torch.Generator | None) -> Tensor:
    """The pictures of a part as a model wants them, (B, 3, S, S), of videos (B, T, 3, S, S).

    Args:
        size: side S.
        preprocess: whose `mean` and `std` normalise; None for 0.5.
        generator: varies them as the part says; None leaves them as they are.

    Raises: BadInput for pictures whose masks are varied with them.
    """
    if not isinstance(part.augment, AugmentRecipe):
        raise BadInput(f"the source {part.source} has masks; it serves the objective segment.")
    flat = part.pictures.reshape(-1, *part.pictures.shape[-3:])
    draws = None if generator is None else Draws(generator, part.total or len(part), part.rows, part.frames)
    x = prepare_pictures(flat, size, part.augment, draws)
    if preprocess is not None:
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
        x = (x * 0.5 + 0.5 - mean) / std
    return x.unflatten(0, (len(part), part.frames)) if part.pictures.ndim == 5 else x


def draws_for(seed: int, step: int, part: Part) -> torch.Generator:
    """What varies the pictures of a part of a batch: the same on every device and in a resumed run."""
    return torch.Generator().manual_seed(number_of(seed, step, part.source))


def still_pictures(objective: str, part: Part, size: int, preprocess: Any, draws: torch.Generator | None) -> Tensor:
    """As `model_pictures`. Raises: BadInput for a source of videos."""
    if part.pictures.ndim == 5:
        raise BadInput(f"the objective {objective} takes pictures; the source {part.source} gives videos.")
    return model_pictures(part, size, preprocess, draws)
