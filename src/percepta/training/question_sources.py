"""Sources of pictures and clips with conversations: the procedural world, new ones for ever, and files of rows.

As all sources these are endless lists that are read by position, without torch. Unusual: a picture has many questions,
each a conversation of its own or all turns of one, so that a picture is rendered and seen once for all of them.
Rendering is cheap beside the training (a thousandth of a second a picture), so nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
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
from percepta.errors import BadInput, BadMedia
from percepta.training.answering_recipe import ClipQuestionsRecipe, ConversationsRecipe, SceneQuestionsRecipe
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


class ConversationsSource:
    """Rows of files; pictures and videos are read for every batch. None is held out."""

    def __init__(self, recipe: ConversationsRecipe, seed: int) -> None:
        from percepta.datasets.conversations import conversation_data, read_registry
        from percepta.datasets.conversations_mixture import ConversationMixture, Losses, parse_mix
        from percepta.media.chunks import ChunkPreprocess

        place = Path(recipe.path).expanduser()
        listed = place.suffix.lower() in (".yaml", ".yml")
        data = read_registry(place) if listed else {"rows": conversation_data(place, "rows")}
        self.mixture = ConversationMixture(data, parse_mix(recipe.mix, data) if recipe.mix else None, seed)
        self.prepare = ChunkPreprocess(recipe.size, recipe.tiles, recipe.frames, recipe.mode)
        self.losses = Losses(recipe.lost)
        self.size = recipe.size

    def part(self, position: int, rows: np.ndarray) -> Part:
        """See `Source`; a row that is wrong or cannot be read stays without a conversation."""
        samples = [self._sample(int(place)) for place in position + rows]
        pictures = np.concatenate([np.zeros((0, self.size, self.size, 3), np.uint8), *(one[0] for one in samples)])
        return Part(
            "conversations",
            pictures,
            [],
            AugmentRecipe(),
            dialogues=tuple(one[1] for one in samples),
            chunks=tuple(len(one[0]) for one in samples),
            media=tuple(one[2] for one in samples),
        )

    def heldout(self, count: int) -> None:
        """See `Source`."""
        return

    def _sample(self, place: int) -> tuple[np.ndarray, tuple[Dialogue, ...], str]:
        """Chunks (C, S, S, 3), the one conversation about them, and their kind."""
        from percepta.datasets.conversations_mixture import chunks_of

        nothing = np.zeros((0, self.size, self.size, 3), np.uint8)
        try:
            row = self.mixture.row(place)
            turns = _turn_pairs(row)
            _check_tags(row, turns)
            chunks = chunks_of(row, self.prepare)
        except (BadInput, BadMedia) as error:
            self.losses.lost(self.mixture.source(place), str(error))
            return nothing, (), "text"
        self.losses.seen += 1
        if chunks is None:
            return nothing, (Dialogue("text", turns),), "text"
        pixels = (chunks.pixels * 127.5 + 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return pixels, (Dialogue(chunks.kind, turns),), chunks.kind


def _turn_pairs(row: Any) -> tuple[tuple[str, str], ...]:
    """Question and answer, one pair after the other; a question at the end that nobody answers is left out."""
    if (
        any(role != ("human", "assistant")[number % 2] for number, (role, _) in enumerate(row.turns))
        or len(row.turns) < 2
    ):
        raise BadInput(f"{row.place}, field conversations: must alternate from human to assistant.")
    return tuple((row.turns[number][1], row.turns[number + 1][1]) for number in range(0, len(row.turns) - 1, 2))


def _check_tags(row: Any, turns: Sequence[tuple[str, str]]) -> None:
    """A row about several pictures marks the place of each; found here, it is one row that is left out."""
    tags = sum(question.count("<image>") for question, _ in turns)
    if row.kind == "multi_image" and tags != len(row.images):
        raise BadInput(
            f"{row.place}, field conversations: must have an <image> for each of the {len(row.images)} pictures; "
            f"got {tags}."
        )


QUESTION_SOURCES: dict[type, Any] = {
    SceneQuestionsRecipe: SceneQuestionsSource,
    ClipQuestionsRecipe: ClipQuestionsSource,
    ConversationsRecipe: ConversationsSource,
}
