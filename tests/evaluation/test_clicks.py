"""Clicks on pictures and videos with a segmenter that knows the truth, step by step, and with a small SAM 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import percepta
from percepta.errors import BadInput
from percepta.evaluation.clicks import (
    AT_ONCE,
    click_name,
    click_objects,
    clicks_protocol,
    evaluate_click_pictures,
    pictures_of,
)
from percepta.evaluation.clicks_videos import (
    annotation_seconds,
    click_offline,
    click_online,
    evaluate_vos_interactive,
    vos_interactive_protocol,
)
from percepta.evaluation.regions import jaccard
from percepta.evaluation.vos import evaluate_vos, vos_protocol
from percepta.models.sam2.pictures import predict_picture
from tests.evaluation.oracle_session import DrawnVideo, OracleSession, drawn
from tests.evaluation.test_vos import start_with


def squares(count: int = 3, size: int = 40) -> np.ndarray:
    masks = np.zeros((count, size, size), bool)
    for number, mask in enumerate(masks):
        mask[5:26, 3 + number : 24 + number] = True
    return masks


class Painter:
    """Answers each click with a square of the object or of what is not one, around it."""

    def __init__(self, reach: int = 4) -> None:
        self.reach = reach
        self.asked: list[tuple[tuple[int, ...], bool, bool]] = []

    def __call__(self, points: Tensor, labels: Tensor, before: Tensor | None, several: bool) -> Any:
        self.asked.append((tuple(points.shape[:2]), before is not None, several))
        logits = torch.full((len(points), 3 if several else 1, 40, 40), -1.0)
        for row, (places, kinds) in enumerate(zip(points.long().tolist(), labels.tolist(), strict=True)):
            for (x, y), kind in zip(places, kinds, strict=True):
                box = (
                    slice(max(0, y - self.reach), y + self.reach + 1),
                    slice(max(0, x - self.reach), x + self.reach + 1),
                )
                logits[row, 0][box] = 1.0 if kind else -1.0
        quality = torch.zeros(logits.shape[:2])
        quality[:, 0] = 0.5
        if several:
            logits[:, 2, 5:26, 3:24] = 1.0  # better, but not preferred
        return logits, quality, logits[:, :, ::4, ::4]


def test_clicks_go_to_the_middle_of_the_largest_error() -> None:
    painter = Painter()
    seen: list[Tensor] = []

    def ask(points: Tensor, labels: Tensor, before: Tensor | None, several: bool) -> Any:
        seen.append(points.clone())
        assert labels.all()
        return painter(points, labels, before, several)

    scores = click_objects(ask, squares(1), 4)
    assert seen[0].tolist() == [[[13.0, 15.0]]]  # of a square of 21 pixels
    guess = np.zeros((40, 40), bool)
    for number in range(4):
        x, y = (int(value) for value in seen[-1][0, number].tolist())
        guess[y - 4 : y + 5, max(0, x - 4) : x + 5] = True
        assert scores.ious[0, number] == pytest.approx(float(jaccard(squares(1)[0], guess)))
    assert (np.diff(scores.ious[0]) > 0).all()
    assert scores.best.tolist() == [1.0]
    assert painter.asked == [((1, 1), False, True), *(((1, n), True, False) for n in (2, 3, 4))]


def test_too_much_is_clicked_away() -> None:
    labels: list[list[int]] = []

    def ask(points: Tensor, kinds: Tensor, before: Tensor | None, several: bool) -> Any:
        labels.append(kinds[0].tolist())
        logits = torch.ones(1, 1, 40, 40)
        for (x, _), kind in zip(points[0].tolist(), kinds[0].tolist(), strict=True):
            if not kind:
                logits[..., int(x) :] = -1
        return logits, torch.ones(1, 1), logits

    click_objects(ask, squares(1), 3)
    assert labels[1] == [1, 0]


def test_objects_without_errors_take_no_more_clicks_and_many_are_done_in_parts() -> None:
    count = AT_ONCE + 3
    truths = squares(count, 60)[:, :, :60]
    counts: list[int] = []
    started: list[int] = []

    def ask(points: Tensor, labels: Tensor, before: Tensor | None, several: bool) -> Any:
        counts.append(len(points))
        if points.shape[1] == 1:
            started.append(sum(started[-1:]) + len(points))
        rows = (points[:, 0, 0] - 13).long()  # the number of the object
        logits = torch.where(torch.from_numpy(truths[rows.numpy()]), 1.0, -1.0)[:, None]
        if points.shape[1] == 1:
            logits[rows % 2 == 1, :, 15] = -1.0
        return logits, torch.ones(len(points), 1), logits

    scores = click_objects(ask, truths, 4)
    assert counts == [AT_ONCE, AT_ONCE // 2, 3, 1]
    assert (scores.ious[:, 1:] == 1).all()
    assert scores.ious[0, 0] == 1
    assert scores.ious[1, 0] == pytest.approx(20 / 21)


def test_the_figures_of_pictures() -> None:
    video = drawn()
    protocol = clicks_protocol(clicks=2, pictures_of_a_video=3)
    pictures = list(pictures_of([video], 3))
    assert [name for name, *_ in pictures] == ["drawn, frame 0", "drawn, frame 3", "drawn, frame 7"]
    assert [len(masks) for *_, masks in pictures] == [2, 3, 3]
    assert [name for name, *_ in pictures_of([video], 1)] == ["drawn, frame 0"]
    assert list(pictures_of([DrawnVideo(video.labels * 0)], 2)) == []

    def look(picture: np.ndarray) -> Any:
        def ask(points: Tensor, labels: Tensor, before: Tensor | None, several: bool) -> Any:
            places = points[:, 0].long()
            own = torch.from_numpy(picture[..., 0])[places[:, 1], places[:, 0]]
            inside = torch.from_numpy(picture[..., 0])[None] == own[:, None, None]
            logits = torch.where(inside, 1.0, -1.0)[:, None].clone()
            if points.shape[1] == 1:
                logits[:, :, ::2] = -1  # half of it
            return logits, torch.ones(len(points), 1), logits

        return ask

    found = evaluate_click_pictures(pictures, look, protocol)
    assert found[click_name(2)].value == 1
    assert 0.4 < found[click_name(1)].value < 0.6
    assert found["mIoU, 1 click, best of three"].value == found["mIoU, 1 click"].value
    assert found["mIoU, 1 click"].count == 8
    with pytest.raises(BadInput, match="needs pictures"):
        evaluate_click_pictures([], look, protocol)


def test_bad_pictures() -> None:
    for truths, clicks, message in (
        (squares(), 0, "clicks"),
        (squares()[0], 1, "shape"),
        (squares() & False, 1, "empty"),
    ):
        with pytest.raises(BadInput, match=message):
            click_objects(Painter(), truths, clicks)


def near(frame: int, number: int, truth: np.ndarray, prompted: set[int]) -> np.ndarray:
    """Right within one frame of a prompt; else the wrong half."""
    half = truth.copy()
    half[:, : truth.shape[1] // 4] = False
    return truth if min(abs(frame - other) for other in prompted) <= 1 else np.roll(half, 5, axis=0)


def test_offline_goes_back_to_the_worst_frame() -> None:
    video = drawn(late=0)
    sessions: list[OracleSession] = []

    def start(video: Any, **settings: Any) -> OracleSession:
        assert settings == {"memory": "all"}
        sessions.append(OracleSession(video, near))
        return sessions[-1]

    rounds = click_offline(start, video, frames=4, clicks=3)
    assert len(sessions) == 1
    assert sum(call[0] == "propagate" for call in sessions[0].calls) <= 4
    values = [score.score.sums[0] for score in rounds]
    assert values == sorted(values)
    assert values[-1] == 3
    assert rounds[0].frames == {1: 1, 4: 1, 7: 1}
    clicked = sorted(sessions[0].prompts[1])
    assert clicked[0] == 0
    assert len(clicked) == rounds[-1].frames[1] <= 4
    assert [one.frames for one in rounds] == sorted((one.frames for one in rounds), key=lambda row: sum(row.values()))


def test_online_pauses_where_it_goes_wrong() -> None:
    video = drawn(late=0)
    session = OracleSession(video, near)
    found = click_online(lambda _: session, video, frames=8)
    assert sum(call[0] == "propagate" for call in session.calls) == 1
    assert session.prompts[1] == {0, 2, 4, 6}
    assert found.frames[1] == 4
    assert found.score.of_objects()[1][0] == 1
    less = click_online(lambda _: OracleSession(video, near), video, frames=2)
    assert less.frames == {1: 2, 4: 2, 7: 2}
    assert less.score.sums[0] < found.score.sums[0]
    sure = click_online(lambda _: OracleSession(video, near), video, frames=8, pause=0.0)
    assert sure.frames == {1: 1, 4: 1, 7: 1}


def test_the_time_it_takes() -> None:
    frames, clicks = np.array([1.0, 8.0]), np.array([3.0, 20.0])
    assert annotation_seconds("offline", 600, frames, clicks).tolist() == [60 + 1 + 4.5, 480 + 8 + 30]
    assert annotation_seconds("online", 600, frames, clicks).tolist() == [60 + 1 + 4.5, 60 + 8 + 30]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_the_figures_of_videos(mode: str) -> None:
    protocol = vos_interactive_protocol(mode=mode, frames=3)
    videos = [drawn(late=2), drawn(apart=True), DrawnVideo(drawn().labels * 0)]
    found = evaluate_vos_interactive(videos, lambda video, **_: OracleSession(video, near), protocol)
    values = [found[f"J&F, {n} frame{'s' if n > 1 else ''}"].value for n in (1, 2, 3)]
    assert values == sorted(values)
    assert values[0] < values[-1]
    assert found.details == {"videos": 2, "objects": 6}
    first = found["time an object, 1 frame"]
    assert first.unit == "s"
    assert first.value == pytest.approx(30 * 8 / 300 + 1 + 1.5)  # one click was enough for each
    with pytest.raises(BadInput, match="at least one video"):
        evaluate_vos_interactive(videos[2:], lambda video, **_: OracleSession(video), protocol)


def test_bad_protocols() -> None:
    with pytest.raises(BadInput, match="mode of vos-interactive must be one of offline, online"):
        vos_interactive_protocol(mode="later")
    with pytest.raises(BadInput, match="frames of vos-interactive"):
        vos_interactive_protocol(frames=0)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_small_model_of_random_weights(mode: str) -> None:
    torch.manual_seed(0)
    model = percepta.build("sam2-nano")
    video = drawn(frames=4, late=2)
    found = evaluate_vos_interactive(
        [video], start_with(model), vos_interactive_protocol(mode=mode, frames=2, clicks=2)
    )
    assert all(0 <= measure.value <= 1 for measure in found.measures if not measure.unit)
    assert found["J&F, 2 frames"].count == 3

    def look(picture: np.ndarray) -> Any:
        features = model.encode_image(model.preprocess(picture)[None])

        def ask(points: Tensor, labels: Tensor, before: Tensor | None, several: bool) -> Any:
            return predict_picture(model, features, picture.shape[:2], points, labels, None, before, several)[:3]

        return ask

    with torch.inference_mode():
        scores = evaluate_click_pictures(pictures_of([video], 2), look, clicks_protocol(clicks=3))
    assert all(0 <= measure.value <= 1 for measure in scores.measures)
    assert scores["mIoU, 1 click, best of three"].value >= scores["mIoU, 1 click"].value


def test_no_object_needs_a_click_after_a_perfect_answer() -> None:
    video = drawn(late=0)
    session = OracleSession(video)
    rounds = click_offline(lambda *_, **__: session, video, frames=5)
    assert sum(call[0] == "propagate" for call in session.calls) == 1
    assert [one.clicks for one in rounds] == [{1: 1, 4: 1, 7: 1}] * 5
    assert evaluate_vos([video], OracleSession, vos_protocol(prompt="1 click"))["J"].value == 1
