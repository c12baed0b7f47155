"""Attention in tiles against the formula in float64, and the prepared attention against the plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from percepta.layers import Attention, attend_in_tiles, chunked, grid_rotation
from percepta.layers.chunked import WAYS, attend_in_blocks, prepared_attention_of
from percepta.layers.packed import missing, packed_linear_of

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"packed weights: {missing()}")
ROTATION = grid_rotation(3, 4, 8, prefix=1, device=torch.device("cpu"))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    query, key, value = query.double(), key.double(), value.double()
    logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias.double()
    return (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)


def prepared(way: str = "heads", **settings: Any) -> tuple[Attention, Any]:
    torch.manual_seed(0)
    plain = Attention(32, 4, **settings).eval()
    part = prepared_attention_of(plain, lambda kind, shape, dtype: way if kind == "attention" else "packed")
    for name in ("qkv", "proj"):
        part._modules[name] = packed_linear_of(getattr(plain, name), part.choose)
    return plain, part


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tile", [1, 40, 1 << 20])
@pytest.mark.parametrize("bias", [None, (2, 1, 1, 9), (1, 1, 13, 9), (2, 5, 13, 9)])
@torch.no_grad()
def test_every_way_is_the_formula(
    way: str, tile: int, bias: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "TILE", tile)
    query, key, value = drawn(2, 13, 5, 8).transpose(1, 2), drawn(2, 5, 9, 8, seed=1), drawn(2, 5, 9, 8, seed=2)
    added = None if bias is None else drawn(*bias, seed=3)
    got = attend_in_tiles(query, key, value, added, way)
    assert got.shape == (2, 13, 40)
    assert got.is_contiguous()
    want = formula(query, key, value, added)
    assert (got - want).norm() <= 1e-6 * want.norm()


@pytest.mark.parametrize("way", ["heads", "rows"])
@torch.no_grad()
def test_a_hidden_key_counts_for_nothing(way: str) -> None:
    query, key, value = (drawn(1, 2, 6, 8, seed=seed) for seed in range(3))
    bias = torch.zeros(1, 1, 1, 6)
    bias[..., 4:] = -torch.inf
    got = attend_in_tiles(query, key, value, bias, way)
    want = formula(query, key[:, :, :4], value[:, :, :4], None)
    assert (got - want).norm() <= 1e-6 * want.norm()


@torch.no_grad()
def test_no_more_logits_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "TILE", 64)
    sizes = []
    real = torch.softmax

    def softmax(x: Tensor, *rest: Any, **named: Any) -> Tensor:
        sizes.append(x.numel())
        return real(x, *rest, **named)

    monkeypatch.setattr(torch, "softmax", softmax)
    query, key, value = (drawn(1, 3, 32, 8, seed=seed) for seed in range(3))
    for way in ("heads", "rows"):
        attend_in_tiles(query, key, value, None, way)
    assert max(sizes) <= 64
    assert sum(sizes) == 2 * 3 * 32 * 32


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rotation", [None, ROTATION, ROTATION.expand(2, -1, -1)])
@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_prepared_attention_is_attention(way: str, rotation: Tensor | None, biased: bool) -> None:
    plain, part = prepared(way)
    x, bias = drawn(2, 13, 32), drawn(2, 1, 1, 13, seed=4) if biased else None
    for got, want in zip(part(x, rotation, bias), plain(x, rotation, bias), strict=True):
        assert got.shape == want.shape
        assert (got - want).norm() <= 1e-6 * want.norm()
    assert part.qkv.packing is not None


def test_what_tiles_cannot_do_runs_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("tiles")

    monkeypatch.setattr(chunked, "attend_in_tiles", refuse)
    x = drawn(2, 13, 32)
    plain, part = prepared()
    with torch.no_grad(), pytest.raises(AssertionError):
        part(x)
    assert torch.equal(part(x)[0], plain(x)[0])  # gradients are wanted
    bias = torch.zeros(2, 1, 1, 13, requires_grad=True)
    part.requires_grad_(False)
    part(x, None, bias)[0].sum().backward()
    assert bias.grad is not None
    causal, causal_part = prepared(causal=True)
    with torch.no_grad():
        change = causal_part(x)[0] - causal(x)[0]
        assert change.norm() <= 1e-6 * causal(x)[0].norm()
        part.train()(x)


def test_blocks_of_rows_and_keys_give_softmax_attention_with_values_of_any_width() -> None:
    draw = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 700, 24, generator=draw) * 4, torch.randn(2, 4500, 24, generator=draw)
    value = torch.randn(2, 4500, 7, generator=draw)
    wanted = torch.softmax(query.double() @ key.double().mT / 24**0.5, dim=-1) @ value.double()
    assert torch.allclose(attend_in_blocks(query, key, value).double(), wanted, atol=1e-5)
