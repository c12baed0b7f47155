"""Zero-shot tracking: masks of the first frame are handed on from patch to patch by the likeness of tokens.

The protocol is the public one of DINO for DAVIS 2017 (arXiv 2104.14294 §4.2.2, after 1906.08344), which the Perception
Encoder follows (arXiv 2504.13181); its scores, region J and boundary F, stand in `regions`.
Order of this file: labels on patches, their propagation, back to pixels, a whole clip.
Unusual: all affinities as large as the fifth largest are kept, so that ties do not depend on an order; each class is
scaled to 0..1 over the frame before the best class of a pixel is taken, as the public script does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from percepta.errors import out_of_range, wrong_shape

AT_ONCE = 16  # frames at their full size at once
Labels = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class PropagationRule:
    """How labels travel; the defaults are the published ones.

    Attributes:
        last_frames: frames before the present one that give labels, beside the first.
        neighbourhood: patches in each direction within which a patch looks; 0 is everywhere.
        top: how many of the most alike patches count.
        temperature: affinity is exp(cosine / temperature).
    """

    last_frames: int = 7
    neighbourhood: int = 12
    top: int = 5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("last_frames", 0), ("neighbourhood", 0), ("top", 1)):
            if getattr(self, name) < least:
                raise out_of_range(name, getattr(self, name), f"{least} or more", "label propagation")
        if self.temperature <= 0:
            raise out_of_range("temperature", self.temperature, "positive", "label propagation")


def patch_labels(mask: Labels, grid: tuple[int, int], classes: int) -> Tensor:
    """(H, W) numbers of objects, 0 for none → (h, w, C) one-hot float32: what lies at the centre of each patch."""
    places = [
        np.minimum(((np.arange(n) + 0.5) * side / n).astype(np.int64), side - 1) for n, side in zip(grid, mask.shape)
    ]
    small = torch.from_numpy(mask[np.ix_(*places)].astype(np.int64))
    return F.one_hot(small, classes).float()


def propagate(tokens: Tensor, first: Tensor, rule: PropagationRule | None = None) -> Tensor:
    """Labels of all frames from those of the first.

    Args:
        tokens: (T, h, w, D) patch tokens of consecutive frames, of any length.
        first: (h, w, C) shares of classes on the patches of the first frame.
        rule: how labels travel.

    Returns:
        (T, h, w, C) float32, each patch a mixture of earlier labels; entry 0 is `first`.

    Raises:
        BadInput: shapes that do not fit together.
    """
    rule = rule or PropagationRule()
    if tokens.ndim != 4 or not len(tokens):
        raise wrong_shape("tokens", tokens.shape, "(T, h, w, D) with T of at least 1", "propagate")
    if first.ndim != 3 or first.shape[:2] != tokens.shape[1:3]:
        raise wrong_shape("first", first.shape, f"({tokens.shape[1]}, {tokens.shape[2]}, C)", "propagate")
    rows, columns = tokens.shape[1:3]
    units = F.normalize(tokens.float(), dim=-1).flatten(1, 2)
    near = _near(rows, columns, rule.neighbourhood, units.device)
    found = [first.to(units).flatten(0, 1)]
    context: deque[int] = deque(maxlen=rule.last_frames)
    for frame in range(1, len(units)):
        sources = [0, *context]
        found.append(_handed_on(units[frame], units[sources], torch.stack([found[one] for one in sources]), near, rule))
        context.append(frame)
    return torch.stack(found).unflatten(1, (rows, columns))


def _handed_on(target: Tensor, sources: Tensor, labels: Tensor, near: Tensor | None, rule: PropagationRule) -> Tensor:
    """Labels (N, C) of a frame (N, D) from those (K, N, C) of K frames (K, N, D)."""
    affinity = torch.exp(target @ sources.transpose(1, 2) / rule.temperature)  # (K, N of the target, N of the source)
    if near is not None:
        affinity = affinity * near
    affinity = affinity.transpose(0, 1).flatten(1)
    least = affinity.topk(min(rule.top, affinity.shape[1]), dim=1).values[:, -1:]
    kept = torch.where(affinity >= least, affinity, 0.0)
    return (kept / kept.sum(dim=1, keepdim=True)) @ labels.flatten(0, 1)


def _near(rows: int, columns: int, reach: int, device: torch.device) -> Tensor | None:
    """(N, N) 1 where two patches lie within a square of each other, else 0; None where that is everywhere."""
    if not reach or reach >= max(rows, columns) - 1:
        return None
    along, across = (torch.arange(n, device=device) for n in (rows, columns))
    vertical = (along[:, None] - along[None]).abs() <= reach
    horizontal = (across[:, None] - across[None]).abs() <= reach
    both = vertical[:, None, :, None] & horizontal[None, :, None, :]
    return both.flatten(2).flatten(0, 1).float()


def to_pixels(labels: Tensor, size: tuple[int, ...]) -> NDArray[np.int64]:
    """(T, h, w, C) shares on patches → (T, H, W) the number of the best class of each pixel.

    Bilinear; each class of each frame is scaled to 0..1 first, so that an object that has faded still shows.
    """
    found = []
    for frame in labels.permute(0, 3, 1, 2).split(AT_ONCE):
        maps = F.interpolate(frame, size=list(size), mode="bilinear", align_corners=False)
        low = maps.amin(dim=(2, 3), keepdim=True)
        reach = maps.amax(dim=(2, 3), keepdim=True) - low
        # A class that is the same everywhere (nowhere, or the only one) keeps its value.
        scaled = torch.where(reach > 0, (maps - low) / reach.clamp(min=1e-12), maps)
        found.append(scaled.argmax(dim=1).cpu())
    return np.asarray(torch.cat(found).numpy())


def track(tokens: Tensor, first: Labels, rule: PropagationRule | None = None) -> NDArray[np.int64]:
    """The masks of a clip from that of its first frame.

    Args:
        tokens: (T, h, w, D) patch tokens of its frames.
        first: (H, W) numbers of objects in the first frame, 0 for none.

    Returns:
        (T, H, W) numbers of objects; entry 0 is `first`.
    """
    numbers, ranks = _ranked(first)
    shares = propagate(tokens, patch_labels(ranks, (tokens.shape[1], tokens.shape[2]), len(numbers)), rule)
    masks = numbers[to_pixels(shares, first.shape)]
    masks[0] = first
    return np.asarray(masks)


def on_patches(masks: Labels, grid: tuple[int, int]) -> NDArray[np.int64]:
    """(T, H, W) true masks as one label a patch and back: what is lost on this grid."""
    numbers, ranks = _ranked(masks)
    shares = torch.stack([patch_labels(frame, grid, len(numbers)) for frame in ranks])
    return np.asarray(numbers[to_pixels(shares, masks.shape[1:])])


def _ranked(masks: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers that occur, 0 first, and the place of each pixel's number among them."""
    numbers = np.unique(np.append(masks.ravel(), 0)).astype(np.int64)
    return numbers, np.asarray(np.searchsorted(numbers, masks))
