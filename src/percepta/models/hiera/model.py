"""Hiera: a hierarchical vision transformer for pictures and videos (arXiv 2306.00989).

Order of this file: patches and positions, blocks, what is read out, masked pre-training, other sizes.
Unusual: tokens travel as (B, mask units, tokens of a unit, D), so that a masked pass runs on kept units alone, local
attention reads a unit, pooling is a maximum over an axis, and no block ever moves a token. The mean over all tokens
comes first and the norm second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from percepta.errors import BadInput, one_of, out_of_range, wrong_shape
from percepta.layers import LayerScale, Mlp
from percepta.layers.pooled import PooledAttention, PooledBlock, reroll, unroll
from percepta.models.hiera.config import HieraConfig
from percepta.models.hiera.masked import (
    Decoder,
    Fusion,
    Pretraining,
    check_keep,
    initialise_masked,
    patches_of,
    pictures_of,
    spread,
)
from percepta.models.hiera.official import shortcut_of
from percepta.models.hiera.positions import Kept, TablePositions, WindowPositions, to_window

LAYOUTS = ("NLC", "NCHW", "NHWC")
RESIZE_RULES = ("split", "absolute-win", "interpolate")
Pictures = Tensor | Sequence[Tensor]
"""(B, 3, H, W) or videos (B, T, 3, H, W), or a sequence of single ones of mixed sizes."""


class Units(NamedTuple):
    """Tokens after one block: (B, units, tokens of a unit, D), and the sides of the whole grid in units."""

    x: Tensor
    units: tuple[int, ...]


class Hiera(nn.Module):
    """Pictures or videos to logits, features, or, with a decoder, to the pixels that a mask removed."""

    name = ""
    preprocess: Any = None
    cannot_merge = "its tokens are pooled by their places in a unit, and attention windows need whole units"

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.config = config
        convolution = nn.Conv2d if config.axes == 2 else nn.Conv3d
        self.patches = convolution(
            config.in_channels,
            config.embed_dim,
            config.patch_kernel,  # type: ignore[arg-type]
            config.patch_stride,  # type: ignore[arg-type]
            config.patch_padding,  # type: ignore[arg-type]
        )
        self.positions = _positions(config)
        self.blocks = nn.ModuleList(_blocks(config))
        if config.decoder is None:
            self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
            if config.classes is not None:
                self.dropout = nn.Dropout(config.head_dropout)
                self.projection = nn.Linear(config.width, config.classes)
        else:
            self.fusion = Fusion(config)
            self.fusion_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
            self.decoder = Decoder(config, config.decoder)
        self.gradient_checkpointing = False
        self._kept = Kept()
        if not self.patches.weight.is_meta:
            self._initialise()

    def forward(self, x: Pictures) -> Tensor:
        """Logits of the head; without a head the features of `encode_image`.

        Args:
            x: (B, 3, H, W) preprocessed pictures, or (B, T, 3, H, W) videos for a model of videos, with sides that are
                multiples of `config.step`; or a sequence of single ones of mixed sizes.

        Returns: (B, classes) or (B, D). With `config.softmax`, in evaluation, probabilities.

        Raises: BadInput for another shape.
        """
        if not isinstance(x, Tensor):
            return torch.stack(_one_by_one(x, self.forward))
        pooled = self.encode_image(x)
        if self.config.classes is None:
            return pooled
        logits: Tensor = self.projection(self.dropout(pooled))
        return logits.softmax(dim=-1) if self.config.softmax and not self.training else logits

    def encode_image(self, x: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W), of a model of videos (B, T, 3, H, W) → one vector each, (B, D): the mean of the last tokens,
        normed; of a masked autoencoder the mean of its fused and normed stages. `normalize` scales to length one."""
        if self.config.decoder is None:
            (tokens,) = self._run(x, [-1])
            pooled: Tensor = self.norm(tokens.x.mean(dim=(1, 2)))
        else:
            pooled = self.latent(x).flatten(1, -2).mean(dim=1)
        return nn.functional.normalize(pooled, dim=-1) if normalize else pooled

    def intermediates(
        self, x: Pictures, layers: int | Sequence[int], layout: str = "NLC", norm: bool = False, prefix: bool = False
    ) -> list[Any]:
        """Features after any set of blocks, from one pass that stops at the last of them.

        Blocks of different stages have different widths and resolutions; `config.stage_ends` are the last of each.

        Args:
            x: as of `forward` (for mixed sizes each entry becomes a list).
            layers: 0-based block indices, negative from the end, in the order wanted.
            layout: "NLC" (B, N, D), "NCHW" (B, D, h, w) or "NHWC" (B, h, w, D); of videos with T before h.
            norm: apply the final norm, which is of the last stage's width.
            prefix: leave the tokens in front of the patches; there are none.

        Raises: BadInput for a layer out of range, an unknown layout, a prefix in a map, or a norm that does not fit.
        """
        if prefix and layout != "NLC":
            raise BadInput(f"prefix=True needs layout='NLC', since a map has no place for it; got {layout!r}.")
        if layout not in LAYOUTS:
            raise one_of("layout", layout, LAYOUTS)
        if not isinstance(x, Tensor):
            groups = _one_by_one(x, lambda one: [part[0] for part in self.intermediates(one, layers, layout, norm)])
            return [list(entry) for entry in zip(*groups, strict=True)]
        wanted = [self.layer_index(layer) for layer in ([layers] if isinstance(layers, int) else layers)]
        if norm:
            self._check_norm(wanted)
        results = []
        for layer, tokens in zip(wanted, self._run(x, wanted), strict=True):
            values = self.norm(tokens.x) if norm else tokens.x
            maps = reroll(values, tokens.units, self.config.unit_after(layer), self._coming(layer))
            if layout == "NLC":
                maps = maps.flatten(1, -2)
            results.append(maps.movedim(-1, 1) if layout == "NCHW" else maps)
        return results

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = True,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The ends of stages under timm's name, arguments and results.

        Args:
            indices: indices of *stages*, the last n of them for a number n, or all.
            norm: not offered by stage, as in timm.
            stop_early: what always happens here: no block after the last wanted one runs.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: give the list alone, not (normed tokens after the last block, the list).
        """
        count = len(self.config.stages)
        chosen = range(count) if indices is None else range(-indices, 0) if isinstance(indices, int) else indices
        for stage in chosen:
            if not -count <= stage < count:
                raise out_of_range("indices", stage, f"0 to {count - 1} or -{count} to -1", self.name)
        if norm:
            raise BadInput("norm must be False: the final norm has the width of the last stage alone.")
        layers = [self.config.stage_ends[stage] for stage in chosen]
        if intermediates_only:
            return self.intermediates(x, layers, output_fmt)
        *found, last = self.intermediates(x, [*layers, -1], "NHWC")
        final = self.norm(last).flatten(1, -2)
        return final, [part.movedim(-1, 1) if output_fmt == "NCHW" else part for part in found]

    def masked_intermediates(self, x: Tensor, keep: Tensor, layers: int | Sequence[int]) -> list[Tensor]:
        """As `intermediates`, where only the kept units go through the network.

        The pixels of removed units are zeroed before the patches, whose kernel would see them, and their tokens are
        dropped; nothing of them is computed.

        Args:
            x: as of `forward`.
            keep: (B, units) bool, True for kept units, row-major over the grid of units; equally many in each row.

        Returns: for each layer (B, kept units, rows, columns, D), of videos (B, kept units, frames, rows, columns, D):
        units in their order, tokens of a unit row-major.
        """
        wanted = [self.layer_index(layer) for layer in ([layers] if isinstance(layers, int) else layers)]
        return [self._unit_maps(part.x, layer) for layer, part in zip(wanted, self._run(x, wanted, keep), strict=True)]

    def units_of(self, x: Tensor) -> tuple[int, ...]:
        """How many mask units pictures of this shape have along each axis."""
        grid = self.config.grid_of(self._sides(x))
        return tuple(side // step for side, step in zip(grid, self.config.unit, strict=True))

    # Masked pre-training

    def pretrain(self, x: Tensor, keep: Tensor) -> Pretraining:
        """One masked pass: predict the pixels of the removed units from the kept ones.

        Args:
            x: as of `forward`.
            keep: (B, units) bool, True for kept units; `random_keep` makes one.

        Raises: BadInput for a model without a decoder, or a mask that does not fit.
        """
        latent, predicted, targets, mask = self._masked_pass(x, keep)
        prediction, target = predicted[~mask], targets.values[~mask].to(predicted.dtype)
        loss = (prediction.float() - target.float()).square().mean()
        return Pretraining(loss, prediction, target, mask, latent)

    def reconstruct(self, x: Tensor, keep: Tensor) -> Tensor:
        """Pictures as `x`, whose removed places hold what the model predicts; of videos the first frame of each pair.

        Predictions of normalised pixels are put on the mean and scale of the true ones, which only a demonstration may
        look at.
        """
        _, predicted, targets, mask = self._masked_pass(x, keep)
        values = torch.where(mask[..., None], targets.values, predicted.to(targets.values.dtype))
        return pictures_of(values * targets.scale + targets.mean, x, self.decoder.patch)

    def latent(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """What the encoder of a masked autoencoder gives for kept units (all by default): its stages fused and normed,
        (B, kept units, *sides of a unit, D)."""
        self._check_decoder()
        layers = [*self.fusion.ends, self.config.depth - 1]
        stages = [
            self._unit_maps(part.x, layer) for layer, part in zip(layers, self._run(x, layers, keep), strict=True)
        ]
        latent: Tensor = self.fusion_norm(self.fusion(stages))
        return latent

    def _masked_pass(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Any, Tensor]:
        latent = self.latent(x, keep)
        units = self.units_of(x)
        predicted = self.decoder(latent, keep, units)
        assert self.config.decoder is not None
        targets = patches_of(x, self.decoder.patch, self.config.decoder)
        return latent, predicted, targets, spread(keep, units, self.decoder.unit)

    def _check_decoder(self) -> None:
        if self.config.decoder is None:
            raise BadInput(f"{self.name or 'this Hiera'} has no decoder; build one of the mae-hiera models.")

    # The pass

    def embed(self, x: Tensor, keep: Tensor | None = None) -> Units:
        """Pictures → tokens with their positions in front of the first block; with a mask those of kept units."""
        config, units = self.config, self.units_of(x)
        grid = tuple(many * side for many, side in zip(units, config.unit, strict=True))
        if config.axes == 3:
            x = x.transpose(1, 2)
        if keep is not None:
            check_keep(keep, len(x), math.prod(units))
            x = x * spread(keep, units, config.step).unflatten(1, x.shape[2:])[:, None].to(x.dtype)
        maps = self.patches(x).movedim(1, -1)
        tokens, rule = unroll(maps, config.unit, config.strides), getattr(self.positions, "rule", "")
        tokens = tokens + self._kept.get(self.positions, (grid, rule), lambda: self._unrolled_positions(grid))
        if keep is not None:
            tokens = tokens[keep].unflatten(0, (len(keep), -1))
        return Units(tokens, units)

    def position_embedding(self, *sides: int) -> Tensor:
        """What is added to the patches of pictures of these sides in pixels, (1, *grid, embed_dim)."""
        table: Tensor = self.positions(self.config.grid_of(sides))
        return table

    def layer_index(self, layer: int) -> int:
        """The 0-based index of `layer`; raises BadInput when it is out of range."""
        depth = self.config.depth
        if isinstance(layer, bool) or not isinstance(layer, int) or not -depth <= layer < depth:
            raise out_of_range("layer", layer, f"0 to {depth - 1} or -{depth} to -1", self.name)
        return layer % depth

    @property
    def pooled(self) -> bool:
        """`forward` gives one vector a picture."""
        return True

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in training: recompute each block in the backward pass."""
        self.gradient_checkpointing = enable

    def resized(self, image_size: int | tuple[int, int], frames: int | None = None, rule: str = "split") -> Hiera:
        """A copy that is made for another size, its positions fitted once, to be tuned there or used as it is.

        Args:
            image_size: side, or (height, width), in pixels.
            frames: of a model of videos; its own by default.
            rule: of a table of positions: "split" (what windows have in common is tiled, the rest resized; equal to the
                original at its own size), "absolute-win" (an absolute-win model: a window and a small map; follows any
                further size, loses some of the table) or "interpolate" (the published bug, for comparison). A model
                that has absolute-win positions keeps them, whatever the rule.

        Raises: BadInput.
        """
        if rule not in RESIZE_RULES:
            raise one_of("rule", rule, RESIZE_RULES, self.name)
        config = replace(self.config, image_size=image_size, frames=frames or self.config.frames)
        if config.axes != self.config.axes:
            raise BadInput(f"{self.name or 'this Hiera'} is of pictures and has no frames.")
        if rule == "absolute-win" and config.positions != "window":
            if config.axes == 3 and config.positions == "table":
                raise BadInput("rule='absolute-win' needs separate positions of places and of steps in time.")
            (rows, columns), unit = self.config.grid[-2:], config.unit[-2:]
            config = replace(config, positions="window", background=(rows // unit[0], columns // unit[1]))
        with torch.device("meta"):
            made = Hiera(config)
        state = {**self.state_dict(), **self._position_tables(config, rule)}
        own = made.state_dict()
        state = {key: value.detach().clone() for key, value in state.items() if key in own}
        made.load_state_dict(state, strict=True, assign=True)
        made.name, made.preprocess = self.name, self.preprocess
        return made.train(self.training)

    def _position_tables(self, config: HieraConfig, rule: str) -> dict[str, Tensor]:
        """The tables of positions that another config needs, under their names."""
        own: Any = self.positions
        tables: dict[str, Tensor] = {}
        if self.config.positions == "window":
            tables = {"temporal": own.timed(config.grid[0])} if config.axes == 3 else {}
        elif rule != "absolute-win":
            tables = own.tables(config.grid, rule)
        else:
            spatial = own.spatial.unflatten(0, self.config.grid[-2:])
            tables["background"], tables["window"] = to_window(spatial, config.unit[-2:])
            if config.axes == 3:
                tables["temporal"] = own.timed(config.grid[0])
        named = {f"positions.{key}": value for key, value in tables.items()}
        if config.decoder is not None:
            grid = self.decoder.grid_of(config)
            named["decoder.positions.spatial"] = self.decoder.positions.tables(grid, "interpolate")["spatial"]
        return named

    def _run(self, x: Tensor, layers: Sequence[int], keep: Tensor | None = None) -> list[Units]:
        wanted = [self.layer_index(layer) for layer in layers]
        if not wanted:
            raise BadInput("layers must name at least one block; got none.")
        tokens, units = self.embed(x, keep)
        found = {}
        for index in range(max(wanted) + 1):
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(self.blocks[index], tokens, use_reentrant=False)
            else:
                tokens = self.blocks[index](tokens)
            if index in wanted:
                found[index] = tokens
        return [Units(found[index], units) for index in wanted]

    def _unit_maps(self, x: Tensor, layer: int) -> Tensor:
        """(B, kept, N, D) → (B, kept, *unit, D)."""
        unit = self.config.unit_after(layer)
        maps = reroll(x.flatten(0, 1)[:, None], (1,) * len(unit), unit, self._coming(layer))
        return maps.unflatten(0, x.shape[:2])

    def _coming(self, layer: int) -> tuple[tuple[int, ...], ...]:
        """The poolings that the order of tokens after a block still provides for."""
        return self.config.strides[self.config.pooled(layer) :]

    def _unrolled_positions(self, grid: tuple[int, ...]) -> Tensor:
        return unroll(self.positions(grid), self.config.unit, self.config.strides)

    def _sides(self, x: Tensor) -> tuple[int, ...]:
        channels, video = self.config.in_channels, self.config.axes == 3
        if x.ndim != (5 if video else 4) or x.shape[-3] != channels:
            shape = f"(B, T, {channels}, H, W)" if video else f"(B, {channels}, H, W)"
            raise wrong_shape("videos" if video else "pictures", x.shape, shape, self.name)
        if not x.is_floating_point():
            raise BadInput(f"pictures must be a floating-point tensor, as model.preprocess gives; got {x.dtype}.")
        return (x.shape[1], *x.shape[3:]) if video else tuple(x.shape[2:])

    def _check_norm(self, layers: Sequence[int]) -> None:
        if self.config.decoder is not None:
            raise BadInput("norm=True needs a final norm, which a masked autoencoder lacks; use latent(x).")
        early = [layer for layer in layers if self.config.stage(layer) < len(self.config.stages) - 1]
        if early:
            first = self.config.stage_ends[-2] + 1
            raise out_of_range("layers with norm=True", early[0], f"of the last stage, from {first} on", self.name)

    def _initialise(self) -> None:
        """Initial values of the official code: biases 0.02 also of norms, except in masked pre-training."""
        if self.config.decoder is not None:
            initialise_masked(self)
            nn.init.xavier_uniform_(self.patches.weight.data.view(self.config.embed_dim, -1))
            nn.init.trunc_normal_(self.decoder.mask_token, std=0.02)
            return
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.LayerNorm):
                nn.init.constant_(part.bias, 0.02)
            if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d):
                nn.init.trunc_normal_(part.weight, std=0.02)
        if self.config.classes is not None:
            with torch.no_grad():
                self.projection.weight.mul_(self.config.head_init_scale)
                self.projection.bias.mul_(self.config.head_init_scale)


