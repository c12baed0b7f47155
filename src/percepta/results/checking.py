"""Checks that the records share: arrays of the right shape, finite, in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, wrong_shape

Floats = NDArray[np.float32]


def float_array(what: str, values: object, shape: Sequence[int | None], owner: str) -> Floats:
    """`values` as a float32 array that must have `shape` (None: any length) and hold finite numbers only."""
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise BadInput(f"{what} of {owner} must be numbers in an array; got {type(values).__name__}.") from None
    if array.size == 0 and len(shape) > 1 and shape[0] is None:
        array = array.reshape(0, *(side or 0 for side in shape[1:]))
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        allowed = "(" + ", ".join("N" if side is None else str(side) for side in shape) + ")"
        raise wrong_shape(what, array.shape, allowed, owner)
    if not np.isfinite(array).all():
        raise BadInput(f"{what} of {owner} must be finite numbers; got NaN or infinity.")
    return array


def names_tuple(what: str, names: Sequence[str], count: int, owner: str) -> tuple[str, ...]:
    """`names` as a tuple that must have `count` entries."""
    if isinstance(names, str):
        raise BadInput(f"{what} of {owner} must be a list of {count} texts; got the single text {names!r}.")
    result = tuple(str(name) for name in names)
    if len(result) != count:
        raise BadInput(f"{what} of {owner} must have {count} entries, one per row; got {len(result)}.")
    return result


def plain(value: Any) -> Any:
    """`value` with numpy arrays and numbers replaced by lists and numbers that JSON knows."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
