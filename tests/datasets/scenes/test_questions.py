"""Questions about scenes and clips: true, of one answer, not answerable blind, the same for the same seed."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import percepta.evaluation
from percepta.datasets.scenes import COLOURS, SHAPES, TEXTURES, Clip, Scene, SceneConfig, fingerprint, make_scene
from percepta.datasets.scenes.happenings import (
    draw_times,
    events,
    hidden,
    in_sight,
    make_question_clip,
    moving,
    segments,
    spans,
    summary,
)
from percepta.datasets.scenes.questions import (
    FINE_GRAINED,
    KINDS,
    VIDEOBENCH_WORDING,
    Question,
    as_choice,
    boxed_frames,
    boxed_questions,
    clip_caption,
    clip_questions,
    names_of,
    question_fingerprint,
    scene_caption,
    scene_questions,
    span_text,
)

SMALL = SceneConfig(32)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    scenes = [make_scene(seed, SMALL) for seed in range(1_000_000, 1_000_150)]
    return [(scene, question) for scene in scenes for question in scene_questions(scene, scene.seed)]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_question_clip(seed, SMALL, frames=10) for seed in range(1_000_000, 1_000_060)]


def test_generator_and_questions_are_frozen() -> None:
    assert fingerprint() == "547e7c60f067"
    assert question_fingerprint() == "6119b2088a69"


def test_one_seed_is_one_set_of_questions() -> None:
    scene, clip = make_scene(3, SMALL), make_question_clip(3, SMALL)
    assert scene_questions(scene, 3) == scene_questions(scene, 3)
    assert scene_questions(scene, 3) != scene_questions(scene, 4)
    assert clip_questions(clip, 3) == clip_questions(clip, 3)
    assert {question.kind for question in clip_questions(clip, 3)} <= set(KINDS)


def test_attributes_are_those_of_the_named_thing(asked: list[tuple[Scene, Question]]) -> None:
    for scene, question in asked:
        if question.kind not in ("colour", "shape", "texture"):
            continue
        assert question.object is not None
        thing = scene.objects[question.object]
        assert question.answer == getattr(thing, question.kind)
        others = [other for other in scene.objects if other is not thing]
        words = set(question.question.strip("?").split())
        fields = {"colour": COLOURS, "shape": SHAPES, "texture": TEXTURES}
        told = {name: words & set(known) for name, known in fields.items() if name != question.kind}
        assert any(told.values())
        assert not any(all({getattr(other, name)} >= word for name, word in told.items() if word) for other in others)


def test_counts_and_existence_are_true(asked: list[tuple[Scene, Question]]) -> None:
    for scene, question in asked:
        words = question.question.strip("?").split()
        if question.kind == "exists":
            kept = [word for word in words if word in (*COLOURS, *SHAPES, *TEXTURES)]
            fits = [thing for thing in scene.objects if set(kept) <= {thing.colour, thing.shape, thing.texture}]
            assert question.answer == ("yes" if fits else "no")
            present = {word for thing in scene.objects for word in (thing.colour, thing.shape, thing.texture)}
            assert set(kept) <= present  # what is not there is made of what is
        if question.kind == "count":
            word = words[2]
            number = sum(
                word in (thing.colour, thing.texture) or word.startswith(thing.shape) for thing in scene.objects
            )
            assert question.answer == str(len(scene.objects) if word in ("things", "objects") else number)


def test_relations_are_judged_by_the_centres(asked: list[tuple[Scene, Question]]) -> None:
    seen = 0
    for scene, question in asked:
        if not question.question.startswith("which is further"):
            continue
        side = question.question.split()[3].strip(",")
        things = [
            next(i for i in range(len(scene.objects)) if name in names_of(scene.objects, i))
            for name in question.options
        ]
        axis, sign = (0, 1) if side in ("left", "right") else (1, 1)
        sign = -1 if side in ("left", "up") else 1
        best = max(things, key=lambda index: sign * scene.objects[index].centre[axis])
        assert question.answer in names_of(scene.objects, best)
        seen += 1
    assert seen > 100


def test_options_hold_the_answer_once(asked: list[tuple[Scene, Question]]) -> None:
    for _, question in asked:
        if question.kind in FINE_GRAINED:
            assert question.options.count(question.answer) == 1
            assert len(set(question.options)) == len(question.options) >= 2
            choice = as_choice(question, 1)
            letter = {"A": 0, "B": 1}[choice.answer]
            assert choice.options[letter] == question.answer
            assert f"({choice.answer}) {question.answer}\n" in choice.question


def test_no_answer_is_known_without_looking(asked: list[tuple[Scene, Question]]) -> None:
    found: dict[str, Counter[str]] = {}
    for _, question in asked:
        where = question.question.split()[0] if question.kind in ("relation", "count") else ""
        given = (
            question.answer
            if question.answer not in question.question
            else str(question.options.index(question.answer))
        )
        found.setdefault(f"{question.kind} {where}", Counter())[given] += 1
    most = {name: max(counts.values()) / counts.total() for name, counts in found.items()}
    assert most["colour "] < 0.25
    assert most["shape "] < 0.25
    assert most["texture "] < 0.6
    assert most["exists "] < 0.6
    assert most["relation where"] < 0.4
    assert most["relation which"] < 0.62


def test_captions_name_every_object_from_left_to_right(asked: list[tuple[Scene, Question]]) -> None:
    scene = asked[0][0]
    ordered = sorted(scene.objects, key=lambda thing: thing.centre[0])
    caption = scene_caption(scene.objects)
    places = [caption.index(f"{thing.colour} {thing.shape}") for thing in ordered]
    assert places == sorted(places)
    assert all(thing.name in scene_caption(scene.objects, detailed=True) for thing in ordered)


def test_times_cover_a_window_with_rests(clips: list[Clip]) -> None:
    every = [draw_times(seed, 12) for seed in range(200)]
    assert all(len(times) == 12 and min(times) >= 0 and max(times) <= 1 for times in every)
    backwards = sum(times[0] > times[-1] for times in every)
    assert 60 < backwards < 140
    assert all((np.diff(times) >= 0).all() or (np.diff(times) <= 0).all() for times in every)
    assert draw_times(4, 12) == draw_times(4, 12)


def test_segments_cover_the_clip_and_are_true(clips: list[Clip]) -> None:
    said: Counter[str] = Counter()
    for clip in clips:
        for track in clip.tracks:
            parts = segments(track)
            assert [part.first for part in parts] == [0, *(part.last + 1 for part in parts[:-1])]
            assert parts[-1].last == len(clip.frames) - 1
            for part in parts:
                assert part.last > part.first
                frames = slice(part.first, part.last + 1)
                said[part.words.split()[0]] += 1
                if part.words == "is hidden":
                    assert hidden(track)[frames].mean() >= 0.5
                if part.words.startswith("moves"):
                    assert moving(track)[frames].mean() >= 0.5
    assert set(said) == {"stays", "moves", "is", "bounces"}


def test_events_have_the_times_of_what_they_say(clips: list[Clip]) -> None:
    words: Counter[str] = Counter()
    for clip in clips:
        for track in clip.tracks:
            for name, (first, last) in events(track):
                words[name] += 1
                assert 2 <= last - first <= 10 * 2 / 3
                if name == "in sight":
                    assert np.flatnonzero(in_sight(track)).tolist() == list(range(first, last + 1))
                if name == "enter":
                    assert in_sight(track)[first]
                    assert not in_sight(track)[first - 1]
    assert set(words) >= {"in sight", "out of sight", "move", "rest"}


def test_spans_are_runs() -> None:
    assert spans(np.array([True, False, True, True])) == [(0, 0), (2, 3)]
    assert spans(np.zeros(3, bool)) == []
    assert span_text((2, 3)) == "[2, 3]"


def test_clip_captions_name_what_is_seen(clips: list[Clip]) -> None:
    for clip in clips[:20]:
        caption = clip_caption(clip)
        for track in clip.tracks:
            said = f"{track.object.colour} {track.object.shape} {summary(track)}"
            assert (said in caption) == in_sight(track).any()


def test_boxed_questions_are_about_the_box(clips: list[Clip]) -> None:
    clip = clips[0]
    index = next(i for i, track in enumerate(clip.tracks) if in_sight(track).all())
    questions = boxed_questions(clip, index, 7)
    assert all(question.boxed and question.object == index for question in questions)
    assert {question.kind for question in questions} >= {"region_caption", "dense"}
    frames = boxed_frames(clip, index)
    changed = (frames != clip.frames).any(axis=-1)
    assert changed.any(axis=(1, 2)).all()
    assert (frames[changed] == (255, 0, 0)).all()


def test_prompts_are_those_of_the_benchmark() -> None:
    place = Path(percepta.evaluation.__path__[0]) / "videobench_prompts.toml"
    texts = tomllib.loads(place.read_text(encoding="utf-8"))
    numbers = {"frames": 8, "last": 7, "start": 1, "end": 4, "caption": "a red star moves left"}
    theirs = {
        "total_frames": 8, "num_frames": 8, "min_frame_idx": 0, "max_frame_idx": 7, "start_frame": 1, "end_frame": 4,
        "caption": "a red star moves left",
    }  # fmt: skip
    for kind, task in (("region_caption", "rcap"), ("when", "rtloc")):
        assert VIDEOBENCH_WORDING[kind].format(**numbers) == texts[task].format(**theirs).strip()
    assert (
        VIDEOBENCH_WORDING["dense"].format(**numbers)
        == texts["rdcap"].format(**{**theirs, "start_frame": 0, "end_frame": 7}).strip()
    )
