"""What an encoder gives back: one vector for a source, or a map of vectors from one of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, wrong_shape
from percepta.results.checking import Floats, float_array, plain


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One vector.

    Attributes:
        source: name of the picture, video or text.
        vector: (D,) float32.
        model: name of the model that made it.
    """

    source: str
    vector: Floats
    model: str

    def __post_init__(self) -> None:
        owner = f"Embedding of {self.source!r}"
        object.__setattr__(self, "vector", float_array("vector", self.vector, (None,), owner))

    def unit(self) -> Embedding:
        """The same direction with length 1. Raises BadInput for the zero vector."""
        length = float(np.linalg.norm(self.vector))
        if length == 0:
            raise BadInput(f"vector of Embedding of {self.source!r} must not be zero to be scaled to length 1.")
        return Embedding(self.source, self.vector / np.float32(length), self.model)

    def cosine(self, other: Embedding) -> float:
        """Cosine of the angle between two embeddings of the same model, -1 to 1."""
        if other.model != self.model or other.vector.shape != self.vector.shape:
            raise BadInput(f"cosine needs two embeddings of one model; got {self.model!r} and {other.model!r}.")
        return float(np.clip(self.unit().vector @ other.unit().vector, -1, 1))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, model, vector."""
        return {"source": self.source, "model": self.model, "vector": plain(self.vector)}

    def __len__(self) -> int:
        return len(self.vector)

    def __repr__(self) -> str:
        return f"Embedding({self.source!r}: {len(self)} numbers of {self.model})"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMap:
    """The patch features of one layer.

    Attributes:
        source: name of the picture.
        layer: 0-based index of the layer.
        values: (h, w, D) float32, rows from the top, columns from the left.
        model: name of the model that made it.
        groups: (h, w) int64, which token each patch went into where tokens were merged: patches of one number share
            their values; -1 for one that was dropped. None where nothing was to be merged.
    """

    source: str
    layer: int
    values: Floats
    model: str
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        owner = f"FeatureMap of {self.source!r}"
        object.__setattr__(self, "values", float_array("values", self.values, (None, None, None), owner))
        if self.groups is not None:
            object.__setattr__(self, "groups", np.asarray(self.groups, np.int64))
            if self.groups.shape != self.values.shape[:2]:
                raise wrong_shape("groups", self.groups.shape, f"{self.values.shape[:2]} of the values", owner)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: source, model, layer, shape, values, and groups where tokens were merged."""
        return {
            "source": self.source,
            "model": self.model,
            "layer": int(self.layer),
            "shape": list(self.values.shape),
            "values": plain(self.values),
            **({} if self.groups is None else {"groups": self.groups.tolist()}),
        }

    def __repr__(self) -> str:
        height, width, channels = self.values.shape
        return f"FeatureMap({self.source!r}: layer {self.layer}, {height}x{width}x{channels} of {self.model})"
