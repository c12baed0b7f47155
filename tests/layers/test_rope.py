"""Rotary angles against the formula written out, and learned positions on other grids."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from percepta.layers import grid_angles, grid_rotation, resize_positions, rotate


@pytest.mark.parametrize("head_dim", [64, 96, 18, 20, 6])
@pytest.mark.parametrize("prefix", [0, 1])
def test_angles_are_the_formula(head_dim: int, prefix: int) -> None:
    rows, columns = 3, 5
    angles = grid_angles(rows, columns, head_dim, prefix)
    axis = head_dim // 2
    for y in range(rows):
        for x in range(columns):
            row = angles[prefix + y * columns + x]
            for j in range(axis // 2):
                frequency = 10_000 ** (-2 * j / axis)
                assert row[j].item() == pytest.approx((x + prefix) * frequency, rel=1e-5)
                assert row[axis // 2 + j].item() == pytest.approx((y + prefix) * frequency, rel=1e-5)
    assert not angles[:prefix].any()
    assert angles.dtype == torch.float32


def test_rotation_of_one_pair_is_a_rotation() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 9.0]])
    turned = rotate(x, torch.tensor([[math.pi / 2, math.pi]]))
    assert torch.allclose(turned, torch.tensor([[-2.0, 1.0, -3.0, -4.0, 9.0]]), atol=1e-6)


def test_rotation_keeps_lengths_and_dtype() -> None:
    x = torch.randn(2, 7, 3, 16).bfloat16()
    table = grid_rotation(2, 3, 16, prefix=1, device=torch.device("cpu"))
    turned = rotate(x, table[:, None])
    assert turned.dtype == torch.bfloat16
    assert torch.allclose(turned.float().norm(dim=-1), x.float().norm(dim=-1), rtol=2e-2)
    assert torch.equal(turned[:, 0], x[:, 0])  # the class token is not rotated


def test_cached_tables_serve_inference_and_training() -> None:
    with torch.inference_mode():
        table = grid_rotation(5, 6, 8, device=torch.device("cpu"))
    x = torch.randn(30, 1, 8, requires_grad=True)
    rotate(x, table[:, None]).square().sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach(), atol=1e-5)  # a rotation's gradient of the squared length


def test_trained_grids_are_untouched_and_prefixes_kept() -> None:
    table = torch.randn(1 + 16, 6)
    assert resize_positions(table, (4, 4), prefix=1) is table
    bigger = resize_positions(table, (3, 7), prefix=1)
    assert bigger.shape == (1 + 21, 6)
    assert torch.equal(bigger[0], table[0])
    maps = table[1:].T.reshape(1, 6, 4, 4)
    want = F.interpolate(maps, (3, 7), mode="bilinear", align_corners=False, antialias=False)
    assert torch.allclose(bigger[1:], want.flatten(2)[0].T)
    other = resize_positions(table, (3, 7), prefix=1, rule="bicubic-antialias")
    assert (other - bigger).abs().max() > 1e-2


def test_fake_tensors_do_not_enter_the_cache() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        grid_rotation(7, 9, 8, device=torch.device("cpu"))
    table = grid_rotation(7, 9, 8, device=torch.device("cpu"))
    assert type(table) is torch.Tensor
    assert rotate(torch.ones(63, 1, 8), table[:, None]).shape == (63, 1, 8)
