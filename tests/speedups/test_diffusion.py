"""`merge_diffusion_tokens` on small denoisers of diffusers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from percepta.errors import BadInput
from percepta.speedups import merge_diffusion_tokens
from tests.speedups.denoisers import MODELS, call, denoiser, sample


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
def test_compiles_without_a_graph_break_and_sees_the_removal() -> None:
    model, x, timestep = denoiser("dit"), sample(), torch.full((2,), 500.0)
    plain = call(model, "dit", x, timestep)
    merging = merge_diffusion_tokens(model)
    compiled = torch.compile(lambda x, t: call(model, "dit", x, t), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, timestep), call(model, "dit", x, timestep))
    merging.remove()
    assert torch.equal(compiled(x, timestep), plain)


@pytest.mark.slow
@torch.no_grad()
def test_a_u_net_compiles_without_a_graph_break() -> None:
    model, x, timestep = denoiser("sd1"), sample(), torch.tensor(500.0)
    merge_diffusion_tokens(model)
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
