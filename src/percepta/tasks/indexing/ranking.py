"""Exact search by one matrix product: a pass in the type of the stored vectors, then the few that matter again.

The first pass multiplies everything in 16 bit and is limited by memory alone. Its error has a bound: no row whose first
score lies more than twice that bound below the k-th can be among the k best, so only the others are scored again, in
double precision, and ordered. What is returned is the order of the exact product of the stored vectors with the query,
not an approximation of it; an index structure to be built and tuned would have nothing to add below a million vectors.

Unusual: the bound is checked on everything that is scored twice. Where a machine's 16-bit product breaks it (one that
sums in 16 bit, say), all rows are scored in double precision instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.errors import BadInput, wrong_shape

PIECE = 8192  # rows that are widened at once


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The best rows of a query, and how all rows score.

    Attributes:
        rows: (K,) row numbers, best first; equal scores in the order of the rows.
        scores: (K,) float32, the exact products rounded once.
        all_scores: (N,) float32, products of every row, each within `error` of the exact one.
        error: the bound that was used; 0 where all rows were scored in double precision.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    all_scores: NDArray[np.float32]
    error: float


@torch.inference_mode()
def nearest(
    vectors: Tensor,
    query: Tensor,
    count: int,
    kept: NDArray[np.bool_] | None = None,
    first: NDArray[np.float32] | None = None,
) -> Ranked:
    """The `count` rows whose product with the query is largest.

    Args:
        vectors: (N, D) rows of length 1 before they were rounded to their type; float16 is the fastest on a CPU.
        query: (D,) float32, any length.
        kept: (N,) the rows that may be found; None for all.
        first: (N,) what `scores_of` gave for the query, if that is at hand.

    Raises: BadInput for shapes that do not fit, and for vectors or a query with values that are no numbers.
    """
    if first is None:
        first = scores_of(vectors, query)
    error = error_bound(vectors.dtype, query, float(np.abs(first).max()) if len(first) else 0.0)
    rows = _within_reach(first, count, 2 * error, kept)
    exact = _exact(vectors, query, rows)
    if len(rows) and float(np.abs(exact - first[rows]).max()) > error:
        every = np.arange(len(vectors))
        exact, error = _exact(vectors, query, every), 0.0
        first, rows = exact.astype(np.float32), every if kept is None else np.flatnonzero(kept)
        exact = exact[rows]
    scores = exact.astype(np.float32)
    order = np.argsort(-scores, kind="stable")[:count]
    return Ranked(rows[order], scores[order], first, error)


@torch.inference_mode()
def scores_of(vectors: Tensor, query: Tensor) -> NDArray[np.float32]:
    """(N,): the first pass alone, each within `error_bound` of the exact product; errors as of `nearest`."""
    if vectors.ndim != 2 or query.shape != vectors.shape[1:]:
        raise wrong_shape("the query", query.shape, f"({vectors.shape[-1]},) of the vectors that are searched")
    if not bool(torch.isfinite(query).all()):
        raise BadInput("the query's vector holds values that are no finite numbers; the picture or the model is bad.")
    # From here on NumPy: on a busy machine torch's threads wait for each other after every one of these small steps.
    first: NDArray[np.float32] = product(vectors, query).numpy()
    bad = np.flatnonzero(~np.isfinite(first))
    if len(bad):
        raise BadInput(
            f"{len(bad)} of {len(first)} vectors hold values that are no finite numbers, the first in row {bad[0]}; "
            "index these inputs again."
        )
    return first


def product(vectors: Tensor, query: Tensor) -> Tensor:
    """(N, D) rows times (D,) → (N,) float32, computed in the type of the rows; see `error_bound`."""
    return torch.mv(vectors, query.to(vectors.dtype)).float()


def error_bound(dtype: torch.dtype, query: Tensor, largest: float) -> float:
    """How far `product` may lie from the exact product, for rows of length 1 rounded to `dtype`.

    Four things are rounded. With u the unit roundoff of `dtype` (2⁻¹¹ of float16) and |v| ≤ 1 + u:
    the query, |v·(q₁₆ - q)| ≤ |v| |q₁₆ - q|, whose last factor is computed;
    the sum in float32 of D products that are exact there, ≤ D 2⁻²⁴ / (1 - D 2⁻²⁴) |v| |q₁₆|;
    the result, ≤ u / (1 - u) |result|, of which `largest` is the largest, plus half a step of the subnormal numbers.

    Args:
        query: (D,) float32.
        largest: the largest magnitude of a product.
    """
    limits = torch.finfo(dtype)
    unit = limits.eps / 2
    length = 1 + 2 * unit  # the second u covers a length that is 1 only to float32
    rounded = query.to(dtype).double()
    summing = len(query) * 2.0**-24 / (1 - len(query) * 2.0**-24)
    of_query = length * float((rounded - query.double()).norm())
    of_sum = summing * length * float(rounded.norm())
    of_result = unit / (1 - unit) * largest + limits.tiny * unit
    return of_query + of_sum + of_result


def _within_reach(
    first: NDArray[np.float32], count: int, reach: float, kept: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """The rows that may be among the `count` best: first score within `reach` of the count-th best, in row order."""
    rows = np.arange(len(first)) if kept is None else np.flatnonzero(kept)
    if count >= len(rows):
        return rows
    scores = first if kept is None else first[rows]
    threshold = float(np.partition(scores, -count)[-count]) - reach
    return rows[scores >= threshold]


def _exact(vectors: Tensor, query: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The products of some rows in double precision, (len(rows),)."""
    wide = query.double()
    pieces = [torch.mv(vectors[piece].double(), wide).numpy() for piece in torch.from_numpy(rows).split(PIECE)]
    return np.concatenate(pieces) if pieces else np.zeros(0)
