"""Handlers of the kinds token-merging-diffusion/*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers import Plan, match_grid
from percepta.speedups import DiffusionMerging, merge_diffusion_tokens
from tests.exactness.golden import Golden, seeded_state


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


class Attention(nn.Module):
    """Attention as the block of a golden has it: no bias but the output's."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int, qkv_bias: bool, out_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * head_dim, bias=qkv_bias)
        self.to_k = nn.Linear(context_dim, heads * head_dim, bias=qkv_bias)
        self.to_v = nn.Linear(context_dim, heads * head_dim, bias=qkv_bias)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=out_bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class BasicTransformerBlock(nn.Module):
    """A latent-diffusion model's block, built from the `config` of a golden."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        assert (config["norm"], config["activation"], config["mlp_gated"]) == ("layer_norm", "gelu_exact", False)
        dim, hidden = config["dim"], int(config["dim"] * config["mlp_ratio"])
        shape = (config["num_heads"], config["head_dim"], config["qkv_bias"], config["out_bias"])
        self.attn1 = Attention(dim, dim, *shape)
        self.attn2 = Attention(dim, config["context_dim"], *shape)
        self.ff = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=config["norm_eps"]) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context=context)
        return x + self.ff(self.norm3(x))


def merging_of(model: nn.Module, setting: dict[str, Any], **options: Any) -> DiffusionMerging:
    """The library's merging as a golden's setting has it.

    Where the official code silently does nothing, ours refuses; the plain model must then give the stored output.
    """
    assert setting["enabled"] or not setting["ratio"]
    try:
        return merge(model, setting, **options)
    except BadInput:
        return merge_diffusion_tokens(model, 0.0, **options)


def merge(model: nn.Module, setting: dict[str, Any], **options: Any) -> DiffusionMerging:
    return merge_diffusion_tokens(
        model,
        setting["ratio"],
        stride=(setting["stride_y"], setting["stride_x"]),
        max_downsample=setting["max_downsample"],
        attention=setting["merge_self_attention"],
        cross_attention=setting["merge_cross_attention"],
        mlp=setting["merge_mlp"],
        random=setting["random"],
        **options,
    )


@torch.no_grad()
def block(golden: Golden) -> None:
    content, config = golden.content, golden.content["config"]
    model = BasicTransformerBlock(config).eval()
    state = seeded_state(content["weights"])
    model.load_state_dict({key.removeprefix("block."): value for key, value in state.items()})
    for call in content["calls"]:
        assert call["call"] == "block_output"
        args = call["args"]
        with merging_of(model, content["settings"][args["setting"]], grid=(config["height"], config["width"])):
            golden.check(call, model(golden.inputs[args["tokens"]], context=golden.inputs[args["context"]]))


@torch.no_grad()
def unet(golden: Golden) -> None:
    from diffusers import UNet2DConditionModel

    content = golden.content
    model = UNet2DConditionModel(**content["config"]).eval()
    model.load_state_dict(seeded_state(content["weights"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == content["params"]
    for call in content["calls"]:
        assert call["call"] == "unet_output"
        args = dict(call["args"])
        with merging_of(model, content["settings"][args.pop("setting")]):
            golden.check(call, model(**{name: golden.inputs[value] for name, value in args.items()}).sample)


HANDLERS: dict[str, Callable[[Golden], None]] = {
    "token-merging-diffusion/matching": matching,
    "token-merging-diffusion/block": block,
    "token-merging-diffusion/unet": unet,
}
