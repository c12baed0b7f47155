"""What results depend on: which model, with which weights, how precise. Told without reading all of the weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from percepta.running.preparing import precision_of

SAMPLES = 4096  # values of each tensor


def made_with(model: nn.Module) -> dict[str, str]:
    """A model as results name their maker: {"model": name, "weights": 12 hex digits, "dtype": such as "float32"}."""
    dtype = str(precision_of(model)).removeprefix("torch.")
    return {"model": getattr(model, "name", type(model).__name__), "weights": weights_hash(model), "dtype": dtype}


@torch.no_grad()
def weights_hash(model: nn.Module) -> str:
    """12 hex digits of the name, the shape and up to 4,096 evenly spread values of every tensor of a model, and of what
    a saved setting changes of its results.

    Any training changes nearly all values, so this tells fine-tunes apart and takes no longer for a large model. Values
    are rounded to bfloat16, so that one model has one hash in whatever type it is loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        values = flat[:: max(1, len(flat) // SAMPLES)].cpu()
        rounded = values.to(torch.bfloat16).float() if values.is_floating_point() else values.double()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + rounded.numpy().tobytes())
    if (setting := getattr(model, "setting", None)) is not None:
        digest.update(setting.changes.encode())
    return digest.hexdigest()[:12]
