"""How well masks agree: region J, boundary F, and the J&F of videos.

The measures of DAVIS (arXiv 1704.00675) as SA-V, MOSE, LVOS and DAVIS count them (SAM 2, arXiv 2408.00714, §6).
Order of this file: J, F, one video, many videos, clips as DAVIS counts them.
Unusual: contour pixels near another contour are found by counting along rows: of each row within reach, whether the
stretch under the disc holds a pixel. That is exact, and costs no dilation; only the box around both masks is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput
from percepta.evaluation.metrics import Points

Labels = NDArray[np.integer]
Dense = NDArray[np.bool_]
Frame = Labels | Mapping[int, Dense]
"""The masks of one frame: (H, W) numbers of objects, 0 for none; or (H, W) masks by object, which may overlap."""
BOUNDARY_TOLERANCE = 0.008  # of the picture's diagonal, rounded up to pixels: DAVIS


def jaccard(truth: Dense, prediction: Dense) -> Points:
    """J of masks (..., H, W): intersection over union, (...) float64 in 0..1; 1 where both are empty."""
    _check_alike("jaccard", truth, prediction)
    both, either = (truth & prediction).sum(axis=(-2, -1)), (truth | prediction).sum(axis=(-2, -1))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def boundary_f(truth: Dense, prediction: Dense, tolerance: float = BOUNDARY_TOLERANCE) -> Points:
    """F of masks (..., H, W): harmonic mean of precision and recall of contour pixels within a tolerance.

    Args:
        tolerance: a share of the diagonal, rounded up to whole pixels; 1 or more is pixels.

    Returns:
        (...) float64 in 0..1; 1 where both contours are empty, 0 where one is.
    """
    _check_alike("boundary_f", truth, prediction)
    sides = truth.shape[-2:]
    reach = math.ceil(tolerance if tolerance >= 1 else tolerance * math.hypot(*sides))
    pairs = zip(truth.reshape(-1, *sides), prediction.reshape(-1, *sides), strict=True)
    return np.array([_boundary(*pair, reach) for pair in pairs]).reshape(truth.shape[:-2])


def contours(masks: Dense) -> Dense:
    """(..., H, W): the pixels that differ from their right, lower or lower right neighbour."""
    masks = masks.astype(bool)
    right, below, corner = masks.copy(), masks.copy(), masks.copy()
    right[..., :-1] = masks[..., 1:]
    below[..., :-1, :] = masks[..., 1:, :]
    corner[..., :-1, :-1] = masks[..., 1:, 1:]
    corner[..., -1, :-1], corner[..., :-1, -1] = right[..., -1, :-1], below[..., :-1, -1]
    return np.asarray((masks ^ right) | (masks ^ below) | (masks ^ corner))


def _boundary(truth: Dense, prediction: Dense, reach: int) -> float:
    """F of two (H, W) masks."""
    either = truth | prediction
    rows, columns = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    if not len(rows):
        return 1.0
    # A contour lies on the mask or one pixel before it; a pixel more behind it, so that it ends there as it did.
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    box = (slice(top, rows[-1] + 2), slice(left, columns[-1] + 2))
    wanted, drawn = contours(truth[box]), contours(prediction[box])
    places = [np.nonzero(edge) for edge in (wanted, drawn)]
    if not len(places[0][0]) or not len(places[1][0]):
        return float(len(places[0][0]) == len(places[1][0]))
    recall, precision = _near(places[0], drawn, reach), _near(places[1], wanted, reach)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _near(places: tuple[NDArray[np.intp], ...], edge: Dense, reach: int) -> float:
    """The share of places, rows and columns of pixels, within `reach` of a pixel of an edge."""
    height, width = edge.shape
    # Pixels of the edge before each column of each row, with room for the disc on all sides.
    before = np.zeros((height + 2 * reach, width + 2 * reach + 1), np.int32)
    inside = before[reach : reach + height, reach + 1 : reach + 1 + width]
    np.cumsum(edge, axis=1, out=inside)
    before[reach : reach + height, reach + 1 + width :] = inside[:, -1:]
    stride, flat = before.shape[1], before.reshape(-1)
    start = (places[0] + reach) * stride + places[1] + reach
    left = np.arange(len(start))
    for step in sorted(range(-reach, reach + 1), key=abs):  # the nearest rows settle most
        half = math.isqrt(reach * reach - step * step)
        here = start[left] + step * stride
        left = left[flat[here + half + 1] == flat[here - half]]
        if not len(left):
            break
    return 1 - len(left) / len(start)


@dataclass(frozen=True, slots=True, eq=False)
class VideoScore:
    """J and F of the objects of one video.

    Attributes:
        objects: all that the truth or the prediction shows in a counted frame, in order of their numbers.
        known: (O,) bool, whether the truth shows it; the averages are over these alone.
        regions, boundaries: (O, T) float64 J and F in each counted frame, NaN before the first frame in which the
            truth or the prediction shows the object.
    """

    objects: tuple[int, ...]
    known: NDArray[np.bool_]
    regions: Points
    boundaries: Points

    def of_objects(self) -> dict[int, tuple[float, float]]:
        """J and F by object of the truth, each the mean over its frames."""
        with np.errstate(invalid="ignore"):
            pairs = zip(np.nanmean(self.regions, axis=1), np.nanmean(self.boundaries, axis=1), strict=True)
            found = dict(zip(self.objects, pairs, strict=True))
        known = [number for number, told in zip(self.objects, self.known, strict=True) if told]
        return {number: (float(found[number][0]), float(found[number][1])) for number in known}

    @property
    def sums(self) -> Points:
        """(3,) sums of J and of F over the objects of the truth, and their number."""
        pairs = np.array(list(self.of_objects().values()), np.float64).reshape(-1, 2)
        return np.array([*pairs.sum(axis=0), len(pairs)])


def score_video(
    truth: Iterable[Frame],
    prediction: Iterable[Frame],
    skip_ends: bool = True,
    tolerance: float = BOUNDARY_TOLERANCE,
) -> VideoScore:
    """J and F of each object in each frame, read frame by frame.

    An object counts from the first counted frame in which the truth or the prediction shows it; from then on a frame
    in which both are empty gives 1, one in which one is gives 0.

    Args:
        truth, prediction: as many frames, each (H, W) numbers of objects or masks by object.
        skip_ends: leave out the first frame, which is given to the model, and the last, as the official scores do.
        tolerance: of the boundary, as in `boundary_f`.

    Raises:
        BadInput: another number of frames, fewer than 3 where the ends are skipped, or sizes that differ.
    """
    seen: dict[int, bool] = {}
    scores: list[dict[int, tuple[float, float]]] = []
    for wanted, guess in _counted(truth, prediction, skip_ends):
        shown, guessed = _by_object(wanted), _by_object(guess)
        sizes = {mask.shape for mask in (*shown.values(), *guessed.values())}
        if len(sizes) > 1:
            raise BadInput(f"the masks of a video must have one size; got {' and '.join(map(str, sorted(sizes)))}.")
        for number in (*shown, *guessed):
            seen[number] = seen.get(number, False) or number in shown
        scores.append({number: _pair(shown.get(number), guessed.get(number), tolerance) for number in seen})
    objects = tuple(sorted(seen))
    table = np.full((2, len(objects), len(scores)), np.nan)
    for column, found in enumerate(scores):
        for row, number in enumerate(objects):
            if number in found:
                table[:, row, column] = found[number]
    return VideoScore(objects, np.array([seen[number] for number in objects], bool), table[0], table[1])


def score_videos(scores: Sequence[VideoScore]) -> dict[str, float]:
    """J&F, J and F of a data set: the mean over the objects of all videos.

    Raises:
        BadInput: no objects at all.
    """
    sums = np.sum([score.sums for score in scores], axis=0) if scores else np.zeros(3)
    if not sums[2]:
        raise BadInput("J&F needs at least one object in the truth of at least one video; got none.")
    region, boundary = float(sums[0] / sums[2]), float(sums[1] / sums[2])
    return {"J&F": (region + boundary) / 2, "J": region, "F": boundary}


def score_masks(found: Labels, truth: Labels) -> tuple[Points, Points]:
    """J and F of each object of a clip, each the mean over the frames but the first and the last, as DAVIS counts.

    Unlike `score_video`, which follows the official scores of SA-V, only the objects of the first frame count, and
    they count in every frame.

    Args:
        found, truth: (T, H, W) numbers of objects, 0 for none, T of at least 3.

    Returns:
        Two (objects,) float64 in 0..1.

    Raises:
        BadInput: other shapes, or a first frame without objects.
    """
    if found.shape != truth.shape or truth.ndim != 3 or len(truth) < 3:
        raise BadInput(f"a clip needs masks (T, H, W), T of at least 3; got {found.shape} and {truth.shape}.")
    numbers = [number for number in np.unique(truth[0]).tolist() if number]
    if not numbers:
        raise BadInput("the first frame of a clip must show at least one object; its mask is empty.")
    middle = slice(1, -1)
    pairs = [(truth[middle] == number, found[middle] == number) for number in numbers]
    regions = np.array([jaccard(*pair).mean() for pair in pairs])
    boundaries = np.array([boundary_f(*pair).mean() for pair in pairs])
    return regions, boundaries


def _counted(truth: Iterable[Frame], prediction: Iterable[Frame], skip_ends: bool) -> Iterator[tuple[Frame, Frame]]:
    """The pairs of frames that count; of skipped ends one pair is held back."""
    count = 0
    held: tuple[Frame, Frame] | None = None
    try:
        for count, pair in enumerate(zip(truth, prediction, strict=True), start=1):
            if not skip_ends:
                yield pair
            elif count > 2 and held is not None:
                yield held
            held = pair
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise BadInput(f"a prediction must have as many frames as the truth; one of them ends after {count}.") from None
    if skip_ends and count < 3:
        raise BadInput(f"a video needs at least 3 frames where its first and last do not count; got {count}.")


def _by_object(frame: Frame) -> dict[int, Dense]:
    """The masks that are not empty, by object."""
    if isinstance(frame, Mapping):
        return {int(number): mask for number, mask in sorted(frame.items()) if np.any(mask)}
    labels = np.asarray(frame)
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise BadInput(
            f"a frame must be (H, W) whole numbers, or masks by object; got {labels.dtype} of shape {labels.shape}."
        )
    values = labels.reshape(-1)
    if labels.dtype.kind == "b" or (labels.size and values.min() >= 0 and values.max() < 1 << 16):
        numbers = np.flatnonzero(np.bincount(values.astype(np.uint16, copy=False))).tolist()
    else:
        numbers = np.unique(values).tolist()
    return {number: labels == number for number in numbers if number}


def _pair(truth: Dense | None, prediction: Dense | None, tolerance: float) -> tuple[float, float]:
    """J and F of two masks, None for an empty one."""
    if truth is None or prediction is None:
        alike = float(truth is prediction)
        # A contour may be empty although its mask is not: one that fills the frame.
        other = truth if prediction is None else prediction
        edgeless = other is not None and bool(other.all())
        return alike, 1.0 if edgeless else alike
    return float(jaccard(truth, prediction)), float(boundary_f(truth, prediction, tolerance))


def _check_alike(who: str, truth: Dense, prediction: Dense) -> None:
    if truth.shape != prediction.shape or truth.ndim < 2:
        raise BadInput(f"{who} needs masks of one shape (..., H, W); got {truth.shape} and {prediction.shape}.")
    if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise BadInput(f"{who} needs bool masks; got {truth.dtype} and {prediction.dtype}.")
