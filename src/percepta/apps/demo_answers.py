"""The chapter of the demonstration that asks: questions about generated pictures and a clip, with the frames of it.

Unusual: questions and right answers come from the grammar of the scenes, of test seeds, all that it asks of the first
worlds; none is picked by hand, and what is answered wrong stays on the page. The page draws the worlds larger than the
model sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from percepta.apps.cli.common import progress
from percepta.apps.report import Page
from percepta.apps.report.page import escape, layer_figure, layers_row, pairs, plural
from percepta.datasets import scenes
from percepta.datasets.scenes.happenings import make_question_clip
from percepta.datasets.scenes.questions import Question, clip_questions, scene_questions
from percepta.media import write_video
from percepta.results import Answer
from percepta.tasks.ask import ask
from percepta.tasks.asking import NANO, Speaker
from percepta.tasks.asking_words import Timeline

SIDE, FRAMES, RATE = 64, 8, 4
SCENES, CLIPS = 3, 2
SHOT = 192  # pixels a side on the page
OVERLAP = 0.5  # of two intervals from which on one counts as the other
ASKED = ("colour", "shape", "texture", "count", "exists", "relation", "order", "motion", "when", "caption")
MOST_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the right answer, in words or as an interval in seconds, and what was answered."""

    question: Question
    truth: str
    interval: tuple[float, float] | None
    answer: Answer

    @property
    def right(self) -> bool:
        """Whether words are the same, or intervals overlap by half."""
        if self.interval is None:
            return plain(self.answer.text) == plain(self.truth)
        if not self.answer.moments:
            return False
        first = self.answer.moments[0]
        return overlap((first.start, first.end), self.interval) >= OVERLAP


def answer_questions(page: Page, folder: Path, model: Any = NANO) -> str:
    """Add the chapter; returns what was found, in a sentence."""
    speaker = model if isinstance(model, Speaker) else Speaker(model)
    with progress("ask") as bar:
        bar.start(SCENES + CLIPS)
        pictures = _pictures(page, speaker, bar)
        clips = _clips(page, speaker, folder, bar)
    return (
        f"Of {plural(len(pictures), 'question')} about pictures {sum(pictures)} were answered right, and of "
        f"{plural(len(clips), 'question')} about clips {sum(clips)}."
    )


def _pictures(page: Page, speaker: Speaker, bar: Any) -> list[bool]:
    """All questions about some scenes; returns which are right."""
    config = scenes.SceneConfig(SIDE)
    parts: list[str] = []
    right: list[bool] = []
    for seed in scenes.distinct_scenes(count=SCENES, config=config).tolist():
        scene = scenes.make_scene(seed, config)
        questions = [one for one in scene_questions(scene, seed) if one.kind in ASKED]
        answers = _ask(speaker, scene.picture, questions)
        found = [Asked(one, one.answer, None, said) for one, said in zip(questions, answers, strict=True)]
        right += [one.right for one in found]
        large = scenes.make_scene(seed, scenes.SceneConfig(SHOT))
        figure = layer_figure(Image.fromarray(large.picture), "what was asked about")
        parts += [layers_row("a picture", [figure]), _told(found)]
        bar.advance()
    page.section(
        f"Asked about pictures: {sum(right)} of {len(right)} right",
        f"Every question that the grammar of the scenes asks of {plural(SCENES, 'picture')}, and what {speaker.name} "
        "answers; it sees them with {SIDE} pixels a side. An answer is right where it is word for word the true one.",
        *parts,
    )
    return right


def _clips(page: Page, speaker: Speaker, folder: Path, bar: Any) -> list[bool]:
    """All questions about some clips, read from video files; returns which are right."""
    config = scenes.SceneConfig(SIDE)
    home = folder / "media" / "asked"
    home.mkdir(parents=True, exist_ok=True)
    parts: list[str] = []
    right: list[bool] = []
    for number, seed in enumerate(scenes.distinct_clips(count=CLIPS, config=config).tolist(), start=1):
        clip = make_question_clip(seed, config, FRAMES)
        video = write_video(home / f"clip-{number:02d}.mp4", clip.frames, RATE, quality=9)
        questions = [one for one in clip_questions(clip, seed) if one.kind in ASKED]
        answers = _ask(speaker, video, questions)
        line = Timeline(tuple(frame / RATE for frame in range(FRAMES)), FRAMES / RATE)
        found = [
            Asked(one, one.answer, line.interval(*one.span) if one.kind == "when" and one.span else None, said)
            for one, said in zip(questions, answers, strict=True)
        ]
        right += [one.right for one in found]
        figures = [
            layer_figure(Image.fromarray(frame), f"{place / RATE:.1f} s")
            for place, frame in enumerate(make_question_clip(seed, scenes.SceneConfig(SHOT), FRAMES).frames)
        ]
        parts += [layers_row(f"{video.name}: {_happening(questions)}", figures), _told(found)]
        bar.advance()
    page.section(
        f"Asked about clips: {sum(right)} of {len(right)} right",
        f"Each clip is shown to the model as {FRAMES} frames of {SIDE} pixels a side; the intervals that it names in "
        f"frames stand here in seconds. An interval is right where it overlaps the true one by {100 * OVERLAP:.0f} % "
        "or more.",
        *parts,
    )
    return right


def _ask(speaker: Speaker, media: Any, questions: Sequence[Question]) -> list[Answer]:
    asked = [one.question for one in questions]
    found: list[Answer] = ask(media, asked, frames=FRAMES, max_tokens=MOST_TOKENS, model=speaker)
    return found


def _told(found: Sequence[Asked]) -> str:
    """Questions and answers; where one is wrong, also the truth."""
    rows: dict[str, str] = {}
    for one in found:
        truth = one.truth if one.interval is None else f"[{one.interval[0]:.1f} s, {one.interval[1]:.1f} s]"
        told = one.answer.text or "(nothing)"
        kind, words = ("tick", f"✓ {told}") if one.right else ("cross", f"✗ {told} (right: {truth})")
        rows[one.question.question] = f'<span class="{kind}">{escape(words)}</span>'
    return pairs(rows)


def plain(text: str) -> str:
    """Words to be compared: small letters, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).rstrip(".")


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Intersection over union of two intervals, 0..1."""
    shared = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    union = (first[1] - first[0]) + (second[1] - second[0]) - shared
    return shared / union if union > 0 else 0.0


def _happening(questions: Sequence[Question]) -> str:
    """What happens in a clip as it is shown; the caption of its world is of one that never runs backwards."""
    return next((one.answer for one in questions if one.kind == "caption"), "a clip")
