"""Objects painted on pictures and videos: steady colours, tags that can be read, parts that become one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percepta.errors import BadInput, BadMedia
from percepta.media import VideoParts, VideoReader, draw_objects
from percepta.media.drawing import colour_of
from percepta.media.overlays import LEAST, window_of
from percepta.results import Masks


def squares(size: tuple[int, int], *places: tuple[int, int, int]) -> Masks:
    """Squares by their top, left and side."""
    dense = np.zeros((len(places), *size), bool)
    for mask, (top, left, side) in zip(dense, places, strict=True):
        mask[top : top + side, left : left + side] = True
    return Masks.from_dense("x", dense, scores=np.full(len(places), 0.9, np.float32))


def test_an_object_keeps_its_colour_whatever_else_is_there() -> None:
    grey = Image.new("RGB", (400, 300), (128, 128, 128))
    alone = draw_objects(grey, squares((300, 400), (100, 100, 60)), [7], tags=[""])
    beside = draw_objects(grey, squares((300, 400), (100, 300, 40), (100, 100, 60)), [3, 7], tags=["", ""])
    assert alone.getpixel((130, 130)) == beside.getpixel((130, 130))
    wanted = np.rint(0.55 * 128 + 0.45 * np.array(colour_of(7)))
    assert np.abs(np.array(alone.getpixel((130, 130))) - wanted).max() <= 1
    assert beside.getpixel((320, 120)) != beside.getpixel((130, 130))
    assert alone.getpixel((10, 10)) == (128, 128, 128)
    outline = np.array(alone.getpixel((100, 130)), float)
    assert np.abs(outline - (0.85 * np.array(colour_of(7)) + 0.15 * 255)).max() <= 1


def test_what_lies_inside_of_another_stays_visible() -> None:
    masks = squares((300, 300), (100, 100, 20), (50, 50, 200))
    painted = draw_objects(Image.new("RGB", (300, 300)), masks, tags=["", ""])
    alone = draw_objects(Image.new("RGB", (300, 300)), masks.select([1]), [2], tags=[""])
    assert painted.getpixel((110, 110)) != alone.getpixel((110, 110))
    assert painted.getpixel((200, 200)) == alone.getpixel((200, 200))


@pytest.mark.parametrize("size", [(40, 30), (9, 7), (240, 240), (1000, 301)])
def test_small_pictures_are_enlarged_by_a_whole_factor(size: tuple[int, int]) -> None:
    masks = squares((size[1], size[0]), (1, 1, 4))
    painted = draw_objects(Image.new("RGB", size, (9, 9, 9)), masks)
    factor = painted.width // size[0]
    assert painted.size == (size[0] * factor, size[1] * factor)
    assert min(painted.size) >= LEAST
    assert min(size) >= LEAST or min(painted.size) < 2 * LEAST or factor == -(-LEAST // min(size))


def test_tags_do_not_cover_each_other() -> None:
    masks = squares((400, 600), (100, 100, 50), (102, 102, 50), (104, 104, 50), (98, 98, 50))
    plain = draw_objects(Image.new("RGB", (600, 400)), masks, tags=[""] * 4)
    tagged = draw_objects(Image.new("RGB", (600, 400)), masks, tags=["one", "two", "three", "four"])
    changed = (np.asarray(plain) != np.asarray(tagged)).any(axis=2)
    for number in (1, 2, 3, 4):
        plate = changed & (np.asarray(tagged) == colour_of(number)).all(axis=2)
        assert plate.sum() > 200, number


def test_clicks_and_boxes_are_shown() -> None:
    masks = squares((300, 400), (100, 100, 60))
    painted = draw_objects(
        Image.new("RGB", (400, 300)), masks, clicks=[(30, 40, 1), (350, 40, 0)], frames=[(200, 200, 260, 280)]
    )
    inside, outside = painted.getpixel((30, 40)), painted.getpixel((350, 40))
    assert inside[1] > inside[0]
    assert outside[0] > outside[1]
    assert painted.getpixel((230, 200)) == (255, 255, 255)


def test_empty_masks_and_edges() -> None:
    dense = np.zeros((3, 300, 300), bool)
    dense[1] = True
    dense[2, :, 299] = True
    painted = draw_objects(Image.new("RGB", (300, 300)), Masks.from_dense("x", dense))
    assert painted.getpixel((299, 200)) != (0, 0, 0)
    none = Masks("x", (300, 300), ())
    assert np.asarray(draw_objects(Image.new("RGB", (300, 300)), none)).max() == 0


def test_a_window_of_a_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = tuple(rng.integers(1, 30, 2).tolist())
        dense = rng.random((1, *size)) < rng.choice([0.05, 0.5, 0.95])
        masks = Masks.from_dense("x", dense)
        top, left = (int(rng.integers(0, side)) for side in size)
        bottom, right = int(rng.integers(top, size[0])) + 1, int(rng.integers(left, size[1])) + 1
        window = window_of(masks.counts[0], size, (left, top, right, bottom))
        assert (window == dense[0, top:bottom, left:right]).all()


def test_wrong_input() -> None:
    grey = Image.new("RGB", (400, 300))
    masks = squares((300, 400), (1, 1, 4))
    for arguments, sentence in (
        ({"masks": squares((400, 300), (1, 1, 4))}, "masks must have the size of the picture"),
        ({"masks": masks, "opacity": 2}, "opacity of draw_objects must be 0 to 1"),
        ({"masks": masks, "objects": [1, 2]}, "objects and tags must be one for each of 1 masks"),
        ({"masks": masks, "tags": []}, "objects and tags must be one for each of 1 masks"),
    ):
        with pytest.raises(BadInput, match=sentence):
            draw_objects(grey, **arguments)


def shade(number: int, size: tuple[int, int] = (65, 49)) -> Image.Image:
    return Image.new("RGB", size, (number * 9 % 250, 40, 90))


def test_parts_become_one_file_with_their_times(tmp_path: Path) -> None:
    times = [number * 0.04 + (0.3 if number > 12 else 0) for number in range(25)]
    with VideoParts(tmp_path / "parts") as parts:
        for number, time in enumerate(times):
            parts.add(shade(number), number, time)
            if number % 10 == 9:
                parts.cut()
        assert parts.begins == [0, 10]
    parts.join(tmp_path / "whole.mp4")
    assert parts.begins == [0, 10, 20]
    with VideoReader(tmp_path / "whole.mp4") as reader:
        assert (reader.frames, reader.size) == (25, (66, 50))
        assert reader.timestamps.tolist() == pytest.approx(times, abs=1e-4)
        values = [picture.getpixel((5, 5))[0] for picture in reader]
        assert np.abs(np.array(values) - [number * 9 % 250 for number in range(25)]).max() <= 6


def test_parts_can_be_gone_on_with(tmp_path: Path) -> None:
    with VideoParts(tmp_path / "parts", rate=10) as parts:
        for number in range(14):
            parts.add(shade(number), number)
            if number in (4, 9):
                parts.cut()
    (tmp_path / "parts" / "part-1.mp4.partial").write_bytes(b"cut off")
    with VideoParts(tmp_path / "parts", rate=10) as parts:
        assert parts.begins == [0, 5, 10]
        parts.drop_from(10)
        for number in range(10, 20):
            parts.add(shade(number), number)
    assert not list((tmp_path / "parts").glob("*.partial"))
    parts.join(tmp_path / "whole.mp4")
    with VideoReader(tmp_path / "whole.mp4") as reader:
        assert reader.timestamps.tolist() == pytest.approx(np.arange(20) / 10, abs=1e-4)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one frame"):
        VideoParts(tmp_path / "parts").join(tmp_path / "whole.mp4")
    for settings in ({"rate": 0}, {"quality": 99}):
        with pytest.raises(BadInput, match="of VideoParts must be"):
            VideoParts(tmp_path, **settings)
    parts = VideoParts(tmp_path / "parts")
    parts.add(shade(1), 0)
    parts.cut()
    (tmp_path / "parts" / parts.parts[0].name).write_bytes(b"nothing")
    with pytest.raises(BadMedia, match=r"whole.mp4' cannot be written"):
        parts.join(tmp_path / "whole.mp4")
    assert not (tmp_path / "whole.mp4").exists()
