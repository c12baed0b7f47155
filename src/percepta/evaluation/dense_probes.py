"""Linear probes of single patches, as pure functions: what stands there, how far away it is, where it is.

Segmentation: batch norm and a 1 x 1 convolution on frozen tokens, as of DINOv2 (arXiv 2304.07193 §7.4) and the
Perception Encoder (2504.13181). Depth: linear in place of the published DPT head, so that the layer speaks and not the
head. Order of this file: the two fits, patches and pixels, the three probes.
Unusual: no training loop. At the optimum batch norm and convolution are one affine map, which LBFGS finds (cross
entropy) or a closed form gives (ridge); targets are the shares of a patch, so that nothing is lost at edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from percepta.errors import BadInput, out_of_range, wrong_shape
from percepta.evaluation.tallies import Tally, mean_iou, root_mean_square

STRENGTH = 1e-3
STEPS = 100
AT_ONCE = 64  # pictures on their full number of pixels at once


@dataclass(frozen=True, slots=True)
class AffineMap:
    """(..., D) features to (..., K) estimates: (x - mean) / deviation @ weight + bias."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(..., D) → (..., K) float32."""
        return ((features.float() - self.mean) / self.deviation) @ self.weight + self.bias


def fit_ridge(features: Tensor, targets: Tensor, strength: float = STRENGTH) -> AffineMap:
    """The map of least mean squared error plus `strength` times the squared weights, in closed form.

    Args:
        features: (N, D), scaled to mean 0 and variance 1 by channel inside.
        targets: (N, K).
        strength: above 0; the intercept is free.

    Raises:
        BadInput: other shapes, or a strength that is not positive.
    """
    x, mean, deviation = _scaled(features, targets, strength)
    middle = targets.double().mean(dim=0)
    x, y = x.double(), targets.double() - middle
    gram = x.T @ x / len(x)
    gram.diagonal().add_(strength)
    weight = torch.linalg.solve(gram, x.T @ y / len(x))
    return AffineMap(mean, deviation, weight.float(), middle.float())


def fit_softmax(features: Tensor, shares: Tensor, strength: float = STRENGTH, steps: int = STEPS) -> AffineMap:
    """The map to logits of least mean cross entropy plus `strength` / 2 times the squared weights, by LBFGS.

    Args:
        features: (N, D), scaled to mean 0 and variance 1 by channel inside.
        shares: (N, C) rows that sum to 1: the classes of a patch.
        strength: above 0; the intercept is free.
        steps: of LBFGS at most.

    Raises:
        BadInput: other shapes, or a strength that is not positive.
    """
    x, mean, deviation = _scaled(features, shares, strength)
    shares = shares.float()
    weight = torch.zeros(x.shape[1], shares.shape[1], requires_grad=True)
    bias = shares.mean(dim=0).clamp(min=1e-6).log().requires_grad_()
    solver = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        wrong = F.cross_entropy(x @ weight + bias, shares) + strength / 2 * weight.square().sum()
        wrong.backward()
        return wrong

    with torch.enable_grad():
        solver.step(loss)
    return AffineMap(mean, deviation, weight.detach(), bias.detach())


def patch_shares(classes: NDArray[np.integer], grid: tuple[int, int], count: int) -> Tensor:
    """(S, H, W) class numbers → (S, h, w, C) float32, the share of each class in each patch.

    Negative numbers are pixels that do not count; a patch of nothing else has shares of 0.

    Raises: BadInput where the grid does not divide the picture.
    """
    numbers = torch.from_numpy(classes.astype(np.int64))
    one_hot = F.one_hot(numbers.clamp(min=0), count) * (numbers >= 0)[..., None]
    shares = _blocks(one_hot, grid)
    return shares / shares.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def patch_means(values: NDArray[np.floating], grid: tuple[int, int]) -> Tensor:
    """(S, H, W) values → (S, h, w, 1) float32, the mean of each patch. Raises: as `patch_shares`."""
    return _blocks(torch.from_numpy(values)[..., None], grid)


