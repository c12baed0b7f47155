"""Everything in a picture: masks of a grid of clicks, of the picture and of crops, without doubles.

SAM 2, arXiv 2408.00714, and the automatic masks of segment-anything (arXiv 2304.02643, appendix B).
Order of this file: settings, what is found, crops and grids, one crop, doubles, cleaning.
Unusual: masks are run lengths from the start (see pictures.py), so that a picture of any size costs little memory;
small regions can be cleaned at the picture's size, with a second look for doubles, which the published code describes
and never does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from percepta.errors import BadInput, one_of, out_of_range, wrong_shape
from percepta.layers.regions import clean_runs
from percepta.models.sam2.pictures import (
    LARGEST_LOGIT,
    areas_above,
    runs_above,
    scale_points,
    widened,
    without_small_regions,
)
from percepta.results.masks import Masks, compress, decode

if TYPE_CHECKING:
    from percepta.models.sam2.model import Features, Sam2

OUTPUTS = ("binary_mask", "uncompressed_rle", "coco_rle")
NEAR = 20
"""Pixels from the border of a crop at which an object counts as cut off."""
TOGETHER = 8_000_000
"""Values of enlarged columns that are looked at together."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class EverythingSettings:
    """How everything is looked for. The defaults are the published ones.

    Attributes:
        points_per_side: clicks per side of the grid on the whole picture; None where `point_grids` is given.
        points_per_batch: clicks that are decoded before their masks are filtered.
        iou_threshold: masks of a lower predicted quality are dropped (official: pred_iou_thresh).
        stability_threshold: masks that change more with their threshold are dropped (stability_score_thresh).
        stability_offset: the change of the threshold by which that is measured (stability_score_offset).
        mask_threshold: logits above it are inside.
        box_nms_threshold: of two masks in a crop whose boxes overlap more, the better one stays (box_nms_thresh).
        crop_layers: layer n looks at 2^n x 2^n overlapping crops (crop_n_layers); 0 looks at the whole picture alone.
        crop_nms_threshold: the same between crops, where the smaller crop's mask stays (crop_nms_thresh).
        crop_overlap: overlap of crops as a share of the picture's shorter side (crop_overlap_ratio).
        crop_points_divisor: layer n has points_per_side / this^n clicks a side (crop_n_points_downscale_factor).
        point_grids: clicks of each layer, (n, 2) x and y from 0 to 1, in place of regular grids.
        min_region_area: holes and islands of up to so many pixels of the small map are filled and removed, before a
            mask is enlarged (min_mask_region_area).
        clean_area: holes and islands of less than so many pixels of the picture are filled and removed in the end, and
            doubles that this makes are dropped; 0 is off, as in the published code.
        refine: decode each mask once more with its own logits as prompt (use_m2m).
        multimask: three masks a click (multimask_output) instead of one.

    Raises: BadInput for values outside their range.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    iou_threshold: float = 0.8
    stability_threshold: float = 0.95
    stability_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_threshold: float = 0.7
    crop_layers: int = 0
    crop_nms_threshold: float = 0.7
    crop_overlap: float = 512 / 1500
    crop_points_divisor: float = 1
    point_grids: tuple[NDArray[Any], ...] | None = None
    min_region_area: float = 0
    clean_area: float = 0
    refine: bool = False
    multimask: bool = True

    def __post_init__(self) -> None:
        owner = "EverythingSettings"
        if (self.points_per_side is None) == (self.point_grids is None):
            given = "both" if self.point_grids is not None else "neither"
            raise BadInput(f"{owner} needs points_per_side or point_grids, the other one None; got {given}.")
        if self.points_per_side is not None and self.points_per_side < 1:
            raise out_of_range("points_per_side", self.points_per_side, "1 or more", owner)
        for name, least in {"points_per_batch": 1, "crop_layers": 0, "min_region_area": 0, "clean_area": 0}.items():
            if not getattr(self, name) >= least:
                raise out_of_range(name, getattr(self, name), f"{least} or more", owner)
        if not self.stability_offset > 0:
            raise out_of_range("stability_offset", self.stability_offset, "above 0", owner)
        if not 0 <= self.crop_overlap < 1:
            raise out_of_range("crop_overlap", self.crop_overlap, "0 or more and below 1", owner)
        if not self.crop_points_divisor >= 1:
            raise out_of_range("crop_points_divisor", self.crop_points_divisor, "1 or more", owner)
        if self.point_grids is not None:
            object.__setattr__(self, "point_grids", _checked_grids(self.point_grids, self.crop_layers + 1))

    def grid(self, layer: int) -> NDArray[np.float64]:
        """(n, 2) clicks of a layer, x and y from 0 to 1, row by row."""
        if self.point_grids is not None:
            return self.point_grids[layer]
        assert self.points_per_side is not None
        return point_grid(int(self.points_per_side / self.crop_points_divisor**layer))


def _checked_grids(grids: Sequence[Any], layers: int) -> tuple[NDArray[np.float64], ...]:
    arrays = tuple(np.asarray(grid, dtype=np.float64) for grid in grids)
    if len(arrays) != layers:
        raise BadInput(f"point_grids must be one a layer, {layers} for crop_layers={layers - 1}; got {len(arrays)}.")
    for grid in arrays:
        if grid.ndim != 2 or grid.shape[1] != 2:
            raise wrong_shape("each of point_grids", grid.shape, "(n, 2)")
        if not ((grid >= 0) & (grid <= 1)).all():
            raise out_of_range("each of point_grids", grid.tolist(), "x and y from 0 to 1")
    return arrays


@dataclass(frozen=True, slots=True, eq=False)
class FoundMask:
    """One mask of the picture.

    Attributes:
        counts: its run lengths, column by column, zeros first.
        area: in pixels.
        box: left, top, right, bottom; the last pixels that are inside, as the published code has it.
        iou: predicted quality, 0 to 1.
        stability: intersection over union of the masks at a raised and a lowered threshold.
        point: x and y of the click.
        crop: left, top, width, height of the crop in which it was found.
    """

    counts: NDArray[np.int64]
    area: int
    box: Box
    iou: float
    stability: float
    point: tuple[float, float]
    crop: Box


@dataclass(frozen=True, slots=True, eq=False)
class Everything:
    """All masks that were found in a picture of `size` (height, width), the best first."""

    size: tuple[int, int]
    found: tuple[FoundMask, ...]

    def __len__(self) -> int:
        return len(self.found)

    def masks(self, source: str = "") -> Masks:
        """As a result; the scores are the predicted qualities."""
        scores = np.array([one.iou for one in self.found], dtype=np.float32)
        return Masks(source, self.size, tuple(one.counts for one in self.found), scores=scores)

    def records(self, output: str = "binary_mask") -> list[dict[str, Any]]:
        """As the published code gives them: segmentation, area, bbox (x, y, width, height), predicted_iou,
        point_coords, stability_score, crop_box.

        Args:
            output: "binary_mask" (arrays; large), "uncompressed_rle" or "coco_rle".

        Raises: BadInput for another output.
        """
        if output not in OUTPUTS:
            raise one_of("output", output, OUTPUTS)
        return [
            {
                "segmentation": self._segmentation(one, output),
                "area": one.area,
                "bbox": [one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1]],
                "predicted_iou": one.iou,
                "point_coords": [list(one.point)],
                "stability_score": one.stability,
                "crop_box": list(one.crop),
            }
            for one in self.found
        ]

    def _segmentation(self, one: FoundMask, output: str) -> Any:
        if output == "binary_mask":
            return decode(one.counts, self.size)
        counts = compress(one.counts) if output == "coco_rle" else one.counts.tolist()
        return {"size": list(self.size), "counts": counts}


class Candidates(NamedTuple):
    """N masks on the way; runs are positions column by column, each column with one pixel more at its end.

    Attributes:
        runs: of each mask, starts and ends (R, 2), int64.
        boxes: (N, 4) int64, left, top, right, bottom, all inside.
        iou, stability: (N,).
        points: (N, 2), x and y in the picture.
        crops: (N, 4) int64, left, top, right, bottom.
    """

    runs: list[NDArray[np.int64]]
    boxes: Tensor
    iou: Tensor
    stability: Tensor
    points: Tensor
    crops: Tensor

    def select(self, rows: Tensor) -> Candidates:
        """Some masks, by index."""
        runs = [self.runs[row] for row in rows.tolist()]
        return Candidates(runs, *(part[rows] for part in self[1:]))


def everything(
    model: Sam2,
    pixels: Tensor,
    settings: EverythingSettings | None = None,
    prepare: Callable[[NDArray[np.uint8]], Tensor] | None = None,
) -> Everything:
    """All that there is in a picture.

    Args:
        model: in evaluation mode.
        pixels: (3, H, W) uint8 RGB.
        settings: by default the published ones.
        prepare: a crop (h, w, 3) uint8 → (3, S, S) float32, by default the model's own preprocessing.

    Raises:
        BadInput: no uint8 picture, or a model without preprocessing.
    """
    settings = settings or EverythingSettings()
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.numel():
        raise wrong_shape("pixels", pixels.shape, "(3, H, W), H and W 1 or more", model.name)
    if pixels.dtype != torch.uint8:
        raise BadInput(f"pixels must be uint8; got {str(pixels.dtype).removeprefix('torch.')}.")
    prepare = prepare or model.preprocess
    if prepare is None:
        raise BadInput("prepare must be given for a model without preprocessing; pass a percepta.media.Preprocess.")
    size = (pixels.shape[1], pixels.shape[2])
    crops = crop_boxes(size, settings.crop_layers, settings.crop_overlap)
    with torch.inference_mode():
        parts = [_in_crop(model, pixels, box, settings.grid(layer), settings, prepare) for box, layer in crops]
        found = _joined(parts)
        if len(crops) > 1 and found.runs:
            sides = (found.crops[:, 2:] - found.crops[:, :2]).float()
            found = found.select(nms(found.boxes.float(), 1 / sides.prod(1), settings.crop_nms_threshold))
        if settings.clean_area > 0 and found.runs:
            found = _cleaned(found, size, settings)
    return _finished(found, size)


def point_grid(side: int) -> NDArray[np.float64]:
    """(side^2, 2) centres of a regular grid, x and y from 0 to 1, row by row."""
    places = (np.arange(side) + 0.5) / max(side, 1)
    return np.stack([np.tile(places, side), np.repeat(places, side)], axis=-1)


def crop_boxes(size: tuple[int, int], layers: int, overlap_share: float) -> list[tuple[Box, int]]:
    """Left, top, right, bottom of every crop, with its layer; layer 0 is the whole picture (height, width)."""
    height, width = size
    found = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_share * min(size) * (2 / count))
        wide, high = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        lefts, tops = ([(side - overlap) * number for number in range(count)] for side in (wide, high))
        boxes = [(left, top, min(left + wide, width), min(top + high, height)) for left, top in product(lefts, tops)]
        found += [(box, layer) for box in boxes if box[0] < box[2] and box[1] < box[3]]
    return found


def _in_crop(
    model: Sam2,
    pixels: Tensor,
    crop: Box,
    grid: NDArray[np.float64],
    settings: EverythingSettings,
    prepare: Callable[[NDArray[np.uint8]], Tensor],
) -> Candidates:
    """What is found in one crop, in the picture's pixels, without doubles."""
    left, top, right, bottom = crop
    picture = np.ascontiguousarray(pixels[:, top:bottom, left:right].permute(1, 2, 0).cpu().numpy())
    weight = model.no_memory
    features = model.encode_image(prepare(picture)[None].to(weight.device, weight.dtype))
    points = torch.from_numpy(grid * (right - left, bottom - top)).float()
    shape = (pixels.shape[1], pixels.shape[2])
    found = _joined(
        [_of_points(model, features, some, crop, shape, settings) for some in points.split(settings.points_per_batch)]
    )
    if not found.runs:
        return found
    return found.select(nms(found.boxes.float(), found.iou, settings.box_nms_threshold))


