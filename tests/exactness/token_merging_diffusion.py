"""Handlers of the kinds token-merging-diffusion/*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from percepta.layers import Plan, match_grid
from tests.exactness.golden import Golden


def first_of_group(plan: Plan) -> Tensor:
    """(B, N): the smallest position that went into the same row."""
    position = torch.arange(plan.length).expand_as(plan.group)
    smallest = torch.full_like(plan.kept, plan.length).scatter_reduce(1, plan.group, position, "amin")
    return smallest.gather(1, plan.group)


def matching(golden: Golden) -> None:
    cases = {case["name"]: case for case in golden.content["cases"]}
    for call in golden.content["calls"]:
        case = cases[call["args"]["case"]]
        inputs = golden.make_inputs(case["inputs"])
        picks = inputs["pick"] if case["random"] else None
        stride = (case["stride_y"], case["stride_x"])
        plan = match_grid(inputs["metric"], case["height"], case["width"], case["remove"], stride, picks)
        assert plan.kept.shape[1] == case["tokens_out"]
        merged, sizes = plan.merge_weighted(inputs["x"])
        order = merged[..., :1].argsort(dim=1).expand_as(merged)
        results = {
            "input_pick": inputs["pick"],
            "first_of_group": first_of_group(plan),
            "unmerge_of_merged": plan.unmerge(merged),
            "unmerged_counts": plan.unmerge(sizes.unsqueeze(-1)),
            "merged_sorted": merged.gather(1, order),
        }
        golden.check(call, results[call["call"]])


HANDLERS: dict[str, Callable[[Golden], None]] = {"token-merging-diffusion/matching": matching}
