"""What every golden case is read with: its JSON, its arrays, its seeded inputs and weights, and the comparison."""

from __future__ import annotations

import fnmatch
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass
class Golden:
    """A case: its JSON, its arrays, and a folder for checkpoints."""

    content: dict[str, Any]
    arrays: dict[str, np.ndarray]
    folder: Path
    inputs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = self.make_inputs(self.content.get("inputs", {}))

    def make_inputs(self, specs: dict[str, Any]) -> dict[str, Any]:
        """The values of `inputs`, of the whole golden or of one of its cases."""
        return {
            name: make_input(spec, self.arrays) if isinstance(spec, dict) and "type" in spec else spec
            for name, spec in specs.items()
        }

    def argument(self, value: Any) -> Any:
        if isinstance(value, dict) and "input" in value:
            return cut(self.inputs[value["input"]], value["select"])
        return value

    def check(self, call: dict[str, Any], result: Any) -> None:
        name = call["out"]
        got = cut(torch.as_tensor(result), call["select"]).detach().numpy()
        want = self.arrays[name]
        shape = call.get("shape", self.content.get("arrays", {}).get(name, {}).get("shape"))
        assert list(got.shape) == list(shape) == list(want.shape), name
        rules = self.content["tolerance"]
        rule = next(
            (r for glob, r in rules["per_array"].items() if fnmatch.fnmatchcase(name, glob)),
            rules["default"],
        )
        if rule.get("exact"):
            assert np.array_equal(got.astype(np.int64), want.astype(np.int64)), f"{name} differs"
            return
        limit = rule["atol"] + rule["rtol_of_max"] * float(np.abs(want).max())
        worst = float(np.abs(got.astype(np.float64) - want).max())
        print(f"{name}: differs by {worst:.1e}, allowed {limit:.1e}")  # shown by pytest -rP
        assert worst <= limit, f"{name}: differs by {worst:.2e}, allowed {limit:.2e}"


def seeded(name: str, shape: list[int], scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return (generator.standard_normal(tuple(shape)) * scale + offset).astype(np.float32)


def seeded_weight(key: str, shape: list[int]) -> torch.Tensor:
    if len(shape) >= 2:
        scale, offset = float(np.prod(shape[1:])) ** -0.5, 0.0
    else:
        scale, offset = (0.1, 1.0) if key.endswith(("weight", "gamma")) else (0.02, 0.0)
    return torch.from_numpy(seeded(key, shape, scale, offset))


def make_input(spec: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> Any:
    if spec["type"] in TOKEN_INPUTS:
        return TOKEN_INPUTS[spec["type"]](spec).to(getattr(torch, spec["dtype"]))
    if spec["type"] in FROM_OTHERS:
        return spec
    if spec["type"] in ("stored", "npz"):
        return torch.from_numpy((arrays or {})[spec["array"]])
    if spec["type"] == "values":
        return torch.tensor(spec["values"], dtype=getattr(torch, spec["dtype"]))
    if spec["type"] == "seeded":
        values = seeded(spec["name"], spec["shape"], spec["scale"], spec["offset"])
        return torch.from_numpy(values).to(getattr(torch, spec.get("dtype", "float32")))
    if spec["type"] == "seeded_picture":
        from PIL import Image

        noise = seeded(spec["name"], [spec["height"], spec["width"], spec["channels"]])
        values = np.clip(np.rint(spec["offset"] + spec["scale"] * noise), 0, 255).astype(np.uint8)
        return Image.fromarray(values[..., 0] if spec["channels"] == 1 else values, spec["mode"])
    if spec["type"] == "photo":
        from tests.exactness.sam2_cases import photo

        return photo(spec)
    raise ValueError(spec["type"])


def _clipped(spec: dict[str, Any]) -> torch.Tensor:
    assert spec["rounding"] == "truncate"
    values = seeded(spec["name"], spec["shape"]) * np.float32(spec["scale"]) + np.float32(spec["offset"])
    return torch.from_numpy(np.clip(values, *spec["clip"]).astype(np.uint8))


FROM_OTHERS = {"rank_modulo", "relu_centre_plus_noise", "roll", "softmax_linear", "threshold"}
"""Inputs that are made of other ones: by the handler."""

TOKEN_INPUTS: dict[str, Callable[[dict[str, Any]], torch.Tensor]] = {
    "floor_abs": lambda s: torch.from_numpy(
        np.floor(np.abs(seeded(s["name"], s["shape"])) * np.float32(s["multiply"])) + np.float32(s["add"])
    ),
    "greater_than": lambda s: torch.from_numpy(
        seeded(s["name"], s["shape"], s["scale"], s["offset"]) > np.float32(s["threshold"])
    ),
    "seeded_uint8": _clipped,
    "pick": lambda s: torch.from_numpy(
        (np.abs(seeded(s["name"], s["shape"])) * np.float32(s["multiply"])).astype(np.int64) % s["modulo"]
    ),
    "full": lambda s: torch.full(tuple(s["shape"]), s["value"]),
}
"""Inputs of the kinds of `tokens.md`, by the type of their recipe."""


def cut(value: Any, select: list[Any] | None) -> Any:
    if select is None:
        return value
    return value[tuple(slice(*entry) if isinstance(entry, list) else entry for entry in select)]


def seeded_state(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The official state dict of a `weights` entry, without the tensors that the network computes."""
    state = {}
    for key, shape in weights["keys"].items():
        override = next((o for o in weights["overrides"] if re.search(o["pattern"], key)), None)
        if override is None:
            state[key] = seeded_weight(weights["prefix"] + key, shape)
        elif override["rule"] == "constant":
            state[key] = torch.full(tuple(shape), override["value"])
    return state
