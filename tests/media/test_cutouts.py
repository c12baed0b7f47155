"""Objects cut out of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.media.cutouts import cut_out


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    picture = np.full((40, 60, 3), (10, 200, 30), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[5:15, 30:50] = True
    picture[mask] = (250, 0, 0)
    return picture, mask


def test_in_place_the_object_stays_and_the_rest_is_flat(scene: Any) -> None:
    picture, mask = scene
    found = np.asarray(cut_out(picture, mask))
    assert found.shape == picture.shape
    assert (found == picture).all()  # the rest had one colour already
    picture[0, 0] = 255
    rest = np.asarray(cut_out(picture, mask))[~mask]
    assert len(np.unique(rest, axis=0)) == 1


@pytest.mark.parametrize("context", [1.0, 2.0, 3.5])
def test_in_a_square_the_object_is_in_the_middle(scene: Any, context: float) -> None:
    found = np.asarray(cut_out(*scene, context))
    assert found.shape == (round(context * 20), round(context * 20), 3)
    red = (found == (250, 0, 0)).all(-1)
    assert red.sum() == 200
    rows, columns = np.nonzero(red)
    assert abs((rows.min() + rows.max() + 1) / 2 - len(found) / 2) <= 0.5
    assert abs((columns.min() + columns.max() + 1) / 2 - len(found) / 2) <= 0.5


def test_the_whole_picture_as_object() -> None:
    picture = np.full((4, 6, 3), 7, np.uint8)
    assert cut_out(picture, np.ones((4, 6), bool), 1.0).size == (6, 6)


def test_bad_masks(scene: Any) -> None:
    picture, mask = scene
    for wrong in (mask[1:], np.zeros_like(mask)):
        with pytest.raises(BadInput, match="mask"):
            cut_out(picture, wrong)
    with pytest.raises(BadInput, match="context"):
        cut_out(picture, mask, 0.5)
