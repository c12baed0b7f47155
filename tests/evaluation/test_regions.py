"""J and F of masks and videos against loops that say the same pixel by pixel, and against rules worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.evaluation.regions import (
    boundary_f,
    contours,
    jaccard,
    score_masks,
    score_video,
    score_videos,
)


def slow_boundary(found: np.ndarray, truth: np.ndarray, reach: int) -> float:
    def edge(mask: np.ndarray) -> list[tuple[int, int]]:
        height, width = mask.shape
        return [
            (i, j)
            for i in range(height)
            for j in range(width)
            if any(
                mask[i, j] != mask[k, m]
                for k, m in ((i, j + 1), (i + 1, j), (i + 1, j + 1))
                if k < height and m < width
            )
        ]

    mine, its = edge(found), edge(truth)
    if not mine or not its:
        return float(not mine and not its)

    def close(points: list, others: list) -> float:
        return sum(any((a - c) ** 2 + (b - d) ** 2 <= reach**2 for c, d in others) for a, b in points) / len(points)

    precision, recall = close(mine, its), close(its, mine)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_boundary_equals_the_loops() -> None:
    random = np.random.default_rng(0)
    coarse = random.random((12, 5, 6)) < 0.4
    masks = coarse.repeat(4, axis=1).repeat(4, axis=2)
    masks[0] = False
    moved = np.roll(masks, (1, 2), axis=(1, 2))
    for tolerance, reach in ((0.008, 1), (2, 2), (0.1, 4)):
        found = boundary_f(moved, masks, tolerance)
        expected = [slow_boundary(a, b, reach) for a, b in zip(moved, masks, strict=True)]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert boundary_f(masks[0], masks[0]) == 1
    assert boundary_f(masks[0], masks[1]) == boundary_f(masks[1], masks[0]) == 0


def test_contours_by_hand() -> None:
    mask = np.zeros((4, 4), bool)
    mask[2, 2] = True
    assert np.argwhere(contours(mask)).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_region_by_hand() -> None:
    truth, found = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    truth[0, :2], found[0, 1:3] = True, True
    assert jaccard(truth, found).tolist() == [pytest.approx(1 / 3), 1.0]


def test_objects_are_those_of_the_first_frame_and_the_outer_frames_do_not_count() -> None:
    truth = np.zeros((4, 8, 8), np.int64)
    truth[:, 2:5, 2:5], truth[1:, 6:, 6:] = 2, 5  # 5 enters later
    found = truth.copy()
    found[0], found[-1] = 0, 0
    regions, boundaries = score_masks(found, truth)
    assert regions.tolist() == boundaries.tolist() == [1.0]
    found[1] = 0
    assert score_masks(found, truth)[0].tolist() == [0.5]


def test_any_shape_of_masks_and_the_edges_of_the_picture() -> None:
    random = np.random.default_rng(1)
    for size in ((1, 1), (1, 9), (7, 1), (13, 17)):
        for _ in range(20):
            truth, found = random.random((2, *size)) < random.random(2)[:, None, None]
            assert boundary_f(truth, found, 2) == pytest.approx(slow_boundary(found, truth, 2), abs=1e-12)
            mask = np.pad(truth, 4)
            assert np.array_equal(contours(mask)[3:-4, 3:-4].any(), mask.any())
    assert boundary_f(np.ones((2, 3, 4, 5), bool), np.ones((2, 3, 4, 5), bool)).shape == (2, 3)
    full, none = np.ones((4, 5), bool), np.zeros((4, 5), bool)
    assert boundary_f(full, none) == 1  # neither has a contour
    assert jaccard(full, none) == 0


def frames(*rows: list[int]) -> np.ndarray:
    """Frames of one row of pixels each."""
    return np.array(rows)[:, None, :]


def test_a_video_by_hand() -> None:
    truth = frames([1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [0, 0, 0, 0], [9, 9, 9, 9])
    found = frames([0, 0, 0, 0], [1, 0, 5, 2], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0])
    score = score_video(truth, found)
    assert score.objects == (1, 2, 5)
    assert score.known.tolist() == [True, True, False]  # 9 is seen in the skipped last frame alone
    assert score.regions.tolist() == [[0.5, 1, 1], [1, 0, 1], [0, 1, 1]]
    assert {number: pair[0] for number, pair in score.of_objects().items()} == {1: 2.5 / 3, 2: 2 / 3}
    whole = score_video(truth, found, skip_ends=False)
    assert whole.objects == (1, 2, 5, 9)
    assert np.isnan(whole.regions[1, 0])  # 2 counts from the frame in which it is first seen
    assert whole.regions[1, 1:].tolist() == [1, 0, 1, 1]
    assert np.isnan(whole.regions[3, :4]).all()
    both = score_videos([score, whole])
    assert both["J"] == pytest.approx((2.5 / 3 + 2 / 3 + (2.5 + 1) / 5 + 3 / 4 + 0) / 5)
    assert both["J&F"] == (both["J"] + both["F"]) / 2


def test_a_false_guess_before_an_object_appears_costs() -> None:
    truth = frames([0, 0], [0, 0], [3, 0], [3, 0], [3, 0])
    right, early = truth.copy(), truth.copy()
    early[1, 0, 1] = 3
    assert score_video(truth, right).of_objects()[3][0] == 1
    assert score_video(truth, early).of_objects()[3][0] == pytest.approx(2 / 3)


def test_overlapping_masks_by_object_and_lazily() -> None:
    big, small = np.ones((6, 6), bool), np.zeros((6, 6), bool)
    small[2:4, 2:4] = True
    drawn = []

    def video() -> object:
        for number in range(4):
            drawn.append(number)
            yield {1: big, 2: small}

    score = score_video(video(), ({1: big, 2: small, 3: big & False} for _ in range(4)))  # type: ignore[arg-type]
    assert drawn == [0, 1, 2, 3]
    assert score.of_objects() == {1: (1.0, 1.0), 2: (1.0, 1.0)}
    assert score.regions.shape == (2, 2)


def test_the_rule_of_davis_and_that_of_sav_agree_where_they_should() -> None:
    """They differ where an object of the first frame is hidden from the second on (DAVIS counts those frames), and
    where objects enter later (only SA-V's counts them). On DAVIS itself neither occurs."""
    random = np.random.default_rng(2)
    truth = np.clip(random.integers(0, 5, (6, 4, 5)), 0, 3).repeat(5, axis=1).repeat(5, axis=2)
    found = np.where(random.random(truth.shape) < 0.1, 0, truth)
    regions, boundaries = score_masks(found, truth)
    pairs = np.array(list(score_video(truth, found).of_objects().values()))
    np.testing.assert_allclose(pairs, np.stack([regions, boundaries], axis=1))
    truth = frames([1, 2], [0, 2], [0, 2], [1, 2], [1, 2])
    found = frames([1, 2], [0, 2], [0, 2], [0, 2], [0, 2])
    assert score_masks(found, truth)[0].tolist() == [pytest.approx(2 / 3), 1]
    assert score_video(truth, found).of_objects()[1][0] == 0  # counted from the frame in which it is seen again


def test_bad_videos() -> None:
    video = frames([1, 1], [1, 1], [1, 1])
    with pytest.raises(BadInput, match="as many frames"):
        score_video(video, video[:2])
    with pytest.raises(BadInput, match="at least 3 frames"):
        score_video(video[:2], video[:2])
    with pytest.raises(BadInput, match="one size"):
        score_video(video, video[:, :, :1])
    with pytest.raises(BadInput, match="whole numbers"):
        score_video(video.astype(float), video)
    with pytest.raises(BadInput, match="at least one object"):
        score_videos([score_video(video * 0, video * 0)])
    with pytest.raises(BadInput, match="bool masks"):
        jaccard(video, video)


def test_bad_clips() -> None:
    with pytest.raises(BadInput, match="T of at least 3"):
        score_masks(np.ones((2, 4, 4), np.int64), np.ones((2, 4, 4), np.int64))
    with pytest.raises(BadInput, match="at least one object"):
        score_masks(np.ones((3, 4, 4), np.int64), np.zeros((3, 4, 4), np.int64))
    with pytest.raises(BadInput, match="one shape"):
        boundary_f(np.ones((4, 4), bool), np.ones((4, 5), bool))
