"""Questions about scenes and clips with their answers, from a grammar that cannot be answered without looking.

Order of this file: what a question is, naming, pictures, clips, boxes, version. Answers are short and one of a kind, so
that equality decides: a word, a number of things, one of two names, a caption in a fixed order, or frames as "[a, b]".
Unusual: answers are drawn first and questions made to fit where a question would give its answer away; what is asked
for in vain is made of attributes that are there, in other things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from percepta.datasets.scenes.dice import Dice
from percepta.datasets.scenes.distinct import fingerprint
from percepta.datasets.scenes.happenings import (
    direction,
    draw_times,
    events,
    in_sight,
    make_question_clip,
    moving,
    passings,
    segments,
    spans,
    summary,
)
from percepta.datasets.scenes.language import join_words
from percepta.datasets.scenes.pictures import make_scene
from percepta.datasets.scenes.scene import Clip, Scene, SceneObject
from percepta.datasets.scenes.vocabulary import COLOURS, SHAPES, TEST_SEED_START, TEXTURES, SceneConfig
from percepta.media.regions import region_text

QUESTION_VERSION = "1.0"
QUESTION_STREAM = 6
FINE_GRAINED = ("colour", "shape", "texture", "count", "exists", "relation", "order", "motion")
KINDS = (*FINE_GRAINED, "caption", "region_caption", "when", "dense")
BOXED = "the thing in the red box"
SIDES = {"left": "right", "right": "left", "above": "below", "below": "above"}
CLEAR_AXIS = 1.6  # how much farther two centres must lie apart along one axis for it to be the one that is said
CLEAR_STEP = 0.1  # and how far at least, in shorter sides
MEETING = 0.0025  # the least overlap of two things, as a share of the picture, for their order to be asked


@dataclass(frozen=True, slots=True)
class Question:
    """One question and its only right answer.

    Attributes:
        kind: one of `KINDS`.
        question, answer: lower-case words.
        options: the answer and up to three wrong ones, in random order; empty where the answer is free text.
        object: index of the object or track that is asked about; None where it is the whole picture.
        span: first and last frame of what is asked about, in frames of the clip; None for pictures.
        boxed: whether the frames must be shown with a red box around `object` (`boxed_frames`).
    """

    kind: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    object: int | None = None
    span: tuple[int, int] | None = None
    boxed: bool = False


Things = Sequence[SceneObject]
_FORMS = (("shape",), ("colour",), ("texture",), ("colour", "shape"), ("texture", "shape"), ("colour", "texture"))


def _words_of(thing: SceneObject, form: Sequence[str]) -> tuple[str, ...]:
    return tuple(getattr(thing, field) for field in form)


def _said(words: Sequence[str], form: Sequence[str]) -> str:
    """'red star', 'striped red thing' ..."""
    return " ".join(words) if "shape" in form else f"{' '.join(words)} thing"


def names_of(things: Things, index: int, without: str = "") -> list[str]:
    """All the ways to name one thing that fit no other, such as 'the star' or 'the red thing'; none says `without`."""
    fitting = []
    for form in _FORMS:
        words = _words_of(things[index], form)
        if without not in form and sum(_words_of(thing, form) == words for thing in things) == 1:
            fitting.append(f"the {_said(words, form)}")
    return fitting


def with_article(words: str) -> str:
    """'a red star', 'an orange ring'."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _choices(dice: Dice, answer: str, others: Sequence[str], near: Sequence[str] = ()) -> tuple[str, ...]:
    """The answer and up to three others, those of `near` first, mixed."""
    wrong = [
        word for word in dict.fromkeys([*dice.shuffled(list(near)), *dice.shuffled(list(others))]) if word != answer
    ]
    return tuple(dice.shuffled([answer, *wrong[:3]]))


ALL_WORDS = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES}
_ATTRIBUTE_QUESTIONS = {
    "colour": ("what colour is {}?", "what colour does {} have?"),
    "shape": ("what shape is {}?", "what shape does {} have?"),
    "texture": ("what pattern does {} have?", "is {} plain, striped or dotted?"),
}


