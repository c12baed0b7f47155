"""How a model is run faster than plainly: which tokens are merged, prepared or compiled, how precise, how many at once.

A setting is data: it can be compared, written to a file and applied to a model anew; `percepta speedup` finds one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from percepta.errors import BadInput, one_of
from percepta.running import preparing

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is done to a model.

    Attributes:
        prepared: whether `prepare` made its parts faster (exact in float32).
        dtype: "float32" or "bfloat16". With `prepared` the linear layers alone are bfloat16, else all parameters.
        compiled: whether torch's compiler runs the vision tower.
        strategy: how tokens are merged, a name of `percepta.speedups.STRATEGIES`; "" merges nothing.
        removed: tokens that each block removes.
        batch_size: pictures at once, for verbs that are not told otherwise.
    """

    prepared: bool = False
    dtype: str = "float32"
    compiled: bool = False
    strategy: str = ""
    removed: tuple[int, ...] = ()
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise one_of("dtype of a setting", self.dtype, DTYPES)
        object.__setattr__(self, "removed", tuple(int(number) for number in self.removed))

    def __str__(self) -> str:
        parts = [
            "prepared" if self.prepared else "",
            "compiled" if self.compiled else "",
            "" if self.dtype == "float32" else self.dtype,
            f"{self.strategy} -{sum(self.removed)} tokens" if self.strategy else "",
        ]
        return ", ".join(filter(None, parts)) or "plain"

    @property
    def changes(self) -> str:
        """What of it changes results beyond rounding, as JSON; "" where nothing does."""
        found = {"dtype": self.dtype} if self.dtype != "float32" else {}
        merging = {"strategy": self.strategy, "removed": self.removed} if self.strategy else {}
        return json.dumps({**found, **merging}, sort_keys=True) if found or merging else ""


def setting_of(content: Mapping[str, Any], name: str) -> Setting:
    """The setting in the file of a saved one. Raises BadInput for unknown fields or values."""
    try:
        return Setting(**content)
    except (TypeError, ValueError):
        known = ", ".join(field.name for field in fields(Setting))
        raise BadInput(f"the saved setting {name!r} is damaged: its fields must be {known}; save anew.") from None


def as_dict(setting: Setting) -> dict[str, Any]:
    """JSON-ready fields."""
    return asdict(setting) | {"removed": list(setting.removed)}


def apply(model: Any, setting: Setting) -> Any:
    """Change a model, in evaluation mode and where it is to run, so that it runs as a setting says; returns it.

    Raises: BadInput where it cannot be merged so.
    """
    tower = getattr(model, "vision", model)
    if setting.strategy:
        import percepta  # merging lies floors above; a saved name needs it as any caller of the front door does

        percepta.merge_tokens(tower, schedule=list(setting.removed), strategy=setting.strategy)
    if setting.prepared:
        preparing.prepare(model, setting.dtype)
    elif setting.dtype != "float32":
        model.to(getattr(torch, setting.dtype))
    if setting.compiled:
        tower.compile()
    model.setting = setting
    return model
