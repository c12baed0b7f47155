"""`merge_diffusion_tokens`: fewer tokens in the attention of a denoiser that is trained already.

Token Merging for Stable Diffusion (ToMeSD, arXiv 2303.17604), and keys and values on a coarser grid (ToDo, arXiv
2402.13573). Unusual: which blocks merge follows from their resolution, so that a model whose finest level has no
attention (SDXL) is merged too; the random destinations follow from seed, timestep and block alone, so that a picture is
the same every time, on every device and whatever else is in the batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from percepta.errors import BadInput, one_of, out_of_range
from percepta.speedups.diffusion_blocks import Call, MergedBlock, Settings

DIFFUSION_STRATEGIES = ("merge", "prune", "downsample-keys")

U_NETS = ("UNet2DConditionModel", "ControlNetModel")
TRANSFORMERS = ("SD3Transformer2DModel", "PixArtTransformer2DModel", "DiTTransformer2DModel")

MARK = "token_merging"
"""The attribute of a denoiser that holds its `DiffusionMerging`; a copy of the model has a copy of it."""


class DiffusionMerging:
    """What `merge_diffusion_tokens` did to a denoiser, and the way back.

    Attributes:
        model: the denoiser.
        settings: how it merges.
        blocks: the blocks that merge, in the order of the model.
        size: height and width of the latent that the model was made for.
    """

    def __init__(self, model: nn.Module, settings: Settings, size: tuple[int, int]) -> None:
        self.model, self.settings, self.size = model, settings, size
        self.blocks: list[MergedBlock] = []
        self._hooks: list[RemovableHandle] = []

    def attach(self, places: list[Place], call: Call, hear_calls: bool) -> None:
        """Make these blocks merge; `hear_calls` says whether the model's calls tell the size of the latent."""
        if hear_calls:
            self._hooks.append(self.model.register_forward_pre_hook(call.begin, with_kwargs=True))
            self._hooks.append(self.model.register_forward_hook(call.end))
        for index, place in enumerate(places):
            merged = MergedBlock(place.name, index, place.downsample, place.rounds_up, place.parts, self.settings, call)
            self.blocks.append(merged)
            self._hooks += merged.attach(place.block)
        setattr(self.model, MARK, self)
        forget_compiled()

    def remove(self) -> None:
        """The model as it was before it merged anything."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.blocks.clear()
        if getattr(self.model, MARK, None) is self:
            delattr(self.model, MARK)
        forget_compiled()

    def counts(self, height: int, width: int) -> list[tuple[int, int]]:
        """Tokens of each block that merges, before and after, for a latent of this size; where only keys and values
        come from fewer tokens, these."""
        found = []
        for block in self.blocks:
            rows, columns = block.grid(height, width)
            tokens = rows * columns
            fewest = (rows // self.settings.stride[0]) * (columns // self.settings.stride[1])
            kept = max(fewest, tokens - int(tokens * self.settings.ratio))
            found.append((tokens, fewest if self.settings.strategy == "downsample-keys" else kept))
        return found

    def table(self, height: int, width: int) -> str:
        """The blocks that merge and their tokens for a latent of this size."""
        if not self.blocks:
            return f"{type(self.model).__name__}: nothing is merged"
        longest = max(len(block.name) for block in self.blocks)
        lines = [f"{'block':<{longest}} scale tokens merged  sub-layers"]
        for block, (tokens, fewer) in zip(self.blocks, self.counts(height, width)):
            scale = f"1/{block.downsample}"
            lines.append(f"{block.name:<{longest}} {scale:>5} {tokens:>6} {fewer:>6}  {', '.join(block.parts)}")
        return "\n".join([*lines, f"{len(self.blocks)} blocks, latent {height} x {width}, {self.settings.strategy}"])

    def __str__(self) -> str:
        return self.table(*self.size)

    def __enter__(self) -> DiffusionMerging:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()


def merge_diffusion_tokens(  # noqa: PLR0913 (the front door)
    model: Any,
    ratio: float = 0.5,
    *,
    stride: tuple[int, int] = (2, 2),
    strategy: str = "merge",
    max_downsample: int | None = None,
    attention: bool = True,
    cross_attention: bool = False,
    mlp: bool = False,
    random: bool = True,
    seed: int = 0,
    reach: int | None = None,
    reuse: bool = False,
    grid: tuple[int, int] | None = None,
) -> DiffusionMerging:
    """Let a denoiser merge tokens around its self-attention from now on; `ratio=0` turns it off.

    Args:
        model: a diffusers pipeline, or its denoiser: UNet2DConditionModel (Stable Diffusion 1, 2, XL),
            ControlNetModel, SD3Transformer2DModel, PixArtTransformer2DModel, DiTTransformer2DModel. Changed in place,
            and told anew by a second call; its weights, keys and classes are untouched.
        ratio: share of the tokens that merge, 0 to 1. At most 1 - 1 / (rows * columns of the stride) can;
            more is cut to that.
        stride: rows and columns of the windows that have one destination each.
        strategy: "merge" averages tokens; "prune" leaves them out (they still get the result of their destination);
            "downsample-keys" keeps every query of self-attention, takes keys and values from a grid `stride` times
            coarser, and does not use `ratio`.
        max_downsample: blocks whose tokens are at most this many latent positions wide merge; None takes the finest
            level that has attention.
        attention, cross_attention, mlp: which sub-layers see fewer tokens; the paper found the first alone best.
        random: whether destinations are random, which leaves fewer traces, or the first of each window.
        seed: of the random destinations.
        reach: how many rows of windows up and down a token looks for its destination; None looks at all, as the paper
            does. 1 makes matching several times cheaper.
        reuse: whether, within one call of the model, the first block of each resolution matches for all that follow;
            otherwise every block matches for itself, as the paper does. A single block and "downsample-keys" have
            nothing to share; gradient checkpointing is refused (in the backward pass).
        grid: rows and columns of tokens, for a model that is a single transformer block (with sub-layers `attn1`,
            `attn2` and `ff`).

    Returns: which blocks merge how many tokens; it undoes it as well, and is a context manager.

    Raises: BadInput for a model that is not known or of which nothing would merge, or a setting that cannot be. A call
        of the model raises it for latents too small for the windows, masks over the picture's tokens, chunked MLPs.
    """
    kinds = {"attention": attention, "cross_attention": cross_attention, "mlp": mlp}
    chosen = checked_kinds(ratio, stride, strategy, kinds)
    denoiser = model if grid else denoiser_of(model)
    size = grid or latent_size(denoiser)
    found = list(single_block(denoiser) if grid else places_of(denoiser))
    places = chosen_places(found, max_downsample, chosen) if ratio else []
    previous = getattr(denoiser, MARK, None)
    if isinstance(previous, DiffusionMerging):
        previous.remove()
    settings = Settings(ratio, stride, strategy, random, seed, reach, reuse and not grid)
    merging = DiffusionMerging(denoiser, settings, size)
    if places:
        merging.attach(places, Call(*size), hear_calls=not grid)
    return merging


def checked_kinds(ratio: float, stride: tuple[int, int], strategy: str, kinds: dict[str, bool]) -> list[str]:
    """The kinds of sub-layers that are wanted. Raises BadInput for settings that cannot be."""
    if not 0 <= ratio <= 1:
        raise out_of_range("ratio", ratio, "0 to 1")
    if len(stride) != 2 or min(stride) < 1 or stride[0] * stride[1] < 2:
        raise out_of_range("stride", stride, "rows and columns of a window of 2 tokens or more")
    if strategy not in DIFFUSION_STRATEGIES:
        raise one_of("strategy", strategy, DIFFUSION_STRATEGIES)
    chosen = [kind for kind, wanted in kinds.items() if wanted]
    if not chosen or (strategy == "downsample-keys" and chosen != ["attention"]):
        only = "attention alone" if strategy == "downsample-keys" else "attention, cross_attention or mlp"
        raise BadInput(f"{strategy} needs {only}; got {', '.join(chosen) or 'none'}.")
    return chosen


class Place(NamedTuple):
    """A transformer block in a denoiser.

    Attributes:
        name: of the block.
        block: itself.
        downsample: how many positions of the latent, in each direction, are one of its tokens.
        rounds_up: whether odd sizes are rounded up on the way there.
        parts: names of the sub-layers that would be shortened.
    """

    name: str
    block: nn.Module
    downsample: int
    rounds_up: bool
    parts: tuple[str, ...] = ()


def denoiser_of(model: Any) -> nn.Module:
    """The denoiser of a pipeline, or the model itself. Raises BadInput for one that is not known."""
    found = model
    if not isinstance(model, nn.Module):
        parts = (getattr(model, name, None) for name in ("unet", "transformer"))
        found = next((part for part in parts if isinstance(part, nn.Module)), None)
    found = getattr(found, "_orig_mod", found)  # what torch.compile wraps
    if not is_kind(found, U_NETS + TRANSFORMERS):
        raise BadInput(
            f"model must be a diffusers pipeline with, or a model of, the classes {', '.join(U_NETS + TRANSFORMERS)}; "
            f"got {type(model).__name__}" + (f" with {type(found).__name__}." if found is not model else ".")
        )
    return found


def is_kind(model: Any, names: tuple[str, ...]) -> bool:
    """Whether a model's class or one it derives from has one of these names (diffusers need not be imported)."""
    return any(kind.__name__ in names for kind in type(model).__mro__)


