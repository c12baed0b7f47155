"""The windowed trunk against a plain reading of its rules, at sizes that windows fit and do not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from percepta.errors import BadInput
from percepta.models.hiera import HieraDet, TrunkConfig
from percepta.models.hiera.trunk import steps
from tests.battery import close

SMALL = {"embed_dim": 12, "heads": 1, "stages": (1, 2, 3, 1), "windows": (8, 4, 6, 3), "background": (5, 5)}


def small(**overrides) -> HieraDet:
    torch.manual_seed(0)
    trunk = HieraDet(TrunkConfig(**SMALL | {"global_blocks": (4,)} | overrides)).eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.copy_(torch.randn_like(parameter) * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3))
    return trunk


def plainly(trunk: HieraDet, x: torch.Tensor) -> list[torch.Tensor]:
    """Every block by itself: norm, padding, windows, attention, windows back, cut."""
    config, maps = trunk.config, []
    x = trunk.embed(x)
    for index, block in enumerate(trunk.blocks):
        normed, pool = block.norm1(x), index in config.pooling_blocks
        rows, columns = x.shape[1:3]
        shortcut = x
        if block.shortcut is not None:
            shortcut = block.shortcut.proj(normed)
            shortcut = F.max_pool2d(shortcut.movedim(-1, 1), 2).movedim(1, -1) if pool else shortcut
        side = config.window(index)
        tall, wide = (side or rows), (side or columns)
        padded = F.pad(normed, (0, 0, 0, -columns % wide, 0, -rows % tall))
        down, across = padded.shape[1] // tall, padded.shape[2] // wide
        windows = padded.view(len(x), down, tall, across, wide, -1).transpose(2, 3).flatten(0, 2)
        heads, out = block.attention.heads, block.attention.proj.in_features
        query, key, value = block.attention.qkv(windows).split(out, dim=-1)
        if pool:
            query = F.max_pool2d(query.movedim(-1, 1), 2).movedim(1, -1)
            tall, wide = tall // 2, wide // 2
        query, key, value = (
            part.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        weights = (query @ key.transpose(-1, -2) * (out // heads) ** -0.5).softmax(-1)
        mixed = block.attention.proj((weights @ value).transpose(1, 2).flatten(2))
        mixed = mixed.view(len(x), down, across, tall, wide, out).transpose(2, 3)
        mixed = mixed.reshape(len(x), down * tall, across * wide, out)[:, : shortcut.shape[1], : shortcut.shape[2]]
        x = shortcut + mixed
        x = x + block.mlp(block.norm2(x))
        if index in config.stage_ends:
            maps.append(x.permute(0, 3, 1, 2))
    return maps


@torch.no_grad()
@pytest.mark.parametrize("size", [(192, 192), (96, 128), (100, 76), (64, 32), (40, 150)])
@pytest.mark.parametrize("overrides", [{}, {"q_pool": 2}, {"windows": (8, 4, 2, 1)}, {"global_blocks": (2, 5)}])
def test_equals_a_plain_reading_of_the_rules(size, overrides):
    trunk, x = small(**overrides), torch.randn(2, 3, *size)
    for got, want in zip(trunk(x), plainly(trunk, x), strict=True):
        close(got, want)


def test_tokens_are_not_moved_where_windows_are_shared():
    config = TrunkConfig(**SMALL | {"windows": (8, 4, 2, 1), "global_blocks": ()})
    plan = steps(config, 48, 48)
    assert [step.side for step in plan] == [8, 8, 4, 4, 2, 2, 2]
    assert plan[0].pools == 3
    assert not any(step.padded for step in plan)
    assert [step.padded for step in steps(config, 20, 48)] == [8, 8, 4, 4, 2, 2, 2]


@torch.no_grad()
def test_windows_that_cover_the_map_are_global_blocks():
    x = torch.randn(1, 3, 64, 64)
    whole, windows = small(global_blocks=(2, 4, 5)), small(global_blocks=(), windows=(8, 8, 4, 2))
    windows.load_state_dict(whole.state_dict())
    covered = small(global_blocks=(4,), windows=(16, 8, 4, 2))
    assert covered.positions.window.shape[-1] == 16
    for got, want in zip(windows(x)[1:2], whole(x)[1:2], strict=True):
        close(got, want)


def test_maps_lie_with_channels_last_and_have_their_strides():
    trunk = small()
    maps = trunk(torch.randn(1, 3, 96, 128))
    assert [tuple(part.shape) for part in maps] == [(1, 12, 24, 32), (1, 24, 12, 16), (1, 48, 6, 8), (1, 96, 3, 4)]
    assert trunk.config.widths == (12, 24, 48, 96)
    assert trunk.config.strides == (4, 8, 16, 32)
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in maps)


def test_gradients_reach_every_parameter_also_with_checkpointing():
    gradients = []
    for enable in (False, True):
        trunk = small(drop_path=0.0).train()
        trunk.set_grad_checkpointing(enable)
        sum(
            part.square().mean()
            for part in trunk(torch.randn(1, 3, 72, 72, generator=torch.Generator().manual_seed(3)))
        ).backward()
        assert all(parameter.grad is not None for parameter in trunk.parameters())
        gradients.append(trunk.patches.weight.grad)
    close(gradients[1], gradients[0], 1e-5)


def test_impossible_trunks_are_refused():
    for overrides, message in (
        ({"global_blocks": (1,)}, "pools its queries"),
        ({"global_blocks": (9,)}, "0 to 6"),
        ({"windows": (7, 4, 6, 3)}, "even side"),
        ({"windows": (8, 4)}, "one side per stage"),
        ({"heads": 5}, "heads must divide"),
    ):
        with pytest.raises(BadInput, match=message):
            TrunkConfig(**SMALL | {"global_blocks": (4,)} | overrides)
    with pytest.raises(BadInput, match="B, 3, H, W"):
        small()(torch.zeros(1, 1, 64, 64))