def build(config: HieraConfig) -> Hiera:
    """A Hiera with initial values, or, on the meta device, without any."""
    return Hiera(config)


def adopt_encoder(model: Hiera, source: Hiera) -> None:
    """Copy patches, positions and blocks of one Hiera, such as a pre-trained masked autoencoder, into another.

    Raises: BadInput where their shapes differ; nothing is copied then.
    """
    parts = ("patches.", "positions.", "blocks.")
    mine = {key: value for key, value in model.state_dict().items() if key.startswith(parts)}
    theirs = {key: value for key, value in source.state_dict().items() if key.startswith(parts)}
    wrong = sorted(key for key in {*mine, *theirs} if key not in mine or key not in theirs)
    wrong += [key for key, value in mine.items() if key in theirs and theirs[key].shape != value.shape]
    if wrong:
        raise BadInput(
            f"two Hieras share an encoder only where all shapes agree; {len(wrong)} differ, such as {wrong[0]}."
        )
    with torch.no_grad():
        for key, value in mine.items():
            value.copy_(theirs[key])


def _positions(config: HieraConfig) -> nn.Module:
    if config.positions == "window":
        frames = config.grid[0] if config.axes == 3 else None
        unit = config.unit[-2:]
        return WindowPositions(config.embed_dim, config.background, unit, config.position_antialias, frames)
    separate = config.positions == "separate"
    return TablePositions(config.embed_dim, config.grid, config.unit, config.position_rule, separate)