def _attribute(dice: Dice, things: Things, kind: str, index: int) -> Question | None:
    names = names_of(things, index, without=kind)
    if not names:
        return None
    asked = dice.pick(_ATTRIBUTE_QUESTIONS[kind]).format(dice.pick(names))
    answer = str(getattr(things[index], kind))
    near = [str(getattr(thing, kind)) for thing in things]
    return Question(kind, asked, answer, _choices(dice, answer, ALL_WORDS[kind], near), index)


def _attributes(kind: str) -> Callable[[Dice, Things], list[Question]]:
    """Up to two things of a scene, asked for one attribute."""

    def ask(dice: Dice, things: Things) -> list[Question]:
        asked = (_attribute(dice, things, kind, index) for index in dice.shuffled(range(len(things))))
        return [question for question in asked if question is not None][:2]

    return ask


def _count(dice: Dice, things: Things) -> list[Question]:
    """One question after all things, one after some; the number of these is drawn among those that can be asked."""
    whole = str(len(things))
    first = dice.pick(("how many things are there?", "how many objects are there?"))
    by_number: dict[int, list[str]] = {}
    for kind, words in ALL_WORDS.items():
        for word in words:
            number = sum(getattr(thing, kind) == word for thing in things)
            by_number.setdefault(number, []).append(_plural(word) if kind == "shape" else f"{word} things")
    number = dice.pick(sorted(by_number))
    second = f"how many {dice.pick(by_number[number])} are there?"
    numbers = ("0", "1", "2", "3", "4")
    return [
        Question("count", first, whole, _choices(dice, whole, ("2", "3", "4"))),
        Question("count", second, str(number), _choices(dice, str(number), numbers)),
    ]


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("ss") else f"{shape}s"


def _exists(dice: Dice, things: Things) -> list[Question]:
    """One that is there or one that is not, twice; what is not there has attributes of two things that are."""
    questions: list[Question] = []
    for _ in range(2):
        form = dice.pick(_FORMS[3:])
        there = dice.chance(0.5)
        held = [_words_of(thing, form) for thing in things]
        if there:
            words = dice.pick(held)
        else:
            mixed = [(one[0], two[1]) for one in held for two in held if (one[0], two[1]) not in held]
            if not mixed:
                continue
            words = dice.pick(mixed)
        asked = dice.pick(("is there {}?", "do you see {}?")).format(with_article(_said(words, form)))
        answer = "yes" if there else "no"
        index = held.index(words) if there else None
        questions.append(Question("exists", asked, answer, _choices(dice, answer, ("yes", "no")), index))
    return questions


def _two_names(dice: Dice, things: Things, first: int, second: int) -> tuple[str, str]:
    return dice.pick(names_of(things, first)), dice.pick(names_of(things, second))


def _relation(dice: Dice, things: Things) -> list[Question]:
    """Where one thing is seen from another, and which of two is further to a side."""
    pairs = dice.shuffled([(i, j) for i in range(len(things)) for j in range(len(things)) if i != j])
    steps = [tuple(a - b for a, b in zip(things[i].centre, things[j].centre, strict=True)) for i, j in pairs]
    questions = []
    clear = [
        n for n, (x, y) in enumerate(steps) if max(abs(x), abs(y)) > max(CLEAR_AXIS * min(abs(x), abs(y)), CLEAR_STEP)
    ]
    if clear:
        (i, j), (across, down) = pairs[clear[0]], steps[clear[0]]
        side = ("left" if across < 0 else "right") if abs(across) > abs(down) else "above" if down < 0 else "below"
        first, second = _two_names(dice, things, i, j)
        asked = f"where is {first}, seen from {second}?"
        questions.append(Question("relation", asked, side, _choices(dice, side, tuple(SIDES)), i))
    axis, words = dice.pick(((0, ("left", "right")), (1, ("up", "down"))))
    apart = [n for n, step in enumerate(steps) if abs(step[axis]) > CLEAR_STEP]
    if apart:
        (i, j), step = pairs[apart[-1]], steps[apart[-1]]
        side = dice.pick(words)
        first, second = _two_names(dice, things, i, j)
        answer, index = (first, i) if (step[axis] < 0) == (side in ("left", "up")) else (second, j)
        asked = f"which is further {side}, {first} or {second}?"
        questions.append(Question("relation", asked, answer, (first, second), index))
    return questions


