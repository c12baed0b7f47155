"""Pictures of groups: what is painted where, and colours that go on. (The official picture: see the goldens.)"""

from __future__ import annotations

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.media.groups import GroupColours, counted_groups, paint_groups, seeded_colours

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def halves(side: int = 8) -> np.ndarray:
    """A picture that is 10 and 30 grey in turn on the left, 200 grey on the right."""
    pixels = np.full((side, side, 3), 200, np.uint8)
    pixels[::2, : side // 2], pixels[1::2, : side // 2] = 10, 30
    return pixels


def test_a_group_is_its_mean_inside_and_its_colour_along_the_rim() -> None:
    painted = paint_groups(halves(), np.array([[0, 1]]), np.array([RED, BLUE]))
    assert (painted[1:-1, 1:3] == 20).all()
    assert (painted[1:-1, 5:7] == 200).all()
    rim = np.ones((8, 8), bool)
    rim[1:-1, 1:3], rim[1:-1, 5:7] = False, False
    assert (painted[:, :4][rim[:, :4]] == (255, 0, 0)).all()
    assert (painted[:, 4:][rim[:, 4:]] == (0, 0, 255)).all()


def test_no_rim_and_a_wide_one() -> None:
    groups, colours = np.array([[0, 1]]), np.array([RED, BLUE])
    assert set(np.unique(paint_groups(halves(), groups, colours, rim=0))) == {20, 200}
    wide = paint_groups(halves(), groups, colours, rim=2)
    assert (wide[:, :4] == (255, 0, 0)).all()


def test_patches_that_lie_apart_share_one_mean() -> None:
    painted = paint_groups(halves(), np.array([[0, 0], [1, 0]]), np.array([RED, BLUE]), rim=0)
    mean = int((20 * 16 + 200 * 32) / 48)
    assert (painted[:4] == mean).all()
    assert (painted[4:, 4:] == mean).all()


def test_the_picture_shows_through_where_there_is_no_group() -> None:
    painted = paint_groups(halves(), np.array([[-1, 0]]), np.array([BLUE]))
    assert (painted[:, :4] == halves()[:, :4]).all()
    assert (painted[0, 4:] == (0, 0, 255)).all()
    assert counted_groups(np.array([[-1, 3], [3, 7]])) == 2


def test_odd_sides_have_every_pixel_in_a_patch() -> None:
    painted = paint_groups(np.zeros((7, 5, 3), np.uint8), np.array([[0, 1], [2, 3]]), np.ones((4, 3)), rim=9)
    assert (painted == 255).all()


@pytest.mark.parametrize(
    ("groups", "colours", "rim", "said"),
    [
        (np.zeros((9, 2), int), np.ones((1, 3)), 1, r"groups of paint_groups must have the shape \(h, w\)"),
        (np.zeros((2, 2), int), np.ones((0, 3)), 1, r"colours of paint_groups must have the shape \(1, 3\)"),
        (np.zeros((2, 2), int), np.ones((1, 3)), -1, "rim of paint_groups must be 0 or more; got -1"),
    ],
)
def test_what_does_not_fit_is_refused(groups: np.ndarray, colours: np.ndarray, rim: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        paint_groups(halves(), groups, colours, rim)
    with pytest.raises(BadInput, match="uint8"):
        paint_groups(halves().astype(float), np.zeros((2, 2), int), np.ones((1, 3)))


def test_colours_are_those_of_pythons_generator() -> None:
    import random

    random.seed(5)
    assert seeded_colours(2, 5).tolist() == [[random.random() for _ in range(3)] for _ in range(2)]
    assert seeded_colours(0).shape == (0, 3)


def frame(left: int, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Groups and features of a thing two patches wide in front of a floor and a sky."""
    groups = np.zeros((4, width), np.int64)
    groups[2:] = 1
    groups[1:3, left : left + 2] = 2
    features = np.eye(3)[groups]
    return groups, features


def test_a_thing_that_moves_keeps_its_colour() -> None:
    colours = GroupColours()
    first = colours.of(*frame(2))
    for left in (3, 4, 5):
        groups, features = frame(left)
        again = colours.of(2 - groups, features)  # numbers of groups mean nothing from one frame to the next
        np.testing.assert_array_equal(again[::-1], first)
    assert colours.made == 3
    assert len(np.unique(first, axis=0)) == 3


def test_what_is_new_gets_a_new_colour_and_what_is_far_is_new() -> None:
    colours = GroupColours()
    first = colours.of(*frame(0))
    groups, features = frame(10)
    later = colours.of(groups, features)
    np.testing.assert_array_equal(later[:2], first[:2])
    assert colours.made == 4
    assert not (later[2] == first).all(axis=1).any()


def test_a_group_is_followed_once() -> None:
    colours = GroupColours()
    whole = np.zeros((2, 4), np.int64)
    colours.of(whole, np.ones((2, 4, 3)))
    split = np.array([[0, 0, 0, 1]] * 2)
    found = colours.of(split, np.ones((2, 4, 3)))
    assert (found[0] != found[1]).any()
    assert colours.made == 2
    with pytest.raises(BadInput, match="features of GroupColours"):
        colours.of(split, np.ones((2, 3, 3)))
