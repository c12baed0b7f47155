"""Handlers of the kinds token-merging/*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from percepta.layers.token_merging import Plan, match_bipartite, match_kth, match_random, removals
from tests.exactness.golden import Golden


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


HANDLERS: dict[str, Callable[[Golden], None]] = {"token-merging/matching": matching}
