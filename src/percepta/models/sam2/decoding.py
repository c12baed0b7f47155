"""The mask decoder's arithmetic in another order: the same sums, with half of the work and within the cache.

Few tokens look at a large map, and the map at them. So projections of the map are moved to the tokens: a score
q . (W x) is (W^T q) . x, and a mixture of projected values is the projection of the mixture. A map of 4096 places is
then multiplied by 64 columns (8 tokens, 8 heads) in place of 128; constants over the softmax fall out. A few places
are worked on at a time. The enlargement is linear at every place, so its two layers run in the order of the small map;
only the finished logits are put in the order of rows.

Unusual: this is taken on the CPU in float32 where nobody differentiates or traces (`pays`); decoder.py is the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from percepta.layers.packed import runs_plain
from percepta.models.sam2.parts import CrossAttention, tokens_of

if TYPE_CHECKING:
    from percepta.models.sam2.decoder import MaskDecoder, TwoWayBlock, TwoWayTransformer

CHUNK = 256
"""Places of the small map that are worked on at a time."""


def pays(decoder: MaskDecoder, image: Tensor, prompts: Tensor) -> bool:
    """Whether this order can be taken and saves anything: with very many tokens a map has more columns to multiply."""
    attention: Any = decoder.transformer.last
    plain = torch.is_grad_enabled() or decoder.training or runs_plain(image)
    few = attention.heads * prompts.shape[1] <= 2 * attention.query.out_features
    return not plain and few and image.dtype == decoder.mask_tokens.dtype == torch.float32


def decode(
    decoder: MaskDecoder, image: Tensor, places: Tensor, prompts: Tensor, fine: Tensor, middle: Tensor
) -> tuple[Tensor, Tensor]:
    """What `MaskDecoder` computes from its prompt tokens: final tokens (N, T, width), logits (N, masks, 4 h, 4 w).

    Args:
        image, places, fine, middle: as of `MaskDecoder.forward`.
        prompts: (N, T, width), the decoder's own tokens and the sparse prompts.
    """
    count, size = len(prompts), (image.shape[-2], image.shape[-1])
    code = tokens_of(places)[0].contiguous()
    tokens, maps = transform(decoder.transformer, prompts, tokens_of(image).contiguous(), code)
    kernels = decoder.kernels(tokens)
    tables = [
        _tables(decoder, fine[row : row + 1], middle[row : row + 1]) for row in range(max(len(fine), len(middle)))
    ]
    logits = prompts.new_empty(count, kernels.shape[1], 4 * size[0], 4 * size[1])
    for row in range(count):
        _enlarge(decoder, maps[row], kernels[row], tables[row if len(tables) > 1 else 0], logits[row])
    return tokens, logits


def transform(
    transformer: TwoWayTransformer, prompts: Tensor, image: Tensor, code: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """As `TwoWayTransformer`: (N, T, width), (M, K, width), (K, width) → tokens, and N maps (K, width).

    While the tokens change a part of the map, it is looked at by the next layer's tokens, which wait for that.
    """
    blocks: list[TwoWayBlock] = list(transformer.blocks)  # type: ignore[arg-type]
    tokens = _reflect(blocks[0], prompts, prompts)
    tokens = blocks[0].norm2(tokens + blocks[0].to_image(tokens + prompts, image + code, image))
    maps = list(image)
    for block, following in zip(blocks, [*blocks[1:], None]):
        tokens = block.norm3(tokens + block.mlp(tokens))
        messages = _messages(block.from_image, tokens + prompts, tokens)
        if following is None:
            attention, norm, waiting = transformer.last, transformer.norm, tokens
        else:
            attention, norm, waiting = following.to_image, following.norm2, _reflect(following, tokens, prompts)
        asked = _asked(attention, waiting + prompts)
        found = []
        for row, own in enumerate(zip(*messages, strict=True)):
            seen = maps[row if len(maps) > 1 else 0]
            found.append(_exchange(block, seen, code, Messages(*own), asked[row]))
        maps = [one for one, _ in found]
        tokens = norm(waiting + _answered(attention, torch.stack([mixed for _, mixed in found])))
    return tokens, maps


def _reflect(block: TwoWayBlock, tokens: Tensor, prompts: Tensor) -> Tensor:
    """Self-attention of a block, with its norm."""
    if block.first:
        return block.norm1(block.self_attention(tokens, tokens, tokens))
    coded = tokens + prompts
    return block.norm1(tokens + block.self_attention(coded, coded, tokens))


def _exchange(block: TwoWayBlock, x: Tensor, code: Tensor, messages: Messages, asked: Tensor) -> tuple[Tensor, Tensor]:
    """A map (K, width) after it has looked at the messages of one prompt, and what the `asked` (heads * T, width) of
    the next layer find in it: a mixture of its places (heads * T, width)."""
    norm, heads, updated = block.norm4, block.from_image.heads, torch.empty_like(x)
    scores = x.new_empty(len(asked), len(x))
    for start in range(0, len(x), CHUNK):
        some = slice(start, min(start + CHUNK, len(x)))
        shares = torch.addmm(messages.biases, messages.keys, (x[some] + code[some]).T)
        shares = shares.unflatten(0, (heads, -1)).softmax(1).flatten(0, 1)
        changed = torch.addmm(x[some], shares.T, messages.values)
        changed = F.layer_norm(changed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        updated[some] = changed
        scores[:, some] = asked @ (changed + code[some]).T
    return updated, scores.softmax(-1) @ updated


def _asked(attention: CrossAttention, query: Tensor) -> Tensor:
    """Queries (N, T, width) as columns that a map is multiplied by: (N, heads * T, width)."""
    heads, depth = attention.heads, attention.query.out_features // attention.heads
    asked = _by_head(attention.query(query), heads) @ attention.key.weight.view(heads, depth, -1)
    return _by_row(asked.mul_(depth**-0.5), len(query))


def _answered(attention: CrossAttention, mixed: Tensor) -> Tensor:
    """Mixtures of places (N, heads * T, width) through values and projection: (N, T, width)."""
    heads, depth = attention.heads, attention.query.out_features // attention.heads
    values = mixed.unflatten(1, (heads, -1)) @ attention.value.weight.view(heads, depth, -1).transpose(1, 2)
    values = values + attention.value.bias.view(heads, 1, depth)
    return attention.proj(values.transpose(1, 2).flatten(2))


class Messages(NamedTuple):
    """What a map finds when it looks at tokens: (N, heads * T, width), (N, heads * T, 1), (N, heads * T, width)."""

    keys: Tensor
    biases: Tensor
    values: Tensor


def _messages(attention: CrossAttention, key: Tensor, value: Tensor) -> Messages:
    heads, depth = attention.heads, attention.query.out_features // attention.heads
    count = len(key)
    keys = _by_head(attention.key(key), heads) * depth**-0.5
    biases = keys @ attention.query.bias.view(heads, depth, 1)
    keys = keys @ attention.query.weight.view(heads, depth, -1)
    outward = attention.proj.weight.T.reshape(heads, depth, -1)
    # The shares of each head add up to one, so the bias of the last projection can be dealt out to the heads.
    values = _by_head(attention.value(value), heads) @ outward + attention.proj.bias / heads
    return Messages(*(_by_row(part, count) for part in (keys, biases, values)))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(N, T, heads * d) → (heads, N * T, d)."""
    return x.flatten(0, 1).unflatten(1, (heads, -1)).transpose(0, 1)


