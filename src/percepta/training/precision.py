"""Precision of the forward pass, and what makes it fast on CPUs.

"bfloat16-mixed" is autocast with one exception: attention on a CPU runs in float32, because torch's fused bfloat16
attention takes three to five times as long there in the backward pass (measured with torch 2.14 on AVX512-BF16).
"bfloat16-products" keeps float32 tensors and lets oneDNN multiply them in bfloat16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.overrides import TorchFunctionMode

from percepta.training.recipe import Precision


@contextlib.contextmanager
def forward_precision(device: str, precision: Precision) -> Iterator[None]:
    """The context in which a model's methods are to be called; `device` is its kind, such as "cpu"."""
    if precision != "bfloat16-mixed":
        yield
        return
    attention = _Float32Attention() if device == "cpu" else contextlib.nullcontext()
    with torch.autocast(device, dtype=torch.bfloat16), attention:
        yield


class _Float32Attention(TorchFunctionMode):
    """Calls scaled-dot-product attention with float32 arguments and gives back the type that came."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...] = (), named: Any = None
    ) -> Any:
        named = named or {}
        if function is not functional.scaled_dot_product_attention:
            return function(*arguments, **named)
        given = arguments[0] if arguments else named["query"]
        with torch.autocast("cpu", enabled=False):
            mixed = function(
                *(_float32(value) for value in arguments), **{name: _float32(value) for name, value in named.items()}
            )
        return mixed.to(given.dtype)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextlib.contextmanager
def product_precision(precision: Precision) -> Iterator[None]:
    """oneDNN's products of float32 tensors in bfloat16 with float32 sums, where asked; undone afterwards."""
    if precision != "bfloat16-products":
        yield
        return
    backend: Any = torch.backends.mkldnn
    switches = (backend.matmul, backend.conv)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
