"""Masked autoencoding with Hiera: what stands behind the encoder while it is pre-trained (arXiv 2306.00989 §3.1, A).

Order of this file: the result, masks, fusion of the stages, the decoder, targets.
Unusual: masks say what is *kept*; removed units are deleted, not hidden; the loss counts removed places alone. The
values of a target patch lie as (channel, y, x) for pictures and as (y, x, channel) for videos, and of a video only the
first frame of each pair is predicted: published weights make sense only so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, out_of_range
from percepta.layers import Mlp
from percepta.layers.pooled import PooledAttention, PooledBlock, reroll, unroll
from percepta.models.hiera.config import DecoderConfig, HieraConfig
from percepta.models.hiera.positions import TablePositions


class Pretraining(NamedTuple):
    """What a masked pass gives.

    Attributes:
        loss: 0-d, the mean of (prediction - target)² over all values of all removed places.
        prediction, target: (removed places, values of a patch); samples first, then row-major over the decoder's grid.
        mask: (B, decoder tokens) bool, True at kept places, row-major.
        latent: (B, kept units, rows, columns, D), of a video (B, kept units, frames, rows, columns, D): what the
            encoder gives for the kept units, all stages fused, normed.
    """

    loss: Tensor
    prediction: Tensor
    target: Tensor
    mask: Tensor
    latent: Tensor


class Patches(NamedTuple):
    """Pixels of pictures, a row for each place of the decoder: values (B, places, n), their mean and their scale,
    (B, places, 1), which are 0 and 1 where nothing is normalised."""

    values: Tensor
    mean: Tensor
    scale: Tensor


def random_keep(
    batch: int,
    units: int,
    ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A random mask, (batch, units) bool, True for the units that are kept: int(units * (1 - ratio)) in each row.

    Args:
        ratio: the share that is removed, 0 to below 1; the paper's are 0.6 for pictures and 0.9 for videos.
        generator: on the CPU or on `device`.

    Raises: BadInput where nothing would be kept.
    """
    kept = int(units * (1.0 - ratio))
    if not 0.0 <= ratio < 1.0 or kept < 1:
        raise out_of_range("ratio", ratio, f"0 to below 1 and leave at least one of {units} units")
    place = generator.device if generator is not None else device
    noise = torch.rand(batch, units, generator=generator, device=place)
    keep = torch.zeros(batch, units, dtype=torch.bool, device=noise.device)
    return keep.scatter_(1, noise.argsort(dim=1)[:, :kept], True).to(device or noise.device)


class Fusion(nn.Module):
    """The stages before the last, brought to its resolution inside of each unit, and summed with it.

    Only stages whose resolution differs from the last one's take part.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.config = config
        self.ends = config.stage_ends[: config.q_pool]
        convolution = nn.Conv2d if config.axes == 2 else nn.Conv3d
        last = config.unit_after(config.depth - 1)
        heads = []
        for stage, end in enumerate(self.ends):
            kernel = tuple(now // then for now, then in zip(config.unit_after(end), last, strict=True))
            heads.append(convolution(config.widths[stage], config.width, kernel, kernel))  # type: ignore[arg-type]
        self.heads = nn.ModuleList(heads)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Maps (B, units, *unit, D) of the stages named by `ends` and of the last → (B, units, *last unit, D)."""
        *early, last = stages
        fused: Tensor | None = None
        for head, x in zip(self.heads, early, strict=True):
            small = head(x.flatten(0, 1).movedim(-1, 1)).movedim(1, -1).unflatten(0, x.shape[:2])
            fused = small if fused is None else fused + small
        return last if fused is None else fused + last


