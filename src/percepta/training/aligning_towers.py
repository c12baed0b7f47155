"""What alignment needs of any encoder: its tokens with their grid, a start from another one, and pictures with holes.

Unusual: patches are hidden in the picture, not in the encoder. Where they lie the picture has the mean colour of its
preprocessing, so that the tower sees a constant; it may be any tower, and nothing new is learned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers import LayerScale, resize_positions


class Seen(NamedTuple):
    """Tokens of B pictures.

    Attributes:
        tokens: (B, P + h * w, D), row by row; P tokens, such as a class token, stand in front.
        grid: rows and columns h, w.
    """

    tokens: Tensor
    grid: tuple[int, int]

    @property
    def front(self) -> int:
        """Tokens in front of the patches."""
        return self.tokens.shape[1] - self.grid[0] * self.grid[1]

    @property
    def patches(self) -> Tensor:
        """(B, h * w, D)."""
        return self.tokens[:, self.front :]


def tower_of(model: Any) -> Any:
    """The vision tower of a contrastive model, or the model itself. Raises BadInput for one that shows no layers."""
    tower = getattr(model, "vision", model)
    if not hasattr(tower, "intermediates"):
        raise BadInput(f"alignment needs an encoder that gives its layers; {type(model).__name__} does not.")
    return tower


def see(tower: Any, x: Tensor, layer: int = -1) -> Seen:
    """Tokens after a block, before the final norm, those in front of the patches included.

    Args:
        tower: as `tower_of` gives it.
        x: (B, 3, H, W), preprocessed.
        layer: 0-based, negative from the end.

    Raises: BadInput for a layer out of range, or a tower that merges tokens.
    """
    (tokens,) = tower.intermediates(x, [layer], prefix=True)
    front = int(getattr(tower.config, "prefix", 0))
    grid = _grid(tower, x, layer, tokens.shape[1] - front)
    return Seen(tokens, grid)


def _grid(tower: Any, x: Tensor, layer: int, patches: int) -> tuple[int, int]:
    """Rows and columns of `patches` tokens of pictures, whose aspect ratio they have."""
    rows = round((patches * x.shape[-2] / x.shape[-1]) ** 0.5)
    if rows < 1 or patches % rows:
        raise BadInput(f"layer {layer} of {type(tower).__name__} gives {patches} tokens, which are no grid.")
    return rows, patches // rows


def like(seen: Seen, other: Seen) -> tuple[Tensor, Tensor]:
    """Tokens (B, N, D) and (B, N, E) of the same places: all where both have as many in front, else patches alone.

    The second is brought to the grid of the first, bilinearly.
    """
    first, second = (
        part if seen.front == other.front else part._replace(tokens=part.patches) for part in (seen, other)
    )
    if first.grid == second.grid:
        return first.tokens, second.tokens
    patches = resized(second.patches, second.grid, first.grid)
    return first.tokens, torch.cat([second.tokens[:, : second.front], patches], dim=1)


def resized(patches: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """(B, h * w, D) on one grid → (B, h' * w', D) on another, bilinear, antialiased where it shrinks."""
    if grid == wanted:
        return patches
    maps = patches.transpose(1, 2).unflatten(2, grid).float()
    maps = functional.interpolate(maps, wanted, mode="bilinear", align_corners=False, antialias=True)
    return maps.flatten(2).transpose(1, 2).to(patches.dtype)


def hidden_patches(
    count: int, grid: tuple[int, int], share: float, block: int, generator: torch.Generator | None = None
) -> Tensor:
    """(count, h, w) bool, True where a patch is hidden: a share of the squares of `block` patches a side, in each row.

    Where the squares divide the grid, exactly that share of all patches, up to rounding to whole squares; else those
    at the right and lower edge are cut.
    """
    rows, columns = (-(-side // block) for side in grid)
    order = torch.rand(count, rows * columns, generator=generator).argsort(dim=1)
    squares = (order < round(share * rows * columns)).unflatten(1, (rows, columns))
    return squares.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, : grid[0], : grid[1]]


def blanked(x: Tensor, hidden: Tensor) -> Tensor:
    """(B, 3, H, W) normalised pictures, the patches of (B, h, w) `hidden` in the mean colour, which is 0."""
    rows, columns = x.shape[-2] // hidden.shape[1], x.shape[-1] // hidden.shape[2]
    whole = hidden.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    whole = functional.pad(whole, (0, x.shape[-1] - whole.shape[2], 0, x.shape[-2] - whole.shape[1]))
    return x.masked_fill(whole[:, None], 0.0)


@torch.no_grad()
def start_from(student: Any, source: Any, same: bool = False) -> None:
    """Copy into a tower what another one begins with: patches, positions, and as many blocks as the student has.

    A table of positions is resized to the student's grid. Factors of a LayerScale that the source lacks stay as they
    are.

    Args:
        same: divide the last linear layer of each branch by such a factor, so that the student computes what the
            source does.

    Raises: BadInput where the student has another part that the source lacks, or of another shape; nothing is copied
    then.
    """
    mine, theirs = student.state_dict(), dict(source.state_dict())
    if "positions" in mine and "positions" in theirs and mine["positions"].shape[1:] == theirs["positions"].shape[1:]:
        grid = (student.config.grid, student.config.grid)
        theirs["positions"] = resize_positions(theirs["positions"], grid, source.config.prefix)
    fresh = {name for name in mine if name not in theirs and name.endswith(".gamma")}
    wanted = [name for name in mine if name not in fresh]
    wrong = [name for name in wanted if name not in theirs or theirs[name].shape != mine[name].shape]
    if wrong:
        raise BadInput(
            f"a student can start from an encoder that has all its parts but LayerScale, in the same shapes; "
            f"{len(wrong)} differ, such as {wrong[0]}."
        )
    for name in wanted:
        mine[name].copy_(theirs[name])
    for block in student.blocks if same and fresh else ():
        for scale, last in ((block.scale1, block.attention.proj), (block.scale2, block.mlp.contract)):
            if isinstance(scale, LayerScale):
                last.weight.div_(scale.gamma[:, None])
                last.bias.div_(scale.gamma)


class Head(nn.Module):
    """Tokens of one width to another, where they differ; learned, and no part of the result."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.linear = nn.Identity() if width == wanted else nn.Linear(width, wanted)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) → (B, N, wanted)."""
        return self.linear(tokens)


def frozen(model: Any) -> Any:
    """The model in evaluation mode, none of its parameters learning."""
    return model.eval().requires_grad_(False)
