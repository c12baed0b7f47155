"""Masks of one picture, always kept as run lengths (the COCO convention), dense on demand.

Unusual: a mask is read column by column; `counts` are the lengths of alternating runs, the first one of zeros (it may
be 0). `to_strings` and `from_strings` speak the compressed text of COCO files, in pure Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, wrong_shape
from percepta.results.boxes import Boxes
from percepta.results.checking import Floats, float_array, names_tuple, plain

Counts = NDArray[np.int64]
Dense = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """N masks of one picture of `size`.

    Attributes:
        source: name of the picture.
        size: (height, width) of the picture as seen.
        counts: N arrays of run lengths; each sums to height * width.
        names: N labels; none given means N empty texts.
        scores: (N,) float32, or None.
    """

    source: str
    size: tuple[int, int]
    counts: tuple[Counts, ...]
    names: tuple[str, ...] = ()
    scores: Floats | None = None

    def __post_init__(self) -> None:
        owner = f"Masks of {self.source!r}"
        height, width = (int(side) for side in self.size)
        if height < 0 or width < 0:
            raise BadInput(f"size of {owner} must be (height, width), neither negative; got {self.size}.")
        counts = tuple(np.asarray(runs, dtype=np.int64).reshape(-1) for runs in self.counts)
        for row, runs in enumerate(counts):
            if (runs < 0).any() or int(runs.sum()) != height * width:
                total = int(runs.sum())
                raise BadInput(
                    f"counts of {owner} must be run lengths that sum to {height * width} pixels; "
                    f"row {row} sums to {total}."
                )
        object.__setattr__(self, "size", (height, width))
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "names", names_tuple("names", self.names or ("",) * len(counts), len(counts), owner))
        if self.scores is not None:
            object.__setattr__(self, "scores", float_array("scores", self.scores, (len(counts),), owner))

    @classmethod
    def from_dense(
        cls, source: str, dense: NDArray[Any], names: Sequence[str] = (), scores: Floats | None = None
    ) -> Masks:
        """Masks from an (N, H, W) array; every value but zero counts as inside. Raises BadInput for another shape."""
        array = np.asarray(dense)
        if array.ndim != 3:
            raise wrong_shape("dense", array.shape, "(N, H, W)", f"Masks of {source!r}")
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise BadInput(f"dense of Masks of {source!r} must be bool or finite numbers; got {array.dtype}.")
        size = (array.shape[1], array.shape[2])
        return cls(source, size, tuple(encode(mask) for mask in array != 0), tuple(names), scores)

    @classmethod
    def from_strings(
        cls, source: str, size: tuple[int, int], strings: Sequence[str | bytes], names: Sequence[str] = ()
    ) -> Masks:
        """Masks from the compressed text of COCO files."""
        return cls(source, size, tuple(decompress(text) for text in strings), tuple(names))

    def dense(self) -> Dense:
        """(N, H, W) bool."""
        masks = [decode(runs, self.size) for runs in self.counts]
        return np.stack(masks) if masks else np.zeros((0, *self.size), dtype=bool)

    def to_strings(self) -> list[str]:
        """The compressed text of COCO files, one per mask."""
        return [compress(runs) for runs in self.counts]

    @property
    def area(self) -> Counts:
        """(N,) int64, in pixels."""
        return np.array([runs[1::2].sum() for runs in self.counts], dtype=np.int64)

    def boxes(self) -> Boxes:
        """The tight box of each mask; an empty mask has the box 0, 0, 0, 0."""
        rows = [_tight_box(runs, self.size[0]) for runs in self.counts]
        xyxy = np.array(rows, dtype=np.float32).reshape(-1, 4)
        return Boxes(self.source, xyxy, self.names, self.scores, self.size)

    def select(self, rows: Sequence[int] | NDArray[Any]) -> Masks:
        """The masks of some rows: indices, or a (N,) bool array."""
        indices = np.arange(len(self))[np.asarray(rows)]
        scores = None if self.scores is None else self.scores[indices]
        names = tuple(self.names[index] for index in indices)
        return Masks(self.source, self.size, tuple(self.counts[index] for index in indices), names, scores)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, size, masks (a list of compressed counts, name and score)."""
        masks = [
            {"counts": text, "name": name, **({} if self.scores is None else {"score": self.scores[index]})}
            for index, (text, name) in enumerate(zip(self.to_strings(), self.names, strict=True))
        ]
        return {"source": self.source, "size": list(self.size), "masks": plain(masks)}

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Dense]:
        return (decode(runs, self.size) for runs in self.counts)

    def __repr__(self) -> str:
        height, width = self.size
        return f"Masks({self.source!r}: {len(self)} of {height}x{width})"


def encode(mask: Dense) -> Counts:
    """Run lengths of an (H, W) bool mask, column by column, zeros first."""
    flat = mask.T.reshape(-1)
    if flat.size == 0:
        return np.zeros(1, dtype=np.int64)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return np.concatenate([[0], runs]) if flat[0] else runs


def decode(counts: Counts, size: tuple[int, int]) -> Dense:
    """The (H, W) bool mask of run lengths."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[1], size[0]).T


def compress(counts: Counts) -> str:
    """Run lengths as COCO's text: differences to the run two before, five bits a character, six with a sign."""
    characters = []
    values = counts.tolist()
    for index, count in enumerate(values):
        value = count - values[index - 2] if index > 2 else count
        while True:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr((bits | 32 if more else bits) + 48))
            if not more:
                break
    return "".join(characters)


def decompress(text: str | bytes) -> Counts:
    """The inverse of `compress`. Raises BadInput for text that is no such code."""
    data = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    counts: list[int] = []
    value, shift = 0, 0
    for byte in data:
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BadInput(f"a compressed mask must be text of COCO run lengths; got {data[:20]!r}.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise BadInput(f"a compressed mask must be text of COCO run lengths; it ends too early: {data[-20:]!r}.")
    return np.array(counts, dtype=np.int64)


def _tight_box(counts: Counts, height: int) -> tuple[int, int, int, int]:
    ends = np.cumsum(counts)
    starts, stops = (ends - counts)[1::2], ends[1::2]
    full = stops > starts
    starts, stops = starts[full], stops[full] - 1
    if not len(starts):
        return (0, 0, 0, 0)
    crosses = (stops // height > starts // height).any()  # a run over a column's end touches both picture edges
    top, bottom = (0, height - 1) if crosses else (int((starts % height).min()), int((stops % height).max()))
    return (int(starts[0] // height), top, int(stops[-1] // height) + 1, bottom + 1)
