"""The words of the scene world, its colours as seen, its version and its settings.

The difficulty is fixed: 8 colours, 8 shapes, 3 textures, 2 to 4 objects. Whatever changes a pixel or a caption
changes VERSION, and figures measured under another version cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from percepta.errors import out_of_range

VERSION = "1.0"
TEST_SEED_START = 1_000_000
SCENE_STREAM, CLIP_STREAM = 0, 1

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 46),
    "orange": (250, 132, 22),
    "yellow": (250, 212, 40),
    "green": (34, 158, 74),
    "blue": (32, 92, 222),
    "purple": (126, 48, 190),
    "pink": (255, 132, 190),
    "white": (246, 246, 242),
}
# The second tone of striped and dotted objects: cream on deep colours, a deeper tone of the same hue on light ones.
PATTERN_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 226, 214),
    "orange": (255, 236, 208),
    "yellow": (178, 118, 10),
    "green": (214, 244, 206),
    "blue": (206, 226, 255),
    "purple": (232, 212, 252),
    "pink": (190, 48, 118),
    "white": (112, 116, 124),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# Background colours are muted so that none comes close to an object's colour.
WALLS = (
    (150, 168, 152), (136, 156, 180), (172, 164, 152), (190, 178, 156), (160, 144, 162),
    (98, 110, 126), (108, 142, 144), (134, 120, 112), (84, 86, 110), (172, 142, 128),
)  # fmt: skip
FLOORS = ((158, 126, 96), (114, 88, 70), (138, 138, 142), (92, 96, 106), (186, 170, 144), (122, 104, 110))
SKIES = ((140, 172, 198), (166, 182, 192), (176, 160, 164), (120, 146, 172))
FIELDS = ((118, 136, 96), (144, 146, 104), (104, 120, 100), (172, 158, 120))


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """Settings of a scene or a clip.

    Args:
        size: the side in pixels, or (height, width); each side 16 to 4096. Pictures of one seed and one aspect ratio
            show the same world at every size.
    """

    size: int | tuple[int, int] = 64

    def __post_init__(self) -> None:
        if not all(16 <= side <= 4096 for side in (self.height, self.width)):
            raise out_of_range("size", self.size, "16 to 4096 pixels a side", "SceneConfig")
        if max(self.height, self.width) > 4 * self.shorter_side:
            raise out_of_range("size", self.size, "at most four times as long as short", "SceneConfig")

    @property
    def height(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[1]

    @property
    def shorter_side(self) -> int:
        return min(self.height, self.width)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the world in units of the shorter side."""
        return self.width / self.shorter_side, self.height / self.shorter_side
