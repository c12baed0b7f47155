"""Layers fitted to merged features: nearer to them than the zip, exact where they can be, and nothing else moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.merging import MultiHead, merge_models, plan_of, trace
from percepta.merging.least_squares import fit_layers, layers_of
from percepta.merging.statistics import look
from tests.merging.networks import apart, pair_of, pictures, settled, small_resnet


def features(network: nn.Module, blueprint: Any, spaces: list[str], x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        look(network.eval(), blueprint, spaces, x, lambda name, value: found.__setitem__(name, value))
    return found


def distances(method: str, models: list[Any], batches: list[Tensor]) -> dict[str, float]:
    """How far the merged network's features are from the means of the models', as a share of their variance."""
    plan = plan_of(models, batches[0][:2])
    merged = merge_models(models, batches, method, beta=0.5)
    spaces = list(merged.matchings)
    held_out = pictures(32, 16, seed=9)
    ours, *theirs = (features(one, plan.blueprint, spaces, held_out) for one in (trace(merged.model), *plan.networks))
    found = {}
    for name in spaces:
        target = torch.from_numpy(merged.matchings[name].merge()) @ torch.cat([one[name] for one in theirs])
        found[name] = float((target - ours[name]).square().mean() / target.var())
    return found


def test_features_come_nearer_to_the_merged_ones_also_on_other_pictures() -> None:
    models = [settled(small_resnet(seed), 16) for seed in range(2)]
    batches = list(pictures(96, 16).split(32))
    zipped, fitted = (distances(method, models, batches) for method in ("zipit", "least-squares"))
    assert all(fitted[name] < zipped[name] for name in zipped)
    assert sum(fitted.values()) < 0.6 * sum(zipped.values())


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_a_network_that_is_exact_already_stays(name: str) -> None:
    from tests.merging.test_zipping import NARROW

    make, size = NARROW[name]
    model, copy = pair_of(make, size)
    x = pictures(48, size)
    plan = plan_of([model, copy], x[:2])
    merged = merge_models([model, copy], [x], "permute", reset=False)
    with torch.no_grad():
        want = model(x)
        network = trace(merged.model)
        fit_layers(network, plan.networks, plan.blueprint, merged.matchings, [x])
        assert apart(network(x), want) < 1e-3


def test_a_trunk_is_fitted_and_its_heads_are_not() -> None:
    models = [settled(small_resnet(seed), 16) for seed in range(2)]
    merged = merge_models(models, [pictures(48, 16)], "least-squares", stop="layer2")
    assert isinstance(merged.model, MultiHead)
    assert torch.equal(merged.model.heads[1].state_dict()["layer3.0.conv1.weight"], models[1].layer3[0].conv1.weight)
    zipped = merge_models(models, [pictures(48, 16)], "zipit", stop="layer2")
    assert not torch.equal(*(one.model.trunk.state_dict()["conv1.weight"] for one in (merged, zipped)))


def test_which_layers_are_fitted() -> None:
    assert [layer.norm for layer in layers_of(trace(small_resnet()))][:2] == ["bn1", "layer1.0.bn1"]
    twice = nn.Linear(4, 4)
    assert layers_of(trace(nn.Sequential(twice, nn.ReLU(), twice))) == []
    assert layers_of(trace(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, padding="same")))) == []


def test_what_cannot_be_fitted_is_named() -> None:
    with pytest.raises(BadInput, match="ridge of least squares must be above 0"):
        fit_layers(trace(small_resnet()), [], plan_of([small_resnet()] * 2, pictures(2, 16)).blueprint, {}, [], ridge=0)
    import percepta

    tower = percepta.build("pe-spatial-nano", depth=1)
    with pytest.raises(BadInput, match="can be traced; VisionTower is not"):
        merge_models([tower, tower], [pictures(2, 32)], "least-squares")
