"""Connected regions of masks, what to do with the small ones, and the middle of a region, for any device.

Order of this file: runs and components, filters of logits, cleaning of masks, distances and correction clicks (SAM 2,
arXiv 2408.00714 §F; segment-anything, arXiv 2304.02643 §B).
Unusual: a mask is first cut into runs, the stretches of true pixels of its rows. Runs are few, touch only runs of the
next row, and are joined by pointer jumping in a handful of passes over all masks at once, on a CPU and a GPU alike.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from percepta.errors import BadInput, one_of, out_of_range, wrong_shape

CONNECTIVITIES = (4, 8)
SMALL = 256
"""Sides of masks up to which the distances of all pixels are computed where only the largest is asked for."""


class Components(NamedTuple):
    """Both (N, H, W) int32: the component of each pixel (0 outside, 1.. within each mask in reading order), and its
    number of pixels (0 outside)."""

    labels: Tensor
    areas: Tensor


class Runs(NamedTuple):
    """Stretches of true pixels in reading order, with the components they belong to.

    Attributes:
        starts, ends: (R,) int64 positions in the flattened masks, each row of which has one false pixel more at its
            end, and each mask one false row more; `ends` exclusive.
        component: (R,) int64 in 0..C-1.
        areas: (C,) int64 pixels of each component.
    """

    starts: Tensor
    ends: Tensor
    component: Tensor
    areas: Tensor


def label_components(masks: Tensor, connectivity: int = 8) -> Components:
    """The connected components of each mask.

    Args:
        masks: (N, H, W) bool.
        connectivity: 8, where diagonal neighbours touch, or 4.

    Raises:
        BadInput: another shape or type, or another connectivity.
    """
    _check_masks("masks", masks)
    runs = find_runs(masks, connectivity)
    if not len(runs.starts):
        empty = masks.new_zeros(masks.shape, dtype=torch.int32)
        return Components(empty, empty.clone())
    per_mask = (masks.shape[1] + 1) * (masks.shape[2] + 1)
    first_run = _first_of(runs.component, len(runs.areas))
    mask_of = runs.starts[first_run] // per_mask
    first_component = torch.searchsorted(mask_of, mask_of)  # components are numbered in reading order
    number = torch.arange(len(mask_of), device=masks.device) - first_component + 1
    labels = _paint(runs, number[runs.component], masks.shape)
    return Components(labels, _paint(runs, runs.areas[runs.component], masks.shape))


def find_runs(masks: Tensor, connectivity: int = 8) -> Runs:
    """The runs of (N, H, W) masks and the components they form. Raises: BadInput as `label_components`."""
    if connectivity not in CONNECTIVITIES:
        raise one_of("connectivity", connectivity, CONNECTIVITIES)
    count, height, width = masks.shape
    padded = masks.new_zeros((count, height + 1, width + 1))
    padded[:, :height, :width] = masks
    flat = padded.view(-1)
    edges = flat.clone()
    edges[1:] ^= flat[:-1]
    places = edges.nonzero().view(-1)
    starts, ends = places[0::2].contiguous(), places[1::2].contiguous()
    return join_runs(starts, ends, width + 1, connectivity)


def join_runs(starts: Tensor, ends: Tensor, stride: int, connectivity: int = 8) -> Runs:
    """Runs with their components; the fields are those of `Runs`, and `stride` is the length of a row and its end."""
    touch = 1 if connectivity == 8 else 0
    first = torch.searchsorted(ends, starts + (stride + 1 - touch))  # the first run of the next row that may touch
    last = torch.searchsorted(starts, ends + (stride + touch))
    upper = torch.arange(len(starts), device=starts.device).repeat_interleave(last - first)
    offset = (last - first).cumsum(0) - (last - first)
    lower = torch.arange(len(upper), device=starts.device) - offset[upper] + first[upper]
    root = _connected(len(starts), upper, lower)
    roots, component = torch.unique(root, return_inverse=True)
    areas = torch.zeros_like(roots).index_add_(0, component, ends - starts)
    return Runs(starts, ends, component, areas)


def _connected(count: int, left: Tensor, right: Tensor) -> Tensor:
    """The smallest node of each node's component in a graph with `count` nodes: hooking and pointer jumping."""
    parent = torch.arange(count, device=left.device)
    while len(left):
        a, b = parent[left], parent[right]
        different = a != b
        left, right, a, b = left[different], right[different], a[different], b[different]
        if not len(left):
            break
        parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while True:
            jumped = parent[parent]
            if torch.equal(jumped, parent):
                break
            parent = jumped
    return parent


