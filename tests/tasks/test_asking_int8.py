"""Linear layers in 8 bits: near the plain ones, a quarter of their memory, and the shared head left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from percepta.tasks.asking_int8 import FEW_ROWS, Int8Linear, hold_in_int8


@pytest.mark.parametrize("rows", [1, FEW_ROWS, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_gives_nearly_what_the_plain_layer_gives(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(96, 160).to(dtype)
    x = torch.randn(rows, 2, 96, dtype=dtype)
    low = Int8Linear(plain)
    with torch.inference_mode():
        got, want = low(x), plain(x)
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert (got - want).abs().max() < 0.02 * want.abs().max()
    assert not torch.equal(got, want)


def test_a_weight_is_a_quarter() -> None:
    plain = nn.Linear(256, 512, bias=False)
    size = sum(part.numel() * part.element_size() for part in Int8Linear(plain).buffers())
    assert size == 256 * 512 + 4 * 512
    assert size < 0.27 * plain.weight.numel() * 4


def test_a_row_of_nothing_stays_nothing() -> None:
    plain = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        plain.weight[2] = 0
    out = Int8Linear(plain)(torch.ones(9, 8))
    assert torch.isfinite(out).all()
    assert (out[:, 2] == 0).all()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight


def test_a_head_that_is_the_embedding_stays() -> None:
    model = Tied().eval()
    assert hold_in_int8(model) == 2
    assert type(model.head) is nn.Linear
    assert all(type(part) is not nn.Linear for part in model.layers)
    assert not any(part.training for part in model.modules())
