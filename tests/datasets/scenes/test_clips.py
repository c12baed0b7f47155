"""Clips: determinism, tracks, occlusion, captions that agree with the motion."""

from __future__ import annotations

import re

import numpy as np
import pytest

from percepta.datasets.scenes import Clip, SceneConfig, distinct_clips, is_true, make_clip, parse
from percepta.datasets.scenes.clips import ClipPlan, plan_clip
from percepta.datasets.scenes.motion import Path
from percepta.datasets.scenes.scene import boxes_of
from percepta.errors import BadInput

MOTION_WORDS = re.compile(r"\b(moves|enters|leaves|bounces|still|behind|front)\b")


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_clip(seed, SceneConfig(48), frames=12) for seed in range(1_000_000, 1_000_120)]


@pytest.fixture(scope="module")
def plans() -> list[ClipPlan]:
    return [plan_clip(seed) for seed in range(1_000_000, 1_001_000)]


def test_one_seed_is_one_clip() -> None:
    first, second = make_clip(5), make_clip(5)
    np.testing.assert_array_equal(first.frames, second.frames)
    assert first.caption == second.caption
    assert first.frames.shape == (16, 64, 64, 3)
    assert first.depth.shape == (16, 64, 64)
    assert not np.array_equal(first.frames, make_clip(6).frames)


def test_more_frames_sample_the_same_motion() -> None:
    coarse, fine = make_clip(9, frames=4), make_clip(9, frames=7)
    np.testing.assert_array_equal(coarse.frames, fine.frames[::2])
    assert make_clip(9, SceneConfig((60, 90)), frames=1).frames.shape == (1, 60, 90, 3)


def test_a_third_of_the_clips_have_an_occlusion(clips: list[Clip]) -> None:
    assert np.mean([clip.has_occlusion for clip in clips]) >= 1 / 3
    deep = [any((track.visible[track.occluded] < 0.6).any() for track in clip.tracks) for clip in clips]
    assert np.mean(deep) >= 1 / 3


def test_tracks_agree_with_masks_and_depth(clips: list[Clip]) -> None:
    for clip in clips[:40]:
        visible = np.stack([track.visible_masks for track in clip.tracks])
        amodal = np.stack([track.amodal_masks for track in clip.tracks])
        assert not (visible & ~amodal).any()
        assert visible.sum(axis=0).max() <= 1
        distances = np.array([track.object.distance for track in clip.tracks], np.float32)
        nearest = np.where(amodal, distances[:, None, None, None], np.inf).min(axis=0)
        covered = np.isfinite(nearest)
        np.testing.assert_allclose(clip.depth[covered], nearest[covered])
        for track in clip.tracks:
            np.testing.assert_array_equal(track.boxes, boxes_of(track.visible_masks))
            whole = track.amodal_masks.sum(axis=(1, 2))
            shares = track.visible_masks.sum(axis=(1, 2)) / np.maximum(whole, 1)
            np.testing.assert_allclose(track.visible, shares, rtol=1e-6)
            np.testing.assert_array_equal(track.occluded, (whole > 0) & (track.visible < np.float32(0.9)))


def test_every_object_is_seen_in_half_of_the_frames(clips: list[Clip]) -> None:
    for clip in clips:
        for track in clip.tracks:
            assert (track.visible >= 0.5).mean() >= 0.5, clip.seed


def test_some_objects_come_and_go(clips: list[Clip]) -> None:
    tracks = [track for clip in clips for track in clip.tracks]
    entering = [track for track in tracks if track.motion.startswith("enters")]
    leaving = [track for track in tracks if track.motion.startswith("leaves")]
    assert len(entering) > 10
    assert len(leaving) > 10
    for track in entering:
        assert not track.amodal_masks[0].any()
        assert track.amodal_masks[-1].any()
    for track in leaving:
        assert track.amodal_masks[0].any()
        assert not track.amodal_masks[-1].any()