def latent_size(denoiser: Any) -> tuple[int, int]:
    """Height and width of the latent that a denoiser of diffusers was made for; 64 x 64 where it does not say."""
    size = getattr(denoiser.config, "sample_size", None) or 64
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def places_of(denoiser: Any) -> Iterator[Place]:
    """The transformer blocks of a denoiser and the resolution of each."""
    if is_kind(denoiser, TRANSFORMERS):
        for index, block in enumerate(denoiser.transformer_blocks):
            yield Place(f"transformer_blocks.{index}", block, denoiser.config.patch_size, rounds_up=False)
        return
    downsample = 1
    for index, stage in enumerate(denoiser.down_blocks):
        yield from places_in(stage, f"down_blocks.{index}", downsample)
        downsample *= 2 if stage.downsamplers else 1
    if denoiser.mid_block is not None:
        yield from places_in(denoiser.mid_block, "mid_block", downsample)
    for index, stage in enumerate(getattr(denoiser, "up_blocks", ())):
        yield from places_in(stage, f"up_blocks.{index}", downsample)
        downsample //= 2 if stage.upsamplers else 1


def places_in(stage: nn.Module, prefix: str, downsample: int) -> Iterator[Place]:
    """The transformer blocks of a part of a U-Net, all of one resolution."""
    for name, module in stage.named_modules(prefix=prefix):
        if all(isinstance(getattr(module, part, None), nn.Module) for part in ("norm1", "attn1", "ff")):
            yield Place(name, module, downsample, rounds_up=True)


