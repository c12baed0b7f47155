"""Boxes in the picture as it is seen (upright), in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput
from percepta.results.checking import Floats, float_array, names_tuple, plain


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """N boxes of one picture.

    Attributes:
        source: name of the picture.
        xyxy: (N, 4) float32: left, top, right, bottom in pixels; the right and bottom edges are exclusive, so that
            width = right - left. Empty boxes are allowed, negative sizes are not.
        names: N labels; none given means N empty texts.
        scores: (N,) float32, or None for boxes that are given and not guessed.
        size: (height, width) of the picture as seen, where known.
    """

    source: str
    xyxy: Floats
    names: tuple[str, ...] = ()
    scores: Floats | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        owner = f"Boxes of {self.source!r}"
        xyxy = float_array("xyxy", self.xyxy, (None, 4), owner)
        if (xyxy[:, 2:] < xyxy[:, :2]).any():
            row = int(np.flatnonzero((xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))[0])
            raise BadInput(
                f"xyxy of {owner} must have right >= left and bottom >= top; row {row} is {plain(xyxy[row])}."
            )
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "names", names_tuple("names", self.names or ("",) * len(xyxy), len(xyxy), owner))
        if self.scores is not None:
            object.__setattr__(self, "scores", float_array("scores", self.scores, (len(xyxy),), owner))
        if self.size is not None:
            object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))

    @classmethod
    def from_xywh(cls, source: str, xywh: object, names: Sequence[str] = (), **rest: Any) -> Boxes:
        """Boxes from (N, 4) left, top, width, height, as COCO writes them."""
        values = float_array("xywh", xywh, (None, 4), f"Boxes of {source!r}")
        return cls(source, np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1), tuple(names), **rest)

    @property
    def xywh(self) -> Floats:
        """(N, 4) float32: left, top, width, height."""
        return np.concatenate([self.xyxy[:, :2], self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)

    @property
    def area(self) -> Floats:
        """(N,) float32, in square pixels."""
        sides = self.xyxy[:, 2:] - self.xyxy[:, :2]
        return sides[:, 0] * sides[:, 1]

    def select(self, rows: Sequence[int] | NDArray[Any]) -> Boxes:
        """The boxes of some rows: indices, or a (N,) bool array."""
        indices = np.arange(len(self))[np.asarray(rows) if len(rows) else slice(0)]
        names = tuple(self.names[index] for index in indices)
        scores = None if self.scores is None else self.scores[indices]
        return Boxes(self.source, self.xyxy[indices], names, scores, self.size)

    def iou(self, other: Boxes) -> Floats:
        """(N, M) float32: intersection over union with every box of `other`, 0 where both are empty."""
        left_top = np.maximum(self.xyxy[:, None, :2], other.xyxy[None, :, :2])
        right_bottom = np.minimum(self.xyxy[:, None, 2:], other.xyxy[None, :, 2:])
        shared = np.clip(right_bottom - left_top, 0, None).prod(axis=2)
        union = self.area[:, None] + other.area[None, :] - shared
        return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, size, boxes (a list of xyxy, name and score)."""
        boxes = [
            {"xyxy": row, "name": name, **({} if self.scores is None else {"score": self.scores[index]})}
            for index, (row, name) in enumerate(zip(self.xyxy, self.names, strict=True))
        ]
        return {"source": self.source, "size": plain(self.size), "boxes": plain(boxes)}

    def __len__(self) -> int:
        return len(self.xyxy)

    def __repr__(self) -> str:
        named = ", ".join(dict.fromkeys(name for name in self.names if name))
        return f"Boxes({self.source!r}: {len(self)}{': ' + named if named else ''})"
