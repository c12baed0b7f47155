"""The vision tower of the Perception Encoder (arXiv 2504.13181 §2, appendix B).

Order of this file: patches and positions, blocks, what is read out.
Unusual: an absolute table *and* rotary positions; the class token is not rotated and moves the patches to start at
(1, 1); attention pooling sees the class token; any height and width of at least one patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from percepta.errors import BadInput, one_of, out_of_range, wrong_shape
from percepta.layers import (
    Attention,
    AttentionPooling,
    Block,
    LayerScale,
    Mlp,
    Shorten,
    Tokens,
    grid_angles,
    grid_positions,
    grid_rotation,
    place_rotation,
    resize_positions,
    restored,
)
from percepta.models.perception_encoder.config import PerceptionEncoderConfig

LAYOUTS = ("NLC", "NCHW", "NHWC")
Pictures = Tensor | Sequence[Tensor]
"""(B, 3, H, W), or a sequence of (3, H, W) of mixed sizes."""
Change = Callable[[Tensor], Tensor]
"""What is done to the patch embeddings (B, N, width) before anything is added to them, such as hiding some."""


class VisionTower(nn.Module):
    """Pictures to tokens, and to one embedding where the config pools."""

    def __init__(self, config: PerceptionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        if config.class_token:
            self.class_token = normal(width, std=width**-0.5)
        if config.absolute_positions:
            self.positions = normal(config.prefix + config.grid**2, width, std=width**-0.5)
        self.norm_pre = nn.LayerNorm(width, eps=1e-5) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.norm_post = nn.LayerNorm(width, eps=1e-5) if config.post_norm else nn.Identity()
        if config.pooling == "attention":
            self.pool = AttentionPooling(width, config.pooling_heads)
        if config.output_dim is not None:
            self.projection = normal(width, config.output_dim, std=width**-0.5)
        self.gradient_checkpointing = False
        self.shorten: tuple[Shorten | None, ...] | None = None  # what each block does to its tokens, if anything
        self.shorten_frames: tuple[Shorten | None, ...] | None = None  # the same for frames of a video
        self.seams: tuple[int, ...] = ()  # blocks where that makes one sequence of two

    def forward(self, x: Pictures, layer: int = -1, strip_class_token: bool = False) -> Any:
        """The official forward: norm, pooling and projection of the tokens after one block.

        Args:
            x: (B, 3, H, W) preprocessed pictures, or a sequence of (3, H, W) of mixed sizes.
            layer: 0-based block to read, negative from the end.
            strip_class_token: drop the class token before pooling (a tower without one ignores this).

        Returns: (B, output_dim), (B, width), or, where nothing is pooled, all tokens (B, N, width) with the class
        token in front (for mixed sizes a list of (N, width)).

        Raises: BadInput for a wrong shape or a layer out of range.
        """
        if not isinstance(x, Tensor):
            return _by_size(x, lambda group: self.forward(group, layer, strip_class_token), self.pooled)
        (tokens,), _ = self._run(x, [layer])
        return self.read_out(tokens, strip_class_token)

    def last_tokens(self, x: Tensor, change: Change | None = None) -> Tokens:
        """(B, 3, H, W) → all tokens after the last block, before the final norm, the class token in front.

        Where tokens were merged they come as they are, with their sizes and group maps. `change` is applied to the
        patch embeddings (masked training hides some of them there).
        """
        (tokens,), _ = self._run(x, [-1], change=change)
        return tokens

    def tokens_after(self, x: Tensor, layers: Sequence[int]) -> list[Tokens]:
        """As `last_tokens`, after any set of blocks, in the order wanted."""
        return self._run(x, layers)[0]

    def frames(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) → a row for every sequence, (B, n, ...), and how many frames it stands for, (n,).

        At each seam two sequences become one; frames that are left over are encoded one by one.
        """
        together = 2 ** len(self.seams)
        whole = x.shape[1] // together * together
        rows = []
        for part, policies in ((x[:, :whole], self.shorten_frames), (x[:, whole:], self.shorten)):
            if part.shape[1]:
                (tokens,), _ = self._run(part.flatten(0, 1), [-1], policies)
                rows.append(self.read_out(tokens).unflatten(0, (len(x), -1)))
        counts = [together] * (whole // together) + [1] * (x.shape[1] - whole)
        return torch.cat(rows, dim=1), torch.tensor(counts, dtype=x.dtype, device=x.device)

    def read_out(self, tokens: Tokens, strip_class_token: bool = False) -> Tensor:
        """Tokens of one block to what `forward` returns: the final norm, pooling, projection."""
        normed = self._strip(tokens._replace(x=self.norm_post(tokens.x)), strip_class_token)
        pooled = self._pool(normed)
        return pooled @ self.projection if self.config.output_dim is not None else pooled

    def intermediates(
        self, x: Pictures, layers: int | Sequence[int], layout: str = "NLC", norm: bool = False, prefix: bool = False
    ) -> list[Any]:
        """Patch features after any set of blocks, from one pass that stops at the last of them.

        Args:
            x: (B, 3, H, W), or a sequence of (3, H, W) of mixed sizes (each entry then becomes a list).
            layers: 0-based block indices, negative from the end, in the order wanted.
            layout: "NLC" (B, N, D), "NCHW" (B, D, h, w) or "NHWC" (B, h, w, D).
            norm: apply the final norm.
            prefix: with "NLC", leave the class token in front.

        Raises: BadInput for a layer out of range, an unknown layout, or a prefix in a map.
        """
        if prefix and layout != "NLC":
            raise BadInput(f"prefix=True needs layout='NLC', since a map has no place for it; got {layout!r}.")
        if not isinstance(x, Tensor):
            groups = _by_size(x, lambda group: self.intermediates(group, layers, layout, norm, prefix), False)
            return [list(entry) for entry in zip(*groups, strict=True)]
        outputs, grid = self._run(x, [layers] if isinstance(layers, int) else layers)
        results = []
        for tokens in outputs:
            values = restored(self.norm_post(tokens.x) if norm else tokens.x, tokens.group)
            results.append(values if prefix else self._arranged(values[:, self.config.prefix :], grid, layout))
        return results

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """`intermediates` under timm's name, arguments and results.

        Args:
            indices: block indices, the last n blocks for a number n, or all.
            return_prefix_tokens: give pairs (patches, prefix tokens).
            stop_early: with `intermediates_only`, what always happens here: no block after the last wanted one runs.
            output_fmt: "NCHW" or "NLC".
            intermediates_only: give the list alone, not (tokens after the last block and norm, the list).
        """
        count = self.config.depth if indices is None else indices
        wanted = range(-count, 0) if isinstance(count, int) else count
        last = [] if intermediates_only else [-1]
        outputs, grid = self._run(x, [*wanted, *last])
        found: list[Any] = []
        for tokens in outputs[: len(wanted)]:
            values = restored(self.norm_post(tokens.x) if norm else tokens.x, tokens.group)
            patches = self._arranged(values[:, self.config.prefix :], grid, output_fmt)
            found.append((patches, values[:, : self.config.prefix]) if return_prefix_tokens else patches)
        if intermediates_only:
            return found
        return restored(self.norm_post(outputs[-1].x), outputs[-1].group), found

    def truncated(self, layer: int) -> VisionTower:
        """A tower of the blocks up to and including `layer`; it shares its parameters with this one."""
        depth = self.layer_index(layer) + 1
        with torch.device("meta"):
            shorter = VisionTower(replace(self.config, depth=depth))
        for name, child in self.named_children():
            setattr(shorter, name, self.blocks[:depth] if name == "blocks" else child)
        for name, parameter in self.named_parameters(recurse=False):
            setattr(shorter, name, parameter)
        shorter.shorten = None if self.shorten is None else self.shorten[:depth]
        shorter.shorten_frames = None if self.shorten_frames is None else self.shorten_frames[:depth]
        shorter.seams = tuple(seam for seam in self.seams if seam < depth)
        return shorter.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in training: recompute each block in the backward pass."""
        self.gradient_checkpointing = enable

    def rope_angles(self, rows: int, columns: int) -> Tensor:
        """Rotation angles of all tokens of a grid, each angle twice side by side: (N, rotated channels) float32."""
        config = self.config
        angles = grid_angles(rows, columns, config.width // config.heads, config.prefix, self._scale(rows, columns))
        return angles.repeat_interleave(2, dim=-1)

    @property
    def pooled(self) -> bool:
        """Whether `forward` gives one vector a picture."""
        return self.config.pooling != "none"

    def layer_index(self, layer: int) -> int:
        """The 0-based index of `layer`; raises BadInput when it is out of range."""
        depth = self.config.depth
        if isinstance(layer, bool) or not isinstance(layer, int) or not -depth <= layer < depth:
            raise out_of_range("layer", layer, f"0 to {depth - 1} or -{depth} to -1", getattr(self, "name", ""))
        return layer % depth

    def embed(self, x: Tensor, change: Change | None = None) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) → tokens before the first block (B, N, width), and the grid (rows, columns)."""
        config, patch = self.config, self.config.patch_size
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] < patch or x.shape[3] < patch:
            raise wrong_shape("pictures", x.shape, f"(B, 3, H, W) with H and W of at least {patch}")
        if not x.is_floating_point():
            raise BadInput(f"pictures must be a floating-point tensor, as model.preprocess gives; got {x.dtype}.")
        maps = self.patches(x)
        rows, columns = maps.shape[-2:]
        tokens = maps.flatten(2).transpose(1, 2)
        if change is not None:
            tokens = change(tokens)
        if config.class_token:
            tokens = torch.cat([self.class_token.expand(len(x), 1, -1), tokens], dim=1)
        if config.absolute_positions:
            rule = "bilinear" if config.position_rule == "official" else "bicubic-antialias"
            tokens = tokens + resize_positions(self.positions, (rows, columns), config.prefix, rule)
        return self.norm_pre(tokens), (rows, columns)

    def _run(
        self,
        x: Tensor,
        layers: Sequence[int],
        shorten: Sequence[Shorten | None] | None = None,
        change: Change | None = None,
    ) -> tuple[list[Tokens], tuple[int, int]]:
        wanted = [self.layer_index(layer) for layer in layers]
        if not wanted:
            raise BadInput("layers must name at least one block; got none.")
        x, (rows, columns) = self.embed(x, change)
        head_dim, scale = self.config.width // self.config.heads, self._scale(rows, columns)
        rotation, places, tokens, kept = None, None, Tokens(x), {}
        shorten = self.shorten if shorten is None else shorten
        if self.config.rope:
            rotation = grid_rotation(rows, columns, head_dim, self.config.prefix, scale, x.device)
            if shorten is not None:  # merged tokens take their place along
                patches = grid_positions(rows, columns, float(self.config.class_token), scale, x.device)
                places = torch.cat([patches.new_zeros(self.config.prefix, 2), patches]).expand(len(x), -1, -1)
                tokens = Tokens(x, position=places)
        for index in range(max(wanted) + 1):
            policy = shorten[index] if shorten is not None else None
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(self.blocks[index], tokens, rotation, policy, use_reentrant=False)
            else:
                tokens = self.blocks[index](tokens, rotation, policy)
            if tokens.position is not None and tokens.position is not places:
                places = tokens.position
                rotation = place_rotation(places, head_dim)
            if index in wanted:
                kept[index] = tokens
        return [kept[index] for index in wanted], (rows, columns)

    def _arranged(self, patches: Tensor, grid: tuple[int, int], layout: str) -> Tensor:
        """(B, N, D) patches in a layout."""
        if layout not in LAYOUTS:
            raise one_of("layout", layout, LAYOUTS)
        if layout == "NLC":
            return patches
        maps = patches.unflatten(1, grid)
        return maps.permute(0, 3, 1, 2) if layout == "NCHW" else maps

    def _scale(self, rows: int, columns: int) -> tuple[float, float]:
        if self.config.position_rule == "official":
            return 1.0, 1.0
        return self.config.grid / columns, self.config.grid / rows

    def _strip(self, tokens: Tokens, strip: bool) -> Tokens:
        first = self.config.prefix if strip else 0
        if not first:
            return tokens
        size, position = (None if part is None else part[:, first:] for part in (tokens.size, tokens.position))
        group = None if tokens.group is None else (tokens.group[:, first:] - first).clamp_min(-1)
        return Tokens(tokens.x[:, first:], size, position, group)

    def _pool(self, tokens: Tokens) -> Tensor:
        if self.config.pooling == "attention":
            return self.pool(tokens.x, tokens.size)
        if self.config.pooling == "class":
            return tokens.x[:, 0]
        if self.config.pooling == "none":
            return restored(tokens.x, tokens.group)
        if tokens.size is None:
            return tokens.x.mean(dim=1)
        weights = (tokens.size / tokens.size.sum(dim=1, keepdim=True)).to(tokens.x.dtype)
        return torch.einsum("bnd,bn->bd", tokens.x, weights)