def _which_in_front(dice: Dice, things: Things, near: int, far: int, words: str) -> Question:
    names = _two_names(dice, things, near, far)
    answer, shown = names[0], tuple(dice.shuffled(names))
    return Question("order", f"which {words}, {shown[0]} or {shown[1]}?", answer, shown, near)


def _scene_order(dice: Dice, scene: Scene) -> list[Question]:
    """Which of two things that overlap is in front."""
    least = MEETING * scene.picture.shape[0] * scene.picture.shape[1]
    pairs = []
    for i, thing in enumerate(scene.objects):
        for j, other in enumerate(scene.objects):
            if thing.distance < other.distance and (scene.visible_masks[i] & scene.amodal_masks[j]).sum() >= least:
                pairs.append((i, j))
    if not pairs:
        return []
    return [_which_in_front(dice, scene.objects, *dice.pick(pairs), "is in front")]


def scene_caption(things: Things, detailed: bool = False) -> str:
    """Every object from left to right: 'a red star, a blue ring and a green heart'; detailed with their textures."""
    ordered = sorted(things, key=lambda thing: thing.centre[0])
    return join_words([with_article(thing.name if detailed else f"{thing.colour} {thing.shape}") for thing in ordered])


def _scene_captions(dice: Dice, scene: Scene) -> list[Question]:
    plain = dice.pick(("describe the picture.", "what do you see?"))
    return [
        Question("caption", plain, scene_caption(scene.objects)),
        Question("caption", "describe the picture in detail.", scene_caption(scene.objects, detailed=True)),
    ]


def _regions(dice: Dice, scene: Scene) -> list[Question]:
    """What is in a region that is given as text, for up to two things."""
    height, width = scene.picture.shape[:2]
    chosen = dice.shuffled(range(len(scene.objects)))[:2]
    corners = [scene.boxes[index].tolist() for index in chosen]
    boxes = [(left, top, right - left, bottom - top) for left, top, right, bottom in corners]
    asked = [f"what is in the region {region_text(box, width, height)}?" for box in boxes]
    answers = [with_article(scene.objects[index].name) for index in chosen]
    return [
        Question("region_caption", text, answer, object=index)
        for text, answer, index in zip(asked, answers, chosen, strict=True)
    ]


def scene_questions(scene: Scene, seed: int) -> tuple[Question, ...]:
    """About fifteen questions of all kinds that a picture allows, in random order; another seed draws others."""
    dice = Dice(seed, QUESTION_STREAM)
    things = scene.objects
    questions = [
        *_attributes("colour")(dice, things),
        *_attributes("shape")(dice, things),
        *_attributes("texture")(dice, things),
        *_count(dice, things),
        *_exists(dice, things),
        *_relation(dice, things),
        *_scene_order(dice, scene),
        *_scene_captions(dice, scene),
        *_regions(dice, scene),
    ]
    return tuple(dice.shuffled(questions))


def span_text(span: tuple[int, int]) -> str:
    """Frames as PLM writes them: "[a, b]", first and last, from 0."""
    return f"[{span[0]}, {span[1]}]"


def _motions(dice: Dice, clip: Clip, things: Things) -> list[Question]:
    """Which way things go: up to two, those that move first, and at times one that rests."""
    ways: list[tuple[int, str]] = []
    for index, track in enumerate(clip.tracks):
        runs = spans(moving(track))
        if runs and track.motion != "bounces" and (way := direction(track, runs[0][0], runs[-1][1])):
            ways.append((index, way))
    still = [(index, "nowhere") for index, track in enumerate(clip.tracks) if not moving(track).any()]
    chosen = dice.shuffled(ways)[:2] + (dice.shuffled(still)[:1] if dice.chance(0.35) else [])
    questions = []
    for index, way in chosen:
        asked = dice.pick(("which way does {} move?", "where does {} go?")).format(dice.pick(names_of(things, index)))
        options = _choices(dice, way, ("left", "right", "up", "down", "nowhere"))
        questions.append(Question("motion", asked, way, options, index))
    return questions


def _clip_order(dice: Dice, clip: Clip, things: Things) -> list[Question]:
    """Which of two things passes in front, asked in two ways."""
    pairs = passings(clip)
    if not pairs:
        return []
    near, far = dice.pick(pairs)
    questions = [_which_in_front(dice, things, near, far, "passes in front")]
    answer = dice.pick(("in front", "behind"))
    first, second = (near, far) if answer == "in front" else (far, near)
    names = _two_names(dice, things, first, second)
    asked = f"is {names[0]} in front of {names[1]} or behind it?"
    return [*questions, Question("order", asked, answer, _choices(dice, answer, ("in front", "behind")), first)]


