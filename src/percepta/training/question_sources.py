"""Sources of pictures and clips with conversations: the procedural world, new ones for ever.

As all sources these are endless lists that are read by position, without torch. Unusual: a picture has many questions,
each a conversation of its own or all turns of one, so that a picture is rendered and seen once for all of them.
Rendering is cheap beside the training (a thousandth of a second a picture), so nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from percepta.datasets.scenes import SceneConfig, make_scene
from percepta.datasets.scenes.happenings import in_sight, make_question_clip
from percepta.datasets.scenes.questions import (
    Question,
    as_choice,
    boxed_frames,
    boxed_questions,
    clip_questions,
    scene_questions,
)
from percepta.training.answering_recipe import ClipQuestionsRecipe, SceneQuestionsRecipe
from percepta.training.data_recipe import AugmentRecipe
from percepta.training.sources import SCENE_VALIDATION_START, Dialogue, Part

Sample = tuple[np.ndarray, tuple[Dialogue, ...]]
"""Frames (T, H, W, 3), or a picture (H, W, 3), and what is said about them."""


def dialogues_of(questions: Sequence[Question], recipe: Any, draw: np.random.Generator | None) -> tuple[Dialogue, ...]:
    """The conversations about one picture; without draws all questions as they are, each by itself."""
    kept = [question for question in questions if not recipe.kinds or question.kind in recipe.kinds]
    if draw is None:
        return tuple(Dialogue(question.kind, ((question.question, question.answer),)) for question in kept)
    kept = kept[: recipe.questions or None]
    turned = [
        as_choice(question, int(draw.integers(2**31)))
        if draw.random() < recipe.choices and question.options
        else question
        for question in kept
    ]
    if turned and draw.random() < recipe.dialogues:
        return (Dialogue("dialogue", tuple((question.question, question.answer) for question in turned)),)
    return tuple(Dialogue(question.kind, ((question.question, question.answer),)) for question in turned)


class _Questions:
    """What both sources share: a sample for each place, the same for the same place.

    Args:
        make: a seed and what draws for it (None for held-out samples) → a sample.
        stream: numbers the draws of a source.
    """

    def __init__(
        self, name: str, make: Callable[[int, np.random.Generator | None], Sample], seed: int, stream: int
    ) -> None:
        self.name, self.make, self.seed, self.stream = name, make, seed, stream

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`."""
        samples = []
        for place in position + rows:
            number = int((self.seed * 100_003 + place) % SCENE_VALIDATION_START)
            samples.append(self.make(number, np.random.default_rng((self.seed, self.stream, int(place)))))
        return self._part(samples)

    def heldout(self, count: int) -> Part:
        """See `Source`; all questions, each by itself."""
        return self._part([self.make(SCENE_VALIDATION_START + number, None) for number in range(count)])

    def _part(self, samples: Sequence[Sample]) -> Part:
        pictures = np.stack([picture for picture, _ in samples])
        return Part(self.name, pictures, [], AugmentRecipe(), dialogues=tuple(said for _, said in samples))


class SceneQuestionsSource(_Questions):
    """Pictures of the procedural world with questions."""

    def __init__(self, recipe: SceneQuestionsRecipe, seed: int) -> None:
        super().__init__("scene_questions", self._made, seed, stream=17)
        self.recipe, self.config = recipe, SceneConfig(size=recipe.size)

    def _made(self, seed: int, draw: np.random.Generator | None) -> Sample:
        scene = make_scene(seed, self.config)
        questions = scene_questions(scene, seed if draw is None else int(draw.integers(2**31)))
        return scene.picture, dialogues_of(questions, self.recipe, draw)


class ClipQuestionsSource(_Questions):
    """Clips of the procedural world with questions, some with a red box around one object."""

    def __init__(self, recipe: ClipQuestionsRecipe, seed: int) -> None:
        super().__init__("clip_questions", self._made, seed, stream=18)
        self.recipe, self.config = recipe, SceneConfig(size=recipe.size)

    def _made(self, seed: int, draw: np.random.Generator | None) -> Sample:
        clip = make_question_clip(seed, self.config, self.recipe.frames)
        asked = seed if draw is None else int(draw.integers(2**31))
        if draw is None or draw.random() >= self.recipe.boxed:
            return clip.frames, dialogues_of(clip_questions(clip, asked), self.recipe, draw)
        seen = [number for number, track in enumerate(clip.tracks) if in_sight(track).sum() > 1]
        index = int(draw.choice(seen))
        return boxed_frames(clip, index), dialogues_of(boxed_questions(clip, index, asked), self.recipe, draw)


QUESTION_SOURCES: dict[type, Any] = {
    SceneQuestionsRecipe: SceneQuestionsSource,
    ClipQuestionsRecipe: ClipQuestionsSource,
}
