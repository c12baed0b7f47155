"""Token merging in timm's vision transformers: ViT, DeiT, EVA (with PE, DINOv3, RoPE-ViT), BEiT.

Order of this file: the blocks, rotary positions, the trunk that merges, the adapter. The trunk gets two functions of
its own, `forward_features` and `forward_intermediates`; its class, modules and state dict stay. Both give every token
back at its place, so the model's own head pools, by the mean, the maximum or attention, as if each merged token stood
there as often as it has inputs, which is the same as weighting by size.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
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

# Attention and blocks


def self_attention(part: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of `Attention`, `AttentionRope`, `EvaAttention` and BEiT's: the update, and keys behind their norm."""
    query, key, value = _projected(part, x)
    if hasattr(part, "q_norm"):
        query, key = part.q_norm(query), part.k_norm(key)
    plain_keys, groups = key, getattr(part, "num_kv_groups", 1)
    query, key = rotated(query, rotation).type_as(value), rotated(key, rotation).type_as(value)
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    found = mixed(query, key, value, bias, part.attn_drop.p if part.training else 0.0)
    if hasattr(part, "norm"):
        found = part.norm(found)
    if getattr(part, "gate", None) is not None:
        found = found * part.gate(x).sigmoid()
    return part.proj_drop(part.proj(found)), plain_keys


