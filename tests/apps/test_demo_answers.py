"""The chapter of questions and answers, with a model that knows all and with one that knows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from percepta.apps import demo_answers
from percepta.apps.report import Page
from percepta.datasets import scenes
from percepta.datasets.scenes.happenings import make_question_clip
from percepta.datasets.scenes.questions import clip_questions
from percepta.models.perception_lm import Generated
from percepta.tasks.asking import Speaker
from tests.apps.test_report import read, words
from tests.tasks import tiny_plm


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_answers, "SCENES", 1)
    monkeypatch.setattr(demo_answers, "CLIPS", 1)
    monkeypatch.setattr(demo_answers, "MOST_TOKENS", 2)


def knowing(monkeypatch: pytest.MonkeyPatch) -> Speaker:
    """A speaker that looks the answers up."""
    speaker = Speaker(tiny_plm.model())
    truth: dict[str, str] = {}
    for name in ("scene_questions", "clip_questions"):
        asked = getattr(demo_answers, name)

        def noted(world: Any, seed: int, asked: Any = asked) -> Any:
            found = asked(world, seed)
            truth.update({one.question: one.answer for one in found})
            return found

        monkeypatch.setattr(demo_answers, name, noted)

    def generate(prompts: Any, media: Any, settings: Any, decode: Any) -> list[Generated]:
        told = []
        for number, prompt in enumerate(prompts):
            text = decode([int(token) for token in prompt.tokens])
            question = next(one for one in sorted(truth, key=len, reverse=True) if one in text)
            told.append(Generated(number, 0, (1,), truth[question], "stop token", (-1.0,)))
        return told

    monkeypatch.setattr(speaker.model, "generate", generate, raising=False)
    return speaker


@pytest.mark.usefixtures("small")
def test_who_knows_all_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("x")
    said = demo_answers.answer_questions(page, tmp_path, knowing(monkeypatch))
    page.write(tmp_path / "report.html")
    reader = read(tmp_path / "report.html")
    text = words(reader)
    assert "✗" not in text
    assert text.count("✓") >= 10
    assert "Asked about pictures" in text
    assert "Asked about clips" in text
    assert len(reader.pictures) == 1 + demo_answers.FRAMES
    counts = [int(word.strip(".,")) for word in said.split() if word.strip(".,").isdecimal()]
    assert counts[0] == counts[1]
    assert counts[2] == counts[3]
    assert (tmp_path / "media" / "asked" / "clip-01.mp4").exists()


@pytest.mark.usefixtures("small")
def test_who_knows_nothing_is_wrong_and_told_the_truth(tmp_path: Path) -> None:
    page = Page("x")
    said = demo_answers.answer_questions(page, tmp_path, tiny_plm.model())
    assert " 0 were answered right" in said
    page.write(tmp_path / "report.html")
    assert "(right: " in words(read(tmp_path / "report.html"))


def test_what_counts_as_right() -> None:
    assert demo_answers.plain(" A red  Star. ") == "a red star"
    assert demo_answers.overlap((0, 2), (1, 3)) == pytest.approx(1 / 3)
    assert demo_answers.overlap((0, 1), (2, 3)) == 0
    assert demo_answers.overlap((1, 1), (1, 1)) == 0


@pytest.mark.usefixtures("small")
def test_a_clip_is_told_as_it_is_shown(tmp_path: Path) -> None:
    """The first clip runs backwards; what is drawn larger for the page is the same world."""
    config, large = scenes.SceneConfig(demo_answers.SIDE), scenes.SceneConfig(demo_answers.SHOT)
    (seed,) = scenes.distinct_clips(count=1, config=config).tolist()
    clip, shown = (make_question_clip(seed, size, demo_answers.FRAMES) for size in (config, large))
    for one, other in zip(clip.tracks, shown.tracks, strict=True):
        assert one.object == other.object
        np.testing.assert_allclose(one.centres, other.centres)
    page = Page("x")
    demo_answers.answer_questions(page, tmp_path, tiny_plm.model())
    page.write(tmp_path / "report.html")
    caption = next(one.answer for one in clip_questions(clip, seed) if one.kind == "caption")
    assert f"clip-01.mp4: {caption}" in words(read(tmp_path / "report.html"))
    assert caption != clip.caption
