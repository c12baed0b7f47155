"""How a place in a picture is told to a language model (Perception Language Model, arXiv 2504.13180, section 3).

Either in words, "[x1,y1,x2,y2]" in thousandths of the picture, or by a red box drawn on the frame itself.
Unusual: 999 stands for the far edge as well, and thousandths are cut, not rounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from percepta.errors import BadInput, BadMedia, out_of_range, wrong_shape

RED = (255, 0, 0)
LINE_WIDTH = 4
_MARK = re.compile(r"<\|bbox(\d+)\|>")
_WORDS = re.compile(r"\[\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\]")


def region_text(box: Sequence[float], width: float, height: float) -> str:
    """A box as a model reads it, such as "[100,100,400,300]".

    Args:
        box: left, top, width, height, pixels.
        width, height: of the picture, pixels.

    Raises: BadInput for a box of other than four numbers, or a picture without a size.
    """
    if len(box) != 4:
        raise wrong_shape("a box", (len(box),), "(4,): left, top, width, height")
    if not (width > 0 and height > 0):
        raise out_of_range("the size of a picture", (width, height), "above 0")
    left, top, across, down = box
    places = (left / width, top / height, (left + across) / width, (top + down) / height)
    return "[" + ",".join(f"{int(min(max(place, 0.0), 0.999) * 1000):03d}" for place in places) + "]"


def with_regions(text: str, boxes: Sequence[Sequence[float]], width: float, height: float) -> str:
    """The text with `<|bbox0|>`, `<|bbox1|>` ... replaced by the boxes in words.

    Args:
        boxes: left, top, width, height each, pixels.

    Raises: BadInput as `region_text`, and for a mark without a box.
    """

    def words(match: re.Match[str]) -> str:
        number = int(match.group(1))
        if number >= len(boxes):
            raise BadInput(f"{match.group(0)} must name one of {len(boxes)} boxes, numbered from 0.")
        return region_text(boxes[number], width, height)

    return _MARK.sub(words, text)


def read_regions(text: str, width: float, height: float) -> list[tuple[float, float, float, float]]:
    """The boxes that an answer names: left, top, right, bottom, pixels, corners put in order.

    What stands for the far edge (999) gives 0.999 of the side. An answer without any box gives none.
    """
    boxes = []
    for match in _WORDS.finditer(text):
        x1, y1, x2, y2 = (int(number) / 1000 for number in match.groups())
        xs, ys = sorted((x1 * width, x2 * width)), sorted((y1 * height, y2 * height))
        boxes.append((xs[0], ys[0], xs[1], ys[1]))
    return boxes


def red_box(
    picture: Image.Image,
    box: Sequence[float],
    colour: tuple[int, int, int] = RED,
    line_width: int = LINE_WIDTH,
) -> Image.Image:
    """A copy of an RGB picture with a box drawn on it.

    Args:
        box: left, top, right, bottom, pixels; cut to whole ones. It may reach over the edges.

    Raises: BadInput for a box whose right or bottom lies before its left or top.
    """
    if len(box) != 4:
        raise wrong_shape("a box", (len(box),), "(4,): left, top, right, bottom")
    left, top, right, bottom = (int(side) for side in box)
    if right < left or bottom < top:
        raise BadInput(f"a box must be left, top, right, bottom with right and bottom not before; got {list(box)}.")
    if picture.mode != "RGB":
        raise BadMedia(f"a box is drawn on RGB pictures; this one is {picture.mode}.")
    drawn = picture.copy()
    ImageDraw.Draw(drawn).rectangle((left, top, right, bottom), width=line_width, outline=colour)
    return drawn


def boxes_by_frame(
    boxes: Mapping[str, Sequence[float] | None] | Mapping[int, Sequence[float] | None],
) -> dict[int, Sequence[float]]:
    """Boxes by frame number, from a mapping whose keys may be text; frames without a box are left out.

    Raises: BadInput for a key that is no frame number.
    """
    found = {}
    for key, box in boxes.items():
        try:
            number = int(key)
        except (TypeError, ValueError):
            raise BadInput(f"a key of a box map must be a frame number; got {key!r}.") from None
        if box is not None:
            found[number] = box
    return found
