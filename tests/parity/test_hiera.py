"""Hiera beside timm and transformers, with equal random weights on small configurations."""

from __future__ import annotations

import pytest
import torch

import percepta
from percepta.models.hiera import HieraDet, TrunkConfig
from percepta.models.hiera.keys import OFFICIAL_TRUNK

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SMALL = {"embed_dim": 16, "heads": 1, "stages": (1, 2, 2, 1), "image_size": (96, 64), "classes": 7}


def random_weights(peer: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return peer.eval()


def ours(peer: torch.nn.Module, layout: str, tmp_path, name: str, **overrides):
    path = tmp_path / "peer.pt"
    torch.save(peer.state_dict(), path)
    model = percepta.load(name, weights=path, **overrides)
    back = percepta.save(model, tmp_path / "back.pt", layout=layout)
    again = torch.load(back, weights_only=True)
    assert again.keys() == peer.state_dict().keys()
    assert all(torch.equal(value, again[key]) for key, value in peer.state_dict().items())
    return model


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * (1 + b.abs().max())


@pytest.mark.parametrize("window", [False, True])
def test_timm(tmp_path, window):
    timm = pytest.importorskip("timm")
    name = "hiera_small_abswin_256" if window else "hiera_tiny_224"
    kwargs = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 2, 1), "img_size": (96, 64), "num_classes": 7}
    peer = random_weights(timm.create_model(name, pretrained=False, **kwargs))
    overrides = SMALL | {"background": tuple(peer.pos_embed.shape[-2:])} if window else SMALL
    name = "hiera-small-abswin-256" if window else "hiera-tiny-224"
    model = ours(peer, "timm", tmp_path, name, **overrides)
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        close(model(x), peer(x))
        for got, want in zip(
            model.forward_intermediates(x, intermediates_only=True),
            peer.forward_intermediates(x, intermediates_only=True),
            strict=True,
        ):
            close(got, want)


def test_timm_trunk(tmp_path):
    timm = pytest.importorskip("timm")
    kwargs = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 3, 1), "global_att_blocks": (4,)}
    peer = random_weights(timm.create_model("sam2_hiera_tiny", pretrained=False, num_classes=0, **kwargs))
    config = TrunkConfig(16, 1, (1, 2, 3, 1), windows=(8, 4, 14, 7), global_blocks=(4,), background=(7, 7))
    trunk = HieraDet(config).eval()
    state = {
        key.replace("mlp.fc1", "mlp.layers.0").replace("mlp.fc2", "mlp.layers.1"): value
        for key, value in peer.state_dict().items()
    }
    native, _ = OFFICIAL_TRUNK.to_native(state)
    trunk.load_state_dict(native, strict=True)
    x = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        wanted = peer.forward_intermediates(x, intermediates_only=True, output_fmt="NCHW")
        for got, want in zip(trunk(x), wanted, strict=True):
            close(got, want)


def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"embed_dim": 16, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8], "image_size": [96, 64]}
    config = transformers.HieraConfig(**sizes, num_labels=7)
    x = torch.randn(2, 3, 96, 64)
    peer = random_weights(transformers.HieraForImageClassification(config))
    model = ours(peer, "transformers", tmp_path, "hiera-tiny-224", **SMALL)
    with torch.no_grad():
        close(model(x), peer(x).logits)
    encoder = percepta.load("hiera-tiny-224", weights=tmp_path / "peer.pt", **SMALL | {"classes": None})
    with torch.no_grad():
        close(encoder(x), peer.hiera(x).pooler_output)


def test_transformers_masked(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.HieraConfig(
        embed_dim=16, depths=[1, 2, 2, 1], num_heads=[1, 2, 4, 8], image_size=[96, 64], num_query_pool=2,
        decoder_hidden_size=24, decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip
    peer = random_weights(transformers.HieraForPreTraining(config))
    decoder = {"width": 24, "depth": 1, "heads": 2}
    model = ours(peer, "transformers", tmp_path, "mae-hiera-tiny-224", **SMALL | {"classes": None, "decoder": decoder})
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        want = peer(x, noise=torch.rand(2, 6, generator=torch.Generator().manual_seed(3)))
        noise = torch.rand(2, 6, generator=torch.Generator().manual_seed(3))
        keep = torch.zeros(2, 6, dtype=torch.bool).scatter_(1, noise.argsort(1)[:, : int(6 * 0.4)], True)
        close(model.pretrain(x, keep).loss, want.loss)
