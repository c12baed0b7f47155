"""The Perception Language Model: pictures, videos and words in, words out (arXiv 2504.13180).

Order of this file: the decoder, the model, how a config becomes one.
Unusual: the vision tower is a Perception Encoder cut after its last block (no last norm, class token dropped); visual
tokens are pooled after the projector and simply overwrite placeholder embeddings; the decoder's layers are
transformers' own Llama. A tied output head is no module: it is the embedding table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput, MissingExtra, wrong_shape
from percepta.models.perception_encoder import VisionTower
from percepta.models.perception_lm import attending
from percepta.models.perception_lm.attending import Documents, Rows, Way
from percepta.models.perception_lm.budget import merge_visual
from percepta.models.perception_lm.chat import Prompt
from percepta.models.perception_lm.config import DecoderConfig, PerceptionLMConfig
from percepta.models.perception_lm.generation import Decode, Generated, Token, generate, stream
from percepta.models.perception_lm.layout import MediaLayout, place, positions_of
from percepta.models.perception_lm.projector import Projector, cut_normal
from percepta.models.perception_lm.rotary import Rotary
from percepta.models.perception_lm.sampling import GenerationSettings


class PerceptionLM(nn.Module):
    """A vision tower, a projector and a language decoder."""

    def __init__(self, config: PerceptionLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.projector = Projector(config.vision.width, config.text.width, config.pooling)
        self.decoder = llama(config.text)
        self.head = None if config.text.tied else nn.Linear(config.text.width, config.text.vocabulary, bias=False)
        if self.head is not None:
            cut_normal(self.head.weight, config.text.width)

    def forward(self, tokens: Tensor, media: Tensor | None = None, layout: MediaLayout | None = None) -> Tensor:
        """Next-token logits of every position.

        Args:
            tokens: (B, L) int64; rows are filled up on the right, which changes no earlier logits.
            media: all chunks of the batch in the order of the rows, (C, 3, S, S) preprocessed, or what `encode_media`
                gave for them; None for text alone (placeholders then keep their own embedding).
            layout: where the visual tokens belong, and which tokens are one packed document.

        Returns: (B, L, vocabulary). Raises: BadInput.
        """
        return self.logits(self.hidden(tokens, media, layout))

    def hidden(self, tokens: Tensor, media: Tensor | None = None, layout: MediaLayout | None = None) -> Tensor:
        """As `forward`, before the output head: (B, L, width). The logits of a few positions need no others."""
        embeddings = self.embed(tokens, media, layout)
        lengths = None if layout is None else layout.document_lengths()
        way = Rows() if lengths is None else Documents(lengths)
        return self.decode(embeddings, positions_of(tokens, lengths), way)

    def embed(self, tokens: Tensor, media: Tensor | None = None, layout: MediaLayout | None = None) -> Tensor:
        """Token embeddings with visual tokens in their places, (B, L, width). Arguments as of `forward`."""
        if tokens.ndim != 2 or not tokens.numel():
            raise wrong_shape("tokens", tokens.shape, "(B, L) with L of at least 1")
        embeddings: Tensor = self.decoder.embed_tokens(tokens)
        if media is None:
            return embeddings
        if layout is None:
            raise BadInput("media need a layout, which says where their visual tokens belong; pass a MediaLayout.")
        return place(embeddings, media if media.ndim == 3 else self.encode_media(media), layout)

    def encode_media(self, chunks: Tensor, visual_tokens: int | None = None) -> Tensor:
        """(C, 3, S, S) preprocessed chunks → visual tokens (C, tokens per chunk, width).

        Args:
            visual_tokens: so many a chunk: the most similar ones are averaged, see `budget.merge_visual`. Prompts then
                mark as many places. None keeps those that the projector gives.

        Raises: BadInput for chunks that are not square.
        """
        visual: Tensor = self.projector(self.vision_tokens(chunks))
        return visual if visual_tokens is None else merge_visual(visual, visual_tokens)

    def vision_tokens(self, chunks: Tensor) -> Tensor:
        """(C, 3, S, S) → patches after the tower's last block, without the class token: (C, patches, width)."""
        if chunks.ndim != 4 or chunks.shape[2] != chunks.shape[3]:
            raise wrong_shape("chunks", chunks.shape, "(C, 3, S, S), square pictures")
        tokens: Tensor = self.vision(chunks)
        return tokens[:, self.config.vision.prefix :]

    def decode(self, embeddings: Tensor, positions: Tensor, way: Way) -> Tensor:
        """Embeddings (B, L, width) at positions (B, L) through the decoder: (B, L, width)."""
        limit = self.config.text.max_length
        if embeddings.shape[1] > limit and int(positions.max()) >= limit:
            raise BadInput(
                f"{getattr(self, 'name', 'the model')} takes sequences of up to {limit} tokens; got one of "
                f"{int(positions.max()) + 1}; use fewer tiles, frames or words."
            )
        tables = self.decoder.rotary_emb(embeddings, positions)
        hidden = embeddings
        for layer in self.decoder.layers:  # not through the whole Llama, which makes a mask and a cache for itself
            hidden = layer(hidden, position_embeddings=tables, way=way)
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) → (..., vocabulary)."""
        if self.head is None:
            return F.linear(hidden, self.decoder.embed_tokens.weight)
        logits: Tensor = self.head(hidden)
        return logits

    def generate(
        self,
        prompts: Sequence[Prompt],
        media: Sequence[Tensor | None],
        settings: GenerationSettings | None = None,
        decode: Decode | None = None,
    ) -> list[Generated]:
        """Answers to prompts of any mix of pictures, videos and words; see `generation.generate`."""
        return generate(self, prompts, media, settings, decode)

    def stream(
        self,
        prompts: Sequence[Prompt],
        media: Sequence[Tensor | None],
        settings: GenerationSettings | None = None,
        decode: Decode | None = None,
    ) -> Iterator[Token]:
        """The same, token by token; see `generation.stream`."""
        return stream(self, prompts, media, settings, decode)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks of tower and decoder in the backward pass."""
        self.vision.set_grad_checkpointing(enable)
        if enable:
            self.decoder.gradient_checkpointing_enable()
        else:
            self.decoder.gradient_checkpointing_disable()


def llama(config: DecoderConfig) -> Any:
    """transformers' Llama without an output head, with fresh weights on the current device, the meta device included.

    Its attention is `attending.attend`. Fresh weights follow the paper's code: normal, cut at three deviations.
    """
    try:
        from transformers import LlamaConfig, LlamaModel
    except ImportError as error:
        raise MissingExtra("transformers", "", "the language decoder") from error
    names: dict[str, Any] = {"attn_implementation": attending.register()}  # not among LlamaConfig's own fields
    settings = LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_size,
        intermediate_size=config.hidden,
        rms_norm_eps=config.norm_eps,
        max_position_embeddings=config.max_length,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **names,
    )
    device = torch.empty(0).device
    with torch.device("meta"):  # its own first values would be thrown away
        decoder: Any = LlamaModel(settings)
    decoder.rotary_emb = Rotary(config)
    if device.type != "meta":
        decoder.to_empty(device=device)
        _fresh(decoder, config)
    return decoder


def _fresh(decoder: nn.Module, config: DecoderConfig) -> None:
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            cut_normal(parameter, config.hidden if name.endswith("down_proj.weight") else config.width)


def build(config: PerceptionLMConfig) -> PerceptionLM:
    """The architecture of a config with fresh weights."""
    return PerceptionLM(config)