def _first_of(component: Tensor, count: int) -> Tensor:
    """The first run of each component."""
    runs = torch.arange(len(component), device=component.device)
    return runs.new_full((count,), len(component)).scatter_reduce_(0, component, runs, "amin")


def _paint(runs: Runs, values: Tensor, shape: torch.Size) -> Tensor:
    """(N, H, W) int32 with the value of each run on its pixels and 0 elsewhere."""
    count, height, width = shape
    steps = values.new_zeros(count * (height + 1) * (width + 1), dtype=torch.int32)
    small = values.to(torch.int32)
    steps[runs.starts] = small
    steps.index_add_(0, runs.ends, -small)
    return steps.cumsum_(0).view(count, height + 1, width + 1)[:, :height, :width].contiguous()


def _check_masks(what: str, masks: Tensor) -> None:
    if masks.ndim != 3:
        raise wrong_shape(what, masks.shape, "(N, H, W)")
    if masks.dtype != torch.bool:
        raise BadInput(f"{what} must be bool; got {str(masks.dtype).removeprefix('torch.')}.")


def small_regions(masks: Tensor, area: float) -> Tensor:
    """(N, H, W) bool: the pixels of components (8-connected) of at most `area` pixels."""
    runs = find_runs(masks)
    small = runs.areas <= area
    return _paint(runs, small[runs.component], masks.shape).bool()


def fill_holes(logits: Tensor, area: float, value: float = 0.1, threshold: float = 0.0) -> Tensor:
    """Logits whose small holes, regions of at most `area` pixels at or below the threshold, became `value`.

    Args:
        logits: (..., H, W) float.
        area: in pixels of the logits; 0 or less changes nothing.
        value: 0.1 in videos; threshold + 10 in pictures.
    """
    return _replaced(logits, logits <= threshold, area, value)


def remove_specks(logits: Tensor, area: float, value: float = -10.0, threshold: float = 0.0) -> Tensor:
    """Logits whose small islands, regions of at most `area` pixels above the threshold, became `value`."""
    return _replaced(logits, logits > threshold, area, value)


def _replaced(logits: Tensor, masks: Tensor, area: float, value: float) -> Tensor:
    if logits.ndim < 2:
        raise wrong_shape("logits", logits.shape, "(..., H, W)")
    if area <= 0 or not logits.numel():
        return logits
    small = small_regions(masks.flatten(0, -3) if masks.ndim > 2 else masks[None], area)
    return logits.masked_fill(small.view(logits.shape), value)


def clean_masks(masks: Tensor, area: float) -> tuple[Tensor, Tensor]:
    """Masks without holes and then without islands of less than `area` pixels (8-connected).

    Where all islands are small, the largest stays (segment-anything, appendix B).

    Args:
        masks: (N, H, W) bool.
        area: in pixels of the masks.

    Returns:
        The masks, and (N,) bool: which of them changed.

    Raises:
        BadInput: another shape or type.
    """
    _check_masks("masks", masks)
    if not masks.numel():
        return masks.clone(), masks.new_zeros(len(masks))
    holes = find_runs(~masks)
    filled = masks | _paint(holes, (holes.areas < area)[holes.component], masks.shape).bool()
    islands = find_runs(filled)
    keep = (islands.areas >= area) | largest_of(islands, len(masks), (masks.shape[1] + 1) * (masks.shape[2] + 1))
    cleaned = _paint(islands, keep[islands.component], masks.shape).bool()
    return cleaned, (cleaned != masks).flatten(1).any(1)


