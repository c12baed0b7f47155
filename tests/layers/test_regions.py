"""Regions against scipy, whose answers are exact, and the rules of the official filters on pictures made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from percepta.errors import BadInput
from percepta.layers import (
    clean_masks,
    error_centres,
    fill_holes,
    label_components,
    remove_specks,
    squared_distances,
)

SHAPES = [(3, 17, 23), (2, 1, 9), (2, 9, 1), (5, 64, 64), (1, 1, 1)]


def noise(shape: tuple[int, int, int], share: float) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share


def drawn(text: str) -> Tensor:
    """A mask from lines of . and #."""
    return torch.tensor([[letter == "#" for letter in line] for line in text.split()])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.62, 0.9, 1.0])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_components_are_those_of_scipy(shape: tuple[int, int, int], share: float, connectivity: int) -> None:
    masks = noise(shape, share)
    labels, areas = label_components(masks, connectivity)
    for index, mask in enumerate(masks.numpy()):
        wanted, _ = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
        assert np.array_equal(labels[index].numpy(), wanted)
        counts = np.bincount(wanted.ravel())
        counts[0] = 0
        assert np.array_equal(areas[index].numpy(), counts[wanted])


@pytest.mark.parametrize("turns", [1, 30])
def test_a_spiral_is_one_component(turns: int) -> None:
    """The hardest shape for label propagation: one path as long as half the picture."""
    side = 4 * turns + 1
    mask = np.zeros((side, side), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    length = side - 1
    mask[0, 0] = True
    while length > 0:
        for _ in range(2):
            for _ in range(length):
                y, x = y + dy, x + dx
                mask[y, x] = True
            dy, dx = dx, -dy
        length -= 2
    for connectivity in (4, 8):
        for turned in (mask, mask.T.copy(), mask[::-1].copy()):
            assert int(label_components(torch.from_numpy(turned)[None], connectivity).labels.max()) == 1


def test_no_masks_and_no_pixels() -> None:
    for shape in ((0, 5, 4), (2, 0, 4), (2, 3, 0)):
        masks = torch.zeros(shape, dtype=torch.bool)
        assert label_components(masks).labels.shape == shape
        assert clean_masks(masks, 5)[0].shape == shape
        assert fill_holes(masks.float(), 5).shape == shape
        points, labels = error_centres(masks, masks)
        assert points.shape == (shape[0], 2)
        assert labels.shape == (shape[0],)


RING = drawn("""
    ######.#
    #..###..
    ######..
    ####.#..
    ######..
    .......#
""")


def test_holes_and_specks_of_logits() -> None:
    logits = torch.where(RING, 3.0, -3.0)
    filled = fill_holes(logits, area=2)
    changed = filled != logits
    assert changed.nonzero().tolist() == [[1, 1], [1, 2], [3, 4]]  # two holes; the outside has more pixels
    assert (filled[changed] == 0.1).all()
    assert (fill_holes(logits, area=1) != logits).nonzero().tolist() == [[3, 4]]
    assert fill_holes(logits, area=0) is logits

    cleared = remove_specks(logits, area=1, value=-10.0)
    assert (cleared != logits).nonzero().tolist() == [[0, 7], [5, 7]]
    batch = torch.stack([logits, -logits])[:, None]
    assert torch.equal(fill_holes(batch, 2, value=10.0)[0, 0], torch.where(changed, 10.0, logits))
    assert torch.equal(fill_holes(logits + 1, 2, threshold=1.0), torch.where(changed, 0.1, logits + 1))


def test_clean_masks_fills_then_drops() -> None:
    cleaned, changed = clean_masks(torch.stack([RING, RING, torch.ones_like(RING)]), area=3)
    wanted = RING.clone()
    wanted[1, 1:3] = wanted[3, 4] = True
    wanted[0, 7] = wanted[5, 7] = False
    assert torch.equal(cleaned[0], wanted)
    assert changed.tolist() == [True, True, False]
    assert torch.equal(clean_masks(RING[None], area=1)[0][0], RING)  # less than one pixel: nothing is small


def test_clean_masks_keeps_the_largest_where_all_are_small() -> None:
    mask = drawn("##...# ##..## ...... #.....")
    cleaned, changed = clean_masks(torch.stack([mask, ~torch.ones_like(mask)]), area=7)
    assert torch.equal(cleaned[0], drawn("##.... ##.... ...... ......"))
    assert changed.tolist() == [True, False]  # an empty mask stays empty: its 24 pixels are no small hole


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_distances_are_exact(shape: tuple[int, int, int], share: float) -> None:
    masks = noise(shape, share)
    for mask, got in zip(masks.numpy(), squared_distances(masks), strict=True):
        wanted = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        assert np.array_equal(got.numpy(), np.rint(wanted**2))


def test_error_centres() -> None:
    truth = torch.zeros(4, 40, 50, dtype=torch.bool)
    guess = truth.clone()
    truth[0, 5:16, 10:31] = True  # missed entirely
    guess[1, 20:31, 3:14] = True  # wrong entirely
    truth[2, 0:9, 0:9] = True  # both errors, the wrong one is larger; the border of the picture counts as an edge
    guess[2, 20:40, 20:50] = True
    truth[3, 10:20, 10:20] = guess[3, 10:20, 10:20] = True  # perfect
    points, labels = error_centres(truth, guess)
    assert points.tolist() == [[15, 10], [8, 25], [29, 29], [0, 0]]
    assert labels.tolist() == [1, 0, 0, 0]
    assert points.dtype == torch.float32
    for index in range(3):  # one by one as all at once
        alone = error_centres(truth[index : index + 1], guess[index : index + 1])
        assert torch.equal(alone[0][0], points[index])


@pytest.mark.parametrize("side", [40, 300])
@pytest.mark.parametrize("kind", ["blobs", "pierced", "noise", "bands", "full"])
def test_the_middle_is_where_the_distance_is_largest(side: int, kind: str) -> None:
    """Small masks have all distances computed, large ones only those that promise much; the answer is the same."""
    draw = torch.Generator().manual_seed(0)
    shape = (3, side, side + 17)
    coarse = torch.nn.functional.interpolate(torch.randn(3, 1, 5, 5, generator=draw), size=shape[1:], mode="bicubic")
    masks = {
        "blobs": coarse[:, 0] > 0.2,
        "pierced": torch.rand(shape, generator=draw) > 0.02,
        "noise": torch.rand(shape, generator=draw) > 0.5,
        "bands": (torch.arange(side) // 7 % 2 == 0)[None, :, None].expand(shape),
        "full": torch.ones(shape, dtype=torch.bool),
    }[kind]
    points, labels = error_centres(masks, torch.zeros_like(masks))
    assert labels.tolist() == [1, 1, 1]
    for mask, (x, y) in zip(masks.numpy(), points.long().tolist(), strict=True):
        distances = np.rint(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] ** 2)
        assert y * shape[2] + x == distances.argmax()
    none, excess = error_centres(masks, masks), error_centres(torch.zeros_like(masks), masks)
    assert none[0].tolist() == [[0, 0]] * 3
    assert torch.equal(excess[0], points)
    assert excess[1].tolist() == [0, 0, 0]


def test_an_error_of_equal_depth_is_clicked_as_too_much() -> None:
    truth = torch.zeros(1, 20, 20, dtype=torch.bool)
    guess = truth.clone()
    truth[0, 2:7, 2:7] = True
    guess[0, 10:15, 10:15] = True
    points, labels = error_centres(truth, guess)
    assert points.tolist() == [[12, 12]]
    assert labels.tolist() == [0]


def test_bad_input() -> None:
    with pytest.raises(BadInput, match=r"masks must have the shape \(N, H, W\)"):
        label_components(torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(BadInput, match="masks must be bool; got float32"):
        label_components(torch.zeros(1, 3, 3))
    with pytest.raises(BadInput, match="connectivity must be one of 4, 8; got 6"):
        label_components(torch.zeros(1, 3, 3, dtype=torch.bool), 6)
    with pytest.raises(BadInput, match="guess must have the shape"):
        error_centres(torch.zeros(1, 3, 3, dtype=torch.bool), torch.zeros(1, 3, 4, dtype=torch.bool))
    with pytest.raises(BadInput, match="logits must have the shape"):
        fill_holes(torch.zeros(3), 1)
