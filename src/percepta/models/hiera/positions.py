"""Learned positions of Hiera and what becomes of them at another size (arXiv 2306.00989; 2311.05613 §3).

Order of this file: a table for each of the three kinds, tables at other sizes, tables that are kept.
Unusual: attention inside of windows makes a learned table nearly periodic, with the window as its period. Resized as a
whole (rule "interpolate", what others do) that period is stretched and no longer fits the windows: the published bug.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput, one_of
from percepta.models.hiera.config import POSITION_RULES

Sides = tuple[int, ...]


class WindowPositions(nn.Module):
    """Absolute-win positions: a small map, resized at every size, plus one window, only ever tiled.

    Args:
        width: channels D.
        background: (rows, columns) of the small map.
        window: (rows, columns) of the window.
        antialias: whether the map is resized with an antialiased filter. The two filters differ also when enlarging:
            timm's checkpoints want it, SAM 2's do not.
        frames: of a video, a third table with an entry for each step in time, which is added.
    """

    def __init__(
        self, width: int, background: Sides, window: Sides, antialias: bool = False, frames: int | None = None
    ) -> None:
        super().__init__()
        self.antialias = antialias
        self.background = _table(width, *background)
        self.window = _table(width, *window)
        self.temporal = None if frames is None else _table(frames, width)

    def forward(self, grid: Sides) -> Tensor:
        """The embedding of a grid of tokens, (1, rows, columns, D) or (1, T, rows, columns, D)."""
        rows, columns = grid[-2:]
        small, window = self.background[None], self.window
        table = _resized(small, (rows, columns), self.antialias)[0]
        down, across = math.ceil(rows / window.shape[1]), math.ceil(columns / window.shape[2])
        table = table + window.repeat(1, down, across)[:, :rows, :columns]
        return _in_time(table.permute(1, 2, 0), self.temporal, grid)

    def timed(self, steps: int) -> Tensor:
        """The table of steps in time, for another number of them."""
        assert self.temporal is not None
        return _in_steps(self.temporal, steps)


class TablePositions(nn.Module):
    """One learned vector for every token of a picture, or of a video.

    Args:
        width: channels D.
        grid: (rows, columns) or (T, rows, columns) of tokens that the table is for.
        unit: sides of a mask unit in tokens.
        rule: how it becomes the table of another grid, one of the config's POSITION_RULES; see `table_at`.
        separate: of a video, one table of places and one of steps in time, which are added.
    """

    def __init__(self, width: int, grid: Sides, unit: Sides, rule: str = "split", separate: bool = False) -> None:
        super().__init__()
        self.grid, self.unit, self.rule = grid, unit, rule
        self.spatial = _table(math.prod(grid[-2:] if separate else grid), width)
        self.temporal = _table(grid[0], width) if separate else None

    def forward(self, grid: Sides) -> Tensor:
        """The embedding of a grid of tokens, (1, rows, columns, D) or (1, T, rows, columns, D)."""
        return _in_time(self._grid_table(grid, self.rule), self.temporal, grid)

    def tables(self, grid: Sides, rule: str) -> dict[str, Tensor]:
        """The values of the parameters for another grid, by name."""
        table = self._grid_table(grid, rule).flatten(0, -2)
        return {"spatial": table} if self.temporal is None else {"spatial": table, "temporal": self.timed(grid[0])}

    def timed(self, steps: int) -> Tensor:
        """The table of steps in time, for another number of them."""
        assert self.temporal is not None
        return _in_steps(self.temporal, steps)

    def _grid_table(self, grid: Sides, rule: str) -> Tensor:
        """(rows, columns, D), or (T, rows, columns, D) where places and steps share one table."""
        if self.temporal is not None or len(grid) == 2:
            return table_at(self.spatial.unflatten(0, self.grid[-2:]), grid[-2:], self.unit[-2:], rule)
        table = self.spatial.unflatten(0, self.grid)
        steps = torch.stack([table_at(step, grid[-2:], self.unit[-2:], rule) for step in table.unbind()])
        return _in_steps(steps.flatten(1), grid[0]).unflatten(1, (*grid[1:], -1))


def table_at(table: Tensor, grid: Sides, unit: Sides, rule: str = "split") -> Tensor:
    """A learned table at another size.

    Args:
        table: (rows, columns, D), of whole units.
        grid: (rows, columns) wanted.
        unit: sides of the attention windows that the table was learned with.
        rule: "split": what all windows have in common is tiled, the rest resized; "interpolate": all is resized, which
            puts positions and windows out of step.

    Returns: (rows, columns, D); the very same values at the table's own size.
    """
    if rule not in POSITION_RULES:
        raise one_of("position_rule", rule, POSITION_RULES)
    if table.shape[:2] == grid:
        return table
    if rule == "interpolate":
        return _resized(table.permute(2, 0, 1)[None], grid)[0].permute(1, 2, 0)
    window = window_mean(table, unit)
    rest = table - _tiled(window, table.shape[:2])
    return _resized(rest.permute(2, 0, 1)[None], grid)[0].permute(1, 2, 0) + _tiled(window, grid)


def window_mean(table: Tensor, unit: Sides) -> Tensor:
    """What the windows of a table (rows, columns, D) have in common: their mean, (unit rows, unit columns, D)."""
    if table.shape[0] % unit[0] or table.shape[1] % unit[1]:
        raise BadInput(f"a table of {tuple(table.shape[:2])} positions is not made of whole units of {unit}.")
    return table.unflatten(0, (-1, unit[0])).unflatten(2, (-1, unit[1])).mean(dim=(0, 2))


def to_window(table: Tensor, unit: Sides) -> tuple[Tensor, Tensor]:
    """A learned table as absolute-win positions: (background (D, units down, units across), window (D, *unit)).

    The window is the mean over windows, the background each window's mean of what is left. What a table knows beyond
    that is lost (sheet: accuracy at the table's own size falls); the result then follows any size.
    """
    window = window_mean(table, unit)
    rest = table - _tiled(window, table.shape[:2])
    means = rest.unflatten(0, (-1, unit[0])).unflatten(2, (-1, unit[1])).mean(dim=(1, 3))
    return means.permute(2, 0, 1).contiguous(), window.permute(2, 0, 1).contiguous()


class Kept:
    """The last few results of a function of a module's parameters, for evaluation without gradients.

    They are no state: copies and pickles start empty, and a change of a parameter makes them anew.
    """

    LIMIT = 4

    def __init__(self) -> None:
        self.entries: dict[Any, tuple[Any, Tensor]] = {}

    def get(self, module: nn.Module, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """`make()`, or what it gave for this key and these parameters."""
        parameters = list(module.parameters())
        if (
            module.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch._C._get_tracing_state() is not None
            or any(type(p) is not nn.Parameter or p.is_meta for p in parameters)
        ):
            return make()
        mark = [(p.data_ptr(), -1 if p.is_inference() else p._version, p.dtype, _sample(p)) for p in parameters]
        found = self.entries.get(key)
        if found is not None and found[0] == mark:
            return found[1]
        with torch.inference_mode(False), torch.no_grad():
            value = make()
        entries = dict(self.entries)
        entries.pop(key, None)
        while len(entries) >= self.LIMIT:
            entries.pop(next(iter(entries)))
        self.entries = entries | {key: (mark, value)}  # one assignment: threads may make twice, never see half of it
        return value

    def __deepcopy__(self, memo: Any) -> Kept:
        return Kept()

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": {}}


def _sample(parameter: Tensor) -> tuple[float, ...]:
    """A few values: a change through `.data` leaves the version as it is, and betrays itself here."""
    if parameter.device.type != "cpu":
        return ()
    flat = parameter.detach().reshape(-1) if parameter.is_contiguous() else parameter.detach().flatten()
    return tuple(flat[:: max(1, len(flat) // 8)][:8].float().tolist())


def _table(*shape: int) -> nn.Parameter:
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else nn.init.trunc_normal_(values, std=0.02))


def _resized(maps: Tensor, grid: Sides, antialias: bool = False) -> Tensor:
    """(1, D, rows, columns) → (1, D, *grid), bicubic, always, also at the map's own size."""
    resized = F.interpolate(maps.float(), size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return resized.to(maps.dtype)


def _tiled(window: Tensor, grid: Sequence[int]) -> Tensor:
    """(rows, columns, D) repeated to cover a grid."""
    down, across = math.ceil(grid[0] / window.shape[0]), math.ceil(grid[1] / window.shape[1])
    return window.repeat(down, across, 1)[: grid[0], : grid[1]]


def _in_time(table: Tensor, temporal: Tensor | None, grid: Sides) -> Tensor:
    """(rows, columns, D) for a picture; plus the table of steps in time for a video."""
    if temporal is None:
        return table[None]
    return (table[None] + _in_steps(temporal, grid[0])[:, None, None])[None]


def _in_steps(table: Tensor, steps: int) -> Tensor:
    """(T, D) → (steps, D), linearly."""
    if steps == len(table):
        return table
    resized = F.interpolate(table.T[None].float(), size=steps, mode="linear", align_corners=False)
    return resized[0].T.to(table.dtype)
