"""Exact search against a float32 reference: same order up to ties, on vectors made to confuse a 16-bit product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.tasks.indexing import ranking
from percepta.tasks.indexing.ranking import Ranked, error_bound, nearest, product

TIE = 3e-7  # two float32 products of one vector, summed in another order, differ by less
TYPES = [torch.float16, torch.bfloat16, torch.float32]


def unit_rows(count: int, size: int, seed: int = 0) -> Tensor:
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def near_ties(query: Tensor, count: int, spread: float, seed: int = 1) -> Tensor:
    """Unit rows whose exact products with a unit query lie within `spread` of 0.4, in random order."""
    generator = torch.Generator().manual_seed(seed)
    aside = torch.randn(count, len(query), generator=generator)
    aside = torch.nn.functional.normalize(aside - (aside @ query)[:, None] * query, dim=-1)
    cosines = 0.4 + spread * (torch.rand(count, 1, generator=generator) - 0.5)
    return cosines * query + (1 - cosines**2).sqrt() * aside


def same_order(found: Ranked, vectors: Tensor, query: Tensor, kept: np.ndarray | None = None) -> None:
    """Asserts that what was found is what a float32 product of the stored vectors finds, up to ties."""
    reference = (vectors.float() @ query).numpy()
    allowed = np.ones(len(vectors), dtype=bool) if kept is None else kept
    np.testing.assert_allclose(found.scores, reference[found.rows], atol=TIE)
    assert len(set(found.rows.tolist())) == len(found.rows)
    assert allowed[found.rows].all()
    assert (np.diff(reference[found.rows]) <= TIE).all()
    left = allowed.copy()
    left[found.rows] = False
    assert not left.any() or reference[left].max() <= reference[found.rows[-1]] + TIE


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_order_is_that_of_a_float32_product(dtype: torch.dtype) -> None:
    vectors = unit_rows(3000, 96).to(dtype)
    for seed in range(5):
        query = unit_rows(1, 96, 100 + seed)[0]
        for count in (1, 20, 3000, 5000):
            found = nearest(vectors, query, count)
            assert len(found.rows) == min(count, 3000)
            same_order(found, vectors, query)


@pytest.mark.parametrize("dtype", TYPES[:2], ids=str)
@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_near_ties_that_16_bit_confuses_are_ordered_rightly(dtype: torch.dtype, spread: float) -> None:
    query = unit_rows(1, 256, 5)[0]
    vectors = torch.cat([unit_rows(500, 256, 6), near_ties(query, 1500, spread)]).to(dtype)
    found = nearest(vectors, query, 50)
    same_order(found, vectors, query)
    coarse = np.argsort(-product(vectors, query).numpy(), kind="stable")[:50]
    assert coarse.tolist() != found.rows.tolist()  # the first pass alone would have been wrong


@pytest.mark.parametrize("dtype", TYPES[:2], ids=str)
def test_the_bound_holds_and_is_no_larger_than_it_must_be(dtype: torch.dtype) -> None:
    query = unit_rows(1, 512, 7)[0]
    for rows in (unit_rows(4000, 512, 8), near_ties(query, 4000, 0.8), unit_rows(4000, 512, 9).abs() * query.sign()):
        vectors = torch.nn.functional.normalize(rows, dim=-1).to(dtype)
        first = product(vectors, query)
        bound = error_bound(dtype, query, float(first.abs().max()))
        worst = float((first.double() - vectors.double() @ query.double()).abs().max())
        assert worst <= bound
        assert bound < 10 * worst


def test_every_row_scores_within_the_bound() -> None:
    vectors, query = unit_rows(800, 64).half(), unit_rows(1, 64, 3)[0]
    found = nearest(vectors, query, 3)
    assert found.error > 0
    assert np.abs(found.all_scores - (vectors.float() @ query).numpy()).max() <= found.error


def test_equal_vectors_come_in_their_order() -> None:
    vectors = unit_rows(40, 32).half().repeat(5, 1)
    found = nearest(vectors, vectors[7].float(), 5)
    assert found.rows.tolist() == [7, 47, 87, 127, 167]
    assert len(set(found.scores.tolist())) == 1


def test_only_kept_rows_are_found_but_all_are_scored() -> None:
    vectors, query = unit_rows(500, 48).half(), unit_rows(1, 48, 4)[0]
    kept = np.arange(500) % 7 == 0
    found = nearest(vectors, query, 10, kept)
    same_order(found, vectors, query, kept)
    assert found.all_scores.shape == (500,)
    assert len(nearest(vectors, query, 1000, kept).rows) == int(kept.sum())
    assert len(nearest(vectors, query, 3, np.zeros(500, dtype=bool)).rows) == 0


def test_a_product_that_breaks_the_bound_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, query = unit_rows(2000, 64).half(), unit_rows(1, 64, 11)[0]

    def careless(vectors: Tensor, query: Tensor) -> Tensor:
        return (product(vectors, query) * 20).round() / 20

    monkeypatch.setattr(ranking, "product", careless)
    kept = np.arange(2000) % 2 == 0
    for chosen in (None, kept):
        found = nearest(vectors, query, 15, chosen)
        same_order(found, vectors, query, chosen)
        assert found.error == 0
        np.testing.assert_allclose(found.all_scores, (vectors.float() @ query).numpy(), atol=TIE)


def test_few_are_scored_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    exact = ranking._exact

    def counting(vectors: Tensor, query: Tensor, rows: np.ndarray) -> np.ndarray:
        counted.append(len(rows))
        return exact(vectors, query, rows)

    monkeypatch.setattr(ranking, "_exact", counting)
    nearest(unit_rows(20_000, 128).half(), unit_rows(1, 128, 2)[0], 20)
    (number,) = counted
    assert 20 <= number <= 60


def test_an_empty_index_gives_nothing() -> None:
    found = nearest(torch.zeros(0, 16, dtype=torch.float16), unit_rows(1, 16)[0], 5)
    assert (len(found.rows), len(found.scores), len(found.all_scores)) == (0, 0, 0)


def test_what_is_no_number_is_refused() -> None:
    vectors, query = unit_rows(30, 16).half(), unit_rows(1, 16)[0]
    damaged = vectors.clone()
    damaged[4, 3] = torch.nan
    damaged[9, 0] = torch.inf
    with pytest.raises(BadInput, match=r"2 of 30 vectors hold values that are no finite numbers, the first in row 4"):
        nearest(damaged, query, 3)
    with pytest.raises(BadInput, match="the query's vector holds values that are no finite numbers"):
        nearest(vectors, query * torch.nan, 3)
    with pytest.raises(BadInput, match=r"the query must have the shape \(16,\) of the vectors .* got \(8,\)"):
        nearest(vectors, query[:8], 3)
