"""merge_tokens on our encoders: exact where nothing is lost, closed-form costs, clear refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import percepta
from percepta.errors import BadInput
from percepta.layers import Plan, Tokens, match_bipartite
from percepta.speedups import STRATEGIES, Merge, Moment
from tests.battery import close, pictures, small


def tower(**overrides: Any) -> Any:
    return small("pe-core-nano", text=None, **overrides)


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("proportional", [True, False])
def test_duplicates_are_lossless_where_attention_is_proportional(strategy: str, proportional: bool) -> None:
    """Blocks without positions see half of the tokens twice: merging the copies changes nothing, by weight alone."""
    model = tower().double()
    single = torch.randn(2, 16, model.config.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([single[:, :8].repeat_interleave(2, dim=1), single[:, 8:]], dim=1)

    def run(policy: Merge | None) -> Tensor:
        tokens = Tokens(x)
        for index, block in enumerate(model.blocks):
            tokens = block(tokens, None, policy if not index else None)
        if policy is not None:
            assert tokens.x.shape[1] == 16
        return model.pool(tokens.x, tokens.size)

    short = run(Merge(STRATEGIES[strategy], Moment(8, 0, 0.0), proportional))
    whole = run(None)
    change = float((short - whole).abs().max() / whole.abs().max())
    assert change < 1e-6 if proportional else change > 1e-4


def test_nothing_to_merge_is_equal_in_every_bit() -> None:
    model, x = tower(), pictures(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        merging = percepta.merge_tokens(model, r=0)
        assert torch.equal(merging(x), want)
        percepta.merge_tokens(model, r=3)
        assert not torch.equal(model(x), want)
        percepta.merge_tokens(model, r=0)
        assert torch.equal(model(x), want)
        assert merging.flops == 1.0


@pytest.mark.parametrize("seams", [1, 2])
def test_multiply_adds_are_those_that_run(seams: int) -> None:
    """The closed form counts what PyTorch counts; only what a matching multiplies is left out."""
    model = small("pe-core-nano", depth=3)
    merging = percepta.merge_tokens(model, schedule=[4, 3, 2], strategy=first_tokens, frames=seams)
    x = pictures(1, seams, 3, 32, 32)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # counts no others
        model.encode_video(x)
    shape = merging._adapter.shape()
    assert counter.get_total_flops() / 2 / seams == pytest.approx(merging.flops * shape.total([0, 0, 0]), rel=1e-3)
    assert merging.plain_macs[0] > merging.macs[0]
    assert f"{merging.flops:.1%}" in str(merging)


def first_tokens(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """Compares one channel, so that matching costs nothing."""
    return match_bipartite(tokens.x[..., :1] * 0 + 1, moment.remove, moment.protected)


def test_the_paper_s_table_of_costs() -> None:
    """Billions of multiply-adds of ViTs with and without merging (section 3 of the sheet), by the general formula."""
    from percepta.speedups import BlockCost, Shape

    def billions(width: int, depth: int, tokens: int, patch: int, removed: list[int]) -> float:
        block = BlockCost(4 * width**2, 8 * width**2, width)
        shape = Shape((block,) * depth, tokens, 1, (tokens - 1) * width * 3 * patch**2, (0, width * 1000))
        return shape.total(removed) / 1e9

    assert billions(384, 12, 197, 16, [0] * 12) == pytest.approx(4.60, abs=0.01)
    assert billions(384, 12, 197, 16, [13] * 12) == pytest.approx(2.70, abs=0.01)
    assert billions(768, 12, 197, 16, [16] * 12) == pytest.approx(8.77, abs=0.01)
    assert billions(1024, 24, 197, 16, [8] * 24) == pytest.approx(30.96, abs=0.01)
    assert billions(1280, 32, 257, 14, [7] * 32) == pytest.approx(92.8, abs=0.1)


@pytest.mark.parametrize("share", [0.95, 0.7, 0.5])
def test_a_share_of_the_multiply_adds_is_met_closely(share: float) -> None:
    merging = percepta.merge_tokens(percepta.build("pe-core-b16-224", text=None, device="meta"), flops=share)
    assert share - 0.01 < merging.flops <= share


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_compiled_is_eager_without_a_graph_break(strategy: str) -> None:
    model, x = tower(depth=2), pictures(2, 3, 32, 40)
    with percepta.merge_tokens(model, r=3, strategy=strategy):
        torch._dynamo.reset()
        if strategy == "bipartite":
            assert torch._dynamo.explain(model)(x).graph_break_count == 0
            torch._dynamo.reset()
        close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


def test_pictures_of_any_size_merge() -> None:
    model = tower()
    with torch.no_grad(), percepta.merge_tokens(model, r=5):
        for height, width in ((32, 32), (8, 8), (16, 24), (64, 40)):
            assert torch.isfinite(model(pictures(1, 3, height, width))).all()
        ragged = model([pictures(3, 32, 32), pictures(3, 16, 40)])
        close(ragged[1], model(pictures(1, 3, 16, 40))[0])


def test_deep_copies_and_cut_towers_merge_as_well() -> None:
    model, x = tower(), pictures(1, 3, 32, 32)
    with torch.no_grad(), percepta.merge_tokens(model, r=3):
        assert torch.equal(copy.deepcopy(model)(x), model(x))
        assert torch.equal(model.truncated(1).intermediates(x, [1])[0], model.intermediates(x, [1])[0])
        assert model.state_dict().keys() == tower().state_dict().keys()


def test_training_with_merging_learns() -> None:
    """A few steps towards a target bring the merging model closer to it."""
    model, x = tower().train(), pictures(4, 3, 32, 32)
    percepta.merge_tokens(model, r=3)
    goal = torch.randn(4, 24, generator=torch.Generator().manual_seed(3))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(20):
        loss = (model(x) - goal).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of r, schedule and flops"),
        ({"r": 2, "flops": 0.5}, "r and flops"),
        ({"r": -1}, "0 or more"),
        ({"schedule": [1] * 9}, "at most 3"),
        ({"flops": 0.0}, "above 0"),
        ({"flops": 0.01}, "the least that this model can reach"),
        ({"r": 2, "strategy": "kmeans"}, "bipartite"),
        ({"r": 2, "proportional": "yes"}, "proportional"),
        ({"r": 2, "last_block": 3}, "last_block"),
        ({"r": 2, "frames": 3}, "power of two"),
    ],
)
def test_what_cannot_be_is_told(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        percepta.merge_tokens(tower(), **arguments)


def test_words_and_strangers_are_refused() -> None:
    model = small("pe-core-nano")
    with pytest.raises(BadInput, match="words of a text"):
        percepta.merge_tokens(model.text, r=2)
    with pytest.raises(BadInput, match="percepta, timm and transformers"):
        percepta.merge_tokens(torch.nn.Linear(3, 3), r=2)
