"""Plans and matchings: what must hold for every one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from percepta.errors import BadInput
from percepta.layers import Plan, Tokens, match_agglomerative, match_bipartite
from percepta.layers.token_merging import (
    identity,
    match_kth,
    match_random,
    merge_losses,
    removals,
    restored,
    shortened,
    similarities,
    token_counts,
    unit,
)

Matching = Callable[[Tensor], Plan]


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noise(metric: Tensor) -> Tensor:
    return torch.rand(metric.shape[1], generator=torch.Generator().manual_seed(2)).expand(len(metric), -1)


MATCHINGS: dict[str, Matching] = {
    "bipartite": lambda metric: match_bipartite(metric, 5),
    "bipartite, one protected": lambda metric: match_bipartite(metric, 5, 1),
    "bipartite, two protected": lambda metric: match_bipartite(metric, 5, 2),
    "bipartite by size": lambda metric: match_bipartite(metric, 5, 1, torch.ones(metric.shape[:2])),
    "agglomerative": lambda metric: match_agglomerative(metric, 7),
    "agglomerative, two protected": lambda metric: match_agglomerative(metric, 7, 2),
    "kth": lambda metric: match_kth(metric, 3),
    "random": lambda metric: match_random(metric, 6, noise(metric)),
    "identity": lambda metric: identity(*metric.shape[:2]),
}


@pytest.fixture(params=MATCHINGS)
def matching(request: pytest.FixtureRequest) -> Matching:
    return MATCHINGS[request.param]


def test_every_token_is_kept_or_merged_once(matching: Matching) -> None:
    plan = matching(numbers(3, 24, 8))
    for kept, source in zip(plan.kept, plan.source, strict=True):
        assert sorted([*kept.tolist(), *source.tolist()]) == list(range(24))
    rows = torch.arange(plan.kept.shape[1]).expand_as(plan.kept)
    assert torch.equal(plan.group.gather(1, plan.kept), rows)
    assert torch.equal(plan.group.gather(1, plan.source), plan.target)


def test_total_size_is_conserved(matching: Matching) -> None:
    size = torch.randint(1, 9, (3, 24), generator=torch.Generator().manual_seed(1)).float()
    x = numbers(3, 24, 8)
    merged, sizes = matching(x).merge_weighted(x, size)
    assert torch.equal(sizes.sum(dim=1), size.sum(dim=1))
    mass = (merged * sizes.unsqueeze(-1)).sum(dim=1)
    torch.testing.assert_close(mass, (x * size.unsqueeze(-1)).sum(dim=1), atol=1e-4, rtol=1e-5)


def test_merge_after_unmerge_changes_nothing(matching: Matching) -> None:
    x = numbers(3, 24, 8)
    plan = matching(x)
    merged, _ = plan.merge_weighted(x)
    spread = plan.unmerge(merged)
    torch.testing.assert_close(plan.merge_weighted(spread)[0], merged)
    torch.testing.assert_close(plan.unmerge(plan.merge(spread)), spread)


def test_weighted_merge_is_the_explicit_average_with_its_gradient(matching: Matching) -> None:
    x = numbers(2, 24, 8, dtype=torch.float64).requires_grad_()
    size = torch.randint(1, 9, (2, 24), generator=torch.Generator().manual_seed(1)).double()
    plan = matching(x)
    membership = torch.nn.functional.one_hot(plan.group, plan.kept.shape[1]).double() * size.unsqueeze(-1)
    by_hand = torch.einsum("bng,bnd->bgd", membership, x) / membership.sum(dim=1).unsqueeze(-1)
    merged, sizes = plan.merge_weighted(x, size)
    torch.testing.assert_close(merged, by_hand)
    torch.testing.assert_close(sizes, membership.sum(dim=1))
    weights = numbers(*merged.shape, seed=3, dtype=torch.float64)
    ((got,), (want,)) = (torch.autograd.grad((part * weights).sum(), x) for part in (merged, by_hand))
    torch.testing.assert_close(got, want)


def test_an_item_does_not_depend_on_its_batch(matching: Matching) -> None:
    x = numbers(4, 24, 8)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(matching(x).group[order], matching(x[order]).group)
    assert torch.equal(matching(x).group[1:2], matching(x[1:2]).group)


def test_plans_in_a_row_are_one_plan(matching: Matching) -> None:
    x = numbers(3, 24, 8)
    first = matching(x)
    merged, size = first.merge_weighted(x)
    second = match_bipartite(merged, 3, 1)
    whole = first.compose(second)
    step, sizes = second.merge_weighted(merged, size)
    together, whole_sizes = whole.merge_weighted(x)
    torch.testing.assert_close(together, step)
    assert torch.equal(sizes, whole_sizes)
    torch.testing.assert_close(whole.unmerge(together), first.unmerge(second.unmerge(step)))


def test_group_maps_go_through_layers() -> None:
    tokens = Tokens(numbers(2, 24, 8))
    for remove in (6, 4, 2):
        tokens = shortened(tokens, match_bipartite(tokens.x, remove, 1))
    assert tokens.x.shape[1] == 12
    assert tokens.size is not None
    assert tokens.group is not None
    counts = torch.stack([torch.bincount(group, minlength=12) for group in tokens.group])
    assert torch.equal(counts.float(), tokens.size)
    assert restored(tokens.x, tokens.group).shape == (2, 24, 8)


def test_ward_is_that_of_scipy() -> None:
    """The peer clusters the same points; with every size one the partition must be the same."""
    x = numbers(4, 40, 12)
    group = match_agglomerative(x, 18).group
    for item, own in zip(unit(x), group, strict=True):
        theirs = fcluster(linkage(item.numpy(), "ward"), 22, "maxclust")
        assert len({*zip(theirs.tolist(), own.tolist(), strict=True)}) == len(set(own.tolist())) == 22


def test_a_size_counts_like_copies() -> None:
    """A token of size s merges as s equal tokens do that were merged before."""
    x = numbers(1, 12, 6)
    size = torch.tensor([[1, 3, 1, 2, 1, 1, 4, 1, 1, 1, 2, 1]])
    copies = x[0].repeat_interleave(size[0], dim=0)[None]
    more = int(size.sum()) - 12
    weighted = match_agglomerative(x, 4, 0, size).group[0].repeat_interleave(size[0])
    explicit = fcluster(linkage(unit(copies)[0].numpy(), "ward"), copies.shape[1] - more - 4, "maxclust")
    assert len({*zip(weighted.tolist(), explicit.tolist(), strict=True)}) == 8


def test_losses_are_the_growth_of_squared_distance() -> None:
    x, size = unit(numbers(1, 2, 6)).double(), torch.tensor([[3.0, 5.0]])
    mean = (x * size[..., None]).sum(dim=1) / size.sum()
    growth = float(((x[0] - mean).square().sum(dim=1) * size[0]).sum())
    loss = float(merge_losses(similarities(x.float(), x.float()), size, size)[0, 0, 1])
    assert loss * 2 == pytest.approx(growth, rel=1e-5)


@pytest.mark.parametrize("find", [match_bipartite, match_agglomerative])
def test_protected_tokens_stay_themselves(find: Callable[..., Plan]) -> None:
    x = numbers(2, 21, 8)
    x[:, 1:4] = x[:, :1]  # as alike as can be
    plan = find(x, 8, 3)
    assert plan.kept[:, :3].tolist() == [[0, 1, 2]] * 2
    assert (plan.target >= 3).all()
    assert (plan.source >= 3).all()
    assert plan.kept.shape[1] == 21 - 8


@pytest.mark.parametrize("find", [match_bipartite, match_agglomerative])
def test_at_most_half_goes(find: Callable[..., Plan]) -> None:
    assert find(numbers(1, 11, 4), 99, 1).kept.shape[1] == 6
    assert find(numbers(1, 11, 4), 0).kept.shape[1] == 11
    assert find(numbers(1, 1, 4), 3).kept.shape[1] == 1
    assert find(torch.zeros(1, 8, 4), 4).kept.shape[1] == 4, "zeros have no direction"


def test_duplicates_go_first() -> None:
    x = numbers(1, 20, 8)
    x[0, 11], x[0, 14] = x[0, 4], x[0, 7]
    for plan in (match_bipartite(x, 2), match_agglomerative(x, 2)):
        assert plan.group[0, 11] == plan.group[0, 4]
        assert plan.group[0, 14] == plan.group[0, 7]
        torch.testing.assert_close(plan.unmerge(plan.merge(x)), x)


@pytest.mark.parametrize("bad", [torch.zeros(4, 3), torch.zeros(1, 4, 3, dtype=torch.int64)])
def test_a_metric_has_three_axes_of_floats(bad: Tensor) -> None:
    for find in (match_bipartite, match_agglomerative):
        with pytest.raises(BadInput, match=r"float tensor \(B, N, C\)"):
            find(bad, 1)


def test_half_precision_sums_are_wide() -> None:
    x = torch.full((1, 600, 2), 300.0, dtype=torch.float16)
    merged, size = match_bipartite(x, 299).merge_weighted(x, torch.full((1, 600), 300.0))
    assert merged.dtype == torch.float16
    assert size.dtype == torch.float32
    torch.testing.assert_close(merged, torch.full_like(merged, 300.0))


def test_schedules() -> None:
    assert removals(4, 3) == [3, 3, 3, 3]
    assert removals(4, [5, 1]) == [5, 1, 0, 0]
    assert sum(removals(12, (16, -1.0))) == pytest.approx(16 * 12, abs=12)
    assert removals(1, (4, -1.0)) == [4]
    assert np.diff(removals(12, (8, 1.0))).min() >= 0
    assert token_counts(197, [16] * 12, 1)[-1] == 11
    for bad in (-1, [1] * 5, (3, 2.0), True, "3", [1.5]):
        with pytest.raises(BadInput):
            removals(4, bad)  # type: ignore[arg-type]
