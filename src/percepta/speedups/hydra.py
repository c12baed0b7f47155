"""Hydra attention in place of softmax attention in chosen blocks of a ViT (arXiv 2209.07484, section 4).

Few blocks, from the back: there tokens have met, and one vector for all is enough; blocks at the front need to tell
tokens apart. The weights stay those of the model and are a start for fine-tuning, not a result: a trained model that
is converted and not trained further is wrong.
Order of this file: which blocks, the conversion, the attention that timm's blocks call, what tokens gave to a score.
Unusual: the very modules `qkv` and `proj` of the attention are shared, so a state dict fits before, during and after.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, out_of_range
from percepta.layers.attention import Attention
from percepta.layers.chunked import PreparedAttention
from percepta.layers.hydra import HydraAttention, check_names, hydra, hydra_contributions, size_of_bias

PLACES = ("back", "front", "interleave")
SPECIFICATIONS = "'all', 'back:k', 'front:k', 'interleave:k' or a list of block indices"


def chosen_blocks(blocks: str | Sequence[int], depth: int | None = None) -> tuple[int, ...]:
    """The block indices that a placement means, ascending.

    Args:
        blocks: "all"; "back:k", the last k; "front:k", the first k; "interleave:k", k in even steps, the last block
            one of them; or 0-based indices, negative from the end. k = 0 and an empty list choose none.
        depth: how many blocks there are; None checks the wording alone and gives ().

    Raises: BadInput for another wording, k beyond the depth, an index out of range or given twice.
    """
    if not isinstance(blocks, str):
        return _listed_blocks(blocks, depth)
    place, _, number = blocks.partition(":")
    if blocks != "all" and (place not in PLACES or not number.isdecimal()):
        raise BadInput(f"blocks must be {SPECIFICATIONS}; got {blocks!r}.")
    if depth is None:
        return ()
    count = depth if blocks == "all" else int(number)
    if count > depth:
        raise out_of_range(f"k of {blocks!r}", count, f"0 to {depth}, the number of blocks")
    if place == "interleave":
        return tuple((step + 1) * depth // count - 1 for step in range(count))
    return tuple(range(count) if place == "front" else range(depth - count, depth))


def _listed_blocks(blocks: Sequence[int], depth: int | None) -> tuple[int, ...]:
    if not isinstance(blocks, Sequence) or any(isinstance(b, bool) or not isinstance(b, int) for b in blocks):
        raise BadInput(f"blocks must be {SPECIFICATIONS}; got {blocks!r}.")
    if depth is None:
        return ()
    for index in blocks:
        if not -depth <= index < depth:
            raise out_of_range("a block index", index, f"0 to {depth - 1} or -{depth} to -1")
    found = sorted({index % depth for index in blocks})
    if len(found) < len(blocks):
        raise BadInput(f"blocks must name each block once; got {list(blocks)}.")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class HydraConversion:
    """What `hydra_attention` did to a model, and the way back.

    Attributes:
        blocks: indices of the converted blocks, ascending.
        unrotated: those of them whose queries and keys had rotary positions and now go without.
        width: features D that attention mixes.
        tokens: tokens of a picture of the model's own size.
        parts: (block, name of its attention, softmax attention, Hydra attention) of each converted block.
    """

    blocks: tuple[int, ...]
    unrotated: tuple[int, ...]
    width: int
    tokens: int
    parts: tuple[tuple[nn.Module, str, nn.Module, nn.Module], ...]

    def macs_saved(self, tokens: int | None = None) -> int:
        """Multiply-adds a picture no longer needs, 2 N² D - 2 N D a block; N is by default that of the model's size."""
        count = self.tokens if tokens is None else tokens
        return len(self.blocks) * 2 * self.width * (count**2 - count)

    def remove(self) -> None:
        """Put softmax attention back where Hydra attention stands; a second call changes nothing.

        Raises: BadInput where another pass has since replaced a converted attention: undo that one first.
        """
        for index, (block, name, softmax, converted) in zip(self.blocks, self.parts, strict=True):
            if getattr(block, name) not in (softmax, converted):
                raise BadInput(
                    f"block {index} no longer holds the Hydra attention put there but {_kind(getattr(block, name))}; "
                    "undo what replaced it, then remove."
                )
        for block, name, softmax, converted in self.parts:
            if getattr(block, name) is converted:
                softmax.train(converted.training)
                setattr(block, name, softmax)