def _by_row(x: Tensor, count: int) -> Tensor:
    """(heads, N * T, d) → (N, heads * T, d)."""
    return x.unflatten(1, (count, -1)).transpose(0, 1).flatten(1, 2)


class Tables(NamedTuple):
    """The finer maps of one picture, biases included, in the order of the small map's places: (K, 4 * width / 4) and
    (4 K, 4 * width / 8)."""

    middle: Tensor
    fine: Tensor


def _tables(decoder: MaskDecoder, fine: Tensor, middle: Tensor) -> Tables:
    rows, columns = middle.shape[-2] // 2, middle.shape[-1] // 2
    biases: list[Any] = [decoder.enlarge1.bias, decoder.enlarge2.bias]
    first = middle[0].permute(1, 2, 0) + biases[0]
    first = first.view(rows, 2, columns, 2, -1).transpose(1, 2)  # row, column, down, right, channel
    second = fine[0].permute(1, 2, 0) + biases[1]
    second = second.view(rows, 2, 2, columns, 2, 2, -1).permute(0, 3, 1, 4, 2, 5, 6)
    places = rows * columns
    return Tables(first.reshape(places, -1), second.reshape(4 * places, -1))


def _enlarge(decoder: MaskDecoder, x: Tensor, kernels: Tensor, tables: Tables, out: Tensor) -> None:
    """(K, width) and (masks, width / 8) → logits (masks, 4 h, 4 w), into `out`."""
    first, second = (layer.weight.permute(0, 2, 3, 1).flatten(1) for layer in (decoder.enlarge1, decoder.enlarge2))
    norm, (masks, width), places = decoder.norm, kernels.shape, len(x)
    product = x.new_empty(places, 16, masks)
    for start in range(0, places, CHUNK):
        end = min(start + CHUNK, places)
        some = torch.addmm(tables.middle[start:end], x[start:end], first).view(-1, 2 * width)
        some = F.gelu(F.layer_norm(some, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        some = F.gelu(torch.addmm(tables.fine[4 * start : 4 * end], some, second)).view(-1, width)
        torch.mm(some, kernels.T, out=product[start:end].view(-1, masks))
    rows, columns = out.shape[-2] // 4, out.shape[-1] // 4
    spread = product.view(rows, columns, 2, 2, 2, 2, masks).permute(6, 0, 2, 4, 1, 3, 5)
    out.view(masks, rows, 2, 2, columns, 2, 2).copy_(spread)