def _of_points(
    model: Sam2,
    features: Features,
    points: Tensor,
    crop: Box,
    size: tuple[int, int],
    settings: EverythingSettings,
) -> Candidates:
    """The masks of some clicks, given in pixels of the crop, that pass every filter."""
    crop_size = (crop[3] - crop[1], crop[2] - crop[0])
    device = features.coarse.device
    scaled = scale_points(points, crop_size, model.config.image_size).to(device)[:, None]
    ones = torch.ones(len(points), 1, dtype=torch.long, device=device)
    found = model.predict(features, scaled, ones, multimask=settings.multimask)
    logits, iou = found.logits.flatten(0, 1), found.iou.flatten().float()
    which = torch.arange(len(points), device=device).repeat_interleave(found.iou.shape[1])
    if settings.refine:
        masks = logits[:, None].float().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        better = model.predict(features, scaled[which], ones[which], masks=masks, multimask=False)
        logits, iou = better.logits[:, 0], better.iou[:, 0].float()
    if settings.iou_threshold > 0:
        good = iou > settings.iou_threshold
        logits, iou, which = logits[good], iou[good], which[good]
    together = max(1, TOGETHER // (logits.shape[-2] * crop_size[1]))
    parts = [
        _enlarged(
            logits[some : some + together],
            iou[some : some + together],
            which[some : some + together],
            crop,
            size,
            settings,
        )
        for some in range(0, len(logits), together)
    ]
    joined = _joined(parts)
    places = points.to(device)[joined.points[:, 0].long()] + points.new_tensor(crop[:2]).to(device)
    return joined._replace(points=places)


def _enlarged(
    logits: Tensor, iou: Tensor, which: Tensor, crop: Box, size: tuple[int, int], settings: EverythingSettings
) -> Candidates:
    """Masks at the size of the crop that are stable and not cut off; `points` are indices still, (N, 1)."""
    threshold, offset = settings.mask_threshold, settings.stability_offset
    left, top, right, bottom = crop
    logits = without_small_regions(logits.float(), settings.min_region_area, settings.min_region_area)
    columns = widened(logits, right - left)
    outer = areas_above(columns, bottom - top, threshold - offset)
    stability = areas_above(columns, bottom - top, threshold + offset) / outer  # NaN, never stable, where none is
    if settings.stability_threshold > 0:
        rows = (stability >= settings.stability_threshold).nonzero().view(-1)
        columns, iou, which, stability = columns[rows], iou[rows], which[rows], stability[rows]
    if not len(columns):
        return _joined([])
    found = runs_above(columns, bottom - top, threshold)
    boxes = _boxes(*found, len(columns)) + found.mask.new_tensor([left, top, left, top])
    kept = (~_cut_off(boxes, crop, size)).nonzero().view(-1)
    starts = (found.column + left) * (size[0] + 1) + top + found.top
    runs = torch.stack([starts, starts + found.bottom - found.top], dim=1).cpu().numpy()
    firsts = torch.searchsorted(found.mask, torch.arange(1, len(columns), device=found.mask.device)).tolist()
    split = np.split(runs, firsts)
    crops = boxes.new_tensor(crop).expand(len(kept), -1)
    own = [split[row].copy() for row in kept.tolist()]
    return Candidates(own, boxes[kept], iou[kept], stability[kept], which[kept][:, None], crops)


def _boxes(mask: Tensor, column: Tensor, top: Tensor, bottom: Tensor, count: int) -> Tensor:
    """(count, 4) left, top, right, bottom of masks given as runs, all inside; zeros where a mask is empty."""
    far = 1 << 40
    lows = [mask.new_full((count,), far).scatter_reduce_(0, mask, part, "amin") for part in (column, top)]
    highs = [mask.new_full((count,), -1).scatter_reduce_(0, mask, part, "amax") for part in (column, bottom - 1)]
    boxes = torch.stack([*lows, *highs], dim=1)
    return torch.where(boxes[:, 2:3] < 0, 0, boxes)


def _cut_off(boxes: Tensor, crop: Box, size: tuple[int, int]) -> Tensor:
    """(N,) bool: whether a box ends near a border of its crop that is no border of the picture."""
    near_crop = (boxes - boxes.new_tensor(crop)).abs() <= NEAR
    near_picture = (boxes - boxes.new_tensor([0, 0, size[1], size[0]])).abs() <= NEAR
    return (near_crop & ~near_picture).any(1)


def _joined(parts: Sequence[Candidates]) -> Candidates:
    parts = [part for part in parts if part.runs]
    if not parts:
        none = torch.zeros(0, 4, dtype=torch.int64)
        return Candidates([], none, none[:, 0].float(), none[:, 0].float(), none[:, :2].float(), none)
    runs = [one for part in parts for one in part.runs]
    return Candidates(runs, *(torch.cat(column) for column in list(zip(*parts, strict=True))[1:]))


def _cleaned(found: Candidates, size: tuple[int, int], settings: EverythingSettings) -> Candidates:
    """Small holes filled and small islands dropped; doubles are judged anew, and untouched masks stay before others."""
    stride = size[0] + 1
    runs, boxes = list(found.runs), found.boxes.clone()
    untouched = torch.ones(len(runs), device=boxes.device)
    for row, one in enumerate(found.runs):
        starts, ends = torch.from_numpy(one).T.contiguous()
        cleaned = clean_runs(starts, ends, size[1], stride, settings.clean_area)
        if cleaned[0] is starts:
            continue
        untouched[row] = 0
        runs[row] = torch.stack(cleaned, dim=1).numpy()
        starts, length = cleaned[0], cleaned[1] - cleaned[0]
        top = starts % stride
        boxes[row] = _boxes(torch.zeros_like(starts), starts // stride, top, top + length, 1)[0].to(boxes.device)
    threshold = max(settings.box_nms_threshold, settings.crop_nms_threshold)
    return found._replace(runs=runs, boxes=boxes).select(nms(boxes.float(), untouched, threshold))


def _finished(found: Candidates, size: tuple[int, int]) -> Everything:
    rows = zip(found.runs, *(part.tolist() for part in found[1:]), strict=True)
    masks = []
    for runs, box, iou, stability, point, crop in rows:
        area = int((runs[:, 1] - runs[:, 0]).sum())
        where = (crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1])
        masks.append(FoundMask(_counts(runs, size), area, tuple(box), iou, stability, tuple(point), where))
    return Everything(size, tuple(masks))


def _counts(runs: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Run lengths of runs whose columns have one pixel more at their end."""
    starts = runs[:, 0] - runs[:, 0] // (size[0] + 1)
    edges = np.stack([starts, starts + runs[:, 1] - runs[:, 0]], axis=1).reshape(-1)
    meeting = np.zeros(len(edges), dtype=bool)
    meeting[1:-1:2] = edges[1:-1:2] == edges[2::2]  # over the end of a column
    meeting[2::2] = meeting[1:-1:2]
    edges = np.concatenate([[0], edges[~meeting], [size[0] * size[1]]])
    counts = np.diff(edges)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts
