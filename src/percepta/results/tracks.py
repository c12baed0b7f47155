"""Objects followed through a video: a table of observations, one row per object and frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput
from percepta.results.boxes import Boxes
from percepta.results.checking import plain
from percepta.results.masks import Masks

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """M observations of objects in a video, sorted by frame, then by identity.

    Attributes:
        source: name of the video.
        frames: (M,) int64, 0-based frame numbers.
        identities: (M,) int64, the object of each row; at most one row per object and frame.
        boxes: M boxes in pixels of the frame as seen, with names and scores.
        masks: M masks, or None.
        rate: frames a second, where known, for times in seconds.
    """

    source: str
    frames: Integers
    identities: Integers
    boxes: Boxes
    masks: Masks | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        owner = f"Tracks of {self.source!r}"
        frames, identities = _integers("frames", self.frames, owner), _integers("identities", self.identities, owner)
        counts = {len(frames), len(identities), len(self.boxes), len(frames if self.masks is None else self.masks)}
        if len(counts) > 1:
            raise BadInput(
                f"{owner} must have as many frames as identities, boxes and masks; got {sorted(counts)} rows."
            )
        if (frames < 0).any():
            raise BadInput(f"frames of {owner} must not be negative; got {int(frames.min())}.")
        if len(set(zip(frames.tolist(), identities.tolist(), strict=True))) != len(frames):
            raise BadInput(f"{owner} must have at most one row per object and frame; got a pair twice.")
        order = np.lexsort((identities, frames))
        object.__setattr__(self, "frames", frames[order])
        object.__setattr__(self, "identities", identities[order])
        object.__setattr__(self, "boxes", self.boxes.select(order))
        if self.masks is not None:
            object.__setattr__(self, "masks", self.masks.select(order))

    @property
    def ids(self) -> tuple[int, ...]:
        """The objects, in the order in which they first appear."""
        return tuple(dict.fromkeys(self.identities.tolist()))

    def of(self, identity: int) -> Tracks:
        """The observations of one object (none if it never appears)."""
        return self._rows(self.identities == identity)

    def at(self, frame: int) -> Tracks:
        """The observations in one frame (none if it is empty)."""
        return self._rows(self.frames == frame)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, rate, observations (frame, identity, xyxy, name, score)."""
        rows = []
        for row, box in enumerate(self.boxes.to_dict()["boxes"]):
            rows.append({"frame": int(self.frames[row]), "identity": int(self.identities[row]), **box})
        if self.masks is not None:
            for entry, mask in zip(rows, self.masks.to_dict()["masks"], strict=True):
                entry["mask"] = mask["counts"]
        size = self.boxes.size if self.masks is None else self.masks.size
        return {"source": self.source, "rate": self.rate, "size": plain(size), "observations": rows}

    def _rows(self, keep: NDArray[np.bool_]) -> Tracks:
        masks = None if self.masks is None else self.masks.select(keep)
        boxes = self.boxes.select(keep)
        return Tracks(self.source, self.frames[keep], self.identities[keep], boxes, masks, self.rate)

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        return f"Tracks({self.source!r}: {len(self.ids)} objects, {len(self)} observations)"


def _integers(what: str, values: object, owner: str) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise BadInput(f"{what} of {owner} must be whole numbers of the shape (M,); got {array.dtype} {array.shape}.")
    return array.astype(np.int64)
