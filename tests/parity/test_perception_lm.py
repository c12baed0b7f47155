"""The Perception Language Model against transformers' port, small, on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import percepta
from percepta.models.perception_lm import GenerationSettings, MediaLayout, layouts, transformers_config
from tests.models.perception_lm_tiny import END, IMAGE, STOP, TEXT, TINY, VISION, chunks, prompt

transformers = pytest.importorskip("transformers")
VARIANTS: dict[str, dict[str, Any]] = {
    "tied, class token": TINY,
    "untied, no class token, no slow frequencies": {
        **TINY,
        "vision": VISION | {"class_token": False, "mlp_ratio": 5.8334},
        "text": TEXT | {"tied": False, "rope_scale": 1.0, "head_dim": 16, "kv_heads": 4},
    },
}


def peer_of(model: Any) -> Any:
    """transformers' model with the weights of ours."""
    config = transformers.PerceptionLMConfig(**transformers_config(model.config))
    peer = transformers.PerceptionLMForConditionalGeneration(config).eval()
    state = layouts(model.config)["transformers"].to_foreign(model.state_dict())
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("rotary" in name or "rope" in name for name in missing)
    return peer


@pytest.fixture(params=VARIANTS, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    torch.manual_seed(3)
    model = percepta.build("plm-1b", **VARIANTS[request.param]).eval()
    return model, peer_of(model)


@torch.no_grad()
def test_logits_are_equal(pair: tuple[Any, Any]) -> None:
    model, peer = pair
    tokens = torch.tensor([[1, *[IMAGE] * 8, 7, 8, 9], [5, 6, *[IMAGE] * 8, 3, 2]])
    marked = tokens == IMAGE
    layout = MediaLayout(torch.where(marked, marked.cumsum(dim=1) - 1, -1), (2, 2), ("image", "video"))
    pictures = chunks(4)
    got = model(tokens, pictures, layout)
    want = peer(input_ids=tokens, pixel_values=pictures[None]).logits
    assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())


@torch.no_grad()
def test_answers_are_equal(pair: tuple[Any, Any]) -> None:
    model, peer = pair
    asked = prompt([1, 2], 8, [7, 8])
    pictures = chunks(2, seed=4)
    (answer,) = model.generate([asked], [pictures], GenerationSettings(max_tokens=10))
    want = peer.generate(
        input_ids=torch.from_numpy(asked.tokens)[None],
        pixel_values=pictures[None],
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=[END, STOP],
        pad_token_id=END,
    )
    assert list(answer.tokens) == want[0, len(asked.tokens) :].tolist()


def test_a_folder_that_transformers_saved_opens(pair: tuple[Any, Any], tmp_path: Path) -> None:
    model, peer = pair
    peer.save_pretrained(tmp_path)
    variant = next(v for v in VARIANTS.values() if v["text"].get("tied", True) == model.config.text.tied)
    loaded = percepta.load("plm-1b", weights=tmp_path / "model.safetensors", **variant)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