def hydra_attention(
    model: nn.Module, blocks: str | Sequence[int] = "back:2", kernel: str = "cosine", normalise: str = "none"
) -> HydraConversion:
    """Replace softmax by Hydra attention in some blocks of a model, in place; train it further before use.

    Args:
        model: an encoder of ours (its vision tower is converted), one of its towers, or a VisionTransformer of timm
            and its kin, whose `blocks` hold timm's plain `Attention`. Rotary positions of our towers are dropped in
            the converted blocks (the product of a query and a key is taken feature by feature, so a rotation would not
            make it relative); absolute positions, and the blocks before, still tell tokens apart.
        blocks: as `chosen_blocks` takes them; the paper takes some from the back.
        kernel, normalise: as `layers.hydra.hydra` takes them.

    Returns: what was done; `.remove()` undoes it. Parameters are shared, so state dicts fit at any time. Dropout on
    attention weights has nothing to act on and is gone, dropout behind the projection stays.

    Raises: BadInput, before anything is changed, for a model without such blocks and for attention with relative
    positions, rotary positions that are not ours, norms or gates of single heads, or of an unknown kind; and for a
    model of timm that merges tokens (one of ours may, before and after).
    """
    check_names(kernel, normalise)
    tower = _tower(model)
    if "forward_features" in vars(tower):  # how token merging enters a model of timm, whose attention alone it knows
        raise BadInput("this model merges tokens, which goes with Hydra attention in models of ours alone; r=0 first.")
    chosen = chosen_blocks(blocks, len(tower.blocks))
    parts: list[tuple[Any, str, Any, Any]] = []
    for index in chosen:
        block = tower.blocks[index]
        name = "attention" if hasattr(block, "attention") else "attn"
        softmax = getattr(block, name, None)
        parts.append((block, name, softmax, _converted(softmax, index, kernel, normalise)))
    for block, name, _, converted in parts:
        setattr(block, name, converted)
    rotary = bool(getattr(getattr(tower, "config", None), "rope", False))
    width = parts[0][3].proj.in_features if parts else 0
    return HydraConversion(chosen, chosen if rotary else (), width, _native_tokens(tower), tuple(parts))


