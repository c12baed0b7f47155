"""What a model is for those who look at its features: how pictures go in, and which vectors come out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from percepta import __version__
from percepta.media import Source
from percepta.running.fingerprint import weights_hash
from percepta.running.modes import evaluating
from percepta.running.preparing import is_prepared, precision_of, prepare, unprepare

OUTPUT, PROBABILITIES = "output", "probabilities"
SCHEMA = 1
WEIGHTED_IN_A_BLOCK = 4  # a transformer's: queries, keys and values; the projection; two of the MLP
BESIDE_THE_WAY = ("downsample", "shortcut", "se.", "squeeze", "attn", "gate", "aux")

Encode = Callable[[Tensor, bool], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A model with what its features need.

    Attributes:
        name: as it was asked for, such as "pe-core-nano" or "timm/resnet18.a1_in1k".
        model: in evaluation mode while it runs.
        layers: names of its layers from the first to the last, such as "layer 0"; empty where none is known.
        prepare: a picture to the tensor (3, H, W) that the model takes.
        encode: (pictures (B, 3, H, W), whether layers are wanted) → vectors by name; see `vectors`.
        parameters: of the whole model as it is used.
        depth: weighted layers one behind the other, as convolutional networks are named by (ResNet-50: 50).
        size: of a prepared picture, (3, H, W); `forward` is the model's own.
        recipe: what features depend on beside weights: preprocessing and versions, in words.
        usage: the name of a layer, or "output", to the line of code that gives its features.
    """

    name: str
    model: nn.Module
    layers: tuple[str, ...]
    prepare: Callable[[Source], Tensor]
    encode: Encode
    parameters: int
    depth: int
    size: tuple[int, ...]
    forward: Callable[[Tensor], Any]
    recipe: str
    usage: Callable[[str], str]

    def vectors(self, pictures: Tensor, layers: bool = True) -> dict[str, Tensor]:
        """Pictures as `prepare` gives them, (B, 3, H, W), to vectors, float32 on the CPU.

        Args:
            layers: False leaves the layers out.

        Returns: (B, D) by the names of the layers, the mean of a layer's patches or places; "output", what the model
        itself pools them to in front of any classifier; and "probabilities" (B, classes it was trained on), where it
        has a classifier.
        """
        place = next(self.model.parameters())
        with evaluating(self.model), torch.no_grad():  # ordinary tensors, which may be trained on
            found = self.encode(pictures.to(place.device, place.dtype), layers)
        return {name: values.float().cpu() for name, values in found.items()}

    def macs(self) -> int:
        """Multiply-adds for one picture: of products, convolutions and attentions. It runs the model once."""
        place, precision = next(self.model.parameters()), precision_of(self.model)
        picture = torch.zeros(1, *self.size, device=place.device, dtype=place.dtype)
        prepared = is_prepared(self.model)
        unprepare(self.model)  # packed products are not counted
        try:
            return multiply_adds(self.model, picture, self.forward)
        finally:
            if prepared:
                prepare(self.model, precision)

    def key(self, layers: bool) -> str:
        """24 hex digits of all that the vectors depend on beside the pictures: weights, precision, preprocessing,
        versions, which vectors."""
        parts = (SCHEMA, __version__, weights_hash(self.model), precision_of(self.model), self.recipe, layers)
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def averaged(values: Tensor, prefix: int = 0, channels_last: bool = False) -> Tensor:
    """(B, N, D) tokens without the first `prefix`, or a map (B, D, h, w), or with `channels_last` (B, h, w, D), to the
    mean over its places, (B, D). What has no places stays as it is."""
    if values.ndim == 3:
        return values[:, prefix:].mean(dim=1)
    if values.ndim > 3:
        return values.flatten(1, -2).mean(dim=1) if channels_last else values.flatten(2).mean(dim=2)
    return values


@contextmanager
def tapped(
    model: nn.Module, taps: Mapping[str, tuple[str, Callable[[Any], Tensor]]], head: str = ""
) -> Iterator[dict[str, Tensor]]:
    """While it holds, each pass of a model leaves vectors behind.

    Args:
        taps: names of vectors to (path of a module, what makes a vector of that which the module gives).
        head: path of a layer whose input is the model's own vector, "" for none.
    """
    found: dict[str, Tensor] = {}

    def tap(name: str, pool: Callable[[Any], Tensor]) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, values: Any) -> None:
            found[name] = pool(values)

        return hook

    def keep(_module: nn.Module, given: Any) -> None:
        found[OUTPUT] = given[0].flatten(1)

    hooks = [model.get_submodule(path).register_forward_hook(tap(name, pool)) for name, (path, pool) in taps.items()]
    if head:
        hooks.append(model.get_submodule(head).register_forward_pre_hook(keep))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def in_order(found: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The vectors of these names that are there, in the order of the names."""
    return {name: found[name] for name in names if name in found}


@contextmanager
def seeded() -> Iterator[None]:
    """Random weights are the same every time, and nobody else's random numbers change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def parameters_of(*modules: nn.Module) -> int:
    """How many numbers modules hold; what they share is counted once."""
    return sum({id(part): part.numel() for module in modules for part in module.parameters()}.values())


def weighted_depth(model: nn.Module, blocks: int = 0) -> int:
    """Weighted layers one behind the other.

    Args:
        blocks: of a transformer; then they and the patches count. Else convolutions and linear layers do, without
            those of shortcuts and gates.
    """
    if blocks:
        return WEIGHTED_IN_A_BLOCK * blocks + 1
    return sum(
        isinstance(part, nn.Conv2d | nn.Linear) and not any(word in f"{name}." for word in BESIDE_THE_WAY)
        for name, part in model.named_modules()
    )


@torch.no_grad()
def multiply_adds(model: nn.Module, picture: Tensor, forward: Callable[[Tensor], Any] | None = None) -> int:
    """Multiply-adds of a model for one input (1, ...): of products, convolutions and attentions. It runs once.

    Args:
        forward: what to run, by default the model itself.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count  # seconds to import

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))

    attention._get_raw = True  # type: ignore[attr-defined] # tensors instead of shapes
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}  # which the counter leaves out
    trained = [part for part in model.parameters() if part.requires_grad]
    try:
        for part in trained:  # the counter stumbles over modules that are called with a parameter
            part.requires_grad = False
        with evaluating(model), FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
            (model if forward is None else forward)(picture)
    finally:
        for part in trained:
            part.requires_grad = True
    return counter.get_total_flops() // 2
