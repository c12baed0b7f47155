"""Small labelled features for the tests of this room."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def blobs(
    samples: int = 60, dims: int = 8, classes: int = 4, apart: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) features about class centres, and (n,) labels of which each class has at least two."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(samples) % classes)
    return apart * random.normal(size=(classes, dims))[labels] + random.normal(size=(samples, dims)), labels


worlds = st.builds(
    blobs,
    samples=st.integers(12, 50),
    dims=st.integers(3, 12),
    classes=st.integers(2, 6),
    apart=st.floats(0, 3),
    seed=st.integers(0, 10_000),
)
"""Worlds of any difficulty, from none to all of the classes apart."""
