"""The matching of tokens on a grid, its picks, and coarser grids."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.layers import coarsen, hash_picks, match_grid

GRIDS = [(8, 8, (2, 2)), (5, 7, (2, 2)), (9, 4, (3, 2)), (6, 10, (2, 4)), (2, 2, (2, 2)), (1, 6, (1, 2))]


def tokens(batch: int, count: int, channels: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, count, channels, generator=torch.Generator().manual_seed(seed))


def picks_for(height: int, width: int, stride: tuple[int, int], *seeds: int) -> Tensor:
    return hash_picks(height, width, stride, torch.tensor(seeds))


def plainly(metric: Tensor, width: int, remove: int, destinations: list[int], allowed: Tensor) -> dict[int, int]:
    """Source → destination of one item (N, C), found one by one; `allowed` (N, N) says who may look at whom."""
    unit = metric / metric.norm(dim=-1, keepdim=True)
    scores = {}
    for source in sorted(set(range(len(metric))) - set(destinations)):
        looked = [d for d in destinations if allowed[source, d]]
        values = [float(unit[source] @ unit[d]) for d in looked]
        scores[source] = (max(values), looked[values.index(max(values))])
    going = sorted(scores, key=lambda source: -scores[source][0])[:remove]
    return {source: scores[source][1] for source in going}


@pytest.mark.parametrize("reach", [None, 0, 1])
@pytest.mark.parametrize(("height", "width", "stride"), GRIDS)
def test_a_plan_is_what_a_search_one_by_one_finds(
    height: int, width: int, stride: tuple[int, int], reach: int | None
) -> None:
    rows, columns = stride
    high, wide = height // rows, width // columns
    metric = tokens(2, height * width)
    picks = picks_for(height, width, stride, 3, 4)
    remove = max(1, height * width // 3)
    plan = match_grid(metric, height, width, remove, stride, picks, reach)
    window = [  # the row of windows of each token; -1 beyond the last whole window
        y // rows if y < high * rows and x < wide * columns else -1 for y in range(height) for x in range(width)
    ]
    allowed = torch.tensor([[reach is None or a == -1 or abs(a - b) <= reach for b in window] for a in window])
    for item in range(2):
        places = picks[item].tolist()
        destinations = [
            (i * rows + places[i][j] // columns) * width + j * columns + places[i][j] % columns
            for i in range(high)
            for j in range(wide)
        ]
        expected = plainly(metric[item], width, remove, destinations, allowed)
        joined = plan.kept[item][plan.target[item]]
        assert dict(zip(plan.source[item].tolist(), joined.tolist())) == expected
        assert plan.kept[item, -high * wide :].tolist() == destinations
        assert sorted([*plan.kept[item].tolist(), *plan.source[item].tolist()]) == list(range(height * width))


@pytest.mark.parametrize(("height", "width", "stride"), GRIDS)
def test_more_than_the_sources_is_cut_to_them(height: int, width: int, stride: tuple[int, int]) -> None:
    plan = match_grid(tokens(1, height * width), height, width, 10_000, stride)
    assert plan.kept.shape[1] == (height // stride[0]) * (width // stride[1])


def test_nothing_removed_is_the_identity() -> None:
    x = tokens(2, 35)
    plan = match_grid(x, 5, 7, 0)
    assert torch.equal(plan.unmerge(plan.merge_weighted(x)[0]), x)


@pytest.mark.parametrize(("height", "width", "stride"), GRIDS)
def test_unmerge_of_merge_is_idempotent_and_keeps_the_sum(height: int, width: int, stride: tuple[int, int]) -> None:
    x = tokens(3, height * width)
    plan = match_grid(x, height, width, height * width // 2, stride, picks_for(height, width, stride, 7))
    merged, sizes = plan.merge_weighted(x)
    once = plan.unmerge(merged)
    torch.testing.assert_close(plan.unmerge(plan.merge_weighted(once)[0]), once)
    torch.testing.assert_close(once.sum(dim=1), x.sum(dim=1))
    assert torch.equal(sizes.sum(dim=1), torch.full((3,), float(height * width)))


def test_equal_tokens_of_a_window_merge_without_loss() -> None:
    x = tokens(2, 16).view(2, 4, 1, 4, 1, 8).expand(2, 4, 2, 4, 2, 8).reshape(2, 64, 8)
    plan = match_grid(x, 8, 8, 48, picks=picks_for(8, 8, (2, 2), 1))
    assert plan.kept.shape[1] == 16
    torch.testing.assert_close(plan.unmerge(plan.merge_weighted(x)[0]), x)


@pytest.mark.parametrize("reach", [None, 1])
def test_an_item_does_not_depend_on_the_others(reach: int | None) -> None:
    x, picks = tokens(3, 120), picks_for(10, 12, (2, 2), 5)
    together = match_grid(x, 10, 12, 60, picks=picks, reach=reach).group
    turned = match_grid(x.flip(0), 10, 12, 60, picks=picks, reach=reach).group.flip(0)
    alone = match_grid(x[1:2], 10, 12, 60, picks=picks, reach=reach).group
    assert torch.equal(together, turned)
    assert torch.equal(together[1:2], alone)


def test_half_precision_is_compared_in_float32() -> None:
    x = tokens(1, 64)
    large = (x * 20_000).half()  # its squares overflow float16
    plan = match_grid(large, 8, 8, 32)
    assert torch.equal(plan.group, match_grid(large.float(), 8, 8, 32).group)


def test_tokens_of_zeros_are_at_0_from_every_other() -> None:
    x = tokens(1, 16).abs()  # all others are alike
    x[:, 5] = 0
    plan = match_grid(x, 4, 4, 11)
    assert 5 not in plan.source.tolist()[0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"height": 8, "width": 7},
        {"stride": (1, 1)},
        {"stride": (9, 2)},
        {"stride": (0, 2)},
        {"picks": torch.zeros(3, 4, dtype=torch.int64)},
        {"picks": torch.zeros(2, 4, 4, dtype=torch.int64)},
        {"reach": -1},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        match_grid(tokens(1, 64), **{"height": 8, "width": 8, "remove": 4, **arguments})  # type: ignore[arg-type]


def test_picks_are_uniform_and_differ_by_seed() -> None:
    picks = picks_for(128, 128, (2, 2), *range(20))
    assert picks.shape == (20, 64, 64)
    shares = picks.flatten().bincount(minlength=4) / picks.numel()
    assert shares.sub(0.25).abs().max() < 0.01
    pairs = (4 * picks[:-1] + picks[1:]).flatten().bincount(minlength=16) / picks[1:].numel()
    assert pairs.sub(1 / 16).abs().max() < 0.01  # of one window under two seeds
    beside = (4 * picks[:, :, :-1] + picks[:, :, 1:]).flatten().bincount(minlength=16) / picks[:, :, 1:].numel()
    assert beside.sub(1 / 16).abs().max() < 0.01  # of two windows side by side
    assert torch.equal(picks[3:4], picks_for(128, 128, (2, 2), 3))


@pytest.mark.parametrize(("height", "width", "stride"), GRIDS)
def test_a_coarser_grid_is_nearest_exact(height: int, width: int, stride: tuple[int, int]) -> None:
    x = tokens(2, height * width)
    picture = x.transpose(1, 2).unflatten(2, (height, width))
    size = (height // stride[0], width // stride[1])
    expected = torch.nn.functional.interpolate(picture, size, mode="nearest-exact").flatten(2).transpose(1, 2)
    assert torch.equal(coarsen(x, height, width, stride), expected)