class TimmHydraAttention(nn.Module):
    """Hydra attention with the parameters and the call of timm's `Attention`, whose projections it shares.

    Args:
        attention: what it stands in for: `qkv`, `proj`, `proj_drop` are taken over.
        kernel, normalise: as `layers.hydra.hydra` takes them.
    """

    def __init__(self, attention: Any, kernel: str = "cosine", normalise: str = "none") -> None:
        super().__init__()
        self.kernel, self.normalise = kernel, normalise
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.qkv, self.proj, self.proj_drop = attention.qkv, attention.proj, attention.proj_drop

    def extra_repr(self) -> str:
        """What `print` shows beside the projections."""
        return f"kernel={self.kernel}, normalise={self.normalise}"

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, D) → (B, N, D).

        `attn_mask` (B, 1, 1, N): bool, True for tokens to keep, or the logarithm of token sizes, to be added; a mask
        that differs from query to query is refused.
        """
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mask, size = None, None
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            mask = size_of_bias(attn_mask.float(), k.shape[1]).gt(1).expand(len(k), -1)
        elif attn_mask is not None:
            size = size_of_bias(attn_mask, k.shape[1]).expand(len(k), -1)
        mixed = hydra(q, k, v, mask, is_causal, size, self.kernel, self.normalise)
        assert isinstance(mixed, Tensor)
        return self.proj_drop(self.proj(mixed))


def attribution(model: nn.Module, image: Tensor, class_index: int | Tensor | Callable[[Any], Tensor]) -> Tensor:
    """Which tokens a score rests on, read in the last block, which must be converted (appendix of the paper).

    There every token s gives kernel(k_s) * v_s, and what tokens take of it is weighted by the gradient of the score.
    Where only the class token is read out this is the paper's map; with pooling over tokens, the sum over all of them.

    Args:
        model: as for `hydra_attention`; best in eval mode.
        image: (B, 3, H, W).
        class_index: the class to explain, one for all or (B,) of them; or, for a model that gives no logits, what
            turns its output into one score a picture (B,), such as `lambda out: (out[0] @ text).squeeze(-1)`.

    Returns: (B, N) in at least float32, prefix tokens first: positive where a token raised the score. The sum over
    tokens is the part of the score's linear approximation that went through this attention.

    Raises: BadInput where the last block holds other or causal attention, where it sees merged tokens, or where scores
    have another shape.
    """
    last = _tower(model).blocks[-1]
    attention = getattr(last, "attention", getattr(last, "attn", None))
    if not isinstance(attention, HydraAttention | TimmHydraAttention):
        raise BadInput(
            f"attribution needs Hydra attention in the last block, which holds {_kind(attention)}; convert it with "
            "hydra_attention(model, 'back:1') and train it."
        )
    seen: dict[str, Tensor] = {}

    def see_all(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        extra = [*(arguments[2:] if isinstance(module, HydraAttention) else arguments[1:])]  # a rotation is dropped
        extra += [named.get("bias"), named.get("attn_mask"), named.get("is_causal"), getattr(module, "causal", False)]
        if any(value is not None and value is not False for value in extra):
            raise BadInput("attribution needs attention over all tokens as they are; switch masks and merging off.")

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        seen["qkv"] = output.detach()

    def cut(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen["mixed"] = arguments[0].detach().requires_grad_()  # nothing before it needs a gradient
        return (seen["mixed"],)

    hooks = [
        attention.register_forward_pre_hook(see_all, with_kwargs=True),
        attention.qkv.register_forward_hook(keep),
        attention.proj.register_forward_pre_hook(cut),
    ]
    try:
        with torch.enable_grad():
            scores = _scores(model(image), class_index, len(image))
            (gradient,) = torch.autograd.grad(scores.sum(), seen["mixed"])
    finally:
        for hook in hooks:
            hook.remove()
    q, k, v = seen["qkv"].chunk(3, dim=-1)
    return hydra_contributions(gradient, q, k, v, kernel=attention.kernel, normalise=attention.normalise)


def _scores(output: Any, class_index: int | Tensor | Callable[[Any], Tensor], batch: int) -> Tensor:
    """One score a picture, (B,)."""
    if callable(class_index) and not isinstance(class_index, Tensor):
        scores = class_index(output)
    else:
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise BadInput("class_index needs a model that gives logits (B, classes); pass a function of its output.")
        index = torch.as_tensor(class_index, device=output.device).expand(batch)
        if not bool(((index >= 0) & (index < output.shape[1])).all()):
            raise out_of_range("class_index", class_index, f"0 to {output.shape[1] - 1}")
        scores = output[torch.arange(batch, device=output.device), index]
    if scores.shape != (batch,):
        raise BadInput(f"scores must be one a picture, ({batch},); got {tuple(scores.shape)}.")
    return scores


def _tower(model: nn.Module) -> Any:
    """What holds the blocks: the model, or its vision tower."""
    tower = getattr(model, "vision", model)
    blocks = getattr(tower, "blocks", None)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
        raise BadInput(
            f"Hydra attention needs an encoder of ours or a timm-like ViT with `blocks`; got {_kind(model)}."
        )
    return tower


def _converted(attention: Any, index: int, kernel: str, normalise: str) -> nn.Module:
    """The Hydra attention that shares the parameters of a softmax attention. Raises BadInput for another kind."""
    if isinstance(attention, HydraAttention | TimmHydraAttention):
        raise BadInput(f"block {index} has Hydra attention already; call remove() on the earlier conversion first.")
    if type(attention) in (Attention, PreparedAttention):
        heads, width = attention.heads, attention.proj.in_features
        parts = attention.qkv, attention.proj
        made: nn.Module = HydraAttention(width, heads, attention.causal, kernel, normalise, True, *parts)
    elif _is_plain_timm(attention):
        made = TimmHydraAttention(attention, kernel, normalise)
    else:
        raise BadInput(
            f"Hydra attention has no place for what {_kind(attention)} of block {index} may add to queries, keys or "
            "logits (relative or rotary positions, norms or gates of heads); take a ViT with plain attention."
        )
    return made.train(attention.training)


def _is_plain_timm(attention: Any) -> bool:
    """Whether this is timm's `Attention` itself, and without its options between projections and softmax."""
    timm = sys.modules.get("timm.models.vision_transformer")  # not imported: its modules exist only where it is
    if timm is None or type(attention) is not timm.Attention:
        return False
    between = [getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm")]
    return getattr(attention, "gate", None) is None and all(
        part is None or isinstance(part, nn.Identity) for part in between
    )


def _native_tokens(tower: Any) -> int:
    """Tokens of a picture of the model's own size, prefix included; of a text tower, of the longest text."""
    config: Any = getattr(tower, "config", None)
    if hasattr(config, "grid"):
        return int(config.prefix + config.grid**2)
    if hasattr(config, "context_length"):
        return int(config.context_length)
    patches = getattr(getattr(tower, "patch_embed", None), "num_patches", None) or 0
    return int(patches) + int(getattr(tower, "num_prefix_tokens", 1))


def _kind(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