def test_motion_words_agree_with_the_tracks(clips: list[Clip]) -> None:
    axis = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
    seen = set()
    for clip in clips:
        for track in clip.tracks:
            moved = track.centres[-1] - track.centres[0]
            seen.add(track.motion)
            if track.motion in axis:
                index, sign = axis[track.motion]
                assert moved[index] * sign > 0.15
                assert abs(moved[index]) >= abs(moved[1 - index])
            elif track.motion == "still":
                assert np.ptp(track.centres, axis=0).max() == 0
            elif track.motion == "bounces":
                assert np.ptp(track.centres, axis=0).max() > 0.1
            else:
                side = track.centres[0 if track.motion.startswith("enters") else -1][0]
                assert (side < 0) == track.motion.endswith("left")
            name = f"{track.object.colour} {track.object.shape}"
            words = "stays still" if track.motion == "still" else track.motion
            if f"behind a {name}" not in clip.caption.replace(" an ", " a ") and "front" not in clip.caption:
                assert f"{name} {'moves ' if track.motion in axis else ''}{words}" in clip.caption
    assert {"left", "right", "up", "down", "still", "bounces"} <= seen


def test_passing_captions_agree_with_depth_and_overlap(clips: list[Clip]) -> None:
    passing = [clip for clip in clips if re.search(r"\b(behind|in front of)\b", clip.caption)]
    assert len(passing) > 0.4 * len(clips)
    for clip in passing:
        mover, target = clip.tracks[:2]
        behind = " behind " in clip.caption
        assert (mover.object.distance > target.object.distance) == behind
        assert (mover.amodal_masks & target.amodal_masks).any()
        covered = mover if behind else target
        assert covered.occluded.any()


def test_content_captions_say_what_is_seen_and_no_motion(plans: list[ClipPlan]) -> None:
    for plan in plans:
        assert not MOTION_WORDS.search(plan.content_caption)
        assert MOTION_WORDS.search(plan.caption)
        objects = plan.choreography.objects
        said = parse(plan.content_caption)
        assert len(said.things) == len(objects)
        assert is_true(said, objects)
        for negative in plan.content_negatives:
            assert not is_true(parse(negative.caption), objects)


def test_motion_negatives_change_the_meaning(plans: list[ClipPlan]) -> None:
    kinds = set()
    for plan in plans:
        objects = plan.choreography.objects
        assert 1 <= len(plan.negatives) <= 3
        for negative in plan.negatives:
            kinds.add(negative.kind)
            assert negative.caption != plan.caption
            same_things = is_true(parse(negative.caption), objects)
            assert same_things == (negative.kind in ("direction", "order"))
    assert kinds == {"direction", "order", "swap colour", "swap shape"}


def test_captions_fit_the_context_of_32_tokens(plans: list[ClipPlan]) -> None:
    open_clip = pytest.importorskip("open_clip")
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = [text for plan in plans for text in (plan.caption, plan.content_caption)]
    assert int((tokenizer(texts) != 0).sum(dim=1).max()) <= 32


def test_distinct_clips() -> None:
    seeds = distinct_clips(count=100)
    plans = [plan_clip(int(seed)) for seed in seeds]
    assert len({plan.content_caption for plan in plans}) == len(seeds) == 100
    for own, plan in enumerate(plans[:30]):
        statement = parse(plan.content_caption)
        true = [i for i, other in enumerate(plans) if is_true(statement, other.choreography.objects)]
        assert true == [own]


def test_paths_rest_before_and_after_and_are_thrown_back() -> None:
    path = Path("right", (0.2, 0.5), (0.8, 0.5), begin=0.25, finish=0.75, arc=0.1)
    assert path.at(0.1) == (0.2, 0.5)
    assert path.at(0.9) == pytest.approx((0.8, 0.5))
    assert path.at(0.5) == pytest.approx((0.5, 0.4))
    bouncing = Path("bounces", (0.5, 0.5), (1.3, 0.5), walls=(0.1, 0.1, 0.9, 0.9))
    assert bouncing.at(1.0) == pytest.approx((0.5, 0.5))
    assert bouncing.at(0.5) == pytest.approx((0.9, 0.5))


def test_a_clip_needs_a_frame() -> None:
    with pytest.raises(BadInput, match="frames of make_clip"):
        make_clip(1, frames=0)
