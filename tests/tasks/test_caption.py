"""Captions one by one: what is asked for, timed ones, parts of videos, what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from percepta.errors import BadInput
from percepta.models.perception_lm import Generated
from percepta.results.formats.subtitles import to_srt
from percepta.tasks import asking_prompts
from percepta.tasks.asking import Speaker
from percepta.tasks.caption import caption
from tests.tasks import tiny_plm


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch) -> Speaker:
    """Says "part 0", "part 1" ... of what it is asked one after the other."""
    speaker = Speaker(tiny_plm.model())
    count = itertools.count()

    def generate(prompts: Any, media: Any, settings: Any, decode: Any) -> list[Generated]:
        return [Generated(n, 0, (1,), f"part {next(count)}", "stop token", (-1.0,)) for n in range(len(prompts))]

    monkeypatch.setattr(speaker.model, "generate", generate, raising=False)
    return speaker


def says(speaker: Speaker, text: str) -> None:
    speaker.model.generate = lambda prompts, media, settings, decode: [
        Generated(n, 0, (1,), text, "stop token", (-1.0,)) for n in range(len(prompts))
    ]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    tiny_plm.pictures(tmp_path / "media", 2)
    tiny_plm.video(tmp_path / "media" / "clip.mp4", 20, 10)
    return tmp_path / "media"


def test_each_gets_its_caption(speaker: Speaker, media: Path) -> None:
    (media / "broken.mp4").write_bytes((media / "clip.mp4").read_bytes()[:200])
    stream = caption(media, model=speaker)
    answers = list(stream)
    assert [Path(answer.source).name for answer in answers] == ["0.png", "1.png", "clip.mp4"]
    assert [answer.text for answer in answers] == ["part 0", "part 1", "part 2"]
    assert answers[0].question == speaker.prompts.picture
    assert answers[2].question == speaker.prompts.video
    assert [Path(failure.source).name for failure in stream.failures] == ["broken.mp4"]
    (own,) = caption(media / "0.png", "Name one thing.", model=speaker)
    assert own.question == "Name one thing."


def test_timed_captions_are_in_seconds(speaker: Speaker, media: Path) -> None:
    says(speaker, "[0, 3]: a square, small\n[4, 7]: it has moved")
    (answer,) = caption(media / "clip.mp4", dense=True, model=speaker)
    assert "from 0 to 7 of this video of 8 frames" in answer.question
    first, second = answer.moments
    assert answer.text == f"[0.0, {first.end:.1f}] a square, small\n[{second.start:.1f}, 2.0] it has moved"
    assert first.end == second.start == answer.frames[4]
    assert to_srt(answer).count("-->") == 2
    assert answer.said.startswith("[0, 3]: a square")
    (about,) = caption(media / "clip.mp4", dense=True, about="the cow", model=speaker)
    assert "what the cow does" in about.question
    (boxed,) = caption(media / "clip.mp4", dense=True, region=(1, 1, 9, 9), model=speaker)
    assert "the subject in the red rectangle" in boxed.question


def test_words_without_intervals_last_as_long_as_the_video(speaker: Speaker, media: Path) -> None:
    says(speaker, "a square\nmoves")
    (answer,) = caption(media / "clip.mp4", dense=True, model=speaker)
    assert answer.text == "[0.0, 2.0] a square moves"
    picture, *_ = caption(media / "0.png", dense=True, model=speaker)
    assert picture.text == "a square\nmoves"
    assert picture.moments == ()


def test_parts_have_a_caption_each(speaker: Speaker, media: Path) -> None:
    stream = caption(media, every=0.5, model=speaker)
    assert stream.total is None
    first, second, clip = list(stream)
    assert (first.text, second.text) == ("part 0", "part 1")
    assert clip.text == "[0.0, 0.5] part 2\n[0.5, 1.0] part 3\n[1.0, 1.5] part 4\n[1.5, 2.0] part 5"
    assert clip.span == (0.0, pytest.approx(2.0, abs=0.01))
    assert clip.visual_tokens == len(clip.frames) * tiny_plm.TOKENS
    (one,) = caption(media / "clip.mp4", every=0.5, start=1.0, end=1.6, model=speaker)
    assert [(moment.start, moment.end) for moment in one.moments] == [(1.0, 1.6)]  # 0.1 s is no part of its own


def test_a_toy_is_asked_in_its_words_and_by_parts(speaker: Speaker, media: Path) -> None:
    speaker.prompts = asking_prompts.prompts_for("plm-nano")
    plain, _, clip = list(caption(media, dense=True, model=speaker))
    assert plain.question == "describe the picture."
    assert clip.question == "describe the clip."
    assert len(clip.moments) == 4
    (about,) = caption(media / "clip.mp4", dense=True, about="the red star", model=speaker)
    assert about.question == "describe what the red star does, part by part."
    (boxed,) = caption(media / "clip.mp4", dense=True, region=(1, 1, 9, 9), model=speaker)
    assert boxed.question == "describe what the thing in the red box does, part by part."
    region, *_ = caption(media / "0.png", region=(6, 10, 30, 20), model=speaker)
    assert region.question == "what is in the region <|bbox0|>?"


def test_the_toys_questions_are_those_that_it_was_trained_on() -> None:
    from percepta.datasets import scenes
    from percepta.datasets.scenes import questions
    from percepta.datasets.scenes.happenings import make_question_clip
    from percepta.media.regions import region_text

    toy = asking_prompts.prompts_for("plm-nano")
    asked: set[str] = set()
    for seed in range(12):
        asked |= {one.question for one in questions.scene_questions(scenes.make_scene(seed), seed)}
        clip = make_question_clip(seed)
        asked |= {one.question for one in questions.clip_questions(clip, seed)}
        asked |= {one.question for one in questions.boxed_questions(clip, 0, seed)}
    for request in (toy.picture, toy.video, toy.video_region, toy.dense_about.format(about=toy.boxed)):
        assert request in asked
    scene = scenes.make_scene(3)
    height, width = scene.picture.shape[:2]
    left, top, right, bottom = scene.boxes[0].tolist()
    region = region_text((left, top, right - left, bottom - top), width, height)
    told = {one.question for seed in range(40) for one in questions.scene_questions(scene, seed)}
    assert toy.picture_region.replace("<|bbox0|>", region) in told


def test_a_part_that_cannot_be_read_is_named(speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from percepta.errors import BadMedia
    from percepta.tasks import caption as module

    look = module.look

    def damaged(source: Any, looking: Any, preprocess: Any) -> Any:
        if looking.start == 1.0:
            raise BadMedia("a part is damaged.")
        return look(source, looking, preprocess)

    monkeypatch.setattr(module, "look", damaged)
    stream = caption(media / "clip.mp4", every=0.5, model=speaker)
    (answer,) = stream
    assert [moment.start for moment in answer.moments] == [0.0, 0.5, 1.5]
    assert [failure.reason for failure in stream.failures] == ["a part is damaged."]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"every": 0}, "every must be seconds, above 0"),
        ({"every": 1, "dense": True, "about": "it"}, "about and every exclude each other"),
        ({"about": "it"}, "about goes with dense=True"),
        ({"prompt": " "}, "a question must have words"),
    ],
)
def test_what_is_refused(speaker: Speaker, media: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        caption(media, model=speaker, **given)


def test_too_many_parts_fail_the_video_alone(speaker: Speaker, media: Path) -> None:
    stream = caption(media, every=0.001, model=speaker)
    assert len(list(stream)) == 2
    assert "at most 1,000 parts" in stream.failures[0].reason
