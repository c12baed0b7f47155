"""Which tokens of a picture to average when they lie on a grid: the matching of Token Merging for Stable Diffusion.

arXiv 2303.17604, §4.2. The grid is cut into windows, one token of each window is a destination, and every other token
looks for the destination most like it. Order of this file: the plan, where its destinations come from, keys on a
coarser grid (ToDo, arXiv 2402.13573).
Unusual: sources and destinations are listed by arithmetic instead of by sorting a mark; destinations are hashed from
whole numbers, so they are the same on every device, need no generator, and compile; a source may look at the nearest
rows of windows only, whose cost grows with the tokens to the power of 1.5 instead of 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from percepta.errors import BadInput, out_of_range, wrong_shape
from percepta.layers.token_merging import Plan, check_metric, identity, similarities, take, unit


@torch.no_grad()
def match_grid(
    metric: Tensor,
    height: int,
    width: int,
    remove: int,
    stride: tuple[int, int] = (2, 2),
    picks: Tensor | None = None,
    reach: int | None = None,
) -> Plan:
    """Bipartite matching with one destination in each window of the grid.

    The `remove` sources most like their destination join it. Rows and columns beyond the last whole window have no
    destination; their tokens are sources. Rows of the plan come out as the sources that stay, most similar first, then
    the destinations, window by window. All shapes follow from the sizes alone.

    Args:
        metric: (B, height * width, C), row by row; any float dtype, compared by cosine in float32, where a token of
            zeros is at 0 from every other.
        height, width: of the grid, in tokens.
        remove: tokens to remove; more than there are sources is cut, 0 or less changes nothing.
        stride: rows and columns of a window.
        picks: (height // rows, width // columns) whole numbers from 0 to rows * columns - 1, which token of each window
            is its destination, counted row by row; one map for the whole batch, or (B, ...) of them. None takes the
            first token of each window.
        reach: how many rows of windows above and below its own a source looks at for its destination; None looks at
            all. Tokens beyond the last whole window always look at all.

    Raises: BadInput for sizes that do not fit together.
    """
    check_metric(metric)
    check_grid(height, width, stride)
    if reach is not None and reach < 0:
        raise out_of_range("reach", reach, "0 or more rows of windows, or None for all")
    batch, length, _ = metric.shape
    if length != height * width:
        raise wrong_shape("a metric", metric.shape, f"(B, {height} * {width} = {height * width}, C)")
    if remove <= 0:
        return identity(batch, length, metric.device)
    windows = (height // stride[0], width // stride[1])
    if picks is None:
        picks = torch.zeros(windows, dtype=torch.int64)
    if tuple(picks.shape) not in (windows, (1, *windows), (batch, *windows)):
        raise wrong_shape("picks", picks.shape, f"{windows} or (B, {windows[0]}, {windows[1]})")
    sources, destinations = split_grid(height, width, stride, picks.to(metric.device))
    sources, destinations = sources.expand(batch, -1), destinations.expand(batch, -1)
    compared = unit(metric)
    if reach is None or reach >= windows[0] - 1:
        best, choice = closest(compared, sources, destinations)
    else:
        best, choice = closest_in_rows(compared, sources, destinations, windows, stride[0] * stride[1] - 1, reach)
    remove = min(remove, best.shape[1])
    order = best.argsort(dim=-1, descending=True, stable=True)
    going, staying = order[:, :remove], order[:, remove:]
    kept = torch.cat([sources.gather(1, staying), destinations], dim=1)
    return Plan(kept, sources.gather(1, going), choice.gather(1, going) + staying.shape[1], length)


def split_grid(height: int, width: int, stride: tuple[int, int], picks: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of sources and destinations of a grid whose windows picked `picks`.

    Args:
        picks: ([B,] high, wide).

    Returns: (B or 1, N - high * wide) int64, window by window and then the tokens beyond the last whole window; and
        (B or 1, high * wide), window by window.
    """
    rows, columns = stride
    high, wide = height // rows, width // columns
    picked = picks.long().view(-1, high * wide)
    positions = torch.arange(height * width, device=picked.device).view(height, width)
    corners = positions[: high * rows : rows, : wide * columns : columns].flatten()
    others = torch.arange(rows * columns - 1, device=picked.device)
    others = others + (others >= picked.unsqueeze(-1))  # every place of a window but the picked one
    inside = corners.unsqueeze(-1) + others // columns * width + others % columns
    beside, below = positions[: high * rows, wide * columns :], positions[high * rows :]
    beyond = torch.cat([beside.flatten(), below.flatten()]).expand(picked.shape[0], -1)
    sources = torch.cat([inside.flatten(1), beyond], dim=1)
    return sources, corners + picked // columns * width + picked % columns


def closest(compared: Tensor, sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """The best similarity of each source over all destinations, and whose it is.

    Args:
        compared: (B, N, C), of length one.
        sources: (B, M), and destinations: (B, n), int64 positions.

    Returns: (B, M) float32 and (B, M) int64.
    """
    best = similarities(take(compared, sources), take(compared, destinations)).max(dim=-1)
    return best.values, best.indices


def closest_in_rows(
    compared: Tensor, sources: Tensor, destinations: Tensor, windows: tuple[int, int], each: int, reach: int
) -> tuple[Tensor, Tensor]:
    """As `closest`, over the destinations in the `reach` rows of windows above and below a source's own.

    Args:
        windows: how many lie below and beside each other.
        each: sources of a window.
    """
    (high, wide), batch = windows, compared.shape[0]
    inside = high * wide * each
    around = torch.arange(high, device=compared.device).unsqueeze(1)
    around = around + torch.arange(-reach, reach + 1, device=compared.device)
    around = around.clamp(0, high - 1)  # (high, 2 * reach + 1); at the rim a row is seen twice, which changes nothing
    looked_at = take(compared, destinations).unflatten(1, (high, wide))[:, around]  # (B, high, 2 * reach + 1, wide, C)
    looking = take(compared, sources[:, :inside]).unflatten(1, (high, wide * each))
    scores = similarities(looking.flatten(0, 1), looked_at.flatten(2, 3).flatten(0, 1))
    best, place = scores.unflatten(0, (batch, high)).max(dim=-1)
    choice = around.expand(batch, -1, -1).gather(2, place // wide) * wide + place % wide
    beyond = closest(compared, sources[:, inside:], destinations)
    return torch.cat([best.flatten(1), beyond[0]], dim=1), torch.cat([choice.flatten(1), beyond[1]], dim=1)


def check_grid(height: int, width: int, stride: tuple[int, int]) -> None:
    """Raises BadInput for windows that a grid has no room for, or that hold a single token."""
    rows, columns = stride
    if not (1 <= rows <= height and 1 <= columns <= width and rows * columns > 1):
        raise BadInput(
            f"stride must be rows and columns of a window of 2 tokens or more that fits into the grid of "
            f"{height} x {width} tokens; got {stride}."
        )


def hash_picks(height: int, width: int, stride: tuple[int, int], seed: Tensor) -> Tensor:
    """Picks that look random and follow from whole numbers alone, the same on every device.

    Args:
        seed: (B,) int64; each has its own map.

    Returns: (B, height // rows, width // columns) int64, as `match_grid` takes them. Raises: BadInput.
    """
    check_grid(height, width, stride)
    rows, columns = stride
    high, wide = height // rows, width // columns
    window = torch.arange(high * wide, device=seed.device)
    mixed = scramble(scramble(seed).unsqueeze(1) + window)
    return (mixed % (rows * columns)).view(-1, high, wide)


def scramble(x: Tensor) -> Tensor:
    """A fixed permutation of the whole numbers below 2^32 without pattern; others wrap into them.

    Twice: xor with the upper half, multiply. The factor has 27 bits, so that no product leaves int64.
    """
    x = x & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def coarsen(x: Tensor, height: int, width: int, stride: tuple[int, int] = (2, 2)) -> Tensor:
    """The token at the middle of each cell of a coarser grid (torch's nearest-exact), for the keys and values of an
    attention whose queries all stay (ToDo, §3).

    (B, height * width, D) → (B, (height // rows) * (width // columns), D). Raises: BadInput.
    """
    check_grid(height, width, stride)
    if x.ndim != 3 or x.shape[1] != height * width:
        raise wrong_shape("x", x.shape, f"(B, {height} * {width} = {height * width}, D)")
    high, wide = height // stride[0], width // stride[1]
    down = (2 * torch.arange(high, device=x.device) + 1) * height // (2 * high)
    right = (2 * torch.arange(wide, device=x.device) + 1) * width // (2 * wide)
    return x.index_select(1, (down.unsqueeze(1) * width + right).flatten())