def _blocks(config: HieraConfig) -> Iterator[PooledBlock]:
    width, heads, before = config.embed_dim, config.heads, 0
    for index in range(config.depth):
        stage = config.stage(index)
        first = stage != before
        out, heads = config.widths[stage], int(heads * config.head_ratio) if first else heads
        pool = math.prod(config.q_stride) if first and stage <= config.q_pool else 1
        initial = config.layer_scale
        yield PooledBlock(
            width,
            PooledAttention(width, out, heads, pool, whole=not config.local[before]),
            Mlp(out, int(out * config.mlp_ratio)),
            shortcut_of(config.shortcut, width, out, pool) if first else None,
            None if initial is None else (LayerScale(out, initial), LayerScale(out, initial)),
            config.drop_path * index / max(config.depth - 1, 1),
            config.norm_eps,
        )
        width, before = out, stage


def _one_by_one(pictures: Sequence[Tensor], run: Callable[[Tensor], Any]) -> list[Any]:
    """Run pictures of mixed sizes, each alone."""
    if not len(pictures):
        raise BadInput("pictures must hold at least one tensor (3, H, W); got an empty sequence.")
    for picture in pictures:
        if not isinstance(picture, Tensor):
            raise BadInput(f"pictures of a sequence must be tensors (3, H, W); got {type(picture).__name__}.")
    results = [run(picture[None]) for picture in pictures]
    return [result[0] if isinstance(result, Tensor) else result for result in results]
