"""Whole networks: permuted copies merge to the original, partial zips, three models, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision.models as vision
from torch import nn

import percepta
from percepta.errors import BadInput
from percepta.merging import MultiHead, covariances, cuts_of, merge_models, plan_of, trace
from tests.merging.networks import apart, lively, pair_of, pictures, small_resnet


def narrow_vgg() -> nn.Module:
    """Convolutions and pools in a row, then linear layers over the flattened map."""
    features = vision.vgg.make_layers([8, "M", 12, 12, "M"], batch_norm=True)
    head = nn.Sequential(nn.Linear(12 * 4 * 4, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 5))
    return nn.Sequential(features, nn.Flatten(), head)


NARROW = {
    "resnet": (lambda: percepta.build("resnet20", widths=(8, 12, 16)), 16),
    "resnet18": (lambda: vision.ResNet(vision.resnet.BasicBlock, [1, 1, 1, 1], 5, width_per_group=64), 32),
    "vgg": (lambda: narrow_vgg(), 16),
    "densenet": (lambda: vision.DenseNet(8, (2, 2), 16, num_classes=5), 32),
    "mobilenet_v2": (lambda: vision.mobilenet_v2(width_mult=0.1, num_classes=5), 32),
    "mobilenet_v3": (lambda: vision.mobilenet_v3_small(width_mult=0.25, num_classes=5), 32),
    "resnext": (lambda: vision.ResNet(vision.resnet.Bottleneck, [1, 1, 1, 1], 5, groups=4, width_per_group=4), 32),
    "squeezenet": (lambda: vision.squeezenet1_1(num_classes=5), 64),
    "convnext": (
        lambda: timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
        48,
    ),
    "vit": (lambda: vision.VisionTransformer(32, 8, 2, 3, 48, 96, num_classes=5), 32),
    "timm_vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5),
        32,
    ),
    "pe-core-nano": (lambda: percepta.load("pe-core-nano").vision, 64),
    "pe-spatial-nano": (lambda: percepta.build("pe-spatial-nano", depth=2), 32),
    "hiera-nano": (lambda: percepta.load("hiera-nano"), 32),
}


def output(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result = model(x)
    return result if isinstance(result, torch.Tensor) else result[0]


DEAD = ("vgg", "mobilenet_v3", "squeezenet")
"""Networks that have dead units without norms or behind squeezed ones; zip finds other partners for these."""


FEW = ("pe-core-nano",)
"""Networks whose pooled vector, one a picture, leaves too few values to tell hundreds of units apart."""


@pytest.mark.parametrize("name", [name for name in NARROW if name not in FEW])
def test_a_permuted_copy_merges_to_the_original(name: str) -> None:
    make, size = NARROW[name]
    model, copy = pair_of(make, size)
    x = pictures(24, size)
    want = output(model, x)
    assert apart(output(copy, x), want) < 2e-5
    for method in ("permute", *(() if name in DEAD else ("zipit",))):
        merged = merge_models([model, copy], [x[:16], x[16:]], method, beta=0.0, reset=False)
        assert apart(output(merged.model, x), want) < 2e-5
        assert name in DEAD or min(merged.correlations.values()) > 0.999
    averaged = merge_models([model, copy], [x], "average", reset=False)
    assert apart(output(averaged.model, x), want) > 1e-3


@pytest.mark.parametrize("name", ["resnet", "vgg", "densenet", "convnext", "vit", "pe-core-nano", "hiera-nano"])
def test_weights_alone_find_the_permutation(name: str) -> None:
    make, size = NARROW[name]
    model, copy = pair_of(make, size)
    x = pictures(4, size)
    assert apart(output(copy, x), output(model, x)) < 2e-5
    merged = merge_models([model, copy], [x], "weights", reset=False)
    assert apart(output(merged.model, x), output(model, x)) < 2e-5


def test_zip_without_data_zips_by_correlations_of_weights() -> None:
    model, copy = pair_of(*NARROW["resnet"])
    x = pictures(8, 16)
    merged = merge_models([model, copy], [x], "zipit", beta=0.0, reset=False, statistics="weights")
    assert apart(output(merged.model, x), output(model, x)) < 2e-5


def test_three_models_and_their_mean() -> None:
    models = [small_resnet(seed) for seed in range(3)]
    x = pictures(32, 16)
    for method in ("zipit", "permute", "least-squares"):
        merged = merge_models(models, [x], method)
        assert output(merged.model, x).isfinite().all()
        assert all(matching.models == 3 for matching in merged.matchings.values())
    state = merge_models(models, [x], "average", reset=False).model.state_dict()
    states = [model.state_dict() for model in models]
    for key, value in state.items():
        assert torch.allclose(value.double(), sum(one[key].double() for one in states) / 3, atol=1e-6), key


def test_a_merged_network_is_of_its_models_class_and_they_are_untouched(tmp_path: Path) -> None:
    first, second = small_resnet(0), small_resnet(1)
    before = {key: value.clone() for key, value in first.state_dict().items()}
    merged = merge_models([first, second], [pictures(16, 16)])
    assert type(merged.model) is type(first)
    assert all(torch.equal(value, before[key]) for key, value in first.state_dict().items())
    percepta.save(merged.model, tmp_path / "both.safetensors")
    again = percepta.load(tmp_path / "both.safetensors")
    assert apart(output(again, pictures(2, 16)), output(merged.model, pictures(2, 16))) < 1e-6


# Partial zips


@pytest.mark.parametrize("stop", ["layer1", "layer2", 0.9])
def test_heads_of_a_partial_zip_of_copies_are_the_original(stop: str | float) -> None:
    model, copy = pair_of(*NARROW["resnet"])
    x = pictures(24, 16)
    merged = merge_models([model, copy], [x], beta=0.0, stop=stop, reset=False)
    assert isinstance(merged.model, MultiHead)
    for head in merged.model.eval()(x):
        assert apart(head, output(model, x)) < 2e-5


def test_any_cut_will_do_also_inside_of_a_stage_and_behind_a_join() -> None:
    for name in ("resnet", "vgg", "densenet", "timm_vit"):
        make, size = NARROW[name]
        model, copy = pair_of(make, size)
        x = pictures(24, size)
        cuts = cuts_of(trace(model))
        assert cuts
        for cut in cuts[:: max(1, len(cuts) // 3)]:
            merged = merge_models([model, copy], [x], "permute", stop=cut.node, reset=False)
            assert apart(merged.model(x)[1], output(model, x)) < 2e-5, (name, cut.name)


def test_cuts_of_the_residual_network_are_those_of_the_paper() -> None:
    cuts = {cut.name: cut for cut in cuts_of(trace(percepta.build("resnet20")))}
    layers = 3 + 2 * 9  # the stem, two a block, two shortcuts; the head is behind every cut
    assert [round(cuts[name].share * (layers + 1)) for name in ("layer1", "layer2", "layer3")] == [7, 14, 21]


def test_heads_of_different_classes_stay_apart() -> None:
    first, second = small_resnet(0, classes=5), small_resnet(1, classes=7)
    x = pictures(16, 16)
    with pytest.raises(BadInput, match=r"linear.weight of the first and of model 2 are \(5, 16\) and \(7, 16\)"):
        merge_models([first, second], [x])
    merged = merge_models([first, second], [x], stop=1.0)
    assert [head.shape for head in merged.model(x)] == [(16, 5), (16, 7)]
    merged.model.joined = True
    assert merged.model(x).shape == (16, 12)


def test_an_untouched_head_behind_the_trunk_of_a_permuted_model() -> None:
    first, second = small_resnet(0), small_resnet(1)
    plan = plan_of([first, second], pictures(2, 16), "layer2")
    assert all(not key.startswith("layer3") for key in plan.blueprint.rules)
    merged = merge_models([first, second], [pictures(16, 16)], stop="layer2")
    kept = merged.model.heads[1].state_dict()
    assert torch.equal(kept["layer3.0.conv1.weight"], second.state_dict()["layer3.0.conv1.weight"])


# What is refused


def test_what_cannot_be_merged_is_named() -> None:
    x = pictures(4, 16)
    one = small_resnet()
    with pytest.raises(BadInput, match="at least two models; got 1"):
        merge_models([one], [x])
    with pytest.raises(BadInput, match="got no batch"):
        merge_models([one, one], [])
    with pytest.raises(BadInput, match=r"layer1.1.conv1|differ at"):
        merge_models([one, small_resnet(stages=(2, 1, 1))], [x])
    with pytest.raises(BadInput, match=r"conv1.weight of the first and of model 2 are"):
        merge_models([one, small_resnet(widths=(8, 12, 20))], [x])
    with pytest.raises(BadInput, match=r"method of merging must be one of .*did you mean 'permute'"):
        merge_models([one, one], [x], "permut")
    with pytest.raises(BadInput, match=r"where one tensor passes, .*did you mean 'layer2'"):
        merge_models([one, one], [x], stop="layer22")
    with pytest.raises(BadInput, match="share of the layers above 0"):
        merge_models([one, one], [x], stop=1.5)


class Branching(nn.Module):
    """Its path depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Looks at a value."""
        return self.conv(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_or_followed_is_named_with_the_way_out() -> None:
    x = pictures(4, 32)
    with pytest.raises(BadInput, match=r"Branching cannot be traced.*torch.fx.wrap"):
        merge_models([Branching(), Branching()], [x])
    shuffle = lively(vision.shufflenet_v2_x0_5(num_classes=5))
    with pytest.raises(BadInput, match=r"followed through .* of stage2.*Stop the zip before it"):
        merge_models([shuffle, shuffle], [x])
    merged = merge_models([shuffle, shuffle], [x], "permute", stop="maxpool", reset=False)
    assert apart(merged.model(x)[0], output(shuffle, x)) < 2e-5


def test_statistics_in_several_passes_are_those_of_one() -> None:
    models = [small_resnet(0), small_resnet(1)]
    batches = list(pictures(24, 16).split(8))
    plan = plan_of(models, batches[0][:2])
    whole = covariances(plan.networks, plan.blueprint, batches)
    parts = covariances(plan.networks, plan.blueprint, batches, memory=6000)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(BadInput, match="gone through only once"):
        covariances(plan.networks, plan.blueprint, iter(batches), memory=6000)


def test_merged_features_are_the_means_of_their_groups() -> None:
    first, second = small_resnet(0), small_resnet(1)
    x = pictures(32, 16)
    merged = merge_models([first, second], [x], stop="layer1", reset=False)
    trunk = merged.model.trunk
    weight, bases = trunk.state_dict()["conv1.weight"], [first.conv1.weight, second.conv1.weight]
    (axis,) = (one for one in merged.blueprint.rules["conv1.weight"].axes if one.writes)
    groups = merged.matchings[axis.parts[0].space].groups
    for number in range(len(weight)):
        members = torch.cat([base[torch.from_numpy(row == number)] for base, row in zip(bases, groups, strict=True)])
        assert torch.allclose(weight[number], members.sum(0) / len(members), atol=1e-6)
