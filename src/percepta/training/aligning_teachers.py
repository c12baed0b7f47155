"""The two frozen teachers of spatial alignment (arXiv 2504.13181, section 5).

Order of this file: an encoder that gives tokens, SAM 2 that gives masks.
Unusual: teachers are no modules of the learner, so that they are neither trained nor saved nor shared out; they follow
the pictures to their device. Masks are never thresholded: the logits of a grid of clicks are the channels of a place.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from percepta.errors import BadInput
from percepta.models.sam2 import Sam2, point_grid
from percepta.training.aligning_towers import Seen, frozen, resized, see, tower_of

AT_ONCE = 4096
"""Clicks that are decoded together."""


def normalised_for(x: Tensor, given: Any, wanted: Any) -> Tensor:
    """Pictures normalised for one model's preprocessing → for another's; None means 0.5."""
    if _statistics(given) == _statistics(wanted):
        return x
    (mean, std), (other_mean, other_std) = (
        (x.new_tensor(values).view(3, 1, 1) for values in _statistics(one)) for one in (given, wanted)
    )
    return (x * std + mean - other_mean) / other_std


def _statistics(preprocess: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if preprocess is None:
        return (0.5,) * 3, (0.5,) * 3
    return tuple(preprocess.mean), tuple(preprocess.std)


class TokenTeacher:
    """The tokens of one layer of a frozen encoder.

    Args:
        model: any encoder; frozen here.
        layer: 0-based block, negative from the end.
        preprocess: for which the pictures that come are normalised.
    """

    def __init__(self, model: Any, layer: int, preprocess: Any) -> None:
        self.model, self.preprocess = frozen(model), preprocess
        self.tower, self.layer = tower_of(model), layer
        with torch.inference_mode():  # a layer out of range is to be refused before anything is trained
            self.width = see(self.tower, torch.zeros(1, 3, self._side, self._side), layer).tokens.shape[-1]

    @property
    def _side(self) -> int:
        size = self.tower.config.image_size
        return int(size if isinstance(size, int) else size[0])

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Seen:
        """(B, 3, H, W) whole pictures → their tokens."""
        self.model.to(x.device)
        return see(self.tower, normalised_for(x, self.preprocess, getattr(self.model, "preprocess", None)), self.layer)


class MaskTeacher:
    """What a frozen SAM 2 makes of a grid of clicks: how alike two places are is how alike their logits are.

    Args:
        model: a SAM 2; frozen here.
        points: clicks per side, one mask each, whatever its quality.
        preprocess: for which the pictures that come are normalised.
        cache: structures kept, of the pictures seen last.
    """

    def __init__(self, model: Any, points: int, preprocess: Any, cache: int = 0) -> None:
        if not isinstance(model, Sam2):
            raise BadInput(f"align.sam must be a SAM 2, such as sam2-nano; got {type(model).__name__}.")
        self.model, self.points, self.preprocess, self.capacity = frozen(model), points, preprocess, cache
        self.kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) whole pictures → (B, h * w, points²) float32 logits on the student's grid."""
        if not self.capacity:
            return self.logits(x, grid)
        keys = [hashlib.blake2b(repr(grid).encode() + one.numpy().tobytes()).digest() for one in x.detach().cpu()]
        wanted = {key: row for row, key in enumerate(keys) if key not in self.kept}  # equal pictures are asked once
        if wanted:
            made = self.logits(x[list(wanted.values())], grid).half().cpu()
            self.kept |= zip(wanted, made, strict=True)
        for key in keys:
            self.kept.move_to_end(key)
        found = torch.stack([self.kept[key] for key in keys])
        while len(self.kept) > self.capacity:
            self.kept.popitem(last=False)
        return found.to(x.device, torch.float32)

    @torch.no_grad()
    def logits(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """As a call, always computed anew."""
        model = self.model.to(x.device)
        side = model.config.image_size
        x = normalised_for(x, self.preprocess, model.preprocess).float()
        if x.shape[-2:] != (side, side):
            x = functional.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
        features = model.encode_image(x)
        clicks = torch.from_numpy(point_grid(self.points)).float().to(x.device) * side
        maps = []
        together = max(1, AT_ONCE // len(clicks))
        for first in range(0, len(x), together):
            rows = torch.arange(first, min(first + together, len(x)), device=x.device)
            which = rows.repeat_interleave(len(clicks))
            points = clicks.repeat(len(rows), 1)[:, None]
            ones = torch.ones(len(points), 1, dtype=torch.long, device=x.device)
            found = model.predict(features, points, ones, multimask=False, which=which).logits[:, 0]
            maps.append(found.float().unflatten(0, (len(rows), len(clicks))))
        logits = torch.cat(maps)
        return resized(logits.flatten(2).transpose(1, 2), (logits.shape[2], logits.shape[3]), grid)
