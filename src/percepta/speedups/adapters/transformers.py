"""Token merging in the vision towers of transformers: ViT, DeiT, MAE, MSN, I-JEPA, CLIP, SigLIP,
DINOv2 and DINOv3.

Order of this file: the layers, places of rotary positions, the layer that merges, the adapter. Each layer gets a
`forward` of its own; its class, its modules and the state dict stay. Unusual: the model's own loop over its layers
runs, and what one layer hands to the next is not a tensor but `Carried`; whoever looks at it from outside, such as the
recorder of hidden states, finds every token at its place. So everything around the layers, heads and pooling included,
is the model's own, and pooling over places is pooling weighted by size.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from percepta.errors import BadInput
from percepta.layers import Shorten, Tokens, restored
from percepta.speedups.adapters.foreign import (
    AGREED,
    BlockKind,
    Rotation,
    distinct,
    mixed,
    name_of,
    placed,
    require_agreement,
    rotated,
    rotation_at,
    run_block,
    seeded_copy,
    weights,
)
from percepta.speedups.cost import BlockCost, Shape

# Layers


def _attention(part: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    parts = part.q_proj(x), part.k_proj(x), part.v_proj(x)
    query, key, value = (found.unflatten(-1, (-1, part.head_dim)).transpose(1, 2) for found in parts)
    dropout = part.attention_dropout if hasattr(part, "attention_dropout") else part.dropout
    turned = rotated(query, rotation), rotated(key, rotation)
    found = mixed(*turned, value, bias, dropout if part.training else 0.0)
    return (part.o_proj if hasattr(part, "o_proj") else part.out_proj)(found), key


def _vit_attention(layer: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    update, keys = _attention(layer.attention, layer.layernorm_before(x), rotation, bias)
    return layer.dropout(update), keys


def _vit_mlp(layer: Any, x: Tensor) -> Tensor:
    return layer.dropout(layer.mlp(layer.layernorm_after(x)))


def _clip_attention(layer: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return _attention(layer.self_attn, layer.layer_norm1(x), rotation, bias)


def _clip_mlp(layer: Any, x: Tensor) -> Tensor:
    return layer.mlp(layer.layer_norm2(x))


def _dino_attention(layer: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    update, keys = _attention(layer.attention, layer.norm1(x), rotation, bias)
    return layer.drop_path(layer.layer_scale1(update)), keys


def _dino_mlp(layer: Any, x: Tensor) -> Tensor:
    return layer.drop_path(layer.layer_scale2(layer.mlp(layer.norm2(x))))


def _cost(layer: Any) -> BlockCost:
    part = attention_of(layer)
    return BlockCost(weights(part), weights(layer.mlp), part.q_proj.out_features)


def attention_of(layer: Any) -> Any:
    """The attention of a layer, by either of its names."""
    return layer.self_attn if hasattr(layer, "self_attn") else layer.attention


VIT = BlockKind(_vit_attention, _vit_mlp, _cost)
CLIP = BlockKind(_clip_attention, _clip_mlp, _cost)
DINO = BlockKind(_dino_attention, _dino_mlp, _cost)


class Family(NamedTuple):
    """How a layer runs, how many leading tokens are no patches (given the config), and whether attention should count
    merged tokens by their size (not in masked autoencoders)."""

    kind: BlockKind
    prefix: Callable[[Any], int]
    proportional: bool = True


LAYERS = {
    "vit.modeling_vit.ViTLayer": Family(VIT, lambda config: 1),
    "deit.modeling_deit.DeiTLayer": Family(VIT, lambda config: 2),
    "vit_mae.modeling_vit_mae.ViTMAELayer": Family(VIT, lambda config: 1, proportional=False),
    "ijepa.modeling_ijepa.IJepaLayer": Family(VIT, lambda config: 0),
    "vit_msn.modeling_vit_msn.ViTMSNLayer": Family(VIT, lambda config: 1),
    "clip.modeling_clip.CLIPEncoderLayer": Family(CLIP, lambda config: 1),
    "siglip.modeling_siglip.SiglipEncoderLayer": Family(CLIP, lambda config: 0),
    "dinov2.modeling_dinov2.Dinov2Layer": Family(DINO, lambda config: 1),
    "dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersLayer": Family(
        DINO, lambda config: 1 + config.num_register_tokens
    ),
    "dinov3_vit.modeling_dinov3_vit.DINOv3ViTLayer": Family(DINO, lambda config: 1 + config.num_register_tokens),
}
"""What can merge, by where the class of its layers lives under transformers.models."""
FROM_CLASS = (
    "ViTForImageClassification",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "ViTMSNForImageClassification",
    "CLIPModel",
    "CLIPVisionModelWithProjection",
)
"""Models whose output is read from leading tokens alone, so that merging in the last layer changes nothing."""


def family_of(layer: object) -> Family | None:
    """What is known of the class of a layer."""
    return LAYERS.get(name_of(layer).removeprefix("transformers.models."))


# Rotary positions of DINOv3


def frequencies(config: Any, channels: int, device: torch.device) -> Tensor:
    """How fast each pair of channels turns along rows and columns: (2, channels / 2)."""
    quarter = torch.arange(0, 1, 4 / channels, device=device, dtype=torch.float32)
    turns = 2 * math.pi / config.rope_theta**quarter
    still = torch.zeros_like(turns)
    return torch.stack([torch.cat([turns, still]), torch.cat([still, turns])])


def places_of(cosine: Tensor, sine: Tensor, turns: Tensor) -> Tensor:
    """The places (N, 2) of patches whose rotation is known, (N, channels) each, from the slowest pair of each axis,
    which turns less than half a circle over a picture. So they hold for whatever moved the places in training."""
    count = turns.shape[1] // 2
    index = [count - 1, 2 * count - 1]
    return torch.atan2(sine[:, index].float(), cosine[:, index].float()) / turns[[0, 1], index]


# The layer that merges


class Carried(NamedTuple):
    """What a layer hands to the next one.

    Attributes:
        hidden_states: every token at its place, for those who look at layers from outside; where nobody does, the
            tokens as they are.
        tokens: the tokens that are left.
    """

    hidden_states: Tensor
    tokens: Tokens


class MergedLayer:
    """A layer of transformers, run with merging; it stands in for the layer's own `forward`.

    Args:
        layer: the layer.
        prefix: leading tokens without a place.
        policy: what it does to its tokens.
        last: whether it gives every token back at its place.
    """

    def __init__(self, layer: Any, prefix: int, policy: Shorten | None, last: bool) -> None:
        family = family_of(layer)
        assert family is not None
        self.layer, self.kind, self.prefix, self.policy, self.last = layer, family.kind, prefix, policy, last

    def __call__(self, hidden_states: Any, *arguments: Any, **named: Any) -> Any:
        """As the layer's forward, with `Carried` in place of the hidden states between layers."""
        tokens = self.step(hidden_states, *arguments, **named)
        if self.last:
            return restored(tokens.x, tokens.group)
        return Carried(restored(tokens.x, tokens.group) if self.layer._forward_hooks else tokens.x, tokens)

    def step(
        self,
        hidden_states: Tensor | Carried,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **named: Any,
    ) -> Tokens:
        """The tokens after this layer."""
        layer, part = self.layer, attention_of(self.layer)
        if attention_mask is not None:
            raise BadInput("token merging knows no attention masks; call the model without one.")
        if named.get("output_attentions", getattr(part.config, "output_attentions", False)):
            raise BadInput("token merging has no attention maps between all tokens; call without output_attentions.")
        if not torch.compiler.is_compiling():
            _refuse_hooks(part)
        tokens = hidden_states.tokens if isinstance(hidden_states, Carried) else Tokens(hidden_states)
        rotation = None
        if position_embeddings is not None:
            tokens, rotation = self._placed(tokens, *position_embeddings)
        arguments = (self.kind, layer, tokens, rotation, self.policy)
        if layer.gradient_checkpointing and layer.training and torch.is_grad_enabled():
            return checkpoint(run_block, *arguments, use_reentrant=False)
        return run_block(*arguments)

    def _placed(self, tokens: Tokens, cosine: Tensor, sine: Tensor) -> tuple[Tokens, Rotation]:
        turns = frequencies(attention_of(self.layer).config, cosine.shape[-1], cosine.device)
        if tokens.size is not None and tokens.position is not None:
            return tokens, rotation_at(tokens.position, turns, self.prefix, half=True)
        places = placed(places_of(cosine, sine, turns), self.prefix, len(tokens.x))
        return tokens._replace(position=places), Rotation(cosine, sine, self.prefix, half=True)


