"""Parity with tomesd (dbolya/tomesd from PyPI) inside small U-Nets of diffusers, both with the same destinations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from percepta.speedups import diffusion_blocks, merge_diffusion_tokens
from tests.speedups.denoisers import call, denoiser, sample

tomesd = pytest.importorskip("tomesd")

SETTINGS: list[dict[str, Any]] = [
    {"ratio": 0.5},
    {"ratio": 0.9},  # more than can merge
    {"ratio": 0.3, "stride": (3, 2)},
    {"ratio": 0.6, "stride": (4, 4), "max_downsample": 2},
    {"ratio": 0.4, "max_downsample": 2, "attention": False, "cross_attention": True, "mlp": True},
    {"ratio": 0.5, "random": False, "mlp": True},
]


def official(model: torch.nn.Module, setting: dict[str, Any]) -> None:
    rows, columns = setting.get("stride", (2, 2))
    tomesd.apply_patch(
        model,
        ratio=setting["ratio"],
        max_downsample=setting.get("max_downsample", 1),
        sx=columns,
        sy=rows,
        use_rand=setting.get("random", True),
        merge_attn=setting.get("attention", True),
        merge_crossattn=setting.get("cross_attention", False),
        merge_mlp=setting.get("mlp", False),
    )


@pytest.mark.parametrize("size", [(16, 16), (13, 10)])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@torch.no_grad()
def test_a_u_net_gives_the_output_of_tomesd(
    setting: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = denoiser("sd2"), sample(2, *size)
    plain = call(model, "sd2", x)
    drawn: list[Tensor] = []
    draw = diffusion_blocks.hash_picks

    def recorded(*args: Any) -> Tensor:
        drawn.append(draw(*args))
        return drawn[-1]

    with monkeypatch.context() as patch, merge_diffusion_tokens(model, **setting) as merging:
        patch.setattr(diffusion_blocks, "hash_picks", recorded)
        ours = call(model, "sd2", x)
        blocks = len(merging.blocks)
    assert len(drawn) == (blocks if setting.get("random", True) else 0)
    assert (ours - plain).abs().max() > 1e-3, "nothing was merged"
    official(model, setting)
    replayed = iter(drawn)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: next(replayed)[0].unsqueeze(-1))
        theirs = call(model, "sd2", x)
    assert next(replayed, None) is None, "tomesd drew fewer times"
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert (ours - theirs).abs().max() < 0.01 * (ours - plain).abs().max()


@torch.no_grad()
def test_at_its_default_sdxl_is_merged_here_and_not_there() -> None:
    model, x = denoiser("sdxl"), sample()
    plain = call(model, "sdxl", x)
    with merge_diffusion_tokens(model):
        assert (call(model, "sdxl", x) - plain).abs().max() > 1e-3
    official(model, {"ratio": 0.5})
    assert torch.equal(call(model, "sdxl", x), plain)