_STATES = ("in sight", "out of sight", "hidden")


def when_text(words: str, name: str) -> str:
    """'when does the red star move?', 'when is it hidden?'"""
    return f"when is {name} {words}?" if words in _STATES else f"when does {name} {words}?"


def _whens(dice: Dice, clip: Clip, named: Callable[[int], str], indices: Sequence[int], boxed: bool) -> list[Question]:
    """One question after the time of every kind of event that the chosen objects have, of random ones of them."""
    by_words: dict[str, list[tuple[int, tuple[int, int]]]] = {}
    for index in indices:
        for words, span in events(clip.tracks[index]):
            by_words.setdefault(words, []).append((index, span))
    questions = []
    for words in dice.shuffled(sorted(by_words)):
        index, span = dice.pick(by_words[words])
        asked = when_text(words, named(index))
        questions.append(Question("when", asked, span_text(span), object=index, span=span, boxed=boxed))
    return questions


def dense_caption(clip: Clip, index: int) -> str:
    """One line for each part of the clip: "[0, 4]: stays still"; the lines cover all frames."""
    return "\n".join(f"{span_text((part.first, part.last))}: {part.words}" for part in segments(clip.tracks[index]))


def clip_caption(clip: Clip) -> str:
    """Every object that is seen and what it does, those that move first, then from left to right."""
    told = []
    for track in clip.tracks:
        words, seen = summary(track), np.flatnonzero(in_sight(track))
        if words is not None:
            thing = with_article(f"{track.object.colour} {track.object.shape}")
            told.append((words == "stays still", float(track.centres[seen[0], 0]), f"{thing} {words}"))
    return join_words([phrase for _, _, phrase in sorted(told)])


def clip_questions(clip: Clip, seed: int) -> tuple[Question, ...]:
    """About ten questions about a clip as it is (no box drawn), in random order; another seed draws others."""
    dice = Dice(seed, QUESTION_STREAM)
    seen = [index for index, track in enumerate(clip.tracks) if in_sight(track).any()]
    things = [track.object for track in clip.tracks]
    whole = (0, len(clip.frames) - 1)

    def named(index: int) -> str:
        return dice.pick(names_of(things, index))

    kind = dice.pick(("colour", "shape", "texture"))
    asked = [
        *_attributes(kind)(dice, things)[:1],
        *_motions(dice, clip, things),
        *_clip_order(dice, clip, things),
        *_whens(dice, clip, named, seen, boxed=False)[:3],
        Question("caption", "describe the clip.", clip_caption(clip)),
    ]
    eventful = [index for index in seen if len(segments(clip.tracks[index])) > 1]
    index = dice.pick(eventful if eventful and dice.chance(0.9) else seen)
    request = dice.pick(("describe what {} does, part by part.", "what happens to {}, frame by frame?"))
    asked.append(Question("dense", request.format(named(index)), dense_caption(clip, index), object=index))
    kept = [question for question in asked if question.object is None or question.object in seen]
    return tuple(dice.shuffled([replace(question, span=question.span or whole) for question in kept]))


_IN_THE_BOX = "A red box marks one subject in this video of {frames} frames"
_NUMBERED = f"{_IN_THE_BOX}, numbered 0 to {{last}}."
VIDEOBENCH_WORDING = {
    "region_caption": f"{_IN_THE_BOX}. Tell in detail what it does and what happens to it from frame {{start}} to "
    "frame {end}.",
    "when": f'{_NUMBERED} In which frames does this happen: "{{caption}}"? Reply with the first and the last frame '
    "alone, as [start, end].",
    "dense": f"{_NUMBERED} Tell all that it does from the first frame to the last, one action a line, each as [start, "
    "end]: what happens. Where the subject cannot be seen, say so.",
}
"""The region tasks of PLM-VideoBench in the words of `evaluation/videobench_prompts.toml`."""


