"""Models of four libraries as one thing: the vectors are those that each library's own way gives, from one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from torch import Tensor, nn

import percepta
from percepta.errors import BadInput, MissingWeights, UnknownModel
from percepta.media import Source
from percepta.running.backbones import OUTPUT, PROBABILITIES, expand, open_backbone
from percepta.speedups.adapters.ours import TowerAdapter
from tests.running.vision_models import TINY_TRANSFORMERS, save_tiny


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b.float(), atol=1e-5, rtol=1e-4)


class Calls:
    """How often a module runs."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        module.register_forward_hook(lambda *_: self._add())

    def _add(self) -> None:
        self.count += 1


# Ours


@pytest.mark.parametrize("name", ["pe-core-nano", "pe-lang-nano", "hiera-nano"])
def test_our_layers_are_the_means_of_intermediates_from_one_pass(name: str) -> None:
    found = open_backbone(name, random_weights=True)
    tower: Any = getattr(found.model, "vision", found.model)
    x = pictures(found.model.config.image_size)
    calls = Calls(tower.blocks[0])
    vectors = found.vectors(x)
    assert calls.count == 1
    with torch.inference_mode():
        own = found.model.intermediates(x, list(range(found.model.config.depth)))
    assert list(vectors)[: len(own)] == list(found.layers)
    assert all(close(vectors[layer], values.mean(dim=1)) for layer, values in zip(found.layers, own, strict=True))
    assert set(found.vectors(x, layers=False)) == set(vectors) - set(found.layers)
    assert found.vectors(x, layers=False)[OUTPUT].equal(vectors[OUTPUT])


def test_the_output_is_what_the_model_pools() -> None:
    x = pictures(64)
    core = open_backbone("pe-core-nano", random_weights=True)
    with torch.inference_mode():
        assert close(core.vectors(x)[OUTPUT], core.model.encode_image(x))
    x, hiera = pictures(32), open_backbone("hiera-nano", random_weights=True)
    with torch.inference_mode():
        assert close(hiera.vectors(x)[OUTPUT], hiera.model.encode_image(x))
        assert close(hiera.vectors(x)[PROBABILITIES], hiera.model(x).softmax(dim=-1))


def test_a_model_that_merges_gives_what_its_intermediates_give() -> None:
    model = percepta.build("pe-core-nano").eval()
    percepta.merge_tokens(model, r=4)
    found, x = open_backbone(model), pictures(64)
    with torch.inference_mode():
        own = model.intermediates(x, [0, 5])
    vectors = found.vectors(x)
    assert close(vectors["layer 0"], own[0].mean(dim=1))
    assert close(vectors["layer 5"], own[1].mean(dim=1))


def test_what_is_known_of_a_model() -> None:
    found = open_backbone("pe-core-nano", random_weights=True)
    shape = TowerAdapter(found.model.vision).shape()
    assert abs(found.macs() / shape.total([0] * 6) - 1) < 0.002
    assert found.parameters == sum(part.numel() for part in found.model.vision.parameters())
    assert found.depth == 4 * 6 + 1
    prepared = open_backbone("pe-core-nano")
    assert prepared.macs() == found.macs()
    assert open_backbone("torchvision/resnet18", random_weights=True).depth == 18
    assert open_backbone("torchvision/densenet121", random_weights=True).depth == 121


def test_a_model_in_hand_stays_in_its_mode() -> None:
    model = percepta.build("hiera-nano").train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = open_backbone(model)
    found.vectors(pictures(32))
    assert model.training
    assert not model.norm.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_the_key_tells_weights_precision_and_layers_apart() -> None:
    torch.manual_seed(1)
    other = percepta.build("pe-core-nano").eval()
    one, same = (open_backbone("pe-core-nano", random_weights=True) for _ in range(2))
    low = open_backbone("pe-core-nano", random_weights=True, dtype="bfloat16")
    assert one.key(True) == same.key(True)
    assert len({one.key(True), one.key(False), open_backbone(other).key(True), low.key(True)}) == 4


# timm


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet", "timm/test_convnext", "timm/test_efficientnet"])
def test_timm_by_name(name: str) -> None:
    found = open_backbone(name, random_weights=True)
    side = found.model.pretrained_cfg["input_size"][1]
    x = pictures(side)
    vectors = found.vectors(x)
    with torch.inference_mode():
        maps = found.model.forward_intermediates(x, intermediates_only=True)
        for layer, part in zip(found.layers, maps, strict=True):
            assert close(vectors[layer], part.mean(dim=(2, 3)))
        pooled = found.model.forward_head(found.model.forward_features(x), pre_logits=True)
        assert close(vectors[OUTPUT], pooled)
        assert close(vectors[PROBABILITIES], found.model(x).softmax(dim=-1))


def test_timm_preprocesses_as_its_own_data_config_says(tmp_path: Path) -> None:
    found = open_backbone("timm/test_vit", random_weights=True)
    picture = Image.effect_noise((200, 120), 60).convert("RGB")
    picture.save(tmp_path / "a.png")
    data = timm.data.resolve_model_data_config(found.model)
    wanted = timm.data.create_transform(**data, is_training=False)(picture)
    assert found.prepare(Source("a", "picture", tmp_path / "a.png")).equal(wanted)


# torchvision


