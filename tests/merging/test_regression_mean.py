"""RegMean: it is least squares, its Grams are those of what layers read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as vision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import percepta
from percepta.checkpoints import write_safetensors
from percepta.errors import BadInput
from percepta.merging import average_states, input_grams, regmean

SMALL = settings(max_examples=25, deadline=None)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make().double().eval()


@given(seed=st.integers(0, 10**6), models=st.integers(2, 4))
@SMALL
def test_it_is_least_squares_on_the_joint_data(seed: int, models: int) -> None:
    inputs = [draw(seed + number, 40, 6) for number in range(models)]
    weights = [draw(seed + 10 + number, 3, 6) for number in range(models)]
    targets = [x @ w.T for x, w in zip(inputs, weights, strict=True)]
    wanted = np.linalg.lstsq(torch.cat(inputs).numpy(), torch.cat(targets).numpy(), rcond=None)[0].T
    grams = [{"w": x.T @ x / len(x)} for x in inputs]
    found = regmean([{"w": w} for w in weights], grams, non_diagonal=1)["w"]
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-9, atol=1e-9)

    def error(weight: Tensor) -> float:
        return sum(float((x @ weight.T - y).square().sum()) for x, y in zip(inputs, targets, strict=True))

    least = error(found)
    assert least <= error(sum(weights, start=torch.zeros(3, 6, dtype=torch.float64)) / models)
    assert all(least <= error(found + 0.01 * draw(seed + 20 + number, 3, 6)) for number in range(5))


def test_off_diagonals_are_scaled() -> None:
    grams = [draw(seed, 8, 4).T @ draw(seed, 8, 4) for seed in (0, 1)]
    weights = [draw(seed, 3, 4) for seed in (2, 3)]
    states, given_grams = [{"w": weight} for weight in weights], [{"w": gram} for gram in grams]
    scaled = [0.9 * gram + 0.1 * gram.diagonal().diag() for gram in grams]
    wanted = torch.linalg.inv(sum(scaled)) @ sum(g @ w.T for g, w in zip(scaled, weights, strict=True))
    torch.testing.assert_close(regmean(states, given_grams)["w"], wanted.T)
    strength = torch.stack([gram.diagonal() for gram in grams])
    mean = sum(s * w for s, w in zip(strength, weights, strict=True)) / strength.sum(0)
    torch.testing.assert_close(regmean(states, given_grams, non_diagonal=0)["w"], mean)


def test_inputs_that_nobody_saw_keep_the_mean() -> None:
    x = draw(0, 20, 5)
    x[:, 3] = 0
    x[:, 4] = x[:, 0]  # a direction that is hidden: the difference of the two
    states = [{"w": draw(seed, 2, 5)} for seed in (1, 2)]
    found, mean = (
        merge["w"] for merge in (regmean(states, [{"w": x.T @ x}, {"w": 2 * x.T @ x}], 1), average_states(states))
    )
    torch.testing.assert_close(found[:, 3], mean[:, 3])
    torch.testing.assert_close(found[:, 4] - found[:, 0], mean[:, 4] - mean[:, 0])
    wanted = (states[0]["w"] + 2 * states[1]["w"]) / 3
    torch.testing.assert_close(x @ found.T, x @ wanted.T)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 4), (7, 3, 5)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 8)),
    "same": (lambda: nn.Conv2d(2, 3, 4, padding="same"), (2, 2, 6, 6)),
    "dilated": (lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=(2, 1)), (2, 2, 7, 9)),
    "reflecting": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 6, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 6, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 5)),
    "one axis": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 11)),
    "patches": (lambda: nn.Conv2d(3, 5, 4, stride=4), (2, 3, 8, 12)),
}


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_nearest_for_every_kind_of_layer(name: str) -> None:
    """The sum of squared differences of outputs, biases aside, has no slope at what is found."""
    make, shape = LAYERS[name]
    models, inputs = [layer(make, seed) for seed in (0, 1)], [draw(seed + 5, *shape) for seed in (0, 1)]
    grams = [input_grams(model, [x]) for model, x in zip(models, inputs, strict=True)]
    merged = layer(make, 2)
    merged.load_state_dict(regmean([model.state_dict() for model in models], grams, non_diagonal=1))
    loss = torch.zeros((), dtype=torch.float64)
    for model, x in zip(models, inputs, strict=True):
        bias = model.bias.detach()
        with torch.no_grad():
            model.bias.zero_()
            wanted = model(x)
            model.bias.copy_(bias)
        merged.bias.data.zero_()
        loss = loss + (merged(x) - wanted).square().sum()
    (slope,) = torch.autograd.grad(loss, merged.weight)
    assert float(slope.abs().max()) < 1e-9 * float(loss.detach().clamp(min=1))


def test_grams_add_up_over_batches_and_leave_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(10, 4)
    found = input_grams(model, [(x[:3], "labels"), (x[3:], "labels")])
    assert sorted(found) == ["0.weight", "4.weight"]
    torch.testing.assert_close(found["0.weight"], x.T @ x / 10)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True, True]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not found["4.weight"].requires_grad
    assert list(input_grams(model, [x], keys=["4.weight"])) == ["4.weight"]


def test_networks_merge_better_than_by_the_mean() -> None:
    """Two tunes of one network, each on pictures of its own: outputs stay nearer to each on its own data."""
    torch.manual_seed(0)
    model = percepta.build("pe-spatial-nano", depth=2).eval()
    base = {key: value.clone() for key, value in model.state_dict().items()}
    tunes = [
        {key: value + 0.05 * torch.randn_like(value) * value.std(correction=0) for key, value in base.items()}
        for _ in range(2)
    ]
    pictures = [torch.randn(8, 3, 64, 64) * 0.1 + torch.randn(1, 3, 64, 64) for _ in tunes]
    wanted, grams = [], []
    for tune, x in zip(tunes, pictures, strict=True):
        model.load_state_dict(tune)
        with torch.no_grad():
            wanted.append(model(x))
        grams.append(input_grams(model, [x]))
    assert any(key.endswith("qkv.weight") for key in grams[0])

    def error(state: dict[str, Tensor]) -> float:
        model.load_state_dict(state)
        with torch.no_grad():
            return sum(float((model(x) - y).square().mean()) for x, y in zip(pictures, wanted, strict=True))

    assert error(regmean(tunes, grams)) < 0.8 * error(average_states(tunes))


def test_attention_of_torch_shows_its_joint_projection() -> None:
    model = vision.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3).eval()
    found = input_grams(model, [torch.randn(2, 3, 16, 16)])
    assert found["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"].shape == (8, 8)
    assert found["conv_proj.weight"].shape == (192, 192)
    assert not any("out_proj" in key for key in found), "torch does not call it"


def test_grams_are_read_from_files(tmp_path: Path) -> None:
    states = [{"w": draw(seed, 3, 4)} for seed in (0, 1)]
    grams = [{"w": draw(seed, 9, 4).T @ draw(seed, 9, 4)} for seed in (2, 3)]
    for number, gram in enumerate(grams):
        write_safetensors(tmp_path / f"{number}.safetensors", gram)
    found = regmean(states, [tmp_path / "0.safetensors", tmp_path / "1.safetensors"])
    assert torch.equal(found["w"], regmean(states, grams)["w"])


STATES: list[Any] = [{"w": draw(seed, 3, 4)} for seed in (0, 1)]
EYE = {"w": torch.eye(4)}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "too few": (lambda: regmean(STATES, [EYE]), "Grams of each of the 2 models, in a list; got 1"),
    "no list": (lambda: regmean(STATES, EYE), "in a list; got 1"),  # type: ignore[arg-type]
    "missing": (lambda: regmean(STATES, [EYE, {}]), "the Grams of model 2 have no w"),
    "foreign": (lambda: regmean(STATES, [EYE | {"v": torch.eye(2)}] * 2), "the models have no v"),
    "shape": (lambda: regmean(STATES, [{"w": torch.eye(3)}] * 2), r"the Gram of w is \(3, 3\)"),
    "nan": (lambda: regmean(STATES, [EYE, {"w": torch.full((4, 4), torch.nan)}]), "the Gram of w holds NaN"),
    "range": (lambda: regmean(STATES, [EYE, EYE], 1.5), "non_diagonal of regmean must be from 0 to 1"),
    "no batch": (lambda: input_grams(nn.Linear(2, 2), []), "got no batch"),
    "keys": (lambda: input_grams(nn.Linear(2, 2), [torch.ones(1, 2)], ["bias"]), "bias is none"),
    "inputs": (lambda: input_grams(nn.Linear(2, 2), [torch.full((1, 2), torch.nan)]), "the inputs of weight hold NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises(BadInput, match=words):
        call()
