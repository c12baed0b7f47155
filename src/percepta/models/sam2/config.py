"""What defines a SAM 2: one frozen dataclass for both versions, every size and the nano model."""

from __future__ import annotations

from dataclasses import dataclass, field

from percepta.errors import BadInput, one_of, out_of_range
from percepta.models.hiera import TrunkConfig

PRECISIONS = ("bfloat16", "float32")
STRIDE = 16


@dataclass(frozen=True, slots=True)
class Sam2Config:
    """Sizes and switches. The defaults are those of version 2.1.

    Attributes:
        image_size: side in pixels of the square input; a multiple of 32.
        trunk: the windowed Hiera.
        width: channels of the maps, tokens and pointers.
        top_down: levels of the pyramid (0 is the finest) that receive the sum from above.
        mask_prompt_channels: inner channels of the mask prompt's network.
        decoder_depth, decoder_heads, decoder_hidden, decoder_inner: the two-way transformer; `decoder_inner` are the
            channels inside of its attention between tokens and map.
        quality_depth, quality_width: the head that predicts the IoU.
        stability: whether a single mask that changes with its threshold is replaced by the best of three (evaluation).
        stability_delta, stability_threshold: how that is measured, and the least share that is stable.
        memory_width: channels of a memory; pointers are cut into tokens of as many channels, so it divides `width`.
        memory_layers, memory_heads, memory_hidden, memory_dropout: memory attention.
        fusers: ConvNeXt blocks of the memory encoder.
        memories: rows of the memories' table of times: one for the prompted frames, the rest for the latest frames.
        pointers: the most object pointers that a frame looks at; the latest `pointers` - 1 of tracked frames.
        prompted_limit: the most prompted frames that a frame looks at, -1 for all.
        memory_stride: every how many frames a memory is used, beside that of the frame before.
        binarise_prompted: whether the memory of a prompted frame sees the mask as 0 or 1.
        tracking_alternatives: whether a frame without a prompt, or with one click on a frame that was tracked before,
            is answered with the best of three masks. In a world of few things three masks cover them all, and a model
            that trains so need not remember which one it follows: the nano model answers with one.
        pointer_times: whether pointers carry their distance in time (2.1).
        absent_memory: whether the memory of a frame without the object is marked (2.1).
        memory_precision: what stored memories are rounded to; the official code keeps bfloat16, also on a CPU.
    """

    image_size: int = 1024
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    width: int = 256
    top_down: tuple[int, ...] = (2, 3)
    mask_prompt_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    decoder_inner: int = 128
    quality_depth: int = 3
    quality_width: int = 256
    stability: bool = True
    stability_delta: float = 0.05
    stability_threshold: float = 0.98
    memory_width: int = 64
    memory_layers: int = 4
    memory_heads: int = 1
    memory_hidden: int = 2048
    memory_dropout: float = 0.1
    fusers: int = 2
    memories: int = 7
    pointers: int = 16
    prompted_limit: int = -1
    memory_stride: int = 1
    binarise_prompted: bool = True
    tracking_alternatives: bool = True
    pointer_times: bool = True
    absent_memory: bool = True
    memory_precision: str = "bfloat16"

    def __post_init__(self) -> None:
        object.__setattr__(self, "top_down", tuple(self.top_down))
        if self.memory_precision not in PRECISIONS:
            raise one_of("memory_precision", self.memory_precision, PRECISIONS)
        if self.image_size < 32 or self.image_size % 32:
            raise out_of_range("image_size", self.image_size, "a multiple of 32", "Sam2Config")
        for part in ("memory_width", "decoder_heads", "memory_heads"):
            if self.width % getattr(self, part):
                raise BadInput(f"{part} must divide width; got width={self.width}, {part}={getattr(self, part)}.")
        if self.width % 8 or self.memory_width % 4:
            raise BadInput(
                f"width must be a multiple of 8 and memory_width of 4; got {self.width} and {self.memory_width}."
            )
        if self.decoder_inner % self.decoder_heads:
            raise BadInput(f"decoder_heads must divide decoder_inner; got {self.decoder_heads}, {self.decoder_inner}.")
        for part in ("memories", "pointers", "memory_stride"):
            if getattr(self, part) < 1:
                raise out_of_range(part, getattr(self, part), "1 or more", "Sam2Config")

    @property
    def side(self) -> int:
        """Rows and columns of the map at stride 16."""
        return self.image_size // STRIDE
