"""Token merging in the vision towers of transformers, and in whatever holds one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import percepta
from percepta.errors import BadInput
from percepta.speedups.adapters import adapter_for
from percepta.speedups.adapters.foreign import rotation_at
from percepta.speedups.adapters.transformers import frequencies, places_of

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {key: value for key, value in VISION.items() if key != "intermediate_size"}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**options))


def pair(model: str, config: str) -> Callable[[], nn.Module]:
    return make(model, config, vision_config=VISION, text_config=TEXT, projection_dim=16)


MODELS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "ViTModel": (1, make("ViTModel", "ViTConfig", **VISION)),
    "ViTForImageClassification": (1, make("ViTForImageClassification", "ViTConfig", **VISION, qkv_bias=False)),
    "DeiTModel": (2, make("DeiTModel", "DeiTConfig", **VISION)),
    "DeiTForImageClassificationWithTeacher": (2, make("DeiTForImageClassificationWithTeacher", "DeiTConfig", **VISION)),
    "ViTMSNForImageClassification": (1, make("ViTMSNForImageClassification", "ViTMSNConfig", **VISION)),
    "IJepaModel": (0, make("IJepaModel", "IJepaConfig", **VISION)),
    "CLIPVisionModel": (1, make("CLIPVisionModel", "CLIPVisionConfig", **VISION)),
    "CLIPVisionModelWithProjection": (1, make("CLIPVisionModelWithProjection", "CLIPVisionConfig", **VISION)),
    "CLIPForImageClassification": (1, pair("CLIPForImageClassification", "CLIPConfig")),
    "SiglipVisionModel": (0, make("SiglipVisionModel", "SiglipVisionConfig", **VISION)),
    "SiglipForImageClassification": (0, make("SiglipForImageClassification", "SiglipConfig", vision_config=VISION)),
    "Dinov2Model": (1, make("Dinov2Model", "Dinov2Config", **DINO, use_swiglu_ffn=True)),
    "Dinov2ForImageClassification": (1, make("Dinov2ForImageClassification", "Dinov2Config", **DINO)),
    "Dinov2WithRegistersModel": (5, make("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **DINO)),
    "DINOv3ViTModel": (5, make("DINOv3ViTModel", "DINOv3ViTConfig", **VISION, num_register_tokens=4)),
    "DINOv3ViTModel, gated": (
        2,
        make("DINOv3ViTModel", "DINOv3ViTConfig", **VISION, num_register_tokens=1, use_gated_mlp=True),
    ),
}


def built(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model with parameters that all matter."""
    torch.manual_seed(0)
    model = MODELS[name][1]().eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pictures(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def result(model: nn.Module, x: Tensor) -> Tensor:
    """What a model is used for: its first output."""
    with torch.no_grad():
        return model(pixel_values=x)[0]


@pytest.mark.parametrize("name", MODELS)
def test_fewer_tokens_and_back(name: str) -> None:
    model, x, prefix = built(name), pictures(), MODELS[name][0]
    plain, keys = result(model, x), list(model.state_dict())
    attributes = [set(vars(part)) for part in model.modules()]
    percepta.merge_tokens(model, r=0)
    assert [set(vars(part)) for part in model.modules()] == attributes
    assert torch.equal(result(model, x), plain)
    merged = percepta.merge_tokens(model, schedule=[3, 2, 2], last_block=True)
    with torch.no_grad():
        tokens = merged.trace(x)
    assert tokens.x.shape[1] == merged.tokens[-1] == 16 + prefix - 7
    assert torch.equal(tokens.size.sum(dim=1), torch.full((2,), 16.0 + prefix))
    assert tokens.size[:, :prefix].eq(1).all()
    assert list(model.state_dict()) == keys
    assert result(model, x).shape == plain.shape
    assert not torch.allclose(result(model, x), plain, atol=1e-5)
    merged.remove()
    assert [set(vars(part)) for part in model.modules()] == attributes
    assert torch.equal(result(model, x), plain)


def patterned(model: nn.Module) -> Tensor:
    """Pictures of 8 patches, each twice in a row, and no positions that could tell the two apart."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "position_embedding" in key:
                parameter.zero_()
    patches = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = patches.repeat_interleave(2, dim=2).unflatten(2, (4, 4))
    return grid.permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 32, 32)


@pytest.mark.parametrize("name", [name for name in MODELS if "v3" not in name])
def test_duplicates_are_lossless(name: str) -> None:
    model = built(name, torch.float64)
    x = patterned(model)
    plain = result(model, x)
    percepta.merge_tokens(model, schedule=[5], proportional=True)
    assert (result(model, x) - plain).abs().max() < 1e-5 * plain.abs().max()  # sums of a merge are float32
    percepta.merge_tokens(model, schedule=[5], proportional=False)
    assert (result(model, x) - plain).abs().max() > 1e-4 * plain.abs().max()


@pytest.mark.parametrize("name", ["ViTModel", "CLIPVisionModel", "SiglipVisionModel", "Dinov2Model", "DINOv3ViTModel"])
def test_hidden_states_are_at_their_places(name: str) -> None:
    model, x, prefix = built(name), pictures(), MODELS[name][0]
    with torch.no_grad():
        plain = model(x, output_hidden_states=True)
        merged = percepta.merge_tokens(model, schedule=[4, 3])
        tokens, output = merged.trace(x), model(x, output_hidden_states=True)
    assert [state.shape for state in output.hidden_states] == [(2, 16 + prefix, 32)] * 4
    assert torch.equal(output.hidden_states[0], plain.hidden_states[0])
    last = torch.stack([row[group] for row, group in zip(tokens.x, tokens.group)])
    torch.testing.assert_close(output.hidden_states[-1], last)
    distinct = [len(torch.unique(state[0].round(decimals=4), dim=0)) for state in output.hidden_states]
    assert distinct == [16 + prefix, 12 + prefix, 9 + prefix, 9 + prefix]


@pytest.mark.parametrize(
    ("model", "config"), [("Dinov2Backbone", "Dinov2Config"), ("DINOv3ViTBackbone", "DINOv3ViTConfig")]
)
def test_backbones_give_maps(model: str, config: str) -> None:
    backbone: Any = make(model, config, **DINO, out_features=["stage1", "stage3"])().eval()
    percepta.merge_tokens(backbone, r=2)
    with torch.no_grad():
        assert [entry.shape for entry in backbone(pictures()).feature_maps] == [(2, 32, 4, 4)] * 2


def test_both_towers_of_clip_and_siglip() -> None:
    for model, config in (("CLIPModel", "CLIPConfig"), ("SiglipModel", "SiglipConfig")):
        torch.manual_seed(0)
        options = {} if model == "SiglipModel" else {"projection_dim": 16}
        both: Any = make(model, config, vision_config=VISION, text_config=TEXT, **options)().eval()
        words, x = torch.tensor([[1, 5, 2]]), pictures()
        with torch.no_grad():
            plain = both(input_ids=words, pixel_values=x)
            percepta.merge_tokens(both, r=3)
            merged = both(input_ids=words, pixel_values=x)
        assert torch.equal(plain.text_embeds, merged.text_embeds)
        assert not torch.equal(plain.image_embeds, merged.image_embeds)
        assert torch.nn.functional.cosine_similarity(plain.image_embeds, merged.image_embeds).min() > 0.5


def test_masked_autoencoders() -> None:
    model = make("ViTMAEModel", "ViTMAEConfig", **VISION, mask_ratio=0.0)().eval()
    merged = percepta.merge_tokens(model, r=2)
    assert not merged.proportional
    with torch.no_grad():
        assert merged.trace(pictures()).bias is None
        assert merged.trace(pictures()).x.shape[1] == 11


@pytest.mark.parametrize("name", [pytest.param("ViTForImageClassification", marks=pytest.mark.slow), "DINOv3ViTModel"])
def test_compiles_whole_and_follows_copies(name: str) -> None:
    model, x = built(name), pictures()
    merged = percepta.merge_tokens(model, r=2)
    wanted = result(model, x)
    torch.testing.assert_close(result(torch.compile(model, fullgraph=True, backend="eager"), x), wanted)
    twin = copy.deepcopy(model)
    merged.remove()
    assert torch.equal(result(twin, x), wanted)
    assert not torch.equal(result(model, x), wanted)


@pytest.mark.parametrize("name", ["ViTModel", "SiglipVisionModel", "Dinov2Model"])
def test_gradients_with_checkpoints_are_the_same(name: str) -> None:
    model, x = built(name).train(), pictures()
    percepta.merge_tokens(model, r=3)
    found = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(x).last_hidden_state.square().sum().backward()
        found.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][key], found[1][key], rtol=1e-3, atol=1e-4) for key in found[0])
    assert sum(float(gradient.abs().sum()) for key, gradient in found[0].items() if "q_proj" in key) > 0


def test_places_of_dinov3() -> None:
    """Known from the rotation alone, also when training has moved them."""
    model: Any = built("DINOv3ViTModel")
    for rope in (model.rope_embeddings.eval(), model.rope_embeddings.train()):
        cosine, sine = rope(torch.zeros(1, 3, 24, 40))
        turns = frequencies(model.config, 16, torch.device("cpu"))
        places = places_of(cosine, sine, turns)
        found = rotation_at(places[None], turns, 0, half=True)
        torch.testing.assert_close(found.cosine[0, 0], cosine, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.sine[0, 0], sine, rtol=0, atol=1e-5)
        assert places.shape == (15, 2)
    percepta.merge_tokens(model, r=2)
    model.train()(pictures()).last_hidden_state.sum().backward()


def test_other_sizes() -> None:
    model = built("ViTModel")
    merged = percepta.merge_tokens(model, r=2)
    with torch.no_grad():
        assert merged.trace(pictures(48)).x.shape[1] == 37 - 6
        output = model(pictures(48), interpolate_pos_encoding=True)
    assert output.last_hidden_state.shape == (2, 37, 32)


def test_costs_are_counted() -> None:
    config = transformers.ViTConfig()
    config.num_hidden_layers, layers = 1, 12
    shape = adapter_for(transformers.ViTForImageClassification(config)).shape()
    total = shape.start + layers * shape.layers([0])[0]
    assert total / 1e9 == pytest.approx(17.56, abs=0.03)  # ViT-B/16 at 224 of the sheet
    assert not adapter_for(built("ViTForImageClassification")).last_block_matters
    assert adapter_for(built("Dinov2ForImageClassification")).last_block_matters


@pytest.mark.parametrize(
    ("make_model", "reason"),
    [
        (make("CLIPTextModel", "CLIPTextConfig", **TEXT), "causal order"),
        (make("SiglipTextModel", "SiglipTextConfig", **TEXT), "causal order"),
        (make("BertModel", "BertConfig", **TEXT), "causal order"),
        (make("BeitModel", "BeitConfig", **VISION), "BeitLayer"),
        (
            make("SwinModel", "SwinConfig", image_size=32, patch_size=4, embed_dim=8, depths=[1], num_heads=[2]),
            "SwinLayer",
        ),
        (make("VivitModel", "VivitConfig", **VISION), "VivitLayer"),
        (make("ViTMAEForPreTraining", "ViTMAEConfig", **VISION, decoder_hidden_size=32), "has 2"),
    ],
)
def test_refusals(make_model: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        percepta.merge_tokens(make_model(), r=2)


@pytest.mark.parametrize("change", ["layer", "attention"])
def test_what_changed_in_transformers_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = built("ViTModel")
    kind = type(model.layers[0] if change == "layer" else model.layers[0].attention)
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x, *args, **named: own(self, 1.01 * x, *args, **named))
    with pytest.raises(BadInput, match="differ"):
        percepta.merge_tokens(model, r=2)
    assert "forward" not in vars(model.layers[0])


def test_masks_and_attention_maps_are_refused_while_merging() -> None:
    model, x = built("ViTModel"), pictures()
    percepta.merge_tokens(model, r=2)
    with pytest.raises(BadInput, match="attention maps"):
        model(x, output_attentions=True)
    hook = model.layers[1].attention.register_forward_hook(lambda *_: None)
    with pytest.raises(BadInput, match="hook"):
        model(x)
    hook.remove()
    with pytest.raises(BadInput, match="masks"):
        model.layers[0](torch.zeros(1, 3, 32), torch.zeros(1, 1, 3, 3))
    other = built("ViTModel")
    other.layers[0].forward = lambda *_: None
    with pytest.raises(BadInput, match="replaced"):
        percepta.merge_tokens(other, r=2)
