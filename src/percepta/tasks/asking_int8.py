"""The weights of linear layers held in 8 bits: a quarter of the memory of float32, at the price of rounding.

Every row of a weight gets one scale, its largest value over 127; activations keep their precision.
Unusual: nothing is calibrated and nothing is packed for one machine: a weight is unrolled in slices when it is used, so
that the peak stays low. Few rows of activations on the CPU take a kernel of torch that reads the 8 bits themselves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 127
UNROLLED = 1 << 22  # values of a weight that are unrolled at once
FEW_ROWS = 4  # rows of activations up to which reading 8 bits pays on the CPU


class Int8Linear(nn.Module):
    """A linear layer whose weight is held in 8 bits; gives what `nn.Linear` gives, to half a per cent of the largest.

    Args:
        plain: the layer that it stands for; its weight is not kept.
    """

    values: Tensor
    scales: Tensor

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        with torch.no_grad():
            weight = plain.weight.detach()
            scales = (weight.abs().amax(dim=1).float() / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
            values = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
            step = max(1, UNROLLED // weight.shape[1])
            for start in range(0, len(weight), step):
                rows = slice(start, start + step)
                values[rows] = (weight[rows].float() / scales[rows, None]).round().to(torch.int8)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out) in the type of x."""
        rows = x.reshape(-1, self.in_features)
        if rows.device.type == "cpu" and len(rows) <= FEW_ROWS:
            low = torch._weight_int8pack_mm(rows.to(torch.bfloat16), self.values, self.scales.to(torch.bfloat16))
            out = low.to(x.dtype)
        else:
            step = max(1, UNROLLED // self.in_features)
            parts = [
                F.linear(rows, self.values[start : start + step].to(x.dtype))
                for start in range(0, self.out_features, step)
            ]
            out = torch.cat(parts, dim=1) * self.scales.to(x.dtype)
        out = out if self.bias is None else out + self.bias.to(x.dtype)
        return out.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, 8 bits"


def hold_in_int8(model: nn.Module) -> int:
    """Put an `Int8Linear` in place of every linear layer below a module; returns how many.

    A head whose weight is that of the embedding stays as it is: it would have to be held twice.
    """
    shared = {part.weight.data_ptr() for part in model.modules() if isinstance(part, nn.Embedding)}
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is nn.Linear and child.weight.data_ptr() not in shared:
                parent._modules[name] = Int8Linear(child).train(child.training)
                count += 1
    return count
