"""What defines a residual network for small pictures: one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass

from percepta.errors import BadInput


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """A residual network of stages that halve the side and widen.

    Attributes:
        image_size: side in pixels of the pictures that the model is made for; it takes any.
        stages: blocks per stage; 20 layers are (3, 3, 3).
        widths: channels of each stage; the stem has those of the first.
        in_channels: of a picture.
        classes: number of logits.
    """

    image_size: int = 32
    stages: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (16, 32, 64)
    in_channels: int = 3
    classes: int = 10

    def __post_init__(self) -> None:
        for name in ("stages", "widths"):  # a file gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.stages or len(self.stages) != len(self.widths):
            raise BadInput(f"stages and widths must be equally many; got {self.stages} and {self.widths}.")
        counts = (self.image_size, *self.stages, *self.widths, self.in_channels, self.classes)
        if any(isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in counts):
            raise BadInput("sizes, stages, widths, channels and classes of a ResNet must be whole numbers above 0.")
