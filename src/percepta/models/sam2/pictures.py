"""Between the model's pixels and a picture's own: prompts going in, masks coming out.

SAM 2, arXiv 2408.00714. Order of this file: prompts, masks of one picture, the filter of small regions, masks as runs.
Unusual: a mask at the size of a picture is found without making it. Along one column of the picture the enlarged
logits are straight between neighbouring rows of the small map, so the rows where they cross the threshold can be
computed; of a picture with 12 million pixels a mask then costs a tenth of the memory and less of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from percepta.errors import BadInput, wrong_shape
from percepta.layers.regions import fill_holes, remove_specks
from percepta.models.sam2.parts import enlarge

if TYPE_CHECKING:
    from percepta.models.sam2.model import Features, Sam2

LARGEST_LOGIT = 32.0
"""Logits that are fed back as a mask prompt are cut at this."""
CERTAIN = 10.0
"""How far beyond the threshold a filled hole or a removed speck is put."""


def scale_points(points: Tensor, size: tuple[int, int], image_size: int) -> Tensor:
    """(..., 2) x and y in pixels of a picture of `size` (height, width) → pixels of the model's input, float32."""
    height, width = size
    sides = torch.tensor([width, height], dtype=torch.float32, device=points.device)
    return points.float() / sides * image_size


