"""Tracking: at once and in sessions, corrected and resumed, over every kind of source, and with everything wrong."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from percepta.errors import BadInput, BadMedia
from percepta.media import VideoReader
from percepta.results import Tracks
from percepta.results.formats.tracks import read_tracks
from percepta.tasks import sessions, tracking_run
from percepta.tasks.track import track
from tests.tasks import tiny_sam2

BALL, SQUARE = (8, 20), (25, 1, 36, 12)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_sam2.model()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "KEPT_EVERY", 4)
    monkeypatch.setattr(sessions, "KEPT", 3)
    monkeypatch.setattr(tracking_run, "SAVED_EVERY", 5)


def told(tracks: Tracks) -> list[tuple[Any, ...]]:
    """All that tracks say, for comparison."""
    assert tracks.masks is not None
    scores = np.round(np.asarray(tracks.boxes.scores, np.float64), 5).tolist()
    return list(zip(tracks.frames.tolist(), tracks.identities.tolist(), tracks.masks.to_strings(), scores, strict=True))


def test_prompts_give_all_tracks_at_once(model: Any) -> None:
    frames = tiny_sam2.frames(8)
    tracks = track(frames, points=[BALL], model=model)
    assert isinstance(tracks, Tracks)
    assert tracks.ids == (1,)
    assert sorted(set(tracks.frames.tolist())) == list(range(8))
    assert tracks.masks is not None
    assert tracks.masks.size == (tiny_sam2.HEIGHT, tiny_sam2.WIDTH)
    assert tracks.rate is None
    assert ((np.asarray(tracks.boxes.scores) > 0.5) & (np.asarray(tracks.boxes.scores) <= 1)).all()
    both = track(frames, boxes=[SQUARE], points=[BALL], frame=4, both=True, model=model)
    assert sorted(set(both.frames.tolist())) == list(range(8))
    forward = track(frames, boxes=[SQUARE], points=[BALL], frame=4, model=model)
    assert told(forward) == [row for row in told(both) if row[0] >= 4]


def test_a_session_gives_what_the_model_itself_gives(model: Any) -> None:
    frames = tiny_sam2.frames(6)
    from dataclasses import replace

    prepare = replace(model.preprocess, filter="bicubic")
    own = model.session([prepare(frame) for frame in frames], size=(tiny_sam2.HEIGHT, tiny_sam2.WIDTH), memory="all")
    own.add_points(0, 1, [BALL], [1])
    wanted = [found.logits[0].numpy() > 0 for found in own.propagate()]
    with track(frames, model=model) as video:
        assert video.add_point(0, BALL) == 1
        for number, result in enumerate(video.run()):
            assert (result.frame, result.objects, result.time) == (number, (1,), None)
            assert (result.masks.dense()[0] == wanted[number]).all()


def test_the_memory_policies_agree(model: Any) -> None:
    frames = tiny_sam2.frames(24)
    first = told(track(frames, boxes=[SQUARE], model=model))
    assert first == told(track(frames, boxes=[SQUARE], model=model, memory="all"))


def test_a_late_object_changes_nothing_for_the_others(model: Any) -> None:
    frames = tiny_sam2.frames(12)
    alone = told(track(frames, points=[BALL], model=model))
    with track(frames, model=model) as video:
        video.add_point(0, BALL)
        late = video.add_box(7, SQUARE, name="square")
        assert late == 2
        assert video.at(7) is not None
        tracks = video.run().tracks()
    assert [row for row in told(tracks) if row[1] == 1] == alone
    assert tracks.of(2).frames.tolist() == list(range(7, 12))
    assert set(tracks.of(2).boxes.names) == {"square"}
    assert set(tracks.of(1).boxes.names) == {"object"}
    only = told(track(frames[7:], boxes=[SQUARE], model=model))
    assert [(row[0], row[2]) for row in told(tracks) if row[1] == 2] == [(row[0] + 7, row[2]) for row in only]


@pytest.mark.parametrize("memory", ["bounded", "all"])
def test_going_back_to_correct_is_as_if_it_had_stopped_there(model: Any, memory: str) -> None:
    frames = tiny_sam2.frames(22)
    with track(frames, model=model, memory=memory) as video:
        video.add_point(0, BALL)
        video.add_box(3, SQUARE)
        for _ in video.run(until=10):
            continue
        video.add_points(9, [(12, 8), (40, 30)], [1, 0], object=1)
        wanted = told(video.run().tracks())
    with track(frames, model=model, memory=memory) as video:
        video.add_point(0, BALL)
        video.add_box(3, SQUARE)
        before = told(video.run().tracks())
        video.add_points(9, [(12, 8), (40, 30)], [1, 0], object=1)
        assert video.next == 9
        after = told(video.run().tracks())
    assert after == wanted
    assert after != before
    assert [row for row in after if row[0] < 9] == [row for row in before if row[0] < 9]
    assert [row for row in after if row[1] == 2] == [row for row in before if row[1] == 2]


def test_going_back_twice(model: Any) -> None:
    frames = tiny_sam2.frames(20)

    def say(video: Any, stops: bool) -> list[tuple[Any, ...]]:
        video.add_point(0, BALL)
        runs = (6, 15) if stops else (20, 20)
        list(video.run(until=runs[0]))
        video.add_point(5, (14, 9), object=1)
        list(video.run(until=runs[1]))
        if not stops:
            video.add_box(2, (20, 4, 40, 30))
            list(video.run(until=20))
        video.add_point(14, (30, 20), 0, object=1)
        return [row for row in told(video.run().tracks()) if row[1] == 1]

    with track(frames, model=model) as one, track(frames, model=model) as other:
        assert say(one, True) == say(other, False)


def test_objects_are_cleared_and_removed(model: Any) -> None:
    frames = tiny_sam2.frames(10)
    alone = told(track(frames, points=[BALL], model=model))
    with track(frames, model=model) as video:
        ball, square = video.add_point(0, BALL), video.add_box(0, SQUARE)
        video.clear(0, square)
        assert video.objects == (ball, square)
        assert told(video.run().tracks()) == alone
        with pytest.raises(BadInput, match="object 2 has no prompt in frame 0; there is nothing to take back"):
            video.clear(0, square)
        video.remove(square)
        third = video.add_box(4, SQUARE)
        assert third == 3  # numbers are not used again
        tracks = video.run().tracks()
        assert tracks.ids == (1, 3)
        assert told(tracks.of(ball)) == alone
        video.remove(third)
        assert told(video.tracks()) == alone
        assert video.at(5).objects == (ball,)
        video.reset()
        assert video.objects == ()
        with pytest.raises(BadInput, match="nothing is pointed at in the list of pictures"):
            video.run()


def test_a_run_is_cancelled_broken_off_and_goes_on(model: Any) -> None:
    frames = tiny_sam2.frames(12)
    whole = told(track(frames, points=[BALL], model=model))
    with track(frames, model=model) as video:
        video.add_point(0, BALL)
        run = video.run()
        assert run.total == 12
        for result in run:
            if result.frame == 3:
                run.cancel()
        assert video.next == 4
        for result in video.run():
            if result.frame == 6:
                break
        assert video.next == 7
        assert told(video.run().tracks()) == whole
        assert list(video.run()) == []


def test_backwards_and_then_on(model: Any) -> None:
    frames = tiny_sam2.frames(12)
    forward = told(track(frames, points=[BALL], frame=5, model=model))
    mirrored = told(track(frames[::-1], points=[BALL], frame=6, model=model))
    with track(frames, model=model) as video:
        video.add_point(5, BALL)
        list(video.run(until=9))
        assert [result.frame for result in video.run(reverse=True)] == [5, 4, 3, 2, 1, 0]
        tracks = told(video.run().tracks())
    assert [row for row in tracks if row[0] >= 5] == forward
    assert sorted((11 - row[0], row[2]) for row in tracks if row[0] <= 5) == [(row[0], row[2]) for row in mirrored]


def test_saved_results_can_be_gone_on_with_in_another_session(model: Any, tmp_path: Path) -> None:
    clip = tiny_sam2.video(tmp_path / "clip.mp4", 23)
    with track(clip, model=model) as video:
        video.add_point(0, BALL)
        video.add_box(14, SQUARE)
        run = video.run()
        run.save(tmp_path / "whole")
        wanted = told(video.tracks())
        assert run.missing == ""
    with track(clip, model=model) as video:
        video.add_point(0, BALL)
        video.add_box(14, SQUARE)
        run = video.run()
        for result in run.saving(tmp_path / "cut"):
            if result.frame == 7:
                break
        del run
    cut = read_tracks(tmp_path / "cut" / "masks.parquet")
    assert told(cut) == [row for row in wanted if row[0] <= 7]
    with VideoReader(tmp_path / "cut" / "overlay.mp4") as reader:
        assert reader.frames == 8
    with track(clip, model=model, resume=tmp_path / "cut") as video:
        assert (video.next, video.objects) == (8, (1, 2))
        video.run().save(tmp_path / "cut")
    for name in ("tracks.csv", "masks.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert told(read_tracks(tmp_path / "cut" / "masks.parquet")) == wanted
    with VideoReader(tmp_path / "cut" / "overlay.mp4") as reader:
        assert (reader.frames, reader.timestamps[-1]) == (23, pytest.approx(2.2))
    assert not (tmp_path / "cut" / "session" / "overlay").exists()


def test_a_correction_after_all_was_saved_is_painted_again(model: Any, tmp_path: Path) -> None:
    clip = tiny_sam2.video(tmp_path / "clip.mp4", 12)
    with track(clip, model=model) as video:
        video.add_point(0, BALL)
        video.run().save(tmp_path / "out")
    with track(clip, model=model, resume=tmp_path / "out") as video:
        video.add_point(6, (30, 20), object=1)
        video.run().save(tmp_path / "out")
        wanted = told(video.tracks())
    assert told(read_tracks(tmp_path / "out" / "masks.parquet")) == wanted
    with VideoReader(tmp_path / "out" / "overlay.mp4") as reader:
        assert reader.frames == 12
    with track(clip, model=model) as video:
        video.add_point(0, BALL)
        with pytest.raises(BadInput, match="exists; name another folder, or say that it may be replaced"):
            video.run().save(tmp_path / "out")
        video.run(until=3).save(tmp_path / "out", overwrite=True)
    assert set(read_tracks(tmp_path / "out" / "masks.parquet").frames.tolist()) == {0, 1, 2}


def test_a_session_is_resumed_with_the_same_things_alone(model: Any, tmp_path: Path) -> None:
    clip = tiny_sam2.video(tmp_path / "clip.mp4", 4)
    with track(clip, model=model) as video:
        video.add_point(0, BALL)
        video.save(tmp_path / "saved")
    with pytest.raises(BadInput, match="holds no session to resume"):
        track(clip, model=model, resume=tmp_path / "nothing")
    with pytest.raises(BadInput, match=r"is of 4 frames of 50x38, and .* has 5 of 50x38; resume with the same video"):
        track(tiny_sam2.video(tmp_path / "other.mp4", 5), model=model, resume=tmp_path / "saved")
    with pytest.raises(BadInput, match=r"was made with sam2-tiny-test \(.*, and now it is sam2-tiny-test \("):
        track(clip, model=tiny_sam2.model(seed=3), resume=tmp_path / "saved")


def test_an_endless_source_is_followed_and_corrected_where_it_is(model: Any) -> None:
    wanted = told(track(tiny_sam2.frames(9), points=[BALL], model=model))
    with track((tiny_sam2.frame(number) for number in itertools.count()), model=model) as video:
        video.add_point(0, BALL)
        results = []
        for result in video.run():
            results.append((result.frame, 1, result.masks.to_strings()[0]))
            if result.frame == 8:
                break
        assert results == [row[:3] for row in wanted]
        with pytest.raises(BadInput, match="frame 3 of the stream has passed; point at frame 8"):
            video.add_box(3, SQUARE)
        with pytest.raises(BadInput, match="frame 30 of the stream has not come yet"):
            video.add_box(30, SQUARE)
        assert video.add_box(8, SQUARE) == 2
        assert next(video.run()).objects == (1, 2)
    with pytest.raises(BadInput, match="may be endless; use a session"):
        track((tiny_sam2.frame(number) for number in itertools.count()), points=[BALL], model=model)
    with track(iter(tiny_sam2.frames(5)), model=model) as video:
        video.add_point(0, BALL)
        assert len(list(video.run())) == 5


def test_a_corrupt_frame_is_named_and_tracking_goes_on(model: Any, tmp_path: Path) -> None:
    folder = tiny_sam2.folder(tmp_path / "frames", 12)
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    (folder / "10.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"frame 5 of .*frames.* is left out: .*damaged.*2 frames in all"):
        tracks = track(folder, points=[BALL], model=model)
    assert sorted(set(tracks.frames.tolist())) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]
    with track(folder, model=model) as video:
        video.add_point(0, BALL)
        with pytest.raises(BadInput, match=r"frame 10 of .* cannot be read; point at another frame"):
            video.add_point(10, BALL)  # before anybody came there
        failed = [result for result in video.run() if result.failure]
        assert [result.frame for result in failed] == [5, 10]
        assert [failure.source for failure in video.failures] == [f"{folder}, frame 5", f"{folder}, frame 10"]
        with pytest.raises(BadInput, match=r"frame 5 of .* cannot be read; point at another frame"):
            video.add_point(5, BALL)
    with pytest.raises(BadMedia, match="frame 5 of"):
        track(folder, points=[BALL], model=model, on_error="raise")


def test_times_are_those_of_the_video(model: Any, tmp_path: Path) -> None:
    from tests.media import clips

    path = clips.make(tmp_path, "h264 without B-frames", 9, variable=True)
    times = [0.0, 0.02, 0.09, 0.123, 0.143, 0.213, 0.246, 0.266, 0.336]
    with track(path, model=model) as video:
        video.add_point(0, BALL)
        run = video.run(until=0.2)
        assert [result.time for result in run] == pytest.approx(times[:5])
        video.run().save(tmp_path / "out")
    rows = (tmp_path / "out" / "tracks.csv").read_text().splitlines()
    assert [float(row.split(",")[1]) for row in rows[1:]] == pytest.approx(times, abs=1e-3)
    with VideoReader(tmp_path / "out" / "overlay.mp4") as reader:
        assert reader.timestamps.tolist() == pytest.approx(times, abs=1e-3)


WRONG = {
    "point outside": (
        lambda v: v.add_point(0, (50, 3)),
        r"a point must lie in frame 0 of .*, 50x38 pixels; got \(50, 3",
    ),
    "box without area": (lambda v: v.add_box(0, (5, 5, 5, 9)), "a box must have an area"),
    "box outside": (lambda v: v.add_box(0, (-1, 5, 5, 9)), "a box must lie in frame 0"),
    "both labels": (lambda v: v.add_points(0, [(3, 3), (3, 3)], [1, 0]), "labelled both inside and outside"),
    "both labels, later": (lambda v: v.add_point(0, BALL, 0, object=1), "was labelled the other way before"),
    "labels": (lambda v: v.add_points(0, [(3, 3)], [2]), "labels must be 1"),
    "outside only": (lambda v: v.add_point(0, (3, 3), 0), "at least one inside"),
    "nothing to correct": (
        lambda v: v.add_point(9, (3, 3), 0, object=1),
        "frame 9 has no result of object 1 to correct",
    ),
    "nothing": (lambda v: v.add_points(0, []), "a prompt needs a point, a box or a mask"),
    "late frame": (lambda v: v.add_point(12, BALL), "a frame of the list of pictures must be 0 to 11; got 12"),
    "early frame": (lambda v: v.add_point(-1, BALL), "must be a whole number, 0 or more"),
    "unknown object": (lambda v: v.add_point(0, BALL, object=7), r"object must be one of this session \(1\); got 7"),
    "remove": (lambda v: v.remove(3), r"object must be one of this session \(1\); got 3"),
    "mask size": (lambda v: v.add_mask(0, np.ones((3, 4))), "a mask must have the size of frame 0"),
    "empty mask": (lambda v: v.add_mask(0, np.zeros((38, 50))), "at least one pixel inside"),
    "start": (lambda v: v.run(start=99), "must be 0 to 11; got 99"),
    "time": (lambda v: v.run(until="00:05"), "has no times; give a frame number instead"),
    "no time": (lambda v: v.run(until="soon"), "a time must be seconds"),
}


def test_wrong_input_is_one_sentence_and_the_session_stays(model: Any) -> None:
    frames = tiny_sam2.frames(12)
    wanted = told(track(frames, points=[BALL], model=model))
    with track(frames, model=model) as video:
        video.add_point(0, BALL)
        list(video.run(until=6))
        for what, (call, sentence) in WRONG.items():
            with pytest.raises(BadInput, match=sentence) as caught:
                call(video)
            assert str(caught.value).count(". ") == 0, what
            assert (video.objects, video.next) == ((1,), 6), what
        assert told(video.run().tracks()) == wanted


def test_what_is_no_video(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for thing, sentence in (
        ([], "holds no frame"),
        (iter([]), "the stream holds no frame"),
        (np.zeros((4, 5, 3), np.uint8), "a video array must have the shape"),
        ({"a": 1}, "a video must be a file"),
        (tmp_path, "holds no picture; give a video file"),
    ):
        with pytest.raises(BadInput, match=sentence):
            track(thing, model=model)
    with pytest.raises(BadMedia, match="does not exist"):
        track(tmp_path / "none.mp4", model=model)
    with pytest.raises(BadMedia, match="no frame of the list of pictures can be read"):
        track([b"broken", b"broken"], model=model)
    for settings, sentence in (
        ({"memory": "none"}, "memory of Session must be one of bounded, all, off"),
        ({"corrections": "x"}, "corrections of Session must be one of stick, official"),
        ({"on_error": "x"}, "on_error must be one of"),
        ({"text": "a cow", "points": [BALL]}, "not both"),
        ({"model": torch.nn.Linear(2, 2)}, "must come from percepta.load"),
        ({"rate": -1}, "rate of open_frames must be above 0"),
    ):
        with pytest.raises(BadInput, match=sentence):
            track(tiny_sam2.frames(2), **{"model": model, **settings})


def test_odd_sizes(model: Any, tmp_path: Path) -> None:
    frames = [tiny_sam2.frame(number, 33, 27) for number in range(3)]
    with track(frames, model=model, rate=8) as video:
        video.add_point(0, BALL)
        video.run().save(tmp_path / "odd")
        assert video.tracks().rate == 8
        assert video.frames.frame_at("0.25") == 2
    with VideoReader(tmp_path / "odd" / "overlay.mp4") as reader:
        assert (reader.frames, reader.rate) == (3, pytest.approx(8))


class Watch:
    """Points at a square in one frame and lets it go in a later one."""

    def __init__(self, comes: int, goes: int) -> None:
        self.comes, self.goes = comes, goes
        self.called: list[int] = []

    def before(self, session: Any, frame: int) -> None:
        self.called.append(frame)
        if frame == self.comes:
            session.add_box(frame, SQUARE, name="square")
        if frame == self.goes:
            session.remove(session.objects[-1])


@pytest.mark.parametrize("endless", [False, True])
def test_who_watches_points_at_things_when_they_come(model: Any, endless: bool) -> None:
    frames = tiny_sam2.frames(14)
    wanted = told(track(frames[5:], boxes=[SQUARE], model=model))
    with track(iter(frames) if endless else frames, model=model) as video:
        video.watch = Watch(comes=5, goes=99)
        results = list(video.run())
        assert video.watch.called[:14] == list(range(14))
        assert [len(result) for result in results] == [0] * 5 + [1] * 9
        assert [result.masks.to_strings()[0] for result in results[5:]] == [row[2] for row in wanted]
        assert video.tracks().frames.tolist() == list(range(5, 14))
    with track(frames, model=model) as video:
        video.watch = Watch(comes=2, goes=6)
        assert [len(result) for result in video.run()] == [0, 0, 1, 1, 1, 1] + [0] * 8
        video.watch = None
        with pytest.raises(BadInput, match="nothing is pointed at"):
            video.run()
