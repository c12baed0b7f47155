"""`merge_diffusion_tokens` on small denoisers of diffusers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from percepta.errors import BadInput
from percepta.layers.token_merging import Plan
from percepta.speedups import diffusion_blocks, merge_diffusion_tokens
from tests.speedups.denoisers import MODELS, call, denoiser, sample


def recorded_plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """A list that every match from now on joins."""
    plans: list[Plan] = []
    match = diffusion_blocks.match_grid

    def recorded(*args: Any) -> Plan:
        plans.append(match(*args))
        return plans[-1]

    monkeypatch.setattr(diffusion_blocks, "match_grid", recorded)
    return plans


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_merges_alike_in_every_batch_and_undoes_it(kind: str) -> None:
    model, x = denoiser(kind), sample()
    plain = call(model, kind, x)
    merging = merge_diffusion_tokens(model)
    merged = call(model, kind, x)
    assert (merged - plain).abs().max() > 1e-3
    torch.testing.assert_close(call(model, kind, x[1:]), merged[1:], atol=1e-5, rtol=0)
    assert all(fewer == tokens // 2 for tokens, fewer in merging.counts(16, 16))
    twin = copy.deepcopy(model)
    assert torch.equal(call(twin, kind, x), merged)
    merge_diffusion_tokens(twin, 0)
    assert torch.equal(call(twin, kind, x), plain)
    assert torch.equal(call(model, kind, x), merged)
    merging.remove()
    assert torch.equal(call(model, kind, x), plain)


@pytest.mark.parametrize("strategy", ["prune", "downsample-keys"])
@torch.no_grad()
def test_strategies_change_the_output_and_undo_it(strategy: str) -> None:
    model, x = denoiser("sd1"), sample(2, 13, 10)
    plain = call(model, "sd1", x)
    with merge_diffusion_tokens(model, strategy=strategy):
        assert (call(model, "sd1", x) - plain).abs().max() > 1e-3
    assert torch.equal(call(model, "sd1", x), plain)


@torch.no_grad()
def test_seed_and_timestep_choose_the_destinations() -> None:
    model, x = denoiser("dit"), sample()
    outputs = []
    for seed in (0, 0, 1):
        with merge_diffusion_tokens(model, seed=seed):
            outputs.append(call(model, "dit", x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@torch.no_grad()
def test_destinations_change_with_the_timestep_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = denoiser("dit"), sample()
    merge_diffusion_tokens(model)
    plans = recorded_plans(monkeypatch)
    for timestep in (500.0, 500.0, 480.0):
        call(model, "dit", x, timestep)
    assert len(plans) == 6  # the last 16 rows of each are its destinations
    first, again, other = (plans[turn : turn + 2] for turn in (0, 2, 4))
    for block in range(2):
        chosen = [side[block].kept[:, -16:] for side in (first, again, other)]
        assert torch.equal(chosen[0], chosen[1])
        assert not torch.equal(chosen[0], chosen[2])
    assert not torch.equal(first[0].kept[:, -16:], first[1].kept[:, -16:])  # nor are two blocks alike


@pytest.mark.parametrize(("kind", "matches"), [("dit", 1), ("sd2", 2)])
@torch.no_grad()
def test_reuse_matches_once_for_each_resolution_and_call(
    kind: str, matches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = denoiser(kind)
    plans = recorded_plans(monkeypatch)
    merging = merge_diffusion_tokens(model, max_downsample=2, reuse=True)
    for turn, x in enumerate((sample(2), sample(1, seed=1), sample(2, 12, 8))):
        merged = call(model, kind, x)
        assert len(plans) == matches * (turn + 1) < len(merging.blocks) * (turn + 1)
        fresh = copy.deepcopy(model)
        assert torch.equal(call(fresh, kind, x), merged), "something is left of the call before"
        del plans[matches * (turn + 1) :]


@torch.no_grad()
def test_reuse_leaves_the_first_block_as_it_is_and_forgets_a_broken_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = denoiser("dit"), sample()
    blocks, outputs = list(model.transformer_blocks), []
    blocks[0].register_forward_hook(lambda _block, _args, output: outputs.append(output))
    merge_diffusion_tokens(model)
    alone = call(model, "dit", x)
    merge_diffusion_tokens(model, reuse=True)
    plans = recorded_plans(monkeypatch)
    shared = call(model, "dit", x)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(alone, shared), "the second block matched for itself"

    def fail(*_: object) -> None:
        raise RuntimeError("stop")

    hook = blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        call(model, "dit", sample(1, seed=5))
    hook.remove()
    assert torch.equal(call(model, "dit", x), shared)
    assert len(plans) == 3


def test_gradient_checkpointing_gives_the_same_gradients_and_refuses_reuse() -> None:
    model, x = denoiser("dit"), sample().requires_grad_()
    merge_diffusion_tokens(model)
    (plain,) = torch.autograd.grad(call(model, "dit", x).square().sum(), x)
    model.enable_gradient_checkpointing()
    (again,) = torch.autograd.grad(call(model, "dit", x).square().sum(), x)
    torch.testing.assert_close(again, plain)
    merge_diffusion_tokens(model, reuse=True)
    with pytest.raises(BadInput, match="gradient checkpointing"):
        call(model, "dit", x).sum().backward()


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (5, 3)])
@pytest.mark.parametrize("reuse", [False, True])
@torch.no_grad()
def test_tiny_latents_merge(size: tuple[int, int], reuse: bool) -> None:
    model, x = denoiser("sd1"), sample(2, *size)
    plain = call(model, "sd1", x)
    with merge_diffusion_tokens(model, reuse=reuse):
        merged = call(model, "sd1", x)
    assert merged.shape == x.shape
    assert merged.isfinite().all()
    assert not torch.equal(merged, plain)


@pytest.mark.parametrize("reuse", [False, True])
@torch.no_grad()
def test_compiles_without_a_graph_break_and_sees_the_removal(reuse: bool) -> None:
    model, x, timestep = denoiser("dit"), sample(), torch.full((2,), 500.0)
    plain = call(model, "dit", x, timestep)
    merging = merge_diffusion_tokens(model, reuse=reuse)
    compiled = torch.compile(lambda x, t: call(model, "dit", x, t), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, timestep), call(model, "dit", x, timestep))
    merging.remove()
    assert torch.equal(compiled(x, timestep), plain)


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
@torch.no_grad()
def test_a_u_net_compiles_without_a_graph_break(reuse: bool) -> None:
    model, x, timestep = denoiser("sd1"), sample(), torch.tensor(500.0)
    merge_diffusion_tokens(model, reuse=reuse)
    compiled = torch.compile(lambda x, t: call(model, "sd1", x, t), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, timestep), call(model, "sd1", x, timestep))


def test_what_cannot_merge_is_refused() -> None:
    with pytest.raises(BadInput, match="model must be"):
        merge_diffusion_tokens(nn.Linear(2, 2))
    with pytest.raises(BadInput, match="finest level"):
        merge_diffusion_tokens(denoiser("sdxl"), max_downsample=1)
    with pytest.raises(BadInput, match="no cross_attention"):
        merge_diffusion_tokens(denoiser("sd3"), attention=False, cross_attention=True)
    model = denoiser("sd1")
    merge_diffusion_tokens(model, stride=(8, 8))
    with pytest.raises(BadInput, match="stride"):
        call(model, "sd1", sample(2, 4, 4))