def _projected(part: Any, x: Tensor) -> Any:
    """Queries, keys and values, (B, heads, N, head_dim) each; fewer heads of keys and values where they are shared."""
    if part.qkv is None:
        width = part.q_proj.out_features // part.num_heads
        parts = part.q_proj(x), part.k_proj(x), part.v_proj(x)
        return [found.unflatten(-1, (-1, width)).transpose(1, 2) for found in parts]
    if getattr(part, "q_bias", None) is None:
        found = part.qkv(x)
    else:
        found = F.linear(x, part.qkv.weight, torch.cat([part.q_bias, part.k_bias, part.v_bias]))
    return found.unflatten(-1, (3, part.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def differential_attention(
    part: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of `DiffAttention`: the difference of two attentions over the same values."""
    heads = 2 * part.num_heads
    query, key, value = part.qkv(x).chunk(3, dim=2)
    query = part.q_norm(query.unflatten(-1, (heads, -1)).transpose(1, 2))
    key = part.k_norm(key.unflatten(-1, (heads, -1)).transpose(1, 2))
    value = value.unflatten(-1, (part.num_heads, -1)).transpose(1, 2)
    dropout = part.attn_drop_p if part.training else 0.0
    first = mixed(query[:, ::2], key[:, ::2], value, bias, dropout)
    second = mixed(query[:, 1::2], key[:, 1::2], value, bias, dropout)
    found = (first - part._compute_lambda().type_as(query) * second).unflatten(-1, (part.num_heads, -1))
    found = (part.sub_norm(found) * (1 - part.lambda_init)).flatten(2)
    return part.proj_drop(part.proj(part.norm(found))), key


ATTENTIONS = {
    "timm.layers.attention.Attention": self_attention,
    "timm.layers.attention.AttentionRope": self_attention,
    "timm.models.vision_transformer.Attention": self_attention,
    "timm.models.eva.EvaAttention": self_attention,
    "timm.models.beit.Attention": self_attention,
    "timm.layers.diff_attention.DiffAttention": differential_attention,
}
"""What each class of attention does, by where the class lives."""


def attentions(block: nn.Module) -> list[Any]:
    """The attentions in a block."""
    return [part for part in block.modules() if type(part).__name__.endswith(("Attention", "AttentionRope"))]


def _attention(part: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return ATTENTIONS[name_of(part)](part, x, rotation, bias)


def _vit_attention(block: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    update, keys = _attention(block.attn, block.norm1(x), rotation, bias)
    return block.drop_path1(block.ls1(update)), keys


def _vit_mlp(block: Any, x: Tensor) -> Tensor:
    return block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _eva_attention(block: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    update, keys = _attention(block.attn, block.norm1(x), rotation, bias)
    return block.drop_path1(update if block.gamma_1 is None else block.gamma_1 * update), keys


def _eva_mlp(block: Any, x: Tensor) -> Tensor:
    update = block.mlp(block.norm2(x))
    return block.drop_path2(update if block.gamma_2 is None else block.gamma_2 * update)


def _post_attention(block: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    update, keys = _attention(block.attn, x, rotation, bias)
    return block.drop_path1(block.norm1(update)), keys


def _post_mlp(block: Any, x: Tensor) -> Tensor:
    return block.drop_path2(block.norm2(block.mlp(x)))


def _cost(block: Any) -> BlockCost:
    return BlockCost(weights(block.attn), weights(block.mlp), block.attn.proj.in_features)


def _many_attention(block: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Several attentions side by side (arXiv 2203.09795); the keys of all of them are compared."""
    found = [_attention(branch.attn, branch.norm(x), rotation, bias) for branch in block.attns]
    updates = [branch.drop_path(branch.ls(update)) for branch, (update, _) in zip(block.attns, found)]
    return torch.stack(updates).sum(dim=0), torch.cat([keys for _, keys in found], dim=1)


def _many_mlp(block: Any, x: Tensor) -> Tensor:
    return torch.stack([branch(x) for branch in block.ffns]).sum(dim=0)


def _many_cost(block: Any) -> BlockCost:
    channels = sum(branch.attn.proj.in_features for branch in block.attns)
    return BlockCost(weights(block.attns), weights(block.ffns), channels)


def _joint_update(block: Any, x: Tensor, rotation: Rotation | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention and MLP of the same tokens at once (arXiv 2302.05442): there is no place between them to merge at."""
    hidden, *parts = block.in_proj(block.in_norm(x)).split(block.in_split, dim=-1)
    query, key, value = (part.unflatten(-1, (block.num_heads, -1)) for part in parts)
    query, key, value = block.q_norm(query).transpose(1, 2), block.k_norm(key).transpose(1, 2), value.transpose(1, 2)
    found = mixed(query, key, value, bias, block.attn_drop.p if block.training else 0.0)
    hidden = block.mlp_drop(block.mlp_act(hidden if block.mlp_bias is None else hidden + block.mlp_bias))
    if getattr(block, "attn_out_proj", None) is not None:
        update = block.attn_out_proj(found) + block.mlp_out_proj(hidden)
    else:
        update = block.out_proj(torch.cat([found, hidden], dim=-1))
    return block.drop_path(block.ls(update)), key


def _joint_cost(block: Any) -> BlockCost:
    return BlockCost(weights(block), 0, block.num_heads * block.head_dim)


PRE_NORM = BlockKind(_vit_attention, _vit_mlp, _cost)
PRE_NORM_GAMMA = BlockKind(_eva_attention, _eva_mlp, _cost)
PARALLEL = BlockKind(_many_attention, _many_mlp, _many_cost)
JOINT = BlockKind(_joint_update, None, _joint_cost)
POST_NORM = BlockKind(_post_attention, _post_mlp, _cost)
BLOCKS = {
    "timm.models.vision_transformer.Block": PRE_NORM,
    "timm.models.vision_transformer.ResPostBlock": POST_NORM,
    "timm.models.vision_transformer.ParallelThingsBlock": PARALLEL,
    "timm.models.vision_transformer.ParallelScalingBlock": JOINT,
    "timm.models.eva.EvaBlock": PRE_NORM_GAMMA,
    "timm.models.eva.EvaBlockPostNorm": POST_NORM,
    "timm.models.beit.Block": PRE_NORM_GAMMA,
}
"""The blocks that can merge, by where the class lives."""

# Rotary positions


def coordinates(rope: Any, grid: tuple[int, int], device: torch.device) -> Tensor:
    """The places that a rotary module gives to the patches of a grid (rows, columns): (rows * columns, 2) float32."""
    kind = name_of(rope).rpartition(".")[2]
    sizes, offset = grid, float(getattr(rope, "grid_offset", 0.0))
    if kind == "RotaryEmbeddingDinoV3":
        per_axis = {"separate": sizes, "max": (max(sizes),) * 2, "min": (min(sizes),) * 2}[rope.normalize_coords]
        starts = [torch.arange(0.5, size, device=device) for size in sizes]
        axes = [2.0 * ((start + offset) / by) - 1.0 for start, by in zip(starts, per_axis)]
    else:
        reference = getattr(rope, "ref_feat_shape", None) or sizes
        starts = [torch.arange(size, device=device, dtype=torch.float32) + offset for size in sizes]
        axes = [start / size * by for start, size, by in zip(starts, sizes, reference)]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    pair = (columns, rows) if rope.grid_indexing == "xy" else (rows, columns)
    places = torch.stack(pair, dim=-1).flatten(0, 1)
    return _moved(rope, places) if rope.training and getattr(rope, "aug_active", False) else places


def _moved(rope: Any, places: Tensor) -> Tensor:
    """The random move of all places that some models train with: shifted, stretched along each axis, and as a whole."""
    if rope.shift_coords is not None:
        places = places + places.new_empty(2).uniform_(-rope.shift_coords, rope.shift_coords)
    for most, count in ((rope.jitter_coords, 2), (rope.rescale_coords, 1)):
        if most is not None:
            places = places * places.new_empty(count).uniform_(-math.log(most), math.log(most)).exp()
    return places


def frequencies(rope: Any, block: int) -> Tensor:
    """How fast each pair of channels turns along the two axes of `coordinates`: (2, K), or (2, heads, K) where each
    block and head has learned its own."""
    kind = name_of(rope).rpartition(".")[2]
    if kind == "RotaryEmbeddingMixed":
        return rope.freqs[:, block]
    if kind == "RotaryEmbeddingMRope":
        return torch.stack([rope.inv_freq * (rope.axis == axis) for axis in (1, 2)])
    if kind == "RotaryEmbeddingDinoV3":
        turns = 2 * math.pi / rope.periods
    else:
        count = rope.dim // 4
        device = next(rope.buffers()).device
        turns = 1.0 / rope.temperature ** (torch.arange(count, device=device, dtype=torch.float32) / count)
    still = torch.zeros_like(turns)
    return torch.stack([torch.cat([turns, still]), torch.cat([still, turns])])


ROTARIES = ("RotaryEmbeddingCat", "RotaryEmbeddingDinoV3", "RotaryEmbeddingMixed", "RotaryEmbeddingMRope")


def rotates_halves(rope: Any) -> bool:
    """Whether channel i turns with channel i + D/2."""
    return name_of(rope).endswith("MRope") or bool(getattr(rope, "rotate_half", False))


# The trunk


class MergedTrunk:
    """A trunk of timm, run with merging; its two methods stand in for the trunk's own."""

    def __init__(self, trunk: Any, policies: Sequence[Shorten | None]) -> None:
        self.trunk, self.policies = trunk, tuple(policies)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Pictures (B, 3, H, W) → (B, N, D), every token at its place, normed as the trunk does."""
        tokens = self.last_tokens(x, attn_mask, is_causal)
        return restored(self.trunk.norm(tokens.x), tokens.group)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        **options: Any,
    ) -> Any:
        """The trunk's method of this name, every token at its place."""
        output_dict = options.pop("output_dict", False)
        _refuse_masks(options.pop("attn_mask", None), options.pop("is_causal", False))
        if options:
            raise TypeError(f"forward_intermediates got an unexpected argument {next(iter(options))!r}")
        if output_fmt not in ("NCHW", "NLC"):
            raise BadInput(f"output_fmt must be NCHW or NLC; got {output_fmt!r}.")
        wanted = self._indices(indices)
        maps, prefixes, tokens = [], [], None
        for index, tokens in enumerate(self.steps(x, max(wanted) + 1 if stop_early else None)):
            if index in wanted:
                values = restored(self.trunk.norm(tokens.x) if norm else tokens.x, tokens.group)
                prefix, patches = values.tensor_split([self.trunk.num_prefix_tokens], dim=1)
                maps.append(self._laid_out(patches, x) if output_fmt == "NCHW" else patches)
                prefixes.append(prefix)
        assert tokens is not None
        final = None if intermediates_only else restored(self.trunk.norm(tokens.x), tokens.group)
        with_prefix = return_prefix_tokens and bool(self.trunk.num_prefix_tokens)
        if output_dict:
            found = {"image_intermediates": maps} | ({"image_intermediates_prefix": prefixes} if with_prefix else {})
            return found if final is None else found | {"image_features": final}
        pairs = list(zip(maps, prefixes)) if with_prefix else maps
        return pairs if final is None else (final, pairs)

    def last_tokens(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tokens:
        """Pictures → the tokens after the last block, before any final norm."""
        _refuse_masks(attn_mask, is_causal)
        *_, tokens = self.steps(x)
        return tokens

    def steps(self, x: Tensor, stop: int | None = None) -> Iterator[Tokens]:
        """The tokens after each block, the first `stop` of them."""
        trunk, prefix = self.trunk, self.trunk.num_prefix_tokens
        rope, rotation, seen = getattr(trunk, "rope", None), None, None
        tokens = Tokens(_embedded(trunk, x))
        if rope is not None:
            if trunk.training and trunk.patch_drop is not None:
                raise BadInput("token merging cannot follow the places of patches that are dropped (patch_drop_rate).")
            patches = coordinates(rope, self._grid(x), tokens.x.device)
            tokens = tokens._replace(position=placed(patches, prefix, len(x)))
        for index, (block, policy) in enumerate(zip(itertools.islice(trunk.blocks, stop), self.policies)):
            own = getattr(block, "attn", None)
            _refuse_hooks(block, *(attentions(block) if own is None else [own]))
            if tokens.position is not None and (tokens.position is not seen or getattr(trunk, "rope_mixed", False)):
                seen = tokens.position
                places = seen[:1] if tokens.size is None else seen  # all pictures have the same grid until they merge
                rotation = rotation_at(places, frequencies(rope, index), prefix, rotates_halves(rope))
            arguments = (BLOCKS[name_of(block)], block, tokens, rotation, policy)
            if trunk.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(run_block, *arguments, use_reentrant=False)
            else:
                tokens = run_block(*arguments)
            yield tokens

    def _indices(self, indices: int | Sequence[int] | None) -> set[int]:
        """As timm counts: all blocks, the last so many, or those named, negative from the end."""
        depth = len(self.trunk.blocks)
        wanted = range(-(depth if indices is None else indices), 0) if not isinstance(indices, Sequence) else indices
        if not wanted or not all(-depth <= index < depth for index in wanted):
            raise BadInput(f"indices must name some of the {depth} blocks; got {indices!r}.")
        return {index % depth for index in wanted}

    def _grid(self, x: Tensor) -> tuple[int, int]:
        return self.trunk.patch_embed.dynamic_feat_size(x.shape[-2:])

    def _laid_out(self, patches: Tensor, x: Tensor) -> Tensor:
        return patches.unflatten(1, self._grid(x)).permute(0, 3, 1, 2).contiguous()


def _embedded(trunk: Any, x: Tensor) -> Tensor:
    """Pictures → tokens in front of the first block, as the trunk itself makes them."""
    x = trunk.patch_embed(x)
    if not hasattr(trunk, "_pos_embed"):  # BEiT
        x = torch.cat([trunk.cls_token.expand(len(x), -1, -1), x], dim=1)
        return trunk.pos_drop(x if trunk.pos_embed is None else x + trunk.pos_embed)
    x = trunk._pos_embed(x)
    if isinstance(x, tuple):  # EVA gives its rotation as well
        return trunk.norm_pre(x[0])
    return trunk.norm_pre(trunk.patch_drop(x))


def _refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise BadInput("token merging knows no attention masks and no causal order; call the model without them.")


def _refuse_hooks(*modules: nn.Module) -> None:
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks:
            raise BadInput(
                f"{name_of(module)} has a forward hook, which would not run while tokens are merged; remove the hook, "
                "or the merging, or use forward_intermediates."
            )


TRUNKS = (
    "timm.models.vision_transformer.VisionTransformer",
    "timm.models.deit.VisionTransformerDistilled",
    "timm.models.eva.Eva",
    "timm.models.beit.Beit",
)
REPLACED = ("forward_features", "forward_intermediates")
REASONS = {
    "vision_transformer_relpos": "its attention adds a bias for each pair of places, and a merged token has many",
    "vision_transformer_sam": "its attention is in windows and adds a bias for each pair of places",
    "swin_transformer": "its attention is in windows and adds a bias for each pair of places",
    "hiera": "its tokens are pooled on a grid, in windows",
    "naflexvit": "its pictures come in mixed sizes, with masks",
}


class TimmAdapter:
    """A vision transformer of timm.

    Raises: BadInput for one whose trunk, blocks, attention or positions merging would make wrong.
    """

    def __init__(self, model: Any) -> None:
        self.trunk = trunk = model.model if name_of(model).endswith(".FeatureGetterNet") else model
        _require_known(trunk)
        self.depth = len(trunk.blocks)
        self.protected = int(trunk.num_prefix_tokens)
        self.last_block_matters = trunk.global_pool != "token" or getattr(trunk, "attn_pool", None) is not None
        tag = str((getattr(trunk, "pretrained_cfg", None) or {}).get("tag") or "")
        self.proportional = "mae" not in tag.split("_")

    def shape(self) -> Shape:
        """At the size that the model was built for."""
        trunk, patches = self.trunk, self.trunk.patch_embed.num_patches
        blocks = tuple(BLOCKS[name_of(block)].cost(block) for block in trunk.blocks)
        fixed = weights(*(part for name in ("head", "head_dist") if (part := getattr(trunk, name, None)) is not None))
        pool: Any = getattr(trunk, "attn_pool", None)
        if hasattr(pool, "kv"):  # keys and values of every place, one query
            tokens = patches + (self.protected if getattr(trunk, "pool_include_prefix", True) else 0)
            fixed += tokens * (weights(pool.kv) + 2 * pool.kv.in_features) + weights(pool) - weights(pool.kv)
        return Shape(blocks, patches + self.protected, self.protected, _embedding_cost(trunk), (0, fixed))

    def install(self, policies: Sequence[Shorten | None] | None) -> None:
        """The trunk's two methods, as attributes of this very trunk; None takes them off."""
        _install(self.trunk, policies)

    def last_tokens(self, x: Tensor) -> Tokens:
        """Of the trunk as it is told now."""
        merged = getattr(self.trunk.__dict__.get("forward_features"), "__self__", None)
        return (merged or MergedTrunk(self.trunk, [None] * self.depth)).last_tokens(x)

    @torch.no_grad()
    def check(self) -> None:
        """A seeded copy with a block of each build and a small picture: everything it gives, by itself and by ours
        without merging; then one token fewer after each block, which must be seen. Once a model."""
        if AGREED.get(self.trunk) == repr(self.trunk):
            return
        twin, size = _twin(self.trunk)
        picture = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))

        def given() -> list[Tensor]:
            final, maps = twin.forward_intermediates(picture, norm=True)
            return [twin(picture), twin.forward_features(picture), final, *maps]

        install = functools.partial(_install, twin)
        require_agreement(name_of(self.trunk), given, install, len(twin.blocks), self.protected)
        AGREED[self.trunk] = repr(self.trunk)


def _picture_size(embed: Any) -> tuple[int, int, int]:
    """Channels, height and width of what an embedding was built for."""
    first = next(part for part in embed.modules() if isinstance(part, nn.Conv2d))
    return first.in_channels, *embed.img_size


def _embedding_cost(trunk: Any) -> int:
    """Multiply-adds in front of the blocks; a hybrid has a whole network there, which runs to be counted."""
    embed = trunk.patch_embed
    if name_of(embed) == "timm.layers.patch_embed.PatchEmbed":
        return embed.proj.weight.numel() * embed.num_patches
    from torch.utils.flop_counter import FlopCounterMode  # seconds to import

    with FlopCounterMode(display=False) as counter:
        picture = torch.empty(1, *_picture_size(embed), device="meta")
        copy.deepcopy(embed).to("meta", torch.float32).eval()(picture)
    return counter.get_total_flops() // 2


def _install(trunk: Any, policies: Sequence[Shorten | None] | None) -> None:
    for name in REPLACED:
        if isinstance(getattr(trunk.__dict__.get(name), "__self__", None), MergedTrunk):
            delattr(trunk, name)
    if policies is not None:
        merged = MergedTrunk(trunk, policies)
        for name in REPLACED:
            setattr(trunk, name, getattr(merged, name))


def _twin(trunk: Any) -> tuple[Any, tuple[int, int, int]]:
    """A seeded copy with few blocks, and the size of the pictures it takes: 3 x 4 patches where it can be told so."""
    blocks = trunk.blocks
    few = distinct(blocks)
    few = few if len(few) > 1 else [blocks[0], *blocks[1:][-1:]]
    trunk._modules["blocks"] = nn.ModuleList(few) if isinstance(blocks, nn.ModuleList) else nn.Sequential(*few)
    try:
        twin = seeded_copy(trunk)
    finally:
        trunk._modules["blocks"] = blocks
    channels, height, width = _picture_size(twin.patch_embed)
    rows, columns = twin.patch_embed.grid_size
    small = 3 * height // rows, 4 * width // columns
    if getattr(twin, "dynamic_img_size", False):
        return twin, (channels, *small)
    if hasattr(twin, "set_input_size") and hasattr(twin.patch_embed, "set_input_size"):
        twin.set_input_size(small)
        return twin, (channels, *small)
    return twin, (channels, height, width)


def _require_known(trunk: Any) -> None:
    """Raises BadInput for what merging would make wrong."""
    name, blocks = name_of(trunk), getattr(trunk, "blocks", ())
    known = next((base for base in type(trunk).__mro__ if f"{base.__module__}.{base.__qualname__}" in TRUNKS), None)
    if known is None:
        module = type(trunk).__module__.rpartition(".")[2]
        reason = REASONS.get(module, "it is none of timm's VisionTransformer, VisionTransformerDistilled, Eva and Beit")
        raise BadInput(f"token merging cannot run {name}: {reason}.")
    changed = [own for own in REPLACED if getattr(type(trunk), own) is not getattr(known, own) or own in vars(trunk)]
    if [own for own in changed if not isinstance(getattr(vars(trunk).get(own), "__self__", None), MergedTrunk)]:
        raise BadInput(f"token merging cannot run {name}: it has a {changed[0]} of its own, unknown to percepta.")
    parts = [part for block in blocks for part in attentions(block)]
    for part in [*blocks, *parts]:
        if name_of(part) not in BLOCKS and name_of(part) not in ATTENTIONS:
            raise BadInput(f"token merging cannot run {name}: it is made of {name_of(part)}, unknown to percepta.")
    tables = [getattr(part, "relative_position_bias_table", None) for part in parts]
    if any(table is not None for table in [*tables, getattr(trunk, "rel_pos_bias", None)]):
        raise BadInput(f"token merging cannot run {name}: {REASONS['vision_transformer_relpos']}.")
    rope = getattr(trunk, "rope", None)
    if rope is not None and name_of(rope).rpartition(".")[2] not in ROTARIES:
        raise BadInput(f"token merging cannot run {name}: it has {name_of(rope)}, unknown to percepta.")
