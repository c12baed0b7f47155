"""The mask decoder: prompt tokens and an image map to masks, their quality and whether the object is there.

SAM 2, arXiv 2408.00714, section 4 and appendix D; the two-way transformer is SAM's (arXiv 2304.02643).
Order of this file: the two-way block, the transformer, the decoder, the choice between one mask and three.
Unusual: many prompts on one picture share it: until the first block has written into the map, its keys and values are
projected once, whatever the number of prompts. On the CPU the same sums are taken in another order (decoding.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.models.sam2 import decoding
from percepta.models.sam2.parts import ChannelNorm, CrossAttention, DeepHead, map_of, tokens_of


class Decoded(NamedTuple):
    """All that the decoder gives: one mask (index 0) and three alternatives (1 to 3).

    Attributes:
        logits: (N, 4, 4 h, 4 w).
        iou: (N, 4), predicted quality, 0 to 1.
        tokens: (N, 4, width), one a mask.
        object_score: (N, 1), logit of the object being there.
    """

    logits: Tensor
    iou: Tensor
    tokens: Tensor
    object_score: Tensor


class TwoWayBlock(nn.Module):
    """Tokens look at themselves and at the map, think, and the map looks at the tokens.

    Args:
        width, heads, hidden, inner: channels, heads, channels of the MLP, channels inside of attention with the map.
        first: the first block, whose self-attention replaces the tokens and sees no prompt code.
    """

    def __init__(self, width: int, heads: int, hidden: int, inner: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attention = CrossAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.to_image = CrossAttention(width, heads, inner)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = DeepHead(width, hidden, width, depth=2)
        self.norm3 = nn.LayerNorm(width)
        self.from_image = CrossAttention(width, heads, inner)
        self.norm4 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image: Tensor, prompts: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, width) tokens and prompts, (M, K, width) image and (1, K, width) places, M = N or 1 → both updated."""
        if self.first:
            tokens = self.norm1(self.self_attention(tokens, tokens, tokens))
        else:
            coded = tokens + prompts
            tokens = self.norm1(tokens + self.self_attention(coded, coded, tokens))
        placed = image + places
        tokens = self.norm2(tokens + self.to_image(tokens + prompts, placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.from_image(placed, tokens + prompts, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two-way blocks, then one last look of the tokens at the map."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, inner: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TwoWayBlock(width, heads, hidden, inner, number == 0) for number in range(depth))
        self.last = CrossAttention(width, heads, inner)
        self.norm = nn.LayerNorm(width)

    def forward(self, prompts: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, width), (M, K, width), (1, K, width) → tokens (N, T, width) and image (N, K, width)."""
        tokens = prompts
        for block in self.blocks:
            tokens, image = block(tokens, image, prompts, places)
        tokens = self.norm(tokens + self.last(tokens + prompts, image + places, image))
        return tokens, image


class MaskDecoder(nn.Module):
    """Tokens for one mask, three alternatives, their quality and the object's presence.

    Args:
        width: channels of tokens and of the image map; the maps at strides 4 and 8 have width / 8 and width / 4.
        depth, heads, hidden, inner: of the two-way transformer.
        quality_width, quality_depth: of the head that predicts the IoU.
    """

    alternatives = 3

    def __init__(
        self, width: int, depth: int, heads: int, hidden: int, inner: int, quality_width: int, quality_depth: int
    ) -> None:
        super().__init__()
        count = self.alternatives + 1
        self.object_token = nn.Parameter(torch.empty(1, width))
        self.quality_token = nn.Parameter(torch.empty(1, width))
        self.mask_tokens = nn.Parameter(torch.empty(count, width))
        for table in (self.object_token, self.quality_token, self.mask_tokens):
            nn.init.normal_(table)
        self.transformer = TwoWayTransformer(width, depth, heads, hidden, inner)
        self.enlarge1 = nn.ConvTranspose2d(width, width // 4, 2, stride=2)
        self.norm = ChannelNorm(width // 4)
        self.enlarge2 = nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2)
        self.fine = nn.Linear(width, width // 8)
        self.middle = nn.Linear(width, width // 4)
        self.mask_heads = nn.ModuleList(DeepHead(width, width, width // 8) for _ in range(count))
        self.quality_head = DeepHead(width, quality_width, count, quality_depth)
        self.object_head = DeepHead(width, width, 1)

    def forward(self, image: Tensor, places: Tensor, sparse: Tensor, fine: Tensor, middle: Tensor) -> Decoded:
        """Decode N prompts.

        Args:
            image: (M, width, h, w), the image map with the dense prompt added, M = N or 1.
            places: (1, width, h, w), the code of its places.
            sparse: (N, P, width) prompt tokens.
            fine, middle: (M', width / 8, 4 h, 4 w) and (M', width / 4, 2 h, 2 w), M' = N or 1.
        """
        height, width = image.shape[-2:]
        own = torch.cat([self.object_token, self.quality_token, self.mask_tokens])
        prompts = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
        if decoding.pays(self, image, prompts):
            tokens, logits = decoding.decode(self, image, places, prompts, fine, middle)
        else:
            tokens, mapped = self.transformer(prompts, tokens_of(image), tokens_of(places))
            large = F.gelu(self.norm(self.enlarge1(map_of(mapped, height, width)) + middle))
            large = F.gelu(self.enlarge2(large) + fine)
            logits = (self.kernels(tokens) @ large.flatten(2)).unflatten(2, large.shape[-2:])
        chosen = tokens[:, 2 : 2 + len(self.mask_tokens)]
        return Decoded(logits, self.quality_head(tokens[:, 1]).sigmoid(), chosen, self.object_head(tokens[:, 0]))

    def kernels(self, tokens: Tensor) -> Tensor:
        """What each mask multiplies the enlarged map by: (N, T, width) → (N, masks, width / 8)."""
        return torch.stack([head(tokens[:, 2 + number]) for number, head in enumerate(self.mask_heads)], dim=1)


def stability(logits: Tensor, delta: float) -> Tensor:
    """How little a mask changes with its threshold: pixels above delta over those above -delta; 1 where none is.

    (..., H, W) logits → (...) from 0 to 1.
    """
    inner = (logits > delta).flatten(-2).sum(-1).float()
    outer = (logits > -delta).flatten(-2).sum(-1).float()
    return torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)


def steady(decoded: Decoded, delta: float, threshold: float) -> tuple[Tensor, Tensor]:
    """One mask a prompt, (N, 1, H, W), and its quality (N, 1): the single one, or where that is less stable than
    `threshold` the best of the three alternatives."""
    rows = torch.arange(len(decoded.iou), device=decoded.iou.device)
    best = decoded.iou[:, 1:].argmax(dim=-1) + 1
    index = torch.where(stability(decoded.logits[:, 0], delta) >= threshold, 0, best)
    return decoded.logits[rows, index][:, None], decoded.iou[rows, index][:, None]