@pytest.mark.parametrize(
    ("name", "last"),
    [("shufflenet_v2_x0_5", "conv5"), ("squeezenet1_1", "features.12"), ("mobilenet_v3_small", "features.12")],
)
def test_torchvision_reads_the_ends_of_stages(name: str, last: str) -> None:
    found = open_backbone(f"torchvision/{name}", random_weights=True)
    x = pictures(224, 1)
    vectors = found.vectors(x)
    extract = torchvision.models.feature_extraction.create_feature_extractor(found.model, {last: "last"})
    with torch.inference_mode():
        assert close(vectors[found.layers[-1]], extract(x)["last"].mean(dim=(2, 3)))
        assert close(vectors[PROBABILITIES], found.model(x).softmax(dim=-1))
    assert 3 <= len(found.layers) <= 6
    assert found.vectors(x, layers=False)[OUTPUT].equal(vectors[OUTPUT])


def test_torchvision_transformers_give_every_block_without_the_class_token() -> None:
    model = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).eval()
    found = open_backbone(model)
    assert found.layers == ("layer 0", "layer 1", "layer 2")
    x = pictures(32)
    extract = torchvision.models.feature_extraction.create_feature_extractor(
        model, {"encoder.layers.encoder_layer_1": "tokens", "getitem_5": "pooled"}
    )
    with torch.inference_mode():
        own = extract(x)
    vectors = found.vectors(x)
    assert close(vectors["layer 1"], own["tokens"][:, 1:].mean(dim=1))
    assert close(vectors[OUTPUT], own["pooled"])


# transformers


@pytest.mark.parametrize("kind", TINY_TRANSFORMERS)
def test_transformers_from_a_folder(kind: str, tmp_path: Path) -> None:
    folder = save_tiny(kind, tmp_path / kind)
    found = open_backbone(f"hf/{folder}")
    x = pictures(32)
    vectors = found.vectors(x)
    with torch.inference_mode():
        given = found.model(pixel_values=x, output_hidden_states=True)
    states = given.hidden_states[1:]
    assert len(states) == len(found.layers)
    first = {"vit": 1, "dinov2": 1, "clip": 1, "siglip": 0}.get(kind)
    for layer, state in zip(found.layers, states, strict=True):
        own = state.mean(dim=(2, 3)) if state.ndim == 4 else state[:, first or 0 :].mean(dim=1)
        assert close(vectors[layer], own)
    if kind in ("vit", "resnet"):  # classifiers
        classifier = found.model.classifier if kind == "vit" else found.model.classifier[-1]
        assert close(classifier(vectors[OUTPUT]), given.logits)
        assert close(vectors[PROBABILITIES], given.logits.softmax(dim=-1))
    else:
        assert PROBABILITIES not in vectors
    if kind == "clip":
        whole: Any = transformers.CLIPModel.from_pretrained(folder).eval()
        with torch.inference_mode():
            wanted = whole.visual_projection(whole.vision_model(pixel_values=x).pooler_output)
        assert close(vectors[OUTPUT], wanted)
        assert found.parameters < sum(part.numel() for part in whole.parameters())


# Names


def test_names_and_patterns(tmp_path: Path) -> None:
    assert expand(["pe-*-nano"]) == ["pe-core-nano", "pe-lang-nano"]
    assert not [name for name in expand(["*"]) if name.startswith(("sam2", "plm")) or "16x224" in name]
    assert "timm/vit_tiny_patch16_224.augreg_in21k" in expand(["timm/vit_tiny*"])
    odd = tmp_path / "mine[1].safetensors"
    odd.write_bytes(b"")
    assert expand([str(odd)]) == [str(odd)]
    assert expand(["torchvision/resnet1?", "torchvision/resnet18"]) == ["torchvision/resnet18"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("pe-coar-*", UnknownModel, "no encoder of pictures is called 'pe-coar-*'; near it are pe-core"),
        ("hf/*", BadInput, "patterns are not for the hub"),
        ("timm/nothing*", UnknownModel, "other libraries' are timm/NAME"),
    ],
)
def test_patterns_that_fit_nothing(name: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said.replace("*", r"\*")):
        expand([name])


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("timm/resnet18.a1_in1k", MissingWeights, "the weights of timm/resnet18.a1_in1k are not at hand"),
        ("timm/resnet1888", UnknownModel, "timm has no model called 'resnet1888'; did you mean timm/resnet"),
        ("torchvision/resnet18", MissingWeights, "are not on this machine .HF_HUB_OFFLINE is set."),
        ("torchvision/resnet19", UnknownModel, "did you mean torchvision/resnet"),
        ("hf/nobody/nothing", MissingWeights, "hf/nobody/nothing is not at hand"),
        ("hf/no/such/folder", MissingWeights, "name a repository of the hub"),
        ("sam2-nano", BadInput, "sam2-nano is no encoder of single pictures"),
        ("pe-coar-nano", UnknownModel, "did you mean pe-core-nano"),
    ],
)
def test_what_cannot_be_opened_says_so_in_one_sentence(
    name: str, kind: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(kind, match=said) as caught:
        open_backbone(name)
    assert "\n" not in str(caught.value)


def test_other_refusals() -> None:
    with pytest.raises(BadInput, match="brings its own"):
        open_backbone("timm/test_vit", weights="x.safetensors")
    with pytest.raises(BadInput, match="a model in hand must be of percepta, timm or torchvision"):
        open_backbone(nn.Linear(2, 2))