def patch_places(grid: tuple[int, int]) -> Tensor:
    """(h, w, 2) float32 row and column of the centres of patches, in heights and widths of the picture, 0 to 1."""
    rows, columns = ((torch.arange(n) + 0.5) / n for n in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def place_features(grid: tuple[int, int], pictures: int) -> Tensor:
    """(S, h, w, 5) features that know the place alone: row, column, their squares and product."""
    row, column = patch_places(grid).unbind(-1)
    terms = torch.stack([row, column, row * row, column * column, row * column], dim=-1)
    return terms.expand(pictures, -1, -1, -1)


def patch_colours(pictures: NDArray[np.uint8], grid: tuple[int, int], parts: int = 4) -> Tensor:
    """(S, H, W, 3) → (S, h, w, D) float32: mean colours of parts x parts pieces of each patch, and nothing learned.

    Values lie around 0, as pictures of most models do. Raises: as `patch_shares`.
    """
    pieces = _blocks(torch.from_numpy(pictures), (grid[0] * parts, grid[1] * parts))
    joined = pieces.unflatten(2, (grid[1], parts)).unflatten(1, (grid[0], parts)).transpose(2, 3).flatten(3)
    return joined / 127.5 - 1


def probe_segmentation(
    known: Tensor,
    known_classes: NDArray[np.integer],
    asked: Tensor,
    asked_classes: NDArray[np.integer],
    count: int,
    strength: float = STRENGTH,
) -> Tally:
    """Mean IoU over pixels of a linear probe, by picture.

    Args:
        known, asked: (S, h, w, D) tokens of the pictures to fit and to judge.
        known_classes, asked_classes: (S, H, W) class numbers below `count`; negative ones do not count.
        count: number of classes.
        strength: as of `fit_softmax`.
    """
    shares = patch_shares(known_classes, _grid(known), count).flatten(0, 2)
    counted = shares.sum(dim=-1) > 0
    probe = fit_softmax(known.flatten(0, 2)[counted], shares[counted], strength)
    return score_classes(probe(asked), asked_classes)


def score_classes(logits: Tensor, classes: NDArray[np.integer]) -> Tally:
    """Mean IoU of (S, h, w, C) scores on patches, bilinearly enlarged, against (S, H, W) class numbers."""
    count = logits.shape[-1]
    parts = np.zeros((len(logits), 2 * count))
    for start in range(0, len(logits), AT_ONCE):
        truth = classes[start : start + AT_ONCE].astype(np.int64)
        found = enlarged(logits[start : start + AT_ONCE], truth.shape[1:]).argmax(dim=-1).numpy()
        for number in range(count):
            mine, its = (found == number) & (truth >= 0), truth == number
            parts[start : start + AT_ONCE, number] = (mine & its).sum(axis=(1, 2))
            parts[start : start + AT_ONCE, count + number] = (mine | its).sum(axis=(1, 2))
    return Tally(parts, mean_iou)


def probe_depth(
    known: Tensor,
    known_depth: NDArray[np.floating],
    asked: Tensor,
    asked_depth: NDArray[np.floating],
    strength: float = STRENGTH,
) -> Tally:
    """RMSE over pixels of a ridge regression of depth (not of its logarithm), by picture, in the units of the depth.

    Args:
        known, asked: (S, h, w, D) tokens of the pictures to fit and to judge.
        known_depth, asked_depth: (S, H, W).
        strength: as of `fit_ridge`.
    """
    means = patch_means(known_depth, _grid(known))
    probe = fit_ridge(known.flatten(0, 2), means.flatten(0, 2), strength)
    return score_depth(probe(asked), asked_depth)


def score_depth(depths: Tensor, truth: NDArray[np.floating]) -> Tally:
    """RMSE of (S, h, w, 1) depths of patches, bilinearly enlarged, against (S, H, W)."""
    parts = np.zeros((len(depths), 2))
    for start in range(0, len(depths), AT_ONCE):
        wanted = truth[start : start + AT_ONCE]
        errors = enlarged(depths[start : start + AT_ONCE], wanted.shape[1:])[..., 0].numpy() - wanted
        parts[start : start + AT_ONCE, 0] = (errors.astype(np.float64) ** 2).sum(axis=(1, 2))
        parts[start : start + AT_ONCE, 1] = wanted[0].size
    return Tally(parts, root_mean_square)


def probe_places(
    known: Tensor, known_places: Tensor, asked: Tensor, asked_places: Tensor, strength: float = STRENGTH
) -> Tally:
    """RMSE of a ridge regression of places, by picture: root of the mean squared distance.

    Args:
        known, asked: (S, h, w, D) tokens of the pictures to fit and to judge.
        known_places, asked_places: (S, h, w, 2) row and column; NaN where a patch is not asked.

    Raises:
        BadInput: no patch to fit, or none to judge.
    """
    wanted = ~known_places.isnan().any(dim=-1)
    if not wanted.any() or asked_places.isnan().any(dim=-1).all():
        raise BadInput("a probe of places needs patches with a place in both parts; one part has none.")
    probe = fit_ridge(known[wanted], known_places[wanted], strength)
    return score_places(probe(asked), asked_places)


def score_places(found: Tensor, truth: Tensor) -> Tally:
    """RMSE of (S, h, w, 2) places; patches whose true place is NaN do not count."""
    squares = (found - truth).double().square().sum(dim=-1)
    counted = ~squares.isnan()
    parts = torch.stack([squares.nan_to_num(0.0).sum(dim=(1, 2)), counted.double().sum(dim=(1, 2))], dim=1)
    return Tally(parts.numpy(), root_mean_square)


def enlarged(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """(S, h, w, K) values of patches → (S, H, W, K), bilinear."""
    maps = F.interpolate(values.permute(0, 3, 1, 2), size=list(size), mode="bilinear", align_corners=False)
    return maps.permute(0, 2, 3, 1)


def _blocks(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(S, H, W, K) → (S, h, w, K) means."""
    height, width = values.shape[1:3]
    if height % grid[0] or width % grid[1]:
        raise BadInput(f"the grid of patches must divide the picture; got {grid} and {(height, width)}.")
    return values.unflatten(2, (grid[1], -1)).unflatten(1, (grid[0], -1)).float().mean(dim=(2, 4))


def _grid(maps: Tensor) -> tuple[int, int]:
    if maps.ndim != 4 or not maps.numel():
        raise wrong_shape("tokens", maps.shape, "(S, h, w, D) with at least one of each", "a dense probe")
    return int(maps.shape[1]), int(maps.shape[2])


def _scaled(features: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled features (N, D), mean and deviation by channel; a constant channel is left alone."""
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or not len(features):
        raise BadInput(f"a fit needs (N, D) features and (N, K) targets; got {features.shape} and {targets.shape}.")
    if strength <= 0:
        raise out_of_range("strength", strength, "above 0", "a dense probe")
    x = features.float()
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    deviation = torch.where(deviation > 1e-6, deviation, 1.0)
    return (x - mean) / deviation, mean, deviation
