"""Masks of one picture, always kept as run lengths (the COCO convention), dense on demand.

Unusual: a mask is read column by column; `counts` are the lengths of alternating runs, the first one of zeros (it may
be 0). `to_strings` and `from_strings` speak the compressed text of COCO files.
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
TURNED_AT_ONCE = 256  # columns: a strip that stays in the cache


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
        return cls(
            source,
            size,
            tuple(encode(mask if array.dtype == np.bool_ else mask != 0) for mask in array),
            tuple(names),
            scores,
        )

    @classmethod
    def from_strings(
        cls, source: str, size: tuple[int, int], strings: Sequence[str | bytes], names: Sequence[str] = ()
    ) -> Masks:
        """Masks from the compressed text of COCO files."""
        return cls(source, size, tuple(decompress(text) for text in strings), tuple(names))

    def dense(self) -> Dense:
        """(N, H, W) bool."""
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for mask, runs in zip(masks, self.counts, strict=True):
            _paint(mask, runs)
        return masks

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
        indices = np.arange(len(self))[np.asarray(rows) if len(rows) else slice(0)]
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
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.array([height * width], dtype=np.int64)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    part = mask[top:bottom, left:right]
    changes = part[1:] != part[:-1]
    if np.count_nonzero(changes) * 16 > part.size:  # to sort the edges of noise costs more than to turn the mask
        flat = mask.T.reshape(-1)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        edges = np.concatenate([[0], edges]) if flat[0] else edges
    else:
        edges = np.sort(_edges(part, changes, (top, bottom), left, height))
    edges = edges[edges < height * width]
    return np.diff(np.concatenate([[0], edges, [height * width]])).astype(np.int64, copy=False)


def _edges(part: Dense, changes: Dense, rows: tuple[int, int], left: int, height: int) -> Counts:
    """The places, column by column, at which the value changes, of the part of a mask that is not empty."""
    row, column = np.divmod(np.flatnonzero(changes), part.shape[1])
    within = (column + left) * height + rows[0] + row + 1
    first, last = part[0], part[-1]
    if rows == (0, height):  # a run may pass from the end of a column to the start of the next
        before, after = np.append(False, last), np.append(first, False)
        return np.concatenate([within, (np.flatnonzero(before != after) + left) * height])
    starts, ends = ((np.flatnonzero(edge) + left) * height + place for edge, place in zip((first, last), rows))
    return np.concatenate([within, starts, ends])


def decode(counts: Counts, size: tuple[int, int]) -> Dense:
    """The (H, W) bool mask of run lengths."""
    mask = np.zeros(size, dtype=bool)
    _paint(mask, counts)
    return mask


def _paint(mask: Dense, counts: Counts) -> None:
    """Set the pixels of run lengths in an empty mask; looks at the box that holds them alone."""
    height = len(mask)
    left, top, right, bottom = _tight_box(counts, height)
    ends = np.clip(np.cumsum(counts), left * height, right * height)
    part = np.repeat(np.arange(len(counts)) % 2 == 1, np.diff(ends, prepend=left * height)).reshape(-1, height)
    for first in range(0, right - left, TURNED_AT_ONCE):
        strip = part[first : first + TURNED_AT_ONCE, top:bottom]
        mask[top:bottom, left + first : left + first + len(strip)] = strip.T


def compress(counts: Counts) -> str:
    """Run lengths as COCO's text: differences to the run two before, five bits a character, six with a sign."""
    values = np.array(counts, dtype=np.int64)
    values[3:] -= counts[1:-2]
    size = np.where(values < 0, ~values, values)
    groups = np.ones(len(values), np.int64)
    most = 1
    while len(size) and (longer := size >= 1 << (5 * most - 1)).any():
        groups += longer
        most += 1
    place = np.arange(most)
    bits = (values[:, None] >> (5 * place)) & 31
    bits |= (place < groups[:, None] - 1) * 32
    return (bits + 48)[place < groups[:, None]].astype(np.uint8).tobytes().decode("ascii")


def decompress(text: str | bytes) -> Counts:
    """The inverse of `compress`. Raises BadInput for text that is no such code."""
    data = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    bits = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((bits & 32) == 0) + 1
    if len(bits) and (not len(ends) or ends[-1] != len(bits)):
        raise BadInput(f"a compressed mask must be text of COCO run lengths; it ends too early: {data[-20:]!r}.")
    lengths = np.diff(ends, prepend=0)
    if ((bits < 0) | (bits >= 64)).any() or (lengths > 12).any():
        raise BadInput(f"a compressed mask must be text of COCO run lengths; got {data[:20]!r}.")
    if not len(bits):
        return np.zeros(0, dtype=np.int64)
    place = np.arange(len(bits)) - np.repeat(ends - lengths, lengths)
    values = np.add.reduceat((bits & 31) << (5 * place), ends - lengths)
    values -= np.where(bits[ends - 1] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def counts_of(code: str | bytes | Sequence[int]) -> Counts:
    """Run lengths from COCO's compressed text or from a plain list. Raises BadInput for neither."""
    if isinstance(code, str | bytes):
        return decompress(code)
    try:
        return np.asarray(code, dtype=np.int64).reshape(-1)
    except (TypeError, ValueError):
        raise BadInput(f"run lengths must be COCO's text or a list of whole numbers; got {str(code)[:40]!r}.") from None


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