def single_block(block: nn.Module) -> Iterator[Place]:
    """A block that was given alone."""
    yield Place(type(block).__name__, block, 1, rounds_up=True)


def chosen_places(places: list[Place], max_downsample: int | None, kinds: list[str]) -> list[Place]:
    """The places that merge, with the names of their sub-layers. Raises BadInput where that is none."""
    levels = sorted({place.downsample for place in places})
    if not levels:
        raise BadInput("the model has no transformer blocks (attn1 or attn, ff), so nothing would merge.")
    limit = levels[0] if max_downsample is None else max_downsample
    fine = [place for place in places if place.downsample <= limit]
    if not fine:
        raise BadInput(f"max_downsample must be at least {levels[0]}, the finest level with attention; got {limit}.")
    found = [place._replace(parts=sublayers(place.block, kinds)) for place in fine]
    found = [place for place in found if place.parts]
    if not found:
        raise BadInput(f"the blocks of {type(fine[0].block).__name__} have no {' or '.join(kinds)}.")
    return found


def sublayers(block: nn.Module, kinds: list[str]) -> tuple[str, ...]:
    """Names of those sub-layers of a block that are of these kinds."""
    joint = hasattr(block, "norm1_context")  # the picture attends to itself and the text at once
    names = {
        "attention": ("attn", "attn2") if joint else ("attn1",),
        "cross_attention": () if joint else ("attn2",),
        "mlp": ("ff",),
    }
    wanted = [name for kind in kinds for name in names[kind]]
    return tuple(name for name in wanted if isinstance(getattr(block, name, None), nn.Module))


def forget_compiled() -> None:
    """Compiled code does not see that hooks came or went (TorchDynamo does not guard them), so it is made anew."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
