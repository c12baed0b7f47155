"""Boxes as YOLO text: one line a box, class number, centre and size as fractions of the picture, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from percepta.errors import BadInput, one_of
from percepta.results.boxes import Boxes


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
