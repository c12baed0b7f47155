"""Handlers of the kinds hydra/*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.exactness.golden import Golden, seeded_state
from tests.exactness.vit import build_vit, count_parameters, final_tokens


def kernel_of(settings: dict[str, Any]) -> dict[str, str]:
    """`kernel` and `normalise` of a golden's settings; the two kernels have one name of ours."""
    assert settings["query_kernel"] == settings["key_kernel"]
    return {"kernel": settings["query_kernel"], "normalise": settings["normalise"]}


def hydra_core(golden: Golden) -> None:
    from percepta.layers.hydra import hydra

    options = kernel_of(golden.content["config"])
    cases = {case["name"]: golden.make_inputs(case["inputs"]) for case in golden.content["cases"]}
    for call in golden.content["calls"]:
        args = call["args"]
        inputs = cases[args["case"]]
        if call["call"] == "input":
            golden.check(call, inputs[args["name"]])
            continue
        assert call["call"] == "attend"
        mask = inputs[args["mask"]] if args["mask"] else None
        golden.check(call, hydra(inputs["q"], inputs["k"], inputs["v"], mask, causal=args["causal"], **options))


def hydra_vit(golden: Golden) -> None:
    from percepta.speedups import hydra_attention

    content = golden.content
    model = build_vit(content["config"], seeded_state(content["weights"]))
    assert count_parameters(model) == content["params"]
    options = kernel_of(content["hydra"])
    for call in content["calls"]:
        setting = content["settings"][call["args"]["setting"]]
        conversion = hydra_attention(model, setting["hydra_blocks"], **options)
        with torch.no_grad():
            golden.check(call, HYDRA_CALLS[call["call"]](model, golden.inputs[call["args"]["image"]]))
        conversion.remove()


HYDRA_CALLS: dict[str, Callable[..., Any]] = {
    "logits": lambda model, image: model(image),
    "final_tokens": final_tokens,
}

HANDLERS: dict[str, Callable[[Golden], None]] = {"hydra/core": hydra_core, "hydra/vit": hydra_vit}
