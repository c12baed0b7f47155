"""What the verbs make of a model: by name, with weights, or in hand and left as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import percepta
from percepta.errors import BadInput
from percepta.tasks.encoder import Encoder
from tests.tasks import nano


def test_a_model_in_hand_is_left_as_it_is() -> None:
    model = percepta.build("pe-core-nano")
    model.train()
    model.vision.eval()  # a mixture, as in fine-tuning with a frozen tower
    before = [module.training for module in model.modules()]
    red = Image.new("RGB", (20, 20), "red")
    (labels,) = percepta.classify(red, ["a cat", "a dog"], model)
    assert [module.training for module in model.modules()] == before
    assert next(percepta.features(red, 0, model).__iter__())
    assert [module.training for module in model.modules()] == before
    assert next(model.parameters()).requires_grad
    model.eval()
    assert labels.scores.tolist() == next(iter(percepta.classify(red, ["a cat", "a dog"], model))).scores.tolist()


def test_a_model_in_hand_is_not_moved_or_filled(tmp_path: Path) -> None:
    model = nano.model()
    assert Encoder(model, "cpu", "float32").model is model
    with pytest.raises(BadInput, match="a model in hand stays where it is"):
        Encoder(model, dtype=torch.bfloat16)
    with pytest.raises(BadInput, match="a model in hand stays where it is"):
        Encoder(model, device="meta")
    with pytest.raises(BadInput, match="weights must be None for a model in hand"):
        percepta.embed("x.jpg", model, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Linear(2, 2), r"a model in hand must come from percepta\.load or percepta\.build; got Linear\."),
        (123, r"a model must be a name, a file or a loaded model; got 123\."),
        ("", r"a model must be a name, a file or a loaded model; got ''\."),
        (percepta.build("pe-core-nano", device="meta"), "pe-core-nano is on the meta device, where it has no weights"),
    ],
    ids=["a module of somebody else", "a number", "nothing", "without weights"],
)
def test_what_is_no_model(model: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        percepta.embed(Image.new("RGB", (8, 8)), model)


def test_a_device_that_is_not_here() -> None:
    for device in ("cuda:99", "quantum", 3.5):
        with pytest.raises(BadInput, match=r"device must be one of cpu.* on this machine; got "):
            Encoder("pe-core-nano", device=device)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="is on the meta device"):
        Encoder("pe-core-nano", device="meta")


def test_weights_for_a_name(tmp_path: Path) -> None:
    red = Image.new("RGB", (20, 20), "red")
    (given,) = percepta.embed(red, "pe-core-nano", weights=nano.weights(tmp_path))
    (held,) = percepta.embed(red, nano.model())
    assert given.cosine(held) > 0.999


def test_labels_must_be_texts() -> None:
    with pytest.raises(BadInput, match="labels must be texts"):
        percepta.classify(Image.new("RGB", (8, 8)), None, nano.model())  # type: ignore[arg-type]