def _refuse_hooks(part: nn.Module) -> None:
    """Raises BadInput for hooks on an attention that is not called, but for transformers' own recorder of maps."""
    hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
    if any("output_capturing_hook" not in getattr(hook, "__qualname__", "") for hook in hooks):
        raise BadInput(
            f"{name_of(part)} has a forward hook, which would not run while tokens are merged; remove the hook, or the "
            "merging."
        )


# The adapter


class TransformersAdapter:
    """A model of transformers that holds one vision tower.

    Raises: BadInput for one that holds none or several, or a tower that merging would make wrong.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tower, self.owner, self.list_name = _tower(model)
        self.layers = list(self.owner._modules[self.list_name])
        family = family_of(self.layers[0])
        assert family is not None
        self.config = attention_of(self.layers[0]).config
        self.depth, self.protected = len(self.layers), family.prefix(self.config)
        self.proportional = family.proportional
        self.last_block_matters = type(model).__name__ not in FROM_CLASS

    def shape(self) -> Shape:
        """At the size that the model was built for."""
        rows, columns = _grid(self.config)
        patches = rows * columns
        blocks = tuple(_cost(layer) for layer in self.layers)
        kernels = sum(p.numel() for p in self.tower.embeddings.parameters() if p.ndim == 4 and p.shape[2] > 1)
        pool = getattr(self.tower, "head", None)
        names = ("classifier", "visual_projection")
        fixed = weights(*(part for name in names if (part := getattr(self.model, name, None)) is not None))
        if pool is not None:  # keys and values of every place, one query
            width = self.config.hidden_size
            fixed += patches * (2 * width**2 + 2 * width) + weights(pool) - 2 * width**2
        return Shape(blocks, patches + self.protected, self.protected, kernels * patches, (0, fixed))

    def install(self, policies: Sequence[Shorten | None] | None) -> None:
        """A `forward` of its own for each layer; None takes it off."""
        _install(self.layers, self.protected, policies)

    @torch.no_grad()
    def check(self) -> None:
        """A seeded copy of the tower with a layer of each build and a small picture: everything it gives, by itself
        and by ours without merging; then one token fewer after each layer, which must be seen. Once a tower."""
        if AGREED.get(self.tower) == repr(self.tower):
            return
        twin, layers = self._twin()
        size = (2, getattr(self.config, "num_channels", 3), *_small(self.config))
        picture = torch.randn(size, generator=torch.Generator().manual_seed(0))

        def given() -> list[Tensor]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # masked autoencoders shuffle
                return list(_tensors(_called(twin, picture, self.config, output_hidden_states=True)))

        install = functools.partial(_install, layers, self.protected)
        require_agreement(name_of(self.tower), given, install, len(layers), self.protected)
        AGREED[self.tower] = repr(self.tower)

    def last_tokens(self, x: Tensor) -> Tokens:
        """Of the tower as it is told now: it runs up to the last layer."""
        layer, found = self.layers[-1], list[Tokens]()
        merged = layer.__dict__.get("forward") or MergedLayer(layer, self.protected, None, last=True)

        def stop(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            found.append(merged.step(*arguments, **named))
            raise _Found

        hook = layer.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            _called(self.tower, x, self.config)
        except _Found:
            return found[0]
        finally:
            hook.remove()
        raise AssertionError("the last layer was not reached")

    def _twin(self) -> tuple[Any, list[Any]]:
        few = distinct(self.layers)
        few = few if len(few) > 1 else [self.layers[0], *self.layers[1:][-1:]]
        whole = self.owner._modules[self.list_name]
        self.owner._modules[self.list_name] = nn.ModuleList(few)
        try:
            twin = seeded_copy(self.tower)
        finally:
            self.owner._modules[self.list_name] = whole
        return twin, [layer for layer in twin.modules() if family_of(layer) is not None]


class _Found(Exception):
    """The tokens were found; the rest of the model need not run."""


def _install(layers: Sequence[Any], prefix: int, policies: Sequence[Shorten | None] | None) -> None:
    for layer in layers:
        if isinstance(layer.__dict__.get("forward"), MergedLayer):
            del layer.forward
    if policies is not None:
        for index, (layer, policy) in enumerate(zip(layers, policies, strict=True)):
            layer.forward = MergedLayer(layer, prefix, policy, index == len(layers) - 1)


def _tower(model: nn.Module) -> tuple[Any, Any, str]:
    """The smallest module with the embeddings of pictures and the layers behind them, the module that holds the list of
    layers, and the name of that list."""
    found, unknown = [], []
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) and hasattr(_config(child[0]), "patch_size"):
                unknown += [layer for layer in child if family_of(layer) is None]
                found.append((owner, name, child))
    if unknown:
        raise BadInput(
            f"token merging cannot run {name_of(model)}: it is made of {name_of(unknown[0])}, which may have windows, "
            "masks, or biases for pairs of places; it knows ViT, DeiT, MAE, MSN, I-JEPA, CLIP, SigLIP and DINOv2 and 3."
        )
    if len(found) != 1:
        raise BadInput(
            f"token merging needs one vision tower, and {name_of(model)} has {len(found) or 'none'}. Text is not "
            "merged: its words are not alike enough to be averaged, and a causal order would be lost."
        )
    owner, name, layers = found[0]
    if any(not isinstance(layer.__dict__.get("forward"), MergedLayer | None) for layer in layers):
        raise BadInput(f"token merging cannot run {name_of(model)}: something else has replaced forward of a layer.")
    inside = [part for part in model.modules() if hasattr(part, "embeddings") and owner in list(part.modules())]
    return inside[-1], owner, name


def _config(layer: Any) -> Any:
    part = getattr(layer, "self_attn", getattr(layer, "attention", None))
    return getattr(part, "config", None)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _grid(config: Any) -> tuple[int, int]:
    (height, width), (rows, columns) = _pair(config.image_size), _pair(config.patch_size)
    return height // rows, width // columns


def _small(config: Any) -> tuple[int, int]:
    rows, columns = _pair(config.patch_size)
    return 3 * rows, 4 * columns


def _called(tower: Any, picture: Tensor, config: Any, **named: Any) -> Any:
    """A tower's output for pictures of any size."""
    if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters:
        named["interpolate_pos_encoding"] = tuple(picture.shape[-2:]) != _pair(config.image_size)
    return tower(pixel_values=picture, **named)


def _tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in an output, as numbers to compare."""
    if isinstance(output, Tensor):
        yield output.float()
    elif isinstance(output, dict | tuple | list):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)