def _block(config: PerceptionEncoderConfig) -> Block:
    width, initial = config.width, config.layer_scale
    return Block(
        width,
        Attention(width, config.heads),
        Mlp(width, int(width * config.mlp_ratio)),
        None if initial is None else (LayerScale(width, initial), LayerScale(width, initial)),
        config.drop_path,
    )


def _by_size(pictures: Sequence[Tensor], run: Callable[[Tensor], Any], stack: bool) -> Any:
    """Run pictures of mixed sizes, one batch a size, and give the results in the order of the pictures."""
    if not len(pictures):
        raise BadInput("pictures must hold at least one tensor (3, H, W); got an empty sequence.")
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, picture in enumerate(pictures):
        if not isinstance(picture, Tensor):
            raise BadInput(f"pictures of a sequence must be tensors (3, H, W); got {type(picture).__name__}.")
        if picture.ndim != 3:
            raise wrong_shape("a picture of a sequence", picture.shape, "(3, H, W)")
        groups.setdefault(tuple(picture.shape), []).append(index)
    results: list[Any] = [None] * len(pictures)
    for members in groups.values():
        output = run(torch.stack([pictures[index] for index in members]))
        for place, index in enumerate(members):
            results[index] = [entry[place] for entry in output] if isinstance(output, list) else output[place]
    return torch.stack(results) if stack else results


def unit(x: Tensor) -> Tensor:
    """Scale the last axis to Euclidean length one."""
    return F.normalize(x, dim=-1)


def normal(*shape: int, std: float) -> nn.Parameter:
    """A parameter with values of a normal distribution around zero."""
    return nn.Parameter(nn.init.normal_(torch.empty(shape), std=std))
