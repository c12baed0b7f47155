"""Perception Encoder against timm (vision), open_clip (tokenizer, text, whole model), on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import percepta
from percepta.models.perception_encoder import Tokenizer
from tests.battery import close, pictures

TOWERS = [
    ("pe-core-t16-384", "vit_pe_core_tiny_patch16_384", 384),
    ("pe-core-l14-336", "vit_pe_core_large_patch14_336", 336),
    ("pe-core-g14-448", "vit_pe_core_gigantic_patch14_448", 448),
    ("pe-lang-l14-448", "vit_pe_lang_large_patch14_448", 448),
    ("pe-spatial-s16-512", "vit_pe_spatial_small_patch16_512", 512),
    ("pe-spatial-g14-448", "vit_pe_spatial_gigantic_patch14_448", 448),
]


@torch.no_grad()
def stir(peer: torch.nn.Module) -> None:
    """Random weights under which every part matters: timm's own start leaves most branches near zero."""
    for name, parameter in peer.named_parameters():
        if name.endswith("head.bias"):
            parameter.zero_()  # the official projection has none
        elif parameter.ndim >= 2:
            parameter.normal_(std=max(parameter[0].numel(), 1) ** -0.5)
        elif parameter.ndim == 1:
            parameter.normal_(mean=float("weight" in name or "gamma" in name), std=0.1)


def peer_and_ours(name: str, peer_name: str, folder: Path, depth: int = 1, **overrides: Any) -> tuple[Any, Any]:
    """timm's tower with random weights, and ours filled from its checkpoint."""
    torch.manual_seed(0)
    peer = timm.create_model(peer_name, depth=depth, dynamic_img_size=True, img_size=None).eval()
    stir(peer)
    file = folder / "peer.pt"
    torch.save(peer.state_dict(), file)
    return peer, percepta.load(name, weights=file, depth=depth, text=None, **overrides)


@torch.no_grad()
@pytest.mark.parametrize(("name", "peer_name", "size"), TOWERS)
def test_vision_equals_timm_at_the_trained_size(name: str, peer_name: str, size: int, tmp_path: Path) -> None:
    peer, ours = peer_and_ours(name, peer_name, tmp_path)
    x = pictures(1, 3, size, size)
    want = peer(x) if ours.pooled else peer.forward_features(x)
    close(ours(x), want, 2e-6)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(10, 17), (24, 30), (40, 24)])
def test_vision_equals_timm_at_other_sizes_under_its_rule(grid: tuple[int, int], tmp_path: Path) -> None:
    x = pictures(1, 3, grid[0] * 16, grid[1] * 16)
    peer, ours = peer_and_ours("pe-core-t16-384", "vit_pe_core_tiny_patch16_384", tmp_path, 3, position_rule="timm")
    want = peer(x)
    close(ours(x), want, 5e-6)
    official = percepta.load("pe-core-t16-384", weights=tmp_path / "peer.pt", depth=3, text=None)
    assert (official(x) - want).abs().max() > 1e-3  # the two rules differ, and the official one is the default


@torch.no_grad()
def test_intermediates_equal_timm(tmp_path: Path) -> None:
    peer, ours = peer_and_ours("pe-core-t16-384", "vit_pe_core_tiny_patch16_384", tmp_path, 3)
    x = pictures(1, 3, 384, 384)
    want = peer.forward_intermediates(x, indices=[0, 2], output_fmt="NCHW", intermediates_only=True)
    for got, expected in zip(ours.intermediates(x, [0, 2], layout="NCHW"), want, strict=True):
        close(got, expected, 2e-6)
    want = peer.forward_intermediates(x, indices=2, output_fmt="NLC", return_prefix_tokens=True)
    got = ours.forward_intermediates(x, indices=2, output_fmt="NLC", return_prefix_tokens=True)
    close(got[0], want[0], 2e-6)
    for (patches, prefix), (other_patches, other_prefix) in zip(got[1], want[1], strict=True):
        close(patches, other_patches, 2e-6)
        close(prefix, other_prefix, 2e-6)


def test_tokenizer_equals_open_clip() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    texts = ["a photo of a cat", "Ein Straßenschild, 50€!", "", "don't   stop\n", "日本語 😀", "word " * 100]
    ours = np.array(Tokenizer().tokenize(texts, 32)[0])
    assert (ours == SimpleTokenizer(context_length=32)(texts).numpy()).all()


@torch.no_grad()
def test_whole_model_equals_open_clip(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    peer = open_clip.create_model("PE-Core-T-16-384", pretrained=None, load_weights=False).eval()
    stir(peer)
    file = tmp_path / "peer.pt"
    torch.save(peer.state_dict(), file)
    ours = percepta.load("pe-core-t16-384", weights=file)
    tokens = ours.tokenize(["a photo of a cat", "two dogs playing in the snow"])
    close(ours.encode_text(tokens), peer.encode_text(tokens), 2e-6)
    x = pictures(1, 3, 384, 384)
    close(ours.encode_image(x), peer.encode_image(x), 2e-6)
    percepta.save(ours, tmp_path / "back.pt", layout="open_clip")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert set(back) == set(peer.state_dict())
    for key, value in peer.state_dict().items():
        assert torch.equal(back[key], value), key