def boxed_questions(clip: Clip, index: int, seed: int) -> tuple[Question, ...]:
    """Questions about one object that a red box marks on all frames that show it (`boxed_frames`).

    Captions of parts of the clip, when something happens, and all its parts: the region tasks of PLM-VideoBench, in
    short words or in those of its prompts.
    """
    dice = Dice(seed, QUESTION_STREAM)
    track, frames = clip.tracks[index], len(clip.frames)
    name = with_article(f"{track.object.colour} {track.object.shape}")
    whole, parts = (0, frames - 1), segments(track)
    asked = _whens(dice, clip, lambda _: BOXED, [index], boxed=True)[:2]
    said = [part.words for part in parts]
    for part in parts:
        span = (part.first, part.last)
        caption = f"{name} {part.words}"
        numbers = {"frames": frames, "last": frames - 1, "start": part.first, "end": part.last, "caption": caption}
        long = dice.chance(0.5)
        if part.words != "is out of sight":
            words = f"what does {BOXED} do in the frames {span_text(span)}?"
            words = VIDEOBENCH_WORDING["region_caption"].format(**numbers) if long else words
            asked.append(Question("region_caption", words, caption, object=index, span=span, boxed=True))
        if said.count(part.words) == 1 and 1 < part.last - part.first <= frames * 2 / 3 - 1:
            words = f'when does this happen to {BOXED}: "{caption}"?'
            words = words if long else VIDEOBENCH_WORDING["when"].format(**numbers)
            asked.append(Question("when", words, span_text(span), object=index, span=span, boxed=True))
    answer = with_article(track.object.name)
    asked.append(Question("region_caption", f"what is {BOXED}?", answer, object=index, span=whole, boxed=True))
    words = f"describe what {BOXED} does, part by part."
    words = words if dice.chance(0.5) else VIDEOBENCH_WORDING["dense"].format(frames=frames, last=frames - 1)
    asked.append(Question("dense", words, dense_caption(clip, index), object=index, span=whole, boxed=True))
    return tuple(dice.shuffled(asked))


def boxed_frames(clip: Clip, index: int) -> np.ndarray:
    """(T, H, W, 3) uint8: the frames with a red box of one pixel around what is seen of an object, two above 128."""
    frames = clip.frames.copy()
    height, width = frames.shape[1:3]
    line = 1 if min(height, width) <= 128 else 2
    for frame, box in zip(frames, clip.tracks[index].boxes, strict=True):
        if box[2] <= box[0]:
            continue
        left, top = max(int(box[0]) - line, 0), max(int(box[1]) - line, 0)
        right, bottom = min(int(box[2]) + line, width), min(int(box[3]) + line, height)
        for rows, columns in (
            (slice(top, top + line), slice(left, right)),
            (slice(bottom - line, bottom), slice(left, right)),
            (slice(top, bottom), slice(left, left + line)),
            (slice(top, bottom), slice(right - line, right)),
        ):
            frame[rows, columns] = (255, 0, 0)
    return frames


def as_choice(question: Question, seed: int) -> Question:
    """The same as a choice between two options, the answer "A" or "B"; the question must have options.

    The layout is that of PLM-VideoBench's fine-grained questions.
    """
    dice = Dice(seed, QUESTION_STREAM)
    wrong = dice.pick([option for option in question.options if option != question.answer])
    options = dice.shuffled([question.answer, wrong])
    listed = f"Options:\n(A) {options[0]}\n(B) {options[1]}"
    asked = f"Question: {question.question}\n{listed}\nReply with the best option alone."
    return replace(question, question=asked, answer="AB"[options.index(question.answer)], options=tuple(options))


def question_fingerprint() -> str:
    """12 hex digits that change with the questions, or with the scenes and clips that they are about."""
    digest = hashlib.sha256(f"{QUESTION_VERSION} {fingerprint()}".encode())
    config = SceneConfig(64)
    for seed in range(TEST_SEED_START, TEST_SEED_START + 8):
        clip = make_question_clip(seed, config, frames=12)
        index = int(np.argmax([in_sight(track).sum() for track in clip.tracks]))
        every = (*scene_questions(make_scene(seed, config), seed), *clip_questions(clip, seed))
        for question in (*every, *boxed_questions(clip, index, seed)):
            digest.update(f"{question.kind} {question.question} {question.answer} {question.options}\n".encode())
        digest.update(" ".join(f"{time:.3f}" for time in draw_times(seed, 12)).encode())
    return digest.hexdigest()[:12]
