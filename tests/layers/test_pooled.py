"""Unrolling, pooling by reading, and the block against the explicit computation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from percepta.errors import BadInput
from percepta.layers import Mlp
from percepta.layers.pooled import (
    Around,
    PooledAttention,
    PooledBlock,
    ProjectedShortcut,
    pool_tokens,
    reroll,
    unroll,
)


@pytest.mark.parametrize(
    ("grid", "unit", "strides"),
    [
        ((24,), (8,), [(2,), (2,), (2,)]),
        ((16, 24), (8, 8), [(2, 2)] * 3),
        ((16, 24), (8, 8), [(2, 2)]),
        ((12, 18), (6, 6), [(2, 2)]),
        ((4, 16, 8), (1, 8, 8), [(1, 2, 2)] * 3),
        ((4, 8, 12), (2, 4, 6), [(2, 2, 2)]),
        ((10, 15), (5, 5), []),
    ],
)
def test_reroll_undoes_unroll_and_pooling_takes_the_neighbours(grid, unit, strides):
    x = torch.randn(2, *grid, 3)
    tokens = unroll(x, unit, strides)
    units = tuple(side // step for side, step in zip(grid, unit, strict=True))
    assert torch.equal(reroll(tokens, units, unit, strides), x)
    pools = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
    for number, stride in enumerate(strides):
        factor = 1
        for side in stride:
            factor *= side
        tokens, unit = pool_tokens(tokens, factor), tuple(s // t for s, t in zip(unit, stride, strict=True))
        x = pools[len(grid)](x.movedim(-1, 1), stride).movedim(1, -1)
        assert torch.equal(reroll(tokens, units, unit, strides[number + 1 :]), x)


def test_a_unit_holds_neighbours():
    x = torch.arange(16 * 16.0).view(1, 16, 16, 1)
    tokens = unroll(x, (8, 8), [(2, 2)] * 3)
    assert set(tokens[0, 1, :, 0].tolist()) == set(x[0, :8, 8:].flatten().tolist())


def test_units_that_cannot_be_pooled_are_refused():
    with pytest.raises(BadInput, match="cannot be pooled"):
        unroll(torch.zeros(1, 6, 6, 1), (6, 6), [(2, 2), (2, 2)])


def explicit(attention: PooledAttention, x: torch.Tensor) -> torch.Tensor:
    """Softmax attention with every index written out."""
    batch, units, count, _ = x.shape
    out, heads = attention.proj.in_features, attention.heads
    query, key, value = attention.qkv(x).split(out, dim=-1)
    query = query.unflatten(2, (attention.pool, -1)).amax(dim=2)
    rows = []
    for b in range(batch):
        for unit in range(units):
            seen = range(units) if attention.whole else [unit]
            keys = torch.cat([key[b, u] for u in seen]).unflatten(-1, (heads, -1))
            values = torch.cat([value[b, u] for u in seen]).unflatten(-1, (heads, -1))
            queries = query[b, unit].unflatten(-1, (heads, -1))
            logits = torch.einsum("qhd,khd->hqk", queries, keys) * (out // heads) ** -0.5
            rows.append(torch.einsum("hqk,khd->qhd", logits.softmax(-1), values).flatten(1))
    return attention.proj(torch.stack(rows).view(batch, units, count // attention.pool, out))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("pool", [1, 4])
def test_attention_equals_the_explicit_softmax(whole, pool):
    torch.manual_seed(0)
    attention, x = PooledAttention(12, 24, 3, pool, whole), torch.randn(2, 3, 16, 12)
    got = attention(x)
    assert got.shape == (2, 3, 16 // pool, 24)
    assert torch.allclose(got, explicit(attention, x), atol=1e-6)


def test_the_shortcut_starts_from_the_normalised_tokens():
    torch.manual_seed(0)
    block = PooledBlock(8, PooledAttention(8, 16, 2, 4), Mlp(16, 32), ProjectedShortcut(8, 16))
    x = torch.randn(2, 3, 16, 8)
    normed = block.norm1(x)
    shortcut = block.shortcut.proj(normed).unflatten(2, (4, -1)).amax(2)
    first = shortcut + block.attention(normed)
    assert torch.allclose(block(x), first + block.mlp(block.norm2(first)), atol=1e-6)
    assert torch.allclose(block(x * 3), block(x), atol=1e-4)  # a norm forgets the scale


def test_a_block_in_another_form_of_tokens():
    torch.manual_seed(0)
    block = PooledBlock(8, PooledAttention(8, 8, 2), Mlp(8, 16))
    maps = torch.randn(2, 8, 12, 8)
    around = Around(lambda x: unroll(x, (4, 4), []), lambda x: reroll(x, (2, 3), (4, 4), []), lambda x: x)
    within = reroll(block(unroll(maps, (4, 4), [])), (2, 3), (4, 4), [])
    assert torch.allclose(block(maps, around), within, atol=1e-6)


def test_a_block_that_changes_shape_needs_a_shortcut():
    for attention in (PooledAttention(8, 16, 2), PooledAttention(8, 8, 2, 4)):
        with pytest.raises(BadInput, match="needs a shortcut"):
            PooledBlock(8, attention, Mlp(attention.proj.out_features, 8))
    with pytest.raises(BadInput, match="heads must divide"):
        PooledAttention(8, 16, 3)
