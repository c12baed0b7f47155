"""Handlers of the kinds token-merging/*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from percepta.layers.token_merging import Plan, match_bipartite, match_kth, match_random, removals
from tests.exactness.golden import Golden, seeded_state
from tests.exactness.vit import build_vit, count_parameters


def schedule(spec: dict[str, Any]) -> Any:
    """What `removals` and `merge_tokens` take as r."""
    if spec["type"] == "sloped":
        return spec["remove"], float(spec["inflection"])
    assert spec["type"] in ("constant", "list")
    return spec["remove"]


def plan_of(case: dict[str, Any], inputs: dict[str, Any]) -> Plan:
    if case["matching"] == "kth":
        return match_kth(inputs["metric"], case["k"])
    if case["matching"] == "random":
        return match_random(inputs["metric"], case["remove"], inputs["noise"])
    assert case["matching"] == "bipartite"
    protected = [place for place, name in enumerate(("class_token", "distill_token")) if case[name]]
    return match_bipartite(inputs["metric"], case["remove"], protected)


def matching(golden: Golden) -> None:
    cases = {case["name"]: case for case in golden.content["cases"]}
    for call in golden.content["calls"]:
        case = cases[call["args"]["case"]]
        inputs = golden.make_inputs(case["inputs"])
        plan, size = plan_of(case, inputs), inputs.get("size")
        assert plan.kept.shape[1] == case["tokens_out"]
        merged, sizes = plan.merge_weighted(inputs["x"], None if size is None else size[..., 0])
        restored = plan.unmerge(merged)[:, : case.get("unmerged_tokens")]
        results = {
            "merge_weighted": merged,
            "merged_size": sizes[..., None],
            "group_map": plan.group,
            "merge_mean": plan.merge(inputs["x"], "mean"),
            "unmerge_of_merged": restored,
        }
        golden.check(call, results[call["call"]])
    for entry in golden.content.get("schedules", []):
        assert removals(entry["layers"], schedule(entry["schedule"])) == entry["remove_per_layer"]


def classifier(golden: Golden) -> None:
    from percepta.speedups import merge_tokens

    content, merging = golden.content, golden.content["merging"]
    assert merging["metric"] == "key_mean_over_heads"
    model, seen = build_vit(content["config"], seeded_state(content["weights"])), 0
    assert count_parameters(model) == content["params"]
    assert model.num_prefix_tokens == merging["protected_tokens"]
    for name, setting in content["settings"].items():
        requested = schedule(setting["schedule"])
        assert removals(content["config"]["depth"], requested) == setting["requested_per_block"]
        options = {"proportional": merging["proportional_attention"], "last_block": merging["merge_in_last_block"]}
        merged = merge_tokens(model, requested, **options)
        assert merged.removed == setting["removed_per_block"]
        assert merged.tokens == setting["tokens_after_block"]
        results: dict[str, dict[str, torch.Tensor | None]] = {}
        for call in content["calls"]:
            if call["args"]["setting"] == name:
                image = call["args"]["image"]
                if image not in results:
                    results[image] = classified(model, merged, golden.inputs[image])
                golden.check(call, results[image][call["call"]])
                seen += 1
        merged.remove()  # the next setting starts from the same model
    assert seen == len(content["calls"])


@torch.no_grad()
def classified(model: torch.nn.Module, merged: Any, image: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """What every call of a classifier gives."""
    tokens = merged.trace(image)
    sizes = None if tokens.size is None else tokens.size[..., None]
    return {"logits": model(image), "final_tokens": tokens.x, "final_sizes": sizes, "group_map": tokens.group}


HANDLERS: dict[str, Callable[[Golden], None]] = {
    "token-merging/mae-pool": classifier,
    "token-merging/matching": matching,
    "token-merging/vit": classifier,
}
