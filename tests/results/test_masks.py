"""Run lengths: identity through every form, and equality with the reference where it is installed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percepta.errors import BadInput
from percepta.results import Masks
from percepta.results.masks import compress, decompress, encode


def random_masks(seed: int, count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((count, height, width)) < rng.random((count, 1, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(1, 40), st.integers(1, 40))
def test_round_trips(seed: int, count: int, height: int, width: int) -> None:
    dense = random_masks(seed, count, height, width)
    masks = Masks.from_dense("a", dense)
    assert masks.dense().dtype == bool
    assert np.array_equal(masks.dense(), dense)
    assert masks.area.tolist() == dense.sum(axis=(1, 2)).tolist()
    again = Masks.from_strings("a", masks.size, masks.to_strings())
    assert np.array_equal(again.dense(), dense)
    for box, mask in zip(masks.boxes().xyxy.tolist(), dense, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0, 0, 0, 0]
        assert box == tight


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=8, max_size=8), st.booleans())
def test_rectangles_at_any_edge_equal_the_definition(numbers: list[int], tall: bool) -> None:
    """Few edges, of the picture and within it: the way that is taken for all but noise."""
    mask = np.zeros((30, 20) if tall else (16, 30), bool)
    for a, b, c, d in (numbers[:4], numbers[4:]):
        mask[min(a, b) : max(a, b), min(c, d) : max(c, d)] ^= True
    flat = [0, *mask.T.reshape(-1).astype(int).tolist()]  # a zero in front, so that zeros come first
    edges = [place for place, (before, value) in enumerate(pairwise(flat)) if before != value]
    runs = [end - start for start, end in pairwise([0, *edges, mask.size])]
    assert encode(mask).tolist() == runs
    assert np.array_equal(Masks("a", mask.shape, (encode(mask),)).dense()[0], mask)


def test_a_large_picture() -> None:
    y, x = np.mgrid[:700, :900]
    dense = np.stack([(x - 450) ** 2 + (y - 350) ** 2 < radius**2 for radius in (5, 200, 500, 1000)])
    masks = Masks.from_dense("a", dense)
    assert np.array_equal(Masks.from_strings("a", masks.size, masks.to_strings()).dense(), dense)
    assert all(np.array_equal(one, wanted) for one, wanted in zip(masks, dense, strict=True))


def slow_text(counts: list[int]) -> str:
    """COCO's code, number by number."""
    characters = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr(bits + 48 + 32 * more))
            if not more:
                break
    return "".join(characters)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40) | st.integers(0, 2**40), max_size=12))
def test_text_equals_the_definition(counts: list[int]) -> None:
    text = compress(np.array(counts, np.int64))
    assert text == slow_text(counts)
    assert decompress(text).tolist() == counts


def test_the_first_run_counts_zeros() -> None:
    assert encode(np.array([[True, False], [True, False]])).tolist() == [0, 2, 2]
    assert encode(np.array([[False, True], [True, True]])).tolist() == [1, 3]
    assert encode(np.zeros((2, 3), bool)).tolist() == [6]


def test_known_code() -> None:
    # 6 zeros, 1 one, 40 zeros, 5 ones, 2 zeros: from the third run on, differences to the run two before.
    assert compress(np.array([6, 1, 40, 5, 2])) == "61X14jN"
    assert decompress("61X14jN").tolist() == [6, 1, 40, 5, 2]
    assert decompress(b"61X14jN").tolist() == [6, 1, 40, 5, 2]


def test_equal_to_the_reference() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    dense = random_masks(1, 20, 37, 53)
    codes = mask.encode(np.asfortranarray(dense.transpose(1, 2, 0).astype(np.uint8)))
    assert [code["counts"].decode() for code in codes] == Masks.from_dense("a", dense).to_strings()


def test_selection_and_iteration() -> None:
    dense = random_masks(2, 3, 5, 7)
    masks = Masks.from_dense("a", dense, ("x", "y", "z"), [0.1, 0.2, 0.3])
    assert masks.select([2, 0]).names == ("z", "x")
    assert np.array_equal(masks.select(masks.scores > 0.15).dense(), dense[1:])
    assert all(np.array_equal(got, want) for got, want in zip(masks, dense, strict=True))
    assert masks.to_dict()["masks"][1]["name"] == "y"
    assert Masks("a", (4, 5), ()).dense().shape == (0, 4, 5)
    assert Masks.from_dense("a", np.full((1, 2, 2), 255, np.uint8)).area.tolist() == [4]


@pytest.mark.parametrize("text", ["~~~~", "X", " ", "\u00e9", "o" * 40])
def test_bad_codes(text: str) -> None:
    with pytest.raises(BadInput, match=r"\.$"):
        Masks.from_strings("a", (4, 4), [text])


def test_bad_masks() -> None:
    for dense in (np.ones((4, 4)), np.full((1, 2, 2), np.nan), np.array([[["a"]]])):
        with pytest.raises(BadInput, match=r"\.$"):
            Masks.from_dense("a", dense)
    for size, counts in (((2, 2), ([3],)), ((2, 2), ([-1, 5],)), ((-2, -2), ([4],))):
        with pytest.raises(BadInput, match=r"\.$"):
            Masks("a", size, counts)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        Masks("a", (2, 2), ([4],), ("x", "y"))  # type: ignore[arg-type]
