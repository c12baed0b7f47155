"""Boxes and masks as YOLO text and back: one line each, a class number and numbers as fractions of the picture.

A box is its centre and size; a mask is a polygon whose corners are pixels (their centres are written).
Unusual: a polygon holds neither a hole nor several parts, so masks are written as ultralytics writes them: holes are
filled, parts joined by lines there and back between their nearest corners. Where nothing may be lost, take COCO.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from percepta.errors import BadInput, one_of
from percepta.results.boxes import Boxes
from percepta.results.formats.polygons import fill_pixels, joined, outlines
from percepta.results.masks import Masks, encode


def to_yolo(boxes: Boxes, classes: Sequence[str]) -> str:
    """The lines of one label file; scores are written as a sixth number where there are any.

    Raises:
        BadInput: boxes without a size, or with a name that is not in `classes`.
    """
    if boxes.size is None:
        raise BadInput(f"YOLO text needs the size of the picture; Boxes of {boxes.source!r} have none.")
    numbers = {name: number for number, name in enumerate(classes)}
    height, width = boxes.size
    lines = []
    for row, (left, top, right, bottom) in enumerate(boxes.xyxy.tolist()):
        if boxes.names[row] not in numbers:
            raise one_of("a name", boxes.names[row], classes, owner=f"Boxes of {boxes.source!r}")
        values = [
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        ]
        values += [] if boxes.scores is None else [float(boxes.scores[row])]
        lines.append(" ".join([str(numbers[boxes.names[row]]), *(f"{value:.8f}" for value in values)]))
    return "".join(line + "\n" for line in lines)


def from_yolo(text: str, classes: Sequence[str], source: str, size: tuple[int, int]) -> Boxes:
    """The boxes of one label file; `size` is (height, width) of its picture.

    Raises:
        BadInput: a line that is not a class number and four or five numbers.
    """
    rows, names = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            label, *values = line.split()
            names.append(classes[int(label)])
            rows.append([float(value) for value in values])
        except (ValueError, IndexError):
            raise BadInput(
                f"line {number} of {source!r} must be a class number and four numbers; got {line!r}."
            ) from None
        if len(rows[-1]) not in (4, 5) or len(rows[-1]) != len(rows[0]):
            raise BadInput(f"line {number} of {source!r} must be a class number and four numbers; got {line!r}.")
    table = np.array(rows, dtype=np.float64).reshape(len(rows), -1) if rows else np.zeros((0, 4))
    height, width = size
    centre, sides = table[:, :2] * (width, height), table[:, 2:4] * (width, height)
    xyxy = np.concatenate([centre - sides / 2, centre + sides / 2], axis=1).astype(np.float32)
    scores = table[:, 4].astype(np.float32) if table.shape[1] == 5 else None
    return Boxes(source, xyxy, tuple(names), scores, size)


def to_yolo_masks(masks: Masks, classes: Sequence[str]) -> str:
    """The lines of one label file of segmentations: class number, then x and y of the polygon's corners.

    Empty masks have no line. A score, where there is one, is the last number of a line.

    Raises:
        BadInput: a name that is not in `classes`.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    height, width = masks.size
    lines = []
    for row, mask in enumerate(masks):
        if masks.names[row] not in numbers:
            raise one_of("a name", masks.names[row], classes, owner=f"Masks of {masks.source!r}")
        parts = outlines(mask)
        if not parts:
            continue
        corners = joined(parts)
        corners = np.resize(corners, (max(3, len(corners)), 2))  # one that has fewer starts again
        values = ((corners + 0.5) / (width, height)).reshape(-1).tolist()
        values += [] if masks.scores is None else [float(masks.scores[row])]
        lines.append(" ".join([str(numbers[masks.names[row]]), *(f"{value:.8f}" for value in values)]))
    return "".join(line + "\n" for line in lines)


def masks_from_yolo(text: str, classes: Sequence[str], source: str, size: tuple[int, int]) -> Masks:
    """The masks of one label file of segmentations; `size` is (height, width) of its picture.

    Raises:
        BadInput: a line that is not a class number, at least three pairs of numbers, and maybe a score.
    """
    height, width = size
    counts, names, scores = [], [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            label, *values = line.split()
            name, corners = classes[int(label)], [float(value) for value in values]
        except (ValueError, IndexError):
            corners, name = [], ""
        if len(corners) < 6 or not np.isfinite(corners).all():
            raise BadInput(f"line {number} of {source!r} must be a class number and a polygon; got {line[:60]!r}.")
        scores += [corners.pop()] if len(corners) % 2 else []
        points = np.floor(np.reshape(corners, (-1, 2)) * (width, height)).astype(np.int64)
        counts.append(encode(fill_pixels(points, size)))
        names.append(name)
    if len(scores) not in (0, len(names)):
        raise BadInput(f"{source!r} must have a score in each line or in none; got {len(scores)} of {len(names)}.")
    return Masks(source, size, tuple(counts), tuple(names), np.array(scores, np.float32) if scores else None)
