"""Objects by words, with a mask model that is told what is there and the packaged encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from percepta.calibration.words import WordsPrior
from percepta.datasets.scenes import SceneConfig, make_clip, make_scene
from percepta.errors import BadInput
from percepta.evaluation.words import phrase
from percepta.models.sam2.everything import Everything, FoundMask
from percepta.results import Masks
from percepta.results.masks import encode
from percepta.running.fingerprint import weights_hash
from percepta.tasks import words
from percepta.tasks.segment import Segmenter
from percepta.tasks.words import WordFinder
from percepta.tasks.words_in_video import WordWatch
from tests.models.sam2_tiny import tiny_model

SIZE = SceneConfig(size=128)
PRIOR = WordsPrior("pe-core-nano", "", "", (0.3, 0, 0, 0, 0), (0.1, 1, 1, 1, 1), (4.0, 0, 0, 0, 0), 0.0)


@pytest.fixture(scope="module")
def finder() -> WordFinder:
    made = WordFinder(Segmenter(tiny_model()))
    made.prior = replace(PRIOR, weights=weights_hash(made.encoder.model))
    return made


def known(monkeypatch: pytest.MonkeyPatch, masks: np.ndarray) -> None:
    """Everything in a picture is these masks."""
    found = [FoundMask(encode(m), int(m.sum()), (0, 0, 1, 1), 0.9, 0.9, (0.0, 0.0), (0, 0, 1, 1)) for m in masks]
    monkeypatch.setattr(words, "everything", lambda *_: Everything(masks.shape[1:], tuple(found)))


def pixels(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)


def test_the_right_object_of_a_scene_comes_first(finder: WordFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    right, asked = 0, 0
    for seed in range(930_000, 930_012):
        scene = make_scene(seed, SIZE)
        known(monkeypatch, scene.visible_masks)
        candidates = finder.candidates(pixels(scene.picture))
        names = [phrase(thing.colour, thing.shape) for thing in scene.objects]
        for row, name in enumerate(names):
            if names.count(name) == 1 and scene.visible_masks[row].sum() > 100:
                found = finder.ask(candidates, name)
                asked += 1
                right += int((found.dense()[0] == scene.visible_masks[row]).all())
    assert asked >= 20
    assert right / asked >= 0.85


def test_an_answer_is_likely_sorted_and_without_doubles(finder: WordFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(930_000, SIZE)
    known(monkeypatch, np.concatenate([scene.visible_masks, scene.visible_masks]))
    candidates = finder.candidates(pixels(scene.picture))
    answer = finder.answer(candidates, phrase(scene.objects[0].colour, scene.objects[0].shape))
    assert answer.scores is not None
    assert (np.diff(answer.scores) <= 0).all()
    assert (answer.scores >= 0.5).all()
    assert len({mask.tobytes() for mask in answer.dense()}) == len(answer)


def test_nothing_to_look_at_is_an_empty_answer(finder: WordFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, np.zeros((0, 128, 128), bool))
    candidates = finder.candidates(pixels(make_scene(930_000, SIZE).picture))
    assert len(finder.answer(candidates, "a red ring")) == 0
    assert len(finder.read(np.zeros((8, 8, 3), np.uint8), Masks("", (8, 8), (np.array([64]),))).masks) == 0


def test_without_calibration_the_best_match_comes_back(finder: WordFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(930_001, SIZE)
    known(monkeypatch, scene.visible_masks)
    plain = WordFinder(finder.segmenter)
    plain.prior = None
    answer = plain.answer(plain.candidates(pixels(scene.picture)), "a wedding")
    assert len(answer) == 1
    assert "not calibrated" in plain.score_kind


def test_words_need_an_encoder_that_knows_some(finder: WordFinder) -> None:
    with pytest.raises(BadInput, match="needs a model that knows words"):
        WordFinder(finder.segmenter, finder.segmenter.model)


class Session:
    """What a watch needs of a video session."""

    def __init__(self, frames: np.ndarray) -> None:
        from PIL import Image

        self.pictures = [Image.fromarray(frame) for frame in frames]
        self.added: list[tuple[int, int]] = []
        self.removed: list[int] = []
        self.shown: dict[int, Any] = {}
        session = self

        class Frames:
            failures: dict[int, str] = {}
            length = len(session.pictures)

            def __getitem__(self, frame: int) -> Any:
                return session.pictures[frame]

        self.frames = Frames()

    def add(self, frame: int, prompts: Any, name: str) -> tuple[int, ...]:
        numbers = tuple(len(self.added) + row + 1 for row in range(len(prompts)))
        self.added += [(frame, number) for number in numbers]
        return numbers

    def remove(self, number: int) -> None:
        self.removed.append(number)

    def at(self, frame: int) -> Any:
        return self.shown.get(frame)


def test_a_watch_points_looks_again_and_lets_go(finder: WordFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(930_003, SIZE)
    masks = np.zeros((1, 16, 128, 128), bool)
    masks[..., 40:80, 50:90] = True
    known(monkeypatch, masks[:, 0])
    scores = {"now": 0.9}
    monkeypatch.setattr(
        finder.__class__,
        "ask",
        lambda self, found, text: replace(found.masks, scores=np.full(len(found.masks), scores["now"])),
    )
    session = Session(clip.frames)
    watch = WordWatch(finder, "a thing", every=4)
    assert watch.begin(session)
    assert session.added == [(0, 1)]
    assert list(watch.likely) == [1]
    shown = Masks.from_dense("", masks[:1, 3], ["a thing"], np.ones(1))
    session.shown[3] = type("Seen", (), {"objects": (1,), "masks": shown, "__len__": lambda self: 1})()
    watch.before(session, 4)
    assert session.removed == []
    scores["now"] = 0.0
    session.shown[7] = session.shown[3]
    session.shown[11] = session.shown[3]
    watch.before(session, 8)
    watch.before(session, 12)
    assert session.removed == [1]
    again = WordWatch.resumed({**watch.state(), "followed": {"3": [0.5, 2]}}, finder.segmenter)
    assert again.followed[3].looks == 2
    assert again.text == "a thing"