class Decoder(nn.Module):
    """From the kept units to the pixels of all."""

    def __init__(self, config: HieraConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        width, last = decoder.width, config.depth - 1
        factor = tuple(stride ** config.pooled(last) for stride in config.q_stride)
        self.patch = tuple(pixels * times for pixels, times in zip(config.patch_stride, factor, strict=True))
        self.strides = config.strides[config.pooled(last) :]
        self.unit = config.unit_after(last)
        self.embed = nn.Linear(config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = TablePositions(width, self.grid_of(config), self.unit, "interpolate")
        self.blocks = nn.ModuleList(
            PooledBlock(
                width,
                PooledAttention(width, width, decoder.heads, whole=True),
                Mlp(width, int(width * decoder.mlp_ratio)),
                eps=decoder.norm_eps,
            )
            for _ in range(decoder.depth)
        )
        self.norm = nn.LayerNorm(width, eps=decoder.norm_eps)
        self.predict = nn.Linear(width, math.prod(self.patch[-2:]) * config.in_channels)

    @staticmethod
    def grid_of(config: HieraConfig) -> tuple[int, ...]:
        """Places of the decoder along each axis, at the size of a config."""
        times = config.pooled(config.depth - 1)
        return tuple(side // stride**times for side, stride in zip(config.grid, config.q_stride, strict=True))

    def forward(self, latent: Tensor, keep: Tensor, units: tuple[int, ...]) -> Tensor:
        """(B, kept units, *unit, D) and the mask (B, units) → pixels (B, places, values), row-major.

        Args:
            units: sides of the grid in units.
        """
        x = unroll(self.embed(latent).flatten(0, 1), self.unit, self.strides)[:, 0].unflatten(0, latent.shape[:2])
        everywhere = self.mask_token.to(x.dtype).expand(*keep.shape, *x.shape[2:]).clone()
        everywhere[keep] = x.flatten(0, 1)
        grid = tuple(many * side for many, side in zip(units, self.unit, strict=True))
        x = everywhere + unroll(self.positions(grid), self.unit, self.strides)
        for block in self.blocks:
            x = block(x)
        x = self.predict(self.norm(x))
        return reroll(x, units, self.unit, self.strides).flatten(1, -2)


def spread(keep: Tensor, units: tuple[int, ...], unit: tuple[int, ...]) -> Tensor:
    """A mask of units (B, units) → of the decoder's places (B, places), row-major."""
    mask = keep.unflatten(1, units)
    for axis, side in enumerate(unit):
        mask = mask.repeat_interleave(side, dim=axis + 1)
    return mask.flatten(1)


def patches_of(x: Tensor, patch: tuple[int, ...], decoder: DecoderConfig) -> Patches:
    """The targets of pictures (B, C, H, W) or videos (B, T, C, H, W).

    Args:
        patch: sides of a decoder's place in pixels, of a video (frames, rows, columns).
        decoder: whether and how values are normalised: by the mean and the unbiased variance of all values of a patch.
    """
    rows, columns = patch[-2:]
    if x.ndim == 5:
        x = x[:, :: patch[0]]
    cut = x.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows))  # (B, [T,] C, h, y, w, x)
    order = (0, 2, 4, 1, 3, 5) if x.ndim == 4 else (0, 1, 3, 5, 4, 6, 2)
    values = cut.permute(order).flatten(-3).flatten(1, -2)
    if not decoder.normalise:
        return Patches(values, values.new_zeros(1).expand(*values.shape[:2], 1), values.new_ones(1))
    mean, variance = values.mean(dim=-1, keepdim=True), values.var(dim=-1, keepdim=True)
    scale = (variance + decoder.eps).sqrt()
    return Patches((values - mean) / scale, mean, scale)


def pictures_of(values: Tensor, like: Tensor, patch: tuple[int, ...]) -> Tensor:
    """The opposite of `patches_of`: (B, places, n) → pictures as `like`; of a video the predicted frames alone."""
    rows, columns = patch[-2:]
    channels, down, across = like.shape[-3], like.shape[-2] // rows, like.shape[-1] // columns
    if like.ndim == 4:
        cut = values.reshape(len(values), down, across, channels, rows, columns)
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(values), channels, down * rows, across * columns)
    cut = values.reshape(len(values), -1, down, across, rows, columns, channels)
    return cut.permute(0, 1, 6, 2, 4, 3, 5).reshape(len(values), -1, channels, down * rows, across * columns)


def check_keep(keep: Tensor, batch: int, units: int) -> None:
    """Raises BadInput for a mask of another shape, or one that keeps different numbers of units."""
    if keep.dtype != torch.bool or keep.shape != (batch, units):
        raise BadInput(
            f"keep must be a bool mask of the shape ({batch}, {units}), True for kept units; "
            f"got {keep.dtype} of {tuple(keep.shape)}."
        )
    counts = keep.sum(dim=1)
    if counts.min() != counts.max() or counts.min() < 1:
        raise BadInput(
            f"keep must keep equally many units of every sample, at least one; got {counts.min()} to {counts.max()}."
        )


def initialise_masked(model: nn.Module) -> None:
    """Initial values for masked pre-training: linear layers and the patch convolution Xavier-uniform with zero biases,
    norms 1 and 0; fusion keeps torch's default."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
