"""The neutral texts: what an entry gives to words that ask for nothing in particular.

A picture that is close to many of them is close to any question, and its cosines must be discounted. The bank is fixed
and has a version, because a prior is fitted with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, wrong_shape

VERSION = 1
_NOTHING = (
    "a photo.", "a picture.", "an image.", "a photo of something.", "a picture of something else.", "some thing.",
    "a scene.", "a background.", "a texture.", "nothing in particular.", "a blurry photo.", "a dark photo.",
    "a bright photo.", "an empty room.", "a screenshot.", "a drawing.", "a close-up.", "a collage.",
    "a page of text.", "a pattern.",
)  # fmt: skip
_COMMON = (
    "a beach", "a mountain", "a forest", "a field", "a lake", "a river", "the sea", "the sky", "a sunset", "snow",
    "a city", "a garden", "a park", "a kitchen", "a bedroom", "an office", "a shop", "a restaurant", "a stage",
    "a sports field", "a party", "a wedding", "a night scene", "a view from above", "a person", "people",
    "several objects", "an animal", "a vehicle", "a building", "food", "a plant", "furniture", "a tool", "clothes",
    "a toy",
)  # fmt: skip
_TEXTS = (*_NOTHING, *(f"a photo of {what}." for what in _COMMON))


def neutral_texts() -> tuple[str, ...]:
    """The K texts of the bank, in a fixed order: twenty about nothing, the rest about what is common."""
    return _TEXTS


def summarise(neutral: Any) -> NDArray[np.float32]:
    """What `probabilities` needs of an entry's cosines with the bank: (N, K) → (N, 2) float32, mean and spread.

    It does not depend on the question and may be kept beside the vectors.
    Raises: BadInput for another K than the bank's, or NaN.
    """
    if hasattr(neutral, "detach"):
        neutral = neutral.detach().cpu().float().numpy()
    table = np.asarray(neutral, np.float32)
    if table.ndim != 2 or table.shape[1] != len(_TEXTS):
        raise wrong_shape("neutral", table.shape, f"(N, {len(_TEXTS)}) cosines with the neutral texts")
    if np.isnan(table).any():
        raise BadInput("neutral must be numbers; some are NaN.")
    return np.stack([table.mean(axis=1), table.std(axis=1)], axis=1)
