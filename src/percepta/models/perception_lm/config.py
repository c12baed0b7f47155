"""What defines a Perception Language Model: one frozen dataclass over a vision tower and a decoder.

The vision tower is a Perception Encoder's config with its own rules: nothing pooled, no last norm, no projection.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from percepta.errors import BadInput, out_of_range
from percepta.models.perception_encoder import PerceptionEncoderConfig


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The language decoder, a Llama 3.

    Attributes:
        vocabulary: rows of the embedding table, special tokens included.
        width, depth: channels and layers.
        heads, kv_heads: of queries, and of keys and values; each of the latter serves heads / kv_heads of the former.
        head_dim: channels of a head; None for width / heads.
        hidden: inner width of the gated MLP.
        norm_eps: of the root-mean-square norms.
        rope_theta: base of the rotary frequencies.
        rope_scale: by how much the slow frequencies are slowed down for long contexts; 1 leaves all as they are.
        rope_low, rope_high: wavelengths above rope_original_length / rope_low are slowed down wholly, those below
            rope_original_length / rope_high not at all, those between in part.
        rope_original_length: context length in tokens before that.
        max_length: the most tokens of a sequence, prompt and answer together.
        tied: whether the output head is the embedding table.
    """

    vocabulary: int = 128_256
    width: int = 2048
    depth: int = 16
    heads: int = 32
    kv_heads: int = 8
    head_dim: int | None = None
    hidden: int = 8192
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    rope_scale: float = 32.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_original_length: int = 8192
    max_length: int = 11_520
    tied: bool = True

    def __post_init__(self) -> None:
        for part in ("vocabulary", "width", "depth", "heads", "kv_heads", "hidden", "rope_original_length"):
            _at_least_one(part, getattr(self, part))
        _at_least_one("max_length", self.max_length)
        if self.heads % self.kv_heads:
            raise BadInput(f"kv_heads must divide heads; got heads={self.heads}, kv_heads={self.kv_heads}.")
        if self.head_dim is None and self.width % self.heads:
            raise BadInput(f"heads must divide width; got width={self.width}, heads={self.heads}.")
        if self.head_size % 2:
            raise BadInput(f"the channels of a head must be even, since pairs are rotated; got {self.head_size}.")
        if self.rope_scale < 1 or self.rope_theta <= 0 or not 0 < self.rope_low < self.rope_high:
            raise BadInput(
                "rope_scale must be 1 or more, rope_theta above 0 and rope_low between 0 and rope_high; got "
                f"{self.rope_scale}, {self.rope_theta}, {self.rope_low} and {self.rope_high}."
            )

    @property
    def head_size(self) -> int:
        """Channels of a head."""
        return self.head_dim if self.head_dim is not None else self.width // self.heads


def hidden_width(width: int, multiplier: float, multiple_of: int) -> int:
    """The inner width of a Llama MLP by the official rule: 8/3 of the width, times the multiplier, rounded up."""
    hidden = int(multiplier * int(8 * width / 3))
    return -(-hidden // multiple_of) * multiple_of


def _tower() -> PerceptionEncoderConfig:
    return PerceptionEncoderConfig(
        image_size=448, patch_size=14, width=1024, depth=23, heads=16, layer_scale=0.1, drop_path=0.1,
        post_norm=False, pooling="none",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PerceptionLMConfig:
    """The whole model. The defaults are those of the 1B model.

    Attributes:
        vision: the tower, which ends after its last block: the published models keep 23 blocks of 24 (L) or 47 of 50
            (G).
        text: the decoder.
        pooling: every `pooling` x `pooling` patches become one visual token, after the projector; 1 keeps all.
        image_token: the id that stands at the places of visual tokens.
        stop_tokens: ids that end an answer.
        pad_token: the id that fills rows up.
    """

    vision: PerceptionEncoderConfig = field(default_factory=_tower)
    text: DecoderConfig = field(default_factory=DecoderConfig)
    pooling: int = 2
    image_token: int = 128_002
    stop_tokens: tuple[int, ...] = (128_001, 128_009)
    pad_token: int = 128_001

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_tokens", tuple(self.stop_tokens))
        _at_least_one("pooling", self.pooling)
        vision = self.vision
        if vision.text is not None or vision.output_dim is not None or vision.pooling != "none" or vision.post_norm:
            raise BadInput(
                "the vision tower of PerceptionLMConfig gives the patches of its last block: it must have text=None, "
                "output_dim=None, pooling='none' and post_norm=False."
            )
        if self.pooling > vision.grid:
            raise out_of_range("pooling", self.pooling, f"1 to {vision.grid}, the patches along a side")
        for token in (self.image_token, self.pad_token, *self.stop_tokens):
            if not 0 <= token < self.text.vocabulary:
                raise out_of_range("a special token", token, f"0 to {self.text.vocabulary - 1}")

    @property
    def image_size(self) -> int:
        """Side in pixels of a chunk."""
        return self.vision.image_size

    @property
    def tokens_per_chunk(self) -> int:
        """Visual tokens of a chunk: a picture, a tile or a frame."""
        return (self.vision.grid // self.pooling) ** 2


def _at_least_one(field_name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{field_name} must be a whole number of at least 1; got {value!r}.")
