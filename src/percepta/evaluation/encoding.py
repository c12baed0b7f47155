"""What a protocol asks of a model that looks at many pictures: vectors, and the pictures that failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.picture_sets import Pictures
from percepta.errors import BadMedia
from percepta.results import Failure


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Vectors of those pictures that could be read.

    Attributes:
        vectors: (M, D) float32 of any length, by the name of what gave them: a resize rule or a layer.
        rows: (M,) ascending numbers of the pictures.
        failures: the others, with one sentence each.
    """

    vectors: Mapping[str, Tensor]
    rows: NDArray[np.int64]
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.rows):
            reason = self.failures[0].reason if self.failures else "there is none."
            raise BadMedia(f"no picture could be read; the first: {reason}")


EncodePictures = Callable[[Pictures], Encoded]
"""Pictures to vectors, each picture read once."""
