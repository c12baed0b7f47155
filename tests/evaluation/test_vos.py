"""The protocols of videos with a session that knows the truth, and with a small SAM 2 of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.datasets.vos import open_vos
from percepta.errors import BadInput, BadMedia
from percepta.evaluation.regions import score_video
from percepta.evaluation.vos import KEPT, Followed, evaluate_vos, follow, score_followed, vos_protocol
from tests.datasets.vos_on_disk import write_mose, write_sav
from tests.evaluation.oracle_session import DrawnVideo, OracleSession, drawn


def test_each_object_is_prompted_where_it_first_appears() -> None:
    video = drawn()
    session = OracleSession(video)
    found = list(follow(session, video))
    assert session.calls == [("mask", 0, 4, 49), ("mask", 0, 7, 64), ("propagate", 0), ("mask", 3, 1, 64)]
    assert [sorted(one.logits) for one in found] == [[4, 7]] * 3 + [[1, 4, 7]] * 5
    assert [sorted(one.prompted) for one in found] == [[4, 7], [], [], [1], [], [], [], []]
    for one in found:
        assert {n: mask.tolist() for n, mask in one.masks().items() if mask.any()} == {
            n: mask.tolist() for n, mask in video.objects(one.frame).items()
        }


def test_prompts_are_taken_from_annotated_frames_alone() -> None:
    video = drawn(every=2)
    session = OracleSession(video)
    assert len(list(follow(session, video))) == 8  # all frames are gone through
    assert ("mask", 4, 1, 64) in session.calls  # it came in frame 3, which has no masks
    empty = DrawnVideo(np.zeros((3, 4, 5), np.int64))
    assert list(follow(OracleSession(empty), empty)) == []
    late = DrawnVideo(np.concatenate([np.zeros_like(video.labels[:2]), video.labels]))
    assert [one.frame for one in follow(OracleSession(late), late)] == list(range(2, 10))


@pytest.mark.parametrize(
    ("how", "call"),
    [("box", ("box", 0, 4, (2.0, 2.0, 9.0, 9.0))), ("1 click", ("points", 0, 4, 5.0, 5.0, 1, False))],
)
def test_other_prompts(how: str, call: tuple[Any, ...]) -> None:
    video = drawn()
    session = OracleSession(video)
    list(follow(session, video, how))
    assert session.calls[0] == call


def test_clicks_stop_when_nothing_is_wrong_and_go_on_where_something_is() -> None:
    video = drawn()
    right = OracleSession(video)
    list(follow(right, video, "3 clicks"))
    assert sum(call[0] == "points" for call in right.calls) == 3  # one for each object
    wrong = OracleSession(video, lambda frame, number, truth, _: np.roll(truth, 3, axis=1))
    list(follow(wrong, video, "3 clicks"))
    clicks = [call for call in wrong.calls if call[0] == "points" and call[2] == 4]
    assert len(clicks) == 3
    assert clicks[1] == clicks[2] == ("points", 0, 4, 10.0, 3.0, 0, False)  # too much on the right, first in order


def test_the_scores_of_one_video() -> None:
    video = drawn()
    found = score_followed(OracleSession(video), video)
    assert found["model"].of_objects() == {1: (1.0, 1.0), 4: (1.0, 1.0), 7: (1.0, 1.0)}
    stays = np.stack([np.where(np.isin(video.labels[0], (4, 7)), video.labels[0], 0)] * 8)
    stays[3:][video.labels[3:] == 1] = 1
    expected = score_video(video.labels, stays).of_objects()
    assert found[KEPT].of_objects() == expected
    assert expected[7][0] == pytest.approx(4 / 6)  # wrong in the two frames in which it is hidden
    lost = score_followed(OracleSession(video, lambda *_: np.zeros((24, 40), bool)), video)["model"]
    assert lost.of_objects()[4] == (0.0, 0.0)


def test_each_pixel_goes_to_one_object_unless_masks_are_given_apart() -> None:
    both = torch.zeros(2, 1, 3)
    both[0, 0], both[1, 0] = torch.tensor([2.0, 1.0, -1.0]), torch.tensor([2.0, 3.0, -2.0])
    one = Followed(0, {5: both[0], 3: both[1]}, {})
    assert {number: mask.tolist() for number, mask in one.masks().items()} == {
        3: [[True, True, False]],  # of equal logits the smaller number wins
        5: [[False, False, False]],
    }
    assert one.masks(overlap=True)[5].tolist() == [[True, True, False]]
    shifted = lambda frame, number, truth, _: np.ones_like(truth)  # noqa: E731
    apart, together = drawn(apart=True), drawn()
    scores = [score_followed(OracleSession(video, shifted), video)["model"] for video in (apart, together)]
    assert scores[0].of_objects()[4][0] == pytest.approx(49 / 960)
    assert scores[1].of_objects()[4][0] == 0  # the largest logit has all of it


@pytest.mark.parametrize("write", [write_mose, write_sav])
def test_a_data_set(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    frames: list[int] = []
    result = evaluate_vos(open_vos(tmp_path), OracleSession, watch=frames.append)
    assert result["J&F"].value == result["J"].value == result["F"].value == 1
    assert result.details == {"videos": 2, "objects": result["J"].count}
    assert len(result.tables["videos"]) == result["J"].count
    assert {one.measure for one in result.baselines if one.name == KEPT} == {"J&F", "J", "F"}
    assert all(0 < one.value < 1 for one in result.baselines)
    assert sum(frames) <= 18


def test_videos_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_mose(tmp_path)
    (tmp_path / "Annotations" / "clip-3" / "00004.png").write_bytes(b"nothing")
    videos = open_vos(tmp_path)
    with pytest.raises(BadMedia, match=r"00004\.png"):
        evaluate_vos(videos, OracleSession)
    found = evaluate_vos(videos, OracleSession, on_error="collect")
    assert [failure.source for failure in found.failures] == ["clip-3"]
    assert found.details["videos"] == 1
    with pytest.raises(BadInput, match="at least one video"):
        evaluate_vos([], OracleSession)
    (tmp_path / "JPEGImages" / "clip-5" / "00000.jpg").unlink()
    Image.new("RGB", (96, 64)).save(tmp_path / "JPEGImages" / "clip-5" / "00000.jpg")
    with pytest.raises(BadMedia, match="masks of clip-5 are 48x32, and its frames 96x64"):
        evaluate_vos(videos[1:], OracleSession)
    few = DrawnVideo(drawn().labels, every=5)
    with pytest.raises(BadInput, match="at least 3 frames; 2 have some"):
        evaluate_vos([few], OracleSession)
    with pytest.raises(BadInput, match="prompt of vos must be one of mask, box"):
        vos_protocol(prompt="words")


def start_with(model: Any) -> Any:
    def start(video: Any, **settings: Any) -> Any:
        frames = [model.preprocess(video.picture(frame)) for frame in range(len(video))]
        return model.session(frames, video.size(), **settings)

    return start


def test_a_small_model_of_random_weights_and_objects_that_come_later() -> None:
    torch.manual_seed(0)
    start = start_with(percepta.build("sam2-nano"))
    video = drawn(frames=5, late=2)
    together = {one.frame: one for one in follow(start(video), video)}
    for number, first in ((4, 0), (1, 2), (7, 0)):
        alone = follow(start(video), video, firsts={first: {number: video.labels[first] == number}})
        for one in alone:
            torch.testing.assert_close(together[one.frame].logits[number], one.logits[number], atol=1e-4, rtol=1e-4)
            assert together[one.frame].scores[number] == pytest.approx(one.scores[number], abs=1e-4)
    result = evaluate_vos([video], start, vos_protocol(prompt="3 clicks"))
    assert 0 <= result["J&F"].value <= 1
    assert result["J&F"].count == 3
