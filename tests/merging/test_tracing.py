"""How features are followed through single operations: which axes of which weights count in one space."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision.models as vision
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.merging import Blueprint, blueprint_of, trace


def followed(model: nn.Module, *shape: int) -> Blueprint:
    return blueprint_of(trace(model.eval()), torch.randn(*shape))


def spaces(blueprint: Blueprint, key: str, writes: bool) -> list[str]:
    """The spaces of the axis of a weight that writes, or reads."""
    (axis,) = (one for one in blueprint.rules[key].axes if one.writes is writes)
    return [part.space for part in axis.parts]


class Function(nn.Module):
    """Three convolutions and a function that joins them."""

    def __init__(self, join: Any, widths: tuple[int, int] = (4, 4), groups: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, widths[0], 1), nn.Conv2d(3, widths[1], 1)
        self.norm = nn.BatchNorm2d(sum(widths))
        self.scale = nn.Parameter(torch.ones(widths[0], 1, 1))
        self.last = nn.Conv2d(widths[0], 6, 1, groups=groups)
        self.wide = nn.Conv2d(sum(widths), 6, 1)
        self.linear = nn.Linear(6, 2)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        """Whatever `join` makes of it."""
        return self.join(self, x)


def test_a_sum_makes_one_space_of_two() -> None:
    found = followed(Function(lambda m, x: m.last(torch.relu(m.first(x) + m.second(x)))), 2, 3, 5, 5)
    assert spaces(found, "first.weight", True) == spaces(found, "second.weight", True)
    assert spaces(found, "last.weight", False) == spaces(found, "first.weight", True)
    assert found.spaces["last"].kind == "fixed"
    assert found.spaces["x"].kind == "fixed"


def test_a_product_and_a_scale_do_too() -> None:
    found = followed(Function(lambda m, x: m.last(m.first(x) * torch.sigmoid(m.second(x)) * m.scale)), 2, 3, 5, 5)
    assert spaces(found, "first.weight", True) == spaces(found, "scale", True) == spaces(found, "second.bias", True)


def test_what_is_put_side_by_side_keeps_its_spaces_and_a_norm_spans_them() -> None:
    model = Function(lambda m, x: m.wide(m.norm(torch.cat([m.first(x), m.second(x)], dim=1))), (4, 6))
    found = followed(model, 2, 3, 5, 5)
    assert spaces(found, "norm.running_var", True) == spaces(found, "wide.weight", False) == ["first", "second"]
    assert [found.spaces[name].size for name in spaces(found, "norm.weight", True)] == [4, 6]


def test_a_flattened_map_repeats_each_feature() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    found = followed(model, 2, 3, 4, 4)
    (axis,) = (one for one in found.rules["3.weight"].axes if not one.writes)
    assert [(part.space, part.repeat) for part in axis.parts] == [("0", 4)]


def test_views_and_moved_axes() -> None:
    def join(m: Any, x: Tensor) -> Tensor:
        tokens = m.last(m.first(x)).flatten(2).transpose(1, 2)
        return m.linear(tokens.reshape(-1, 6).unsqueeze(0).squeeze(0)[None, :, :][0])

    found = followed(Function(join), 2, 3, 5, 5)
    assert spaces(found, "linear.weight", False) == ["last"]


def test_depthwise_convolutions_stay_in_a_space_and_groups_become_its_blocks() -> None:
    depthwise = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    found = followed(depthwise, 2, 3, 5, 5)
    assert spaces(found, "1.weight", True) == ["0"]
    assert len(found.rules["1.weight"].axes) == 1
    grouped = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 2, 1))
    found = followed(grouped, 2, 3, 5, 5)
    assert found.rules["1.weight"].groups == 4
    assert found.spaces["0"].blocks == found.spaces["1"].blocks == 4
    assert found.spaces["0"].family == found.spaces["1"].family != ""


def test_norms_limit_what_may_happen() -> None:
    found = followed(nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)), 2, 3)
    assert found.spaces["0"].normed
    found = followed(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)), 2, 3, 4, 4)
    assert found.spaces["0"].blocks == 2
    found = followed(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), 2, 3)
    assert not found.spaces["0"].normed


def test_features_are_seen_last_but_before_places_are_pooled() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert followed(model, 2, 3, 5, 5).taps["0"].place == "_1"


@pytest.mark.parametrize(
    ("join", "said"),
    [
        (lambda m, x: m.last(m.first(x).flip(1)), "flip.*not known"),
        (lambda m, x: m.last(m.first(x)[:, [0, 2, 1, 3]]), "not made of numbers and slices"),
        (lambda m, x: m.last(m.first(x)[:, :2].repeat(1, 2, 1, 1)), "takes some of the features"),
        (lambda m, x: m.first(x).mean(1), "averages over the features"),
        (lambda m, x: m.first(x).unflatten(1, (2, 2)).flatten(2), "features are split"),
        (lambda m, x: m.linear(m.first(x).flatten(2)[..., :6]), "not the features"),
        (lambda m, x: torch.cat([m.first(x), m.scale.expand(2, -1, 4, 4)], 1), "parameters are put beside"),
        (lambda m, x: m.first(x).transpose(1, 2) + m.second(x).transpose(1, 3), "different axes"),
    ],
)
def test_what_cannot_be_followed_is_named(join: Any, said: str) -> None:
    with pytest.raises(BadInput, match=f"features cannot be followed through .*{said}.*Stop the zip before it"):
        followed(Function(join), 2, 3, 4, 4)


FOLLOWED = {
    "torchvision/alexnet": 96,
    "torchvision/efficientnet_b0": 64,
    "torchvision/regnet_y_400mf": 64,
    "torchvision/mnasnet0_5": 64,
    "torchvision/googlenet": 96,
    "torchvision/inception_v3": 128,
}
REFUSED = ("timm/swin_tiny_patch4_window7_224", "timm/eva02_tiny_patch14_224", "timm/mixer_s16_224")


def shapes_alone(name: str) -> nn.Module:
    library, _, plain = name.partition("/")
    with torch.device("cpu" if "regnet" in plain else "meta"):  # that one computes its widths with tensors
        made = timm.create_model(plain) if library == "timm" else vision.get_model(plain, weights=None)
    return made.to("meta").eval()


@pytest.mark.parametrize("name", FOLLOWED)
def test_further_architectures_that_the_page_names_are_followed(name: str) -> None:
    model = shapes_alone(name)
    found = blueprint_of(trace(model), torch.empty(2, 3, FOLLOWED[name], FOLLOWED[name], device="meta"))
    unsaid = {key for key, value in model.state_dict().items() if value.ndim and key not in found.rules}
    assert not [key for key in unsaid if not key.lower().startswith("aux")]  # what evaluation never runs


@pytest.mark.parametrize("name", REFUSED)
def test_those_that_it_says_are_refused_are(name: str) -> None:
    with pytest.raises(BadInput, match="features cannot be followed through"):
        blueprint_of(trace(shapes_alone(name)), torch.empty(2, 3, 224, 224, device="meta"))
