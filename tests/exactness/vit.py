"""The image classifiers of the kinds token-merging/vit, token-merging/mae-pool and hydra/vit, built by timm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

POOLINGS = {
    "class_token": ("token", "norm", ["head"]),
    "class_and_distill_mean": ("token", "norm", ["head", "head_dist"]),
    "patch_mean": ("avg", "fc_norm", ["head"]),
}
"""What a pooling is called by timm, and the final norm and the heads that come with it."""


def build_vit(config: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """timm's VisionTransformer of every field of a golden's `config`, in eval mode, filled strictly from `state`.

    A field that timm cannot express, or two that contradict each other, fail here.
    """
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    assert (config["position"], config["norm"], config["activation"]) == ("learned", "layer_norm", "gelu_exact")
    pooling, final_norm, heads = POOLINGS[config["pooling"]]
    assert (config["final_norm"], config["heads"]) == (final_norm, heads)
    assert config["distill_token"] == (config["pooling"] == "class_and_distill_mean")
    kind = VisionTransformerDistilled if config["distill_token"] else VisionTransformer
    model = kind(
        img_size=tuple(config["image_size"]),
        patch_size=tuple(config["patch_size"]),
        in_chans=config["in_chans"],
        num_classes=config["num_classes"],
        global_pool=pooling,
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        qkv_bias=config["qkv_bias"],
        qk_norm=config["qk_norm"],
        init_values=1e-5 if config["layer_scale"] else None,
        class_token=config["class_token"],
        reg_tokens=config["register_tokens"],
        drop_rate=config["dropout"],
        drop_path_rate=config["drop_path_rate"],
        norm_layer=lambda width, **options: nn.LayerNorm(width, eps=config["norm_eps"], **options),
        act_layer=nn.GELU,
        weight_init="skip",
    )
    model.load_state_dict(state, strict=True)
    return model.eval()


def count_parameters(model: nn.Module) -> int:
    """How many learned values a model holds: the `params` of a golden."""
    return sum(parameter.numel() for parameter in model.parameters())


def final_tokens(model: nn.Module, image: Tensor) -> Tensor:
    """(B, n, D): the tokens after the last block, before any final norm."""
    found: list[Tensor] = []
    handle = model.blocks[-1].register_forward_hook(lambda module, arguments, output: found.append(output))
    try:
        with torch.no_grad():
            model(image)
    finally:
        handle.remove()
    return found[-1]
