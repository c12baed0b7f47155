"""One transformer block of a denoiser on fewer tokens (Token Merging for Stable Diffusion, arXiv 2303.17604, §4).

Around each chosen sub-layer tokens are merged and every token gets its own result back, so the residual stream, the
norms, gates and skip connections of a block stay as they are. Unusual: a block is not written anew and no class is
swapped; hooks of PyTorch's own around the block and its sub-layers do it, so every kind of norm and every argument that
diffusers gives its blocks is treated without knowing it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from percepta.errors import BadInput
from percepta.layers.token_merging import Plan, take
from percepta.layers.token_merging_grid import coarsen, hash_picks, match_grid, scramble

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a call."""

TOKENS = ("hidden_states", "x")
KEYS = ("encoder_hidden_states", "context")
"""What blocks and their attentions call their tokens, and tokens that keys and values come from."""


@dataclass(frozen=True)
class Settings:
    """How tokens are merged; see `merge_diffusion_tokens`."""

    ratio: float
    stride: tuple[int, int]
    strategy: str
    random: bool
    seed: int
    reach: int | None
    reuse: bool


@dataclass
class Call:
    """What the blocks of a denoiser need to know of the call that they are part of.

    Attributes:
        height, width: of the latent picture.
        turn: (1,) or (B,) int64, another one for every timestep; None outside a denoiser.
        shared: the plan of each resolution, made by its first block and reused by the others; None when no call runs.
    """

    height: int = 0
    width: int = 0
    turn: Tensor | None = None
    shared: dict[int, Plan] | None = None

    def begin(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a denoiser runs: the size of its sample, and its timestep."""
        names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
        given = dict(zip(names, args)) | kwargs
        sample, timestep = given[names[0]], given.get("timestep")
        self.height, self.width = sample.shape[-2:]
        if timestep is None:
            timestep = 0
        if not isinstance(timestep, Tensor):
            timestep = torch.full((1,), timestep, dtype=torch.float32)
        # Thousandths, since some models count from 0 to 1.
        self.turn = (timestep.detach().reshape(-1).float() * 1000).round().long()
        self.shared = {}  # also after a call that an exception ended

    def end(self, denoiser: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Behind a denoiser: its plans have served."""
        self.shared = None


@dataclass
class MergedBlock:
    """A block whose tokens are merged, and the hooks that do it.

    Attributes:
        name: of the block within its model.
        index: number of the block, which its random destinations depend on.
        downsample: how many positions of the latent, in each direction, are one token.
        rounds_up: whether odd sizes are rounded up on the way there, as convolutions do, or down.
        parts: names of the sub-layers that are shortened.
        plan: the match of the call that is running.
    """

    name: str
    index: int
    downsample: int
    rounds_up: bool
    parts: tuple[str, ...]
    settings: Settings
    call: Call
    plan: Plan | None = None

    def attach(self, block: nn.Module) -> list[RemovableHandle]:
        """Hook into a block; what is returned takes the hooks out again."""
        if self.settings.strategy == "downsample-keys":
            (part,) = (getattr(block, name) for name in self.parts)
            check_takes_keys(part, self.name)
            return [part.register_forward_pre_hook(self.coarsen_keys, with_kwargs=True)]
        hooks = [
            block.register_forward_pre_hook(self.match, with_kwargs=True),
            block.register_forward_hook(self.forget),
        ]
        for name in self.parts:
            part = getattr(block, name)
            hooks.append(part.register_forward_pre_hook(self.merge, with_kwargs=True))
            hooks.append(part.register_forward_hook(self.unmerge))
        return hooks

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens for a latent of this size."""
        if self.rounds_up:
            return -(-height // self.downsample), -(-width // self.downsample)
        return height // self.downsample, width // self.downsample

    def match(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the block: the plan of this call, from the block's input."""
        x = tokens_of(args, kwargs)
        height, width = self._checked_grid(x)
        if not self.settings.reuse:
            self.plan = self._match(x, height, width)
            return
        shared = self.call.shared
        if shared is None:
            raise BadInput(
                f"{self.name} was called outside a call of its model, where reuse has no plan (gradient checkpointing "
                "does so); use reuse=False."
            )
        if self.downsample not in shared:
            shared[self.downsample] = self._match(x, height, width)
        self.plan = shared[self.downsample]

    def _match(self, x: Tensor, height: int, width: int) -> Plan:
        settings, picks = self.settings, None
        if settings.random:
            turn = self.call.turn
            turn = torch.zeros(1, dtype=torch.int64) if turn is None else turn
            key = settings.seed * 4096 + self.index
            picks = hash_picks(height, width, settings.stride, scramble(turn.to(x.device)) + key)
        remove = int(x.shape[1] * settings.ratio)
        return match_grid(x, height, width, remove, settings.stride, picks, settings.reach)

    def forget(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Behind the block: its plan has served."""
        self.plan = None

    def merge(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Before a sub-layer: fewer tokens."""
        x, plan = tokens_of(args, kwargs), self._plan()
        if x.shape[1] != plan.length:
            raise BadInput(
                f"a sub-layer of {self.name} is given {x.shape[1]} of {plan.length} tokens at a time, which merging "
                "cannot follow; turn forward chunking off, or use mlp=False."
            )
        refuse_masks(kwargs, self.name)
        merged = plan.merge_weighted(x)[0] if self.settings.strategy == "merge" else take(x, plan.kept)
        return with_tokens(args, kwargs, merged)

    def unmerge(self, part: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Behind a sub-layer: every token has its row again; tokens of a text beside the picture's stay."""
        if isinstance(output, tuple):
            return (self._plan().unmerge(output[0]), *output[1:])
        return self._plan().unmerge(output)

    def coarsen_keys(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Before a self-attention: keys and values from a coarser grid."""
        x = tokens_of(args, kwargs)
        if len(args) > 1 or any(kwargs.get(name) is not None for name in KEYS):
            raise BadInput(f'{self.name} attends to other tokens; strategy="downsample-keys" needs self-attention.')
        refuse_masks(kwargs, self.name)
        coarse = coarsen(x, *self._checked_grid(x), self.settings.stride)
        return args, {**kwargs, check_takes_keys(part, self.name): coarse}

    def _plan(self) -> Plan:
        if self.plan is None:
            raise BadInput(f"a sub-layer of {self.name} was called without its block, whose input decides what merges.")
        return self.plan

    def _checked_grid(self, x: Tensor) -> tuple[int, int]:
        height, width = self.grid(self.call.height, self.call.width)
        if x.ndim != 3 or x.shape[1] != height * width:
            raise BadInput(
                f"{self.name} has tokens {tuple(x.shape)} where merging expects {height} x {width}, "
                f"1/{self.downsample} of a latent of {self.call.height} x {self.call.width}; "
                "call the whole model, not a part of it."
            )
        return height, width


def tokens_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tokens among the arguments of a block or sub-layer."""
    if args:
        return args[0]
    return next(kwargs[name] for name in TOKENS if name in kwargs)


def with_tokens(args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Arguments:
    """The arguments of a call with other tokens."""
    if args:
        return (x, *args[1:]), kwargs
    return args, {name: x if name in TOKENS else value for name, value in kwargs.items()}


def refuse_masks(kwargs: dict[str, Any], owner: str) -> None:
    """Raises BadInput for masks that speak of single tokens of the picture; one over a text's tokens is fine."""
    for name in ("attention_mask", "mask"):
        mask = kwargs.get(name)
        over_text = any(kwargs.get(key) is not None for key in KEYS)
        if mask is not None and not (over_text and (mask.ndim == 2 or mask.shape[-2] == 1)):
            raise BadInput(f"{owner} was given {name} over the picture's tokens, which merging cannot follow.")
    if kwargs.get("ip_adapter_masks") is not None:
        raise BadInput(f"{owner} was given ip_adapter_masks, which merging cannot follow; use cross_attention=False.")


def check_takes_keys(part: nn.Module, owner: str) -> str:
    """The argument by which an attention takes tokens for its keys and values. Raises BadInput where it cannot."""
    if getattr(part, "fused_projections", False):
        raise BadInput(
            f'{owner} has fused projections; strategy="downsample-keys" needs model.unfuse_qkv_projections().'
        )
    accepts = inspect.signature(type(part).forward).parameters
    for name in KEYS:
        if name in accepts:
            return name
    raise BadInput(f'{type(part).__name__} in {owner} takes no keys from elsewhere; use strategy="merge".')
