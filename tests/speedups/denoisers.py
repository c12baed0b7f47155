"""Small denoisers of diffusers with random weights, in the layouts that people use, and what to call them with."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn

U_NET = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")


def denoiser(kind: str) -> nn.Module:
    """A model by name: "sd1", "sd2", "sdxl", "controlnet", "sd3", "sd35", "pixart", "dit"."""
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    for name, parameter in model.named_parameters():
        if "controlnet" in name:  # zeros, as made
            nn.init.normal_(parameter, std=0.1)
    return model


MODELS: dict[str, Any] = {
    "sd1": lambda: UNet2DConditionModel(
        **U_NET, down_block_types=(CROSS[0], "DownBlock2D"), up_block_types=("UpBlock2D", CROSS[1])
    ),
    "sd2": lambda: UNet2DConditionModel(
        **{**U_NET, "attention_head_dim": (2, 4)},
        down_block_types=(CROSS[0], CROSS[0]),
        up_block_types=(CROSS[1], CROSS[1]),
        use_linear_projection=True,
    ),
    "sdxl": lambda: UNet2DConditionModel(
        **{**U_NET, "block_out_channels": (16, 16, 32), "attention_head_dim": (2, 2, 4)},
        down_block_types=("DownBlock2D", CROSS[0], CROSS[0]),
        up_block_types=(CROSS[1], CROSS[1], "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
    ),
    "controlnet": lambda: ControlNetModel(
        **{key: value for key, value in U_NET.items() if key != "sample_size"},
        down_block_types=(CROSS[0], "DownBlock2D"),
        conditioning_embedding_out_channels=(8, 8),
    ),
    "sd3": lambda: SD3Transformer2DModel(**SD3),
    "sd35": lambda: SD3Transformer2DModel(**SD3, dual_attention_layers=(0,), qk_norm="rms_norm"),
    "pixart": lambda: PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        sample_size=16,
        cross_attention_dim=16,
        caption_channels=12,
        norm_num_groups=8,
        use_additional_conditions=False,
    ),
    "dit": lambda: DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=16, norm_num_groups=8
    ),
}

SD3 = {
    "sample_size": 16,
    "patch_size": 2,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "pos_embed_max_size": 32,
}


def call(model: nn.Module, kind: str, sample: Tensor, timestep: Any = 500.0) -> Tensor:
    """The output for a sample (B, 4, H, W), with everything else made from its number of items."""
    batch = sample.shape[0]
    text = torch.linspace(-1, 1, 5 * 12).view(1, 5, 12).expand(batch, -1, -1)
    if kind in ("sd1", "sd2", "controlnet"):
        extra: dict[str, Any] = {"encoder_hidden_states": text}
        if kind == "controlnet":
            extra["controlnet_cond"] = torch.ones(batch, 3, 2 * sample.shape[2], 2 * sample.shape[3])
    elif kind == "sdxl":
        added = {"text_embeds": torch.ones(batch, 8), "time_ids": torch.ones(batch, 6)}
        extra = {"encoder_hidden_states": text, "added_cond_kwargs": added}
    elif kind in ("sd3", "sd35"):
        extra = {"encoder_hidden_states": text, "pooled_projections": torch.ones(batch, 8)}
    elif kind == "pixart":
        extra = {"encoder_hidden_states": text, "encoder_attention_mask": torch.ones(batch, 5)}
        extra["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    else:
        extra = {"class_labels": torch.zeros(batch, dtype=torch.int64)}
    if kind not in ("sd1", "sd2", "sdxl", "controlnet") and not isinstance(timestep, Tensor):
        timestep = torch.full((batch,), timestep)
    if kind == "controlnet":
        return model(sample, timestep, return_dict=False, **extra)[0][1]
    return model(sample, timestep=timestep, return_dict=False, **extra)[0]


def sample(batch: int = 2, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    """A latent."""
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))
