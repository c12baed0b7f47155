"""Which layout a checkpoint has, told by its keys alone, and its tensors under native names, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from percepta.checkpoints.keymap import KeyMap
from percepta.errors import CheckpointMismatch


def recognise(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    layouts: Mapping[str, KeyMap],
    subtrees: Mapping[str, str] | None = None,
    owner: str = "the checkpoint",
) -> tuple[str, dict[str, Tensor]]:
    """The name of the layout and the tensors under native names.

    Args:
        tensors: what a file holds.
        expected: the state dict of the model (the meta device will do), native names.
        layouts: foreign tables by name; "native" is always tried.
        subtrees: prefixes by layout name under which `expected` may lie inside a larger checkpoint.
        owner: what to call the checkpoint in errors.

    Raises: CheckpointMismatch naming missing, unexpected and misshapen keys of the closest layout.
    """
    best: tuple[int, str, str, dict[str, Tensor], list[str]] | None = None
    for name in ("native", *layouts):
        for prefix in ("", (subtrees or {}).get(name, "")):
            part = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            native, left = (part, []) if name == "native" else layouts[name].to_native(part)
            hits = sum(key in expected for key in native)
            if best is None or hits > best[0]:
                best = hits, name, prefix, native, left
    assert best is not None
    _, name, prefix, native, left = best
    shown = (lambda key: key) if name == "native" else layouts[name].foreign_name
    missing = [prefix + shown(key) for key in expected if key not in native]
    unexpected = [prefix + key for key in left] + [prefix + shown(key) for key in native if key not in expected]
    misshapen = [
        f"{prefix}{shown(key)} {tuple(native[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in native and native[key].shape != value.shape
    ]
    if missing or unexpected or misshapen:
        hint = f"nothing was loaded; the closest layout is {name!r}"
        raise CheckpointMismatch(owner, missing, unexpected, misshapen, hint)
    return name, native
