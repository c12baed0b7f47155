"""Panels of curves: drawn where they belong, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.media.curves import LINE_COLOURS, Line, Panel, draw_curves

TICKS = {0.0: "0", 1.0: "11"}


def rows_of(picture, colour) -> np.ndarray:
    """(row, column) of the pixels near a colour; edges are smooth, so that few have it exactly."""
    return np.argwhere(np.abs(np.asarray(picture).astype(int) - colour).max(axis=-1) < 60)


def panel(values: list[float], downwards: bool = False) -> Panel:
    line = Line(np.linspace(0, 1, len(values)).tolist(), values, LINE_COLOURS[0], mark=0)
    return Panel("Depth", "RMSE in metres", [line], TICKS, ("colours", 0.7), downwards)


def test_better_is_up() -> None:
    rising, falling = (
        rows_of(draw_curves("title", [panel([0.2, 0.5, 0.9], downwards)]), LINE_COLOURS[0])
        for downwards in (False, True)
    )
    for places, up in ((rising, True), (falling, False)):
        left, right = (places[places[:, 1] == column, 0].mean() for column in (places[:, 1].min(), places[:, 1].max()))
        assert bool(right < left) is up


def test_size_and_repeats() -> None:
    panels = [panel([0.2, 0.3]), panel([0.25, 0.21, 0.22]), panel([12.0, 11.0]), panel([0.5, 0.5])]
    pictures = [draw_curves("title", panels, [("seeds", LINE_COLOURS[1], True)]) for _ in range(2)]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert pictures[0].size == (3 * 324 + 24, 64 + 2 * 286)
    assert len(rows_of(pictures[0], LINE_COLOURS[0])) > 300


def test_nothing_to_draw() -> None:
    with pytest.raises(BadInput, match="at least one panel"):
        draw_curves("title", [])
    with pytest.raises(BadInput, match="values in each line"):
        draw_curves("title", [Panel("a", "b", [Line([], [], LINE_COLOURS[0])], {})])
