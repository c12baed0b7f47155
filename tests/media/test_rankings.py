"""Pictures of rankings: drawn for one candidate, for many, with and without intervals; what is told apart shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from percepta.errors import BadInput
from percepta.media.rankings import BEST, SIZE, Mark, layer_picture, model_picture

NAN = math.nan


def layers(count: int) -> list[Mark]:
    marks = [
        Mark(f"layer {n}", n, -abs(n - 2) / 2, -abs(n - 2) / 2 - 0.2, -abs(n - 2) / 2 + 0.2, {"knn": -n})
        for n in range(count)
    ]
    return sorted([*marks, Mark("output", None, -2.0, -2.1, -1.9, {"knn": -9.0})], key=lambda mark: -mark.score)


def coloured(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(picture, np.int16) - colour).max(axis=2) < 12).sum())


@pytest.mark.parametrize("count", [2, 6, 24, 50])
def test_layers_are_drawn(count: int) -> None:
    marks = layers(count)
    picture = layer_picture(marks, [marks[0].name], "Which layer?", "layer 2 ± 1", "mean of knn")
    assert picture.size == SIZE
    more = layer_picture(marks, [mark.name for mark in marks], "Which layer?", "layer 2 ± 1", "mean of knn")
    assert coloured(more, BEST) > coloured(picture, BEST) > 100


@pytest.mark.parametrize("count", [1, 3, 60])
def test_models_are_drawn_without_intervals_too(count: int) -> None:
    marks = [Mark(f"a model of a long name {n}", 1e6 * (n + 1), -n / 10, NAN, NAN, {}) for n in range(count)]
    picture = model_picture(marks, [marks[0].name], "Which model?", marks[0].name, "mean of knn")
    assert picture.size == SIZE
    assert coloured(picture, BEST) > 100


def test_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one candidate"):
        model_picture([], [], "", "", "")
    with pytest.raises(BadInput, match="at least one candidate"):
        layer_picture([], [], "", "", "")
