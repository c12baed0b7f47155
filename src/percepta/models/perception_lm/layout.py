"""Where the visual tokens of a batch belong, and how they get there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from percepta.errors import BadInput, one_of, wrong_shape

KINDS = ("image", "video", "multi_image", "text")


@dataclass(frozen=True)
class MediaLayout:
    """What lies where in a batch of token rows.

    Attributes:
        position: (B, L) int64, -1 on text, 0 or more on visual tokens, which are filled in their order.
        chunks: chunks (pictures, tiles or frames) of each row, among all chunks of the batch in the order of the rows.
        kinds: "image", "video", "multi_image" or "text" for each row. The chunks of a "text" row are never placed.
        documents: (B, L) int64, the number of the packed document that each token belongs to, or None where a row is
            one document. Neighbours with the same number form a document: it sees itself alone, and its positions
            start at 0.
    """

    position: Tensor
    chunks: tuple[int, ...]
    kinds: tuple[str, ...]
    documents: Tensor | None = None

    def __post_init__(self) -> None:
        if self.position.ndim != 2:
            raise wrong_shape("position of a MediaLayout", self.position.shape, "(B, L)")
        if not len(self.chunks) == len(self.kinds) == len(self.position):
            raise BadInput(
                f"a MediaLayout needs chunks and kinds for each of its {len(self.position)} rows; got "
                f"{len(self.chunks)} and {len(self.kinds)}."
            )
        for kind in self.kinds:
            if kind not in KINDS:
                raise one_of("kind of a row", kind, KINDS)
        if self.documents is not None and self.documents.shape != self.position.shape:
            raise wrong_shape("documents of a MediaLayout", self.documents.shape, str(tuple(self.position.shape)))

    def document_lengths(self) -> tuple[tuple[int, ...], ...] | None:
        """For each row the tokens of its documents in their order; None where rows are not packed."""
        if self.documents is None:
            return None
        return tuple(tuple(row.unique_consecutive(return_counts=True)[1].tolist()) for row in self.documents)


def place(embeddings: Tensor, visual: Tensor, layout: MediaLayout) -> Tensor:
    """Token embeddings (B, L, D) with the visual rows (C, n, D) at the places that `layout` marks.

    A row that was cut behind the start of its media takes as many visual rows as it has places for.

    Raises: BadInput where places and visual rows do not fit.
    """
    if embeddings.shape[:2] != layout.position.shape:
        raise wrong_shape("token rows", embeddings.shape[:2], f"{tuple(layout.position.shape)}, that of the layout")
    if sum(layout.chunks) != len(visual):
        raise BadInput(f"the layout has {sum(layout.chunks)} chunks; got the visual tokens of {len(visual)}.")
    marked = layout.position >= 0
    counts = marked.sum(dim=1).tolist()
    wanted = [
        0 if kind == "text" else chunks * visual.shape[1]
        for chunks, kind in zip(layout.chunks, layout.kinds, strict=True)
    ]
    for row, (count, want) in enumerate(zip(counts, wanted, strict=True)):
        if count > want or (count < want and not bool(marked[row, -1])):
            raise BadInput(
                f"row {row} ({layout.kinds[row]}) must mark {want} places for its visual tokens; it marks {count}."
            )
    if not any(counts):
        return embeddings
    if counts == wanted and "text" not in layout.kinds:
        rows = visual.flatten(0, 1)
    else:
        parts = visual.split(list(layout.chunks))
        rows = torch.cat([part.flatten(0, 1)[:count] for part, count in zip(parts, counts, strict=True)])
    return embeddings.masked_scatter(marked[..., None], rows.to(embeddings.dtype))


def positions_of(tokens: Tensor, lengths: tuple[tuple[int, ...], ...] | None) -> Tensor:
    """(B, L) or (1, L) positions: 0, 1, 2 ... in every document."""
    if lengths is None:
        return torch.arange(tokens.shape[1], device=tokens.device)[None]
    rows = [torch.cat([torch.arange(length) for length in row]) for row in lengths]
    return torch.stack(rows).to(tokens.device)