def scale_boxes(boxes: Tensor, size: tuple[int, int], image_size: int) -> Tensor:
    """(N, 4) left, top, right, bottom in pixels of a picture → pixels of the model's input, float32."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise wrong_shape("boxes", boxes.shape, "(N, 4)")
    return scale_points(boxes.view(-1, 2, 2), size, image_size).view(-1, 4)


class PictureMasks(NamedTuple):
    """Masks of N prompts on one picture, M a prompt.

    Attributes:
        logits: (N, M, H, W) float32 at the size of the picture, above 0 inside.
        iou: (N, M) predicted quality, 0 to 1.
        small: (N, M, S / 4, S / 4) logits, cut at 32: what can be fed back as a mask prompt.
        object_score: (N, 1) logit of the object being there.
    """

    logits: Tensor
    iou: Tensor
    small: Tensor
    object_score: Tensor


def predict_picture(
    model: Sam2,
    features: Features,
    size: tuple[int, int],
    points: Tensor | None = None,
    labels: Tensor | None = None,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
    multimask: bool = True,
    holes: float = 0,
    specks: float = 0,
) -> PictureMasks:
    """Masks of N prompts, all in pixels of the picture.

    Args:
        features: of the one picture.
        size: its height and width.
        points, labels, boxes, masks, multimask: as of `Sam2.predict`, points and boxes in pixels of the picture.
        holes, specks: fill holes and remove islands of up to so many pixels of the small map; 0 is off.

    Raises:
        BadInput: shapes that do not fit together; a point or box outside the picture; a box with no area.
    """
    side = model.config.image_size
    if len(features) != 1:
        raise BadInput(f"features must be of one picture; got {len(features)}.")
    if points is not None:
        _check_inside("points", points, size)
        points = scale_points(points, size, side)
    if boxes is not None:
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise wrong_shape("boxes", boxes.shape, "(N, 4)")
        _check_inside("boxes", boxes.reshape(-1, 2, 2), size)
        if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise BadInput(f"boxes must be left, top, right, bottom with an area; got {boxes.tolist()}.")
        boxes = scale_boxes(boxes, size, side)
    found = model.predict(features, points, labels, boxes, masks, multimask)
    small = found.logits.float()
    logits = enlarge(without_small_regions(small, holes, specks), size)
    return PictureMasks(logits, found.iou, small.clamp(-LARGEST_LOGIT, LARGEST_LOGIT), found.object_score)


def _check_inside(what: str, places: Tensor, size: tuple[int, int]) -> None:
    limits = places.new_tensor([size[1], size[0]])
    if not bool(((places >= 0) & (places <= limits)).all()):  # also refuses NaN
        raise BadInput(f"{what} must lie within the picture, {size[1]} x {size[0]} pixels; got {places.tolist()}.")


def without_small_regions(logits: Tensor, holes: float, specks: float, threshold: float = 0.0) -> Tensor:
    """Logits (..., h, w) with small holes filled and small islands removed, both as found in the given logits."""
    filled = fill_holes(logits, holes, threshold + CERTAIN, threshold)
    if specks <= 0:
        return filled
    return torch.where(
        remove_specks(logits, specks, threshold - CERTAIN, threshold) != logits, threshold - CERTAIN, filled
    )


class ColumnRuns(NamedTuple):
    """Masks as stretches of their columns, sorted by mask, column and row; all (R,) int64, on the logits' device.

    Attributes:
        mask: which mask.
        column: which column.
        top, bottom: rows, `bottom` exclusive and larger.
    """

    mask: Tensor
    column: Tensor
    top: Tensor
    bottom: Tensor


def widened(logits: Tensor, width: int) -> Tensor:
    """The columns of the enlarged masks: (K, h, w) logits → (K, width, h) float32, contiguous."""
    turned = logits.float().transpose(1, 2)[:, None]
    return F.interpolate(turned, size=(width, logits.shape[1]), mode="bilinear", align_corners=False)[:, 0]


def runs_above(columns: Tensor, height: int, threshold: float) -> ColumnRuns:
    """Where masks, enlarged to `height` rows, are above the threshold.

    The same as comparing the result of bilinear interpolation, up to rounding of values at the threshold.

    Args:
        columns: (K, W, h), as `widened` gives them.
    """
    count, width, small = columns.shape
    inside = columns > threshold
    edges = inside.new_empty(count, width, small + 1)
    edges[..., 0], edges[..., small] = inside[..., 0], inside[..., -1]
    torch.ne(inside[..., 1:], inside[..., :-1], out=edges[..., 1:small])
    line, edge = edges.view(-1, small + 1).nonzero(as_tuple=True)
    rows = _crossings(columns.view(-1), line * small, edge, small, height, threshold)
    top, bottom = rows[0::2], rows[1::2]  # a column is outside before its first row and behind its last
    kept = bottom > top
    line = line[0::2][kept]
    return ColumnRuns(line // width, line % width, top[kept], bottom[kept])


def _crossings(flat: Tensor, start: Tensor, edge: Tensor, small: int, height: int, threshold: float) -> Tensor:
    """The first row of the enlarged column behind each edge; edge e lies between the small rows e - 1 and e."""
    source, first = _row_tables(small, height, flat.device)
    before = (edge - 1).clamp_(min=0)
    place = start + before
    above, below = flat[place], flat[place + (edge - before).clamp_(max=small - 1 - before)]
    share = (threshold - above) / (below - above)
    place_large = ((share + before) + 0.5) * (height / small) - 0.5
    row = place_large.ceil()
    # Where the crossing lies at a row itself, the rounding of the interpolation decides: then the row is looked at.
    unsure = ~((place_large - row + 0.5).abs() < 0.49)
    least, most = first[before], first[edge]
    row = row.nan_to_num_(0.0).long().clamp_(least, most)
    some = unsure.nonzero().view(-1)
    if len(some):
        least, most, before = least[some], most[some], before[some]
        row[some] = _looked_at(row[some], least, most, above[some], below[some], source, before, threshold)
    row[edge == 0] = 0
    row[edge == small] = height
    return row


def _looked_at(
    row: Tensor,
    least: Tensor,
    most: Tensor,
    above: Tensor,
    below: Tensor,
    source: Tensor,
    before: Tensor,
    threshold: float,
) -> Tensor:
    """Rows corrected by one where the interpolated value there says so."""
    new = below > threshold

    def beyond(row: Tensor) -> Tensor:
        part = source[row.clamp(0, len(source) - 1)] - before
        return ((1 - part) * above + part * below > threshold) == new

    row = torch.where((row > least) & beyond(row - 1), row - 1, row)
    return torch.where((row < most) & ~beyond(row), row + 1, row)


def _row_tables(small: int, height: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Place of each large row on the small map (as torch computes it), and the first large row at or behind each small
    row (with one entry more for the end)."""
    scale = torch.tensor(small, dtype=torch.float32) / height
    source = ((torch.arange(height, dtype=torch.float32) + 0.5) * scale - 0.5).clamp(min=0)
    first = torch.searchsorted(source.floor().clamp(max=small - 1), torch.arange(small + 1, dtype=torch.float32))
    return source.to(device), first.to(device)


def areas_above(columns: Tensor, height: int, threshold: float) -> Tensor:
    """(K,) int64: pixels above the threshold of masks enlarged to `height` rows; arguments as of `runs_above`."""
    runs = runs_above(columns, height, threshold)
    areas = torch.zeros(len(columns), dtype=torch.int64, device=columns.device)
    return areas.index_add_(0, runs.mask, runs.bottom - runs.top)