def largest_of(runs: Runs, count: int, per_mask: int) -> Tensor:
    """(C,) bool: whether a component is the largest of its mask, the first one where several are."""
    if not len(runs.areas):
        return runs.areas.bool()
    mask_of = runs.starts[_first_of(runs.component, len(runs.areas))] // per_mask
    most = runs.areas.new_zeros(count).scatter_reduce_(0, mask_of, runs.areas, "amax")
    numbers = torch.arange(len(mask_of), device=mask_of.device)
    candidates = torch.where(runs.areas == most[mask_of], numbers, len(numbers))
    first = numbers.new_full((count,), len(numbers)).scatter_reduce_(0, mask_of, candidates, "amin")
    return numbers == first[mask_of]


def squared_distances(masks: Tensor) -> Tensor:
    """(N, H, W) int32: the exact squared Euclidean distance of each true pixel to the nearest false one, 0 elsewhere.

    What lies outside the picture is false.

    Args:
        masks: (N, H, W) bool.

    Raises:
        BadInput: another shape or type, or sides above 23,000 pixels.
    """
    _check_masks("masks", masks)
    if max(masks.shape) > 23_000:
        raise out_of_range("masks", tuple(masks.shape), "at most 23,000 pixels high and wide")
    columns = _column_distances(masks)
    best = columns * columns
    _, _, width = masks.shape
    padded = torch.nn.functional.pad(best, (1, 1))  # the zeros around the picture
    best = padded.clone()
    reach = 0
    while reach < width:
        # A pixel d away from the border needs no neighbour further off than d.
        limit = int(best.amax()) if best.numel() else 0
        if (reach + 1) ** 2 >= limit:
            break
        for _ in range(8):
            reach += 1
            if reach > width:
                break
            step = reach * reach
            torch.minimum(best[..., reach:], padded[..., :-reach] + step, out=best[..., reach:])
            torch.minimum(best[..., :-reach], padded[..., reach:] + step, out=best[..., :-reach])
    return best[..., 1:-1].contiguous()


def _column_distances(masks: Tensor) -> Tensor:
    """(N, H, W) int32: rows to the nearest false pixel of the same column, outside included."""
    height = masks.shape[1]
    rows = torch.arange(1, height + 1, dtype=torch.int32, device=masks.device)[None, :, None]
    above = torch.where(masks, 0, rows).cummax(1).values
    below = torch.where(masks, height + 1, rows).flip(1).cummin(1).values.flip(1)
    return torch.minimum(rows - above, below - rows).to(torch.int32)


def error_centres(truth: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """The next correction click of an evaluation: the middle of the larger error.

    The middle is the pixel with the largest Euclidean distance to the edge of its error region (the first one in
    reading order); missed pixels compete with wrongly covered ones (SAM 2, appendix F; official evaluation).

    Args:
        truth, guess: (N, H, W) bool.

    Returns:
        points (N, 2) float32 x, y in pixels, and labels (N,) int64: 1 where the object was missed, 0 where too much
        was covered. A perfect guess gives the point 0, 0 with label 0.

    Raises:
        BadInput: other shapes or types.
    """
    _check_masks("truth", truth)
    _check_masks("guess", guess)
    if truth.shape != guess.shape:
        raise wrong_shape("guess", guess.shape, f"{tuple(truth.shape)}, as truth has")
    count, _, width = truth.shape
    points = torch.zeros(count, 2, device=truth.device)
    labels = torch.zeros(count, dtype=torch.long, device=truth.device)
    if not truth.numel():
        return points, labels
    missed, excess = _deepest(truth & ~guess), _deepest(guess & ~truth)
    labels = (missed[0] > excess[0]).long()
    places = torch.where(labels.bool(), missed[1], excess[1])
    return torch.stack([places % width, places // width], -1).to(points.dtype), labels


def _deepest(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the largest squared distance to the edge of each mask, and its first place in reading order; 0 and 0 where
    a mask is empty."""
    if max(masks.shape[1:]) <= SMALL:
        distances = squared_distances(masks).flatten(1)
        return distances.amax(1), _first_largest(distances)
    found = [_deepest_of(mask) if bool(mask.any()) else (0, 0) for mask in masks]
    depths, places = torch.tensor(found, dtype=torch.long, device=masks.device).view(-1, 2).unbind(1)
    return depths, places


def _first_largest(values: Tensor) -> Tensor:
    """(N,) the first place of the largest value of each row."""
    places = torch.arange(values.shape[1], device=values.device)
    return torch.where(values == values.amax(1, keepdim=True), places, values.shape[1]).amin(1)


def _deepest_of(mask: Tensor) -> tuple[int, int]:
    """As `_deepest`, of one mask (H, W) that is not empty.

    A pixel is no further from the edge than along its row or column. So the exact distance is needed only where that
    bound reaches the best one found so far, which few pixels do once the most promising ones are looked at.
    """
    rows, columns = mask.any(1).nonzero().view(-1), mask.any(0).nonzero().view(-1)
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    box = mask[None, top:bottom, left:right]  # the nearest pixel outside of the mask is never beyond its box
    down = _column_distances(box)[0]
    bound = torch.minimum(down, _column_distances(box.transpose(1, 2))[0].T).flatten()
    down = torch.nn.functional.pad(down, (1, 1))
    width, best, place = right - left, 0, 0
    offsets = torch.arange(width + 2, dtype=torch.int32, device=mask.device)
    waiting = bound.nonzero().view(-1)
    for count in (1, 64, 1024):
        promises = bound[waiting].long() ** 2
        waiting = waiting[(promises > best) | ((promises == best) & (waiting < place))]
        if not len(waiting):
            break
        here = waiting[bound[waiting].topk(min(count, len(waiting))).indices]
        exact = down[here // width] ** 2 + (offsets - (here % width + 1)[:, None].int()) ** 2
        depths = exact.amin(1).long()
        deepest = int(depths.max())
        first = int(here[depths == deepest].min())
        if deepest > best or (deepest == best and first < place):
            best, place = deepest, first
        bound[here] = 0
    else:  # a mask full of holes: many pixels promise as much
        distances = squared_distances(box).flatten(1)
        best, place = int(distances.max()), int(_first_largest(distances))
    return best, (place // width + top) * mask.shape[1] + place % width + left


def clean_runs(starts: Tensor, ends: Tensor, rows: int, stride: int, area: float) -> tuple[Tensor, Tensor]:
    """One mask without holes and islands of less than `area` pixels, as `clean_masks`, on its runs alone.

    Args:
        starts, ends: (R,) int64, as of `Runs`: rows have a length of `stride`, their last pixel is never inside.
        rows: number of rows of the mask.

    Returns:
        The runs of the cleaned mask; the given tensors themselves where nothing changed.
    """
    heads = torch.arange(rows, device=starts.device) * stride
    outside = join_runs(*_alternating(torch.cat([heads, starts, ends, heads + (stride - 1)])), stride)
    holes = (outside.areas < area)[outside.component]
    filled = (starts, ends)
    if bool(holes.any()):
        filled = _alternating(torch.cat([starts, ends, outside.starts[holes], outside.ends[holes]]))
    islands = join_runs(*filled, stride)
    keep = ((islands.areas >= area) | largest_of(islands, 1, rows * stride))[islands.component]
    if bool(keep.all()):
        return filled
    return filled[0][keep], filled[1][keep]


def _alternating(places: Tensor) -> tuple[Tensor, Tensor]:
    """Starts and ends of the runs whose ends are given in any order: where two meet, there is none."""
    found, times = places.unique(return_counts=True)
    edges = found[times % 2 == 1]
    return edges[0::2].contiguous(), edges[1::2].contiguous()
