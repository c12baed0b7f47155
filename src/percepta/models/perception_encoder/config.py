"""What defines a Perception Encoder: one frozen dataclass for core, lang and spatial towers of every size."""

from __future__ import annotations

from dataclasses import dataclass

from percepta.errors import BadInput, one_of

POOLINGS = ("attention", "class", "average", "none")
POSITION_RULES = ("official", "timm")


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The text tower: causal, pre-norm, read out at the end-of-text token."""

    context_length: int = 72
    width: int = 512
    heads: int = 8
    depth: int = 12
    mlp_ratio: float = 4.0
    vocabulary: int = 49_408

    def __post_init__(self) -> None:
        _positive(self, "context_length", "width", "heads", "depth", "vocabulary")
        if self.width % self.heads:
            raise BadInput(f"text heads must divide the text width; got width={self.width}, heads={self.heads}.")


@dataclass(frozen=True, slots=True)
class PerceptionEncoderConfig:
    """The vision tower (flat fields) and, for core models, the text tower.

    Attributes:
        image_size: side in pixels of the square picture whose grid the position table has.
        width, depth, heads, mlp_ratio: of the vision tower; hidden width = int(width * mlp_ratio).
        output_dim: size of the shared embedding; None leaves the projection out.
        layer_scale: initial factor of each residual branch, None for no layer scale.
        drop_path: stochastic depth while training, the same rate in every block.
        class_token, absolute_positions, rope, pre_norm, post_norm: parts that a tower has or lacks.
        pooling: "attention", "class", "average" (over all tokens, the class token included) or "none".
        position_rule: "official" (bilinear table, integer rotary positions at every size) or "timm" (bicubic
            antialiased table, rotary positions rescaled to the trained grid); equal at the trained size.
        text: the text tower, or None for a vision tower alone.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    output_dim: int | None = None
    layer_scale: float | None = None
    drop_path: float = 0.0
    class_token: bool = True
    absolute_positions: bool = True
    rope: bool = True
    pre_norm: bool = True
    post_norm: bool = True
    pooling: str = "attention"
    pooling_heads: int = 8
    position_rule: str = "official"
    text: TextConfig | None = None

    def __post_init__(self) -> None:
        _positive(self, "image_size", "patch_size", "width", "depth", "heads", "pooling_heads")
        if self.pooling not in POOLINGS:
            raise one_of("pooling", self.pooling, POOLINGS)
        if self.position_rule not in POSITION_RULES:
            raise one_of("position_rule", self.position_rule, POSITION_RULES)
        if self.width % self.heads:
            raise BadInput(f"heads must divide width; got width={self.width}, heads={self.heads}.")
        if self.pooling == "attention" and self.width % self.pooling_heads:
            raise BadInput(
                f"pooling_heads must divide width; got width={self.width}, pooling_heads={self.pooling_heads}."
            )
        if self.pooling == "class" and not self.class_token:
            raise BadInput("pooling='class' needs a class token; set class_token=True or another pooling.")
        if self.image_size < self.patch_size:
            raise BadInput(f"image_size must be at least patch_size; got {self.image_size} and {self.patch_size}.")
        if not 0.0 <= self.drop_path < 1.0:
            raise BadInput(f"drop_path must be 0 to below 1; got {self.drop_path}.")
        if self.text is not None and self.output_dim is None:
            raise BadInput("a model with a text tower needs output_dim, the size of the shared embedding.")

    @property
    def grid(self) -> int:
        """Patches along one side of the trained picture."""
        return self.image_size // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches."""
        return int(self.class_token)


def _positive(config: object, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{field} must be a whole number of at least 1; got {value!r}.")
