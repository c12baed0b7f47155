"""ZipIt!'s goldens: matchings of seeded features, and merged networks, through the public interface."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import percepta
from percepta import merging
from percepta.merging.matching import PUBLISHED_EPSILON
from tests.exactness.golden import Golden, cut, seeded, seeded_state


def check(golden: Golden, name: str, got: Any) -> None:
    """Compare one result with the array of its call."""
    want, rules = golden.arrays[name], golden.content["tolerance"]
    got = np.asarray(got.detach().numpy() if isinstance(got, Tensor) else got)
    patterns = rules["per_array"].items()
    rule = next((rule for pattern, rule in patterns if fnmatch.fnmatchcase(name, pattern)), rules["default"])
    assert got.shape == want.shape, name
    worst = float(np.abs(got.astype(np.float64) - want).max())
    limit = rule["atol"] + rule["rtol_of_max"] * float(np.abs(want).max())
    assert worst <= limit, f"{name}: differs by {worst:.2e}, allowed {limit:.2e}"


def matcher_of(name: str, alpha: float | None = None, beta: float | None = None) -> Callable[..., merging.Matching]:
    """A matcher as the published code has it."""
    if name == "zip":
        return partial(merging.zip_features, alpha=alpha, beta=beta, legacy=True)
    return merging.MATCHERS[name]


# Matchings


def matching(golden: Golden) -> None:
    inputs = golden.content["inputs"]
    models = [_mixed(spec) for spec in inputs["features"]]
    covariance = merging.Covariance(inputs["dim"] * inputs["num_models"])
    for block in torch.from_numpy(np.concatenate(models)).chunk(inputs["chunks"], dim=1):
        covariance.update(block, block.shape[1])
    correlation = merging.correlation_of(covariance.result())
    for call in golden.content["calls"]:
        if call["call"] == "match":
            check(golden, call["out"], _part(golden, call["args"], correlation))
        else:
            check(golden, call["out"], covariance.result() if call["call"] == "covariance" else correlation)


def _mixed(spec: dict[str, Any]) -> np.ndarray:
    assert spec["type"] == "mix_plus_noise_plus_mean"
    mix, shared, noise, mean = (
        seeded(one["name"], one["shape"], one["scale"], one["offset"])
        for one in (spec[name] for name in ("mix", "shared", "noise", "mean"))
    )
    return mix @ shared + noise + mean


def _part(golden: Golden, args: Mapping[str, Any], correlation: np.ndarray) -> np.ndarray:
    matcher = matcher_of(args["matcher"], args.get("alpha"), args.get("beta"))
    found = matcher(correlation, golden.content["inputs"]["num_models"])
    if args.get("add_bias"):
        found = merging.Matching(found.groups, found.merged, bias=True)
    values = found.merge(golden.content["merge_epsilon"]) if args["part"] == "merge" else found.unmerge
    if args["order"] == "sorted_groups":
        members = found.unmerge
        order = sorted(range(members.shape[1]), key=lambda column: tuple(np.flatnonzero(members[:, column])))
        values = values[order] if args["part"] == "merge" else values[:, order]
    return values


# Networks


def _merged(golden: Golden, models: list[nn.Module], stop: str | None) -> merging.Merged:
    inputs, matcher = golden.content["inputs"], golden.content["matcher"]
    plan = merging.plan_of(models, batches(golden)[0][:2], stop)
    found = merging.covariances(plan.networks, plan.blueprint, batches(golden))
    correlations = {name: merging.correlation_of(one) for name, one in found.items()}
    method = matcher_of(matcher["name"], matcher["alpha"], matcher["beta"])
    matchings = merging.match_spaces(plan.blueprint, correlations, len(models), method, normed="zip")
    assert inputs["batch_size"]
    return merging.assemble(plan, matchings, correlations, PUBLISHED_EPSILON)


def batches(golden: Golden) -> list[Tensor]:
    """The data in batches."""
    inputs = golden.content["inputs"]
    return list(golden.inputs["data"].split(inputs["batch_size"]))


def mlp(golden: Golden) -> None:
    assert golden.content["stop_after"] is None
    models = [_mlp(golden.content["model"], weights) for weights in golden.content["weights"]]
    merged = _merged(golden, models, None)
    for call in golden.content["calls"]:
        args = call["args"]
        if call["call"] == "merged_weight":
            got = merged.model.state_dict()[args["key"]]
        elif call["call"] == "merged_output":
            with torch.no_grad():
                got = merged.model(cut(golden.inputs["data"], [args["rows"]]))
        else:
            place = args["place"].removeprefix("input of ")
            (axis,) = (one for one in merged.blueprint.rules[f"{place}.weight"].axes if not one.writes)
            got = merged.matchings[axis.parts[0].space].unmerge
        check(golden, call["out"], got)


def _mlp(content: Mapping[str, Any], weights: dict[str, Any]) -> nn.Module:
    state = seeded_state(weights)
    layers = nn.Sequential()
    width = content["input"]
    for layer in content["layers"]:
        if layer["type"] == "linear":
            outputs, width = state[f"{layer['name']}.weight"].shape
            module: nn.Module = nn.Linear(width, outputs, bias=layer["bias"])
            width = outputs
        elif layer["type"] == "layernorm":
            module = nn.LayerNorm(width, eps=layer["eps"])
        else:
            module = nn.GELU(approximate=layer["approximate"])
        layers.add_module(layer["name"], module)
    layers.load_state_dict(state)
    return layers.eval()


def resnet(golden: Golden) -> None:
    content = golden.content
    models: list[nn.Module] = [_resnet(content["model"], weights) for weights in content["weights"]]
    reset = content["norm_reset"]
    assert reset["momentum"] is None
    assert reset["mode"] == "train"
    for model in models if reset["bases_first"] else []:
        merging.reset_norms(model, batches(golden))
    stop = content["stop_after"]
    merged = _merged(golden, models, None if stop is None else _stage(stop["place"]))
    waiting = list(content["calls"])
    for stage in ("before_norm_reset", "after_norm_reset"):
        for call in [one for one in waiting if one["args"].get("stage", "before_norm_reset") == stage]:
            check(golden, call["out"], _resnet_result(golden, call, models, merged))
        if reset["merged_after"]:
            merging.reset_norms(merged.model, batches(golden))


def _resnet_result(golden: Golden, call: Mapping[str, Any], models: list[nn.Module], merged: merging.Merged) -> Any:
    args = call["args"]
    if call["call"] == "merged_weight":
        assert args["stage"] == "before_norm_reset"
        return _weight(golden, models, merged, args["key"])
    if call["call"] == "unmerge":
        return merged.matchings[_space(args["place"], merged.blueprint, golden.content["model"])].unmerge
    with torch.no_grad():
        x = cut(golden.inputs["data"], [args["rows"]])
        if call["call"] == "base_outputs":
            return torch.stack([model(x) for model in models])
        found = merged.model(x)
        return torch.stack(found if isinstance(found, list) else [found])


def _weight(golden: Golden, models: list[nn.Module], merged: merging.Merged, key: str) -> Tensor:
    """A merged weight; behind a stop, where heads are separate, the mean over models of what each reads unmerged."""
    network = merged.model.trunk if isinstance(merged.model, merging.MultiHead) else merged.model
    if key in network.state_dict():
        return network.state_dict()[key]
    states = [model.state_dict() for model in models]
    whole = merging.plan_of(models, batches(golden)[0][:2]).blueprint
    rule = whole.rules[key]
    reading = merging.Rule(tuple(axis for axis in rule.axes if not axis.writes), rule.groups)
    return merging.merge_states(states, replace(whole, rules={key: reading}), merged.matchings)[key]


def _stage(place: str) -> str:
    """ "stage1 output (...)" → "layer1": where our network may be cut."""
    return "layer" + place.split()[0].removeprefix("stage")


def _space(place: str, blueprint: merging.Blueprint, model: Mapping[str, Any]) -> str:
    """The space of a place such as "stage1.block1.conv1 output" or "stage1 output"."""
    words = place.split()[0].split(".")
    stage = words[0].removeprefix("stage")
    if len(words) == 1:
        last = model["stages"][int(stage) - 1]["blocks"] - 1
        key = f"layer{stage}.{last}.conv2.weight"
    else:
        key = f"layer{stage}.{int(words[1].removeprefix('block')) - 1}.{words[2]}.weight"
    (axis,) = (one for one in blueprint.rules[key].axes if one.writes)
    return axis.parts[0].space


def _resnet(content: Mapping[str, Any], weights: dict[str, Any]) -> nn.Module:
    stages, head = content["stages"], content["head"]
    assert [stage["first_stride"] for stage in stages] == [1] + [2] * (len(stages) - 1)
    assert content["stem"]["channels"] == stages[0]["channels"]
    assert content["norm"]["eps"] == 1e-5
    model = percepta.build(
        "resnet20",
        stages=tuple(stage["blocks"] for stage in stages),
        widths=tuple(stage["channels"] for stage in stages),
        in_channels=content["stem"]["input_channels"],
        classes=head["classes"],
    )
    state = model.state_dict() | seeded_state(weights)
    model.load_state_dict(state)
    return model.eval()


HANDLERS = {"zipit/matching": matching, "zipit/mlp": mlp, "zipit/resnet": resnet}
