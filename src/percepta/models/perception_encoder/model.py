"""Perception Encoder core: pictures, videos and words in one embedding space (arXiv 2504.13181).

Order of this file: text tower, the contrastive model, its text half alone, how a config becomes a model.
Unusual: the text embedding is read at the largest token id (the end-of-text token); a video is the mean of its
frames, with two published protocols; the logit scale is stored as a logarithm.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, wrong_shape
from percepta.layers import Attention, Block, Mlp, Tokens
from percepta.models.perception_encoder.config import PerceptionEncoderConfig, TextConfig
from percepta.models.perception_encoder.vision import Pictures, VisionTower, normal, unit


class TextTower(nn.Module):
    """Token ids to one embedding: causal blocks, final norm, end-of-text token, projection."""

    def __init__(self, config: TextConfig, output_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.vocabulary, width)
        self.positions = normal(config.context_length, width, std=0.01)
        self.blocks = nn.ModuleList(
            Block(width, Attention(width, config.heads, causal=True), Mlp(width, int(width * config.mlp_ratio)))
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.projection = normal(width, output_dim, std=width**-0.5)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n) token ids, n up to the context length → (B, output_dim), not normalised.

        Raises: BadInput for another shape or a longer text.
        """
        length = self.config.context_length
        if tokens.ndim != 2 or not 0 < tokens.shape[1] <= length:
            raise wrong_shape("token ids", tokens.shape, f"(B, n) with n from 1 to {length}")
        state = Tokens(self.token_embedding(tokens) + self.positions[: tokens.shape[1]])
        for block in self.blocks:
            state = block(state)
        last = tokens.argmax(dim=-1)
        ends = state.x[torch.arange(len(tokens), device=tokens.device), last]
        return self.norm(ends) @ self.projection


class PerceptionEncoder(nn.Module):
    """The contrastive model: a vision tower, a text tower and the logarithm of the logit scale."""

    def __init__(self, config: PerceptionEncoderConfig) -> None:
        super().__init__()
        if config.text is None or config.output_dim is None:
            raise BadInput("PerceptionEncoder needs a text tower; build a VisionTower for a config with text=None.")
        self.config = config
        self.vision = VisionTower(config)
        self.text = TextTower(config.text, config.output_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image: Pictures | None = None, text: Tensor | None = None) -> tuple[Any, Any, Tensor]:
        """The official forward: unit image embeddings or None, unit text embeddings or None, exp(logit_scale)."""
        images = None if image is None else self.encode_image(image, normalize=True)
        texts = None if text is None else self.encode_text(text, normalize=True)
        return images, texts, self.logit_scale.exp()

    def encode_image(self, x: Pictures, normalize: bool = False) -> Tensor:
        """(B, 3, H, W), or a sequence of (3, H, W) of mixed sizes, → (B, output_dim)."""
        embedding = self.vision(x)
        return unit(embedding) if normalize else embedding

    def encode_video(self, x: Tensor, normalize: bool = False) -> Tensor:
        """(B, T, 3, H, W) → (B, output_dim), the mean over frames.

        With normalize=False the mean of raw frame embeddings (the published protocol of video classification: scale
        the mean to unit length afterwards); with normalize=True the mean of unit frame embeddings (of video
        retrieval), which is itself not scaled again.
        """
        if x.ndim != 5 or not x.shape[1]:
            raise wrong_shape("videos", x.shape, "(B, T, 3, H, W) with T of at least 1")
        if not self.vision.seams:
            frames = self.encode_image(x.flatten(0, 1), normalize)
            return frames.unflatten(0, x.shape[:2]).mean(dim=1)
        frames, counts = self.vision.frames(x)
        return torch.einsum("bnd,n->bd", unit(frames) if normalize else frames, counts / counts.sum())

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """(B, n) token ids from `tokenize` → (B, output_dim)."""
        embedding = self.text(tokens)
        return unit(embedding) if normalize else embedding

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Texts to ids, (B, context length) int64: start, ids, end, zeros; longer texts are cut with a warning."""
        from percepta.models.perception_encoder.tokenizer import Tokenizer

        assert self.config.text is not None
        ids, cut = Tokenizer().tokenize([texts] if isinstance(texts, str) else texts, self.config.text.context_length)
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(ids)} texts are longer than {self.config.text.context_length} tokens and were "
                f"cut, the first of them {cut[0][:60]!r}.",
                stacklevel=2,
            )
        return torch.tensor(ids, dtype=torch.int64, device=self.logit_scale.device)

    def intermediates(
        self, x: Pictures, layers: int | Sequence[int], layout: str = "NLC", norm: bool = False, prefix: bool = False
    ) -> list[Any]:
        """Patch features of the vision tower; see `VisionTower.intermediates`."""
        return self.vision.intermediates(x, layers, layout, norm, prefix)

    def forward_intermediates(self, x: Tensor, indices: int | Sequence[int] | None = None, **options: Any) -> Any:
        """timm's name for `intermediates`; see `VisionTower.forward_intermediates`."""
        return self.vision.forward_intermediates(x, indices, **options)

    def truncated(self, layer: int) -> PerceptionEncoder:
        """The model with the vision blocks up to and including `layer`; it shares its parameters with this one."""
        vision = self.vision.truncated(layer)
        with torch.device("meta"):
            shorter = PerceptionEncoder(vision.config)
        shorter.vision, shorter.text, shorter.logit_scale = vision, self.text, self.logit_scale
        return shorter.train(self.training)

    def text_half(self) -> TextHalf:
        """What encodes words, without the vision tower; it shares its parameters with this model."""
        return TextHalf(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of the vision tower in the backward pass."""
        self.vision.set_grad_checkpointing(enable)


class TextHalf(nn.Module):
    """The text tower of a contrastive model with what turns words into tokens: enough to search an index by words.

    Unusual: a batch is cut after its longest text. Tokens behind the end of a text cannot reach it, since attention is
    causal, so this is exact, and a few words cost a fraction of the whole context.
    """

    def __init__(self, whole: PerceptionEncoder) -> None:
        super().__init__()
        self.config, self.text, self.logit_scale = whole.config, whole.text, whole.logit_scale

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """(B, n) token ids from `tokenize` → (B, output_dim)."""
        embedding = self.text(tokens[:, : int(tokens.argmax(dim=-1).max()) + 1])
        return unit(embedding) if normalize else embedding

    tokenize = PerceptionEncoder.tokenize


def build(config: PerceptionEncoderConfig) -> PerceptionEncoder | VisionTower:
    """The architecture of a config with fresh weights: the contrastive model, or the tower alone without text."""
    return VisionTower(config) if config.text is None else PerceptionEncoder(config)
