"""Questions about generated scenes and clips that nothing was trained on: exact answers, whole captions, times.

Order of this file: the protocol, what is asked, points, baselines, the evaluation. Three headlines: fine-grained
questions answered word for word; captions that name every object of scenes of up to three by its colour and shape, and
nothing else; when something happens in a clip, as the share of four thresholds of overlap that the answer exceeds.
Unusual: beside each figure stands what the same model says of grey pictures, and what the usual answer of training
worlds gets, which knows the grammar and sees nothing. Seeds from 1,000,000.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from percepta.datasets.scenes import TEST_SEED_START, VERSION, SceneConfig, fingerprint, make_scene, parse
from percepta.datasets.scenes.happenings import in_sight, make_question_clip, segments
from percepta.datasets.scenes.questions import (
    FINE_GRAINED,
    QUESTION_VERSION,
    Question,
    boxed_frames,
    boxed_questions,
    clip_questions,
    question_fingerprint,
    scene_questions,
)
from percepta.datasets.scenes.scene import SceneObject
from percepta.errors import BadInput
from percepta.evaluation.metrics import bootstrap_interval
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol
from percepta.evaluation.videobench import THRESHOLDS, interval_iou
from percepta.evaluation.videobench_asking import AnswerOne, AnswersMany, Asked, blank, in_batches
from percepta.evaluation.videobench_reading import parse_interval

FINE, CAPTIONS, WHEN = "fine-grained, exact", "captions of up to three objects, all named", "when, mean recall"
HEADLINES = (FINE, CAPTIONS, WHEN)
BLIND, USUAL = "grey pictures", "usual answer"
MOST_NAMED = 3
USUAL_WORLDS = 80  # training worlds that the usual answers are taken from, from seed 0
MAX_NEW_TOKENS = {"caption": 64, "dense": 128, "region_caption": 32}
SHORT = 16


def scenes_answers_protocol(count: int = 200, clips: int = 100, size: int = 64, frames: int = 8) -> Protocol:
    """Questions about `count` pictures and `clips` clips.

    Args:
        size: side of pictures and frames in pixels.
        frames: of a clip; times are numbers of these.
    """
    return Protocol(
        "scenes-answers",
        {
            "count": count,
            "clips": clips,
            "size": size,
            "frames": frames,
            "first seed": TEST_SEED_START,
            "blind": True,
            "scenes": VERSION,
            "questions": QUESTION_VERSION,
            "asked": "of each picture and clip all questions of its seed, each by itself; of a clip also those about "
            "one thing in a red box, the one that does most",
            "decoding": "greedy",
            "exact": "the same words; case, a full stop at the end and space at the ends do not count",
            "captions": "every object by colour and shape in any order, and no other",
            "when": f"the first [a, b] of the answer; overlap above {', '.join(map(str, THRESHOLDS))}",
        },
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One question with what it is about.

    Attributes:
        world: "picture" or "clip".
        seed: of the world.
        question: and its answer.
        frames: (T, H, W, 3) uint8; the same array for all questions about the same frames.
        things: the objects that are there.
    """

    world: str
    seed: int
    question: Question
    frames: np.ndarray
    things: tuple[SceneObject, ...]


def items_of(protocol: Protocol, first: int | None = None, count: int | None = None) -> Iterator[Item]:
    """What a protocol asks, world after world; from other seeds and of another number of each where these are given."""
    settings = protocol.settings
    config = SceneConfig(settings["size"])
    start = settings["first seed"] if first is None else first
    for seed in range(start, start + (settings["count"] if count is None else count)):
        scene = make_scene(seed, config)
        frames = scene.picture[None]
        for question in scene_questions(scene, seed):
            yield Item("picture", seed, question, frames, scene.objects)
    for seed in range(start, start + (settings["clips"] if count is None else count)):
        clip = make_question_clip(seed, config, settings["frames"])
        things = tuple(track.object for track in clip.tracks)
        for question in clip_questions(clip, seed):
            yield Item("clip", seed, question, clip.frames, things)
        seen = [number for number, track in enumerate(clip.tracks) if in_sight(track).any()]
        index = max(seen, key=lambda number: len(segments(clip.tracks[number])))
        boxed = boxed_frames(clip, index)
        for question in boxed_questions(clip, index, seed):
            yield Item("clip", seed, question, boxed, things)


def tidy(text: str) -> str:
    """An answer as it is compared: lower case, no full stop at the end, no space at the ends."""
    return text.strip().lower().removesuffix(".").strip()


def names_all(caption: str, things: Sequence[SceneObject]) -> bool:
    """Whether a caption names every object by its colour and shape, each once, and no other."""
    try:
        said = Counter((thing.colour, thing.shape) for thing in parse(caption.lower()).things)
    except BadInput:
        return False
    return said == Counter((thing.colour, thing.shape) for thing in things)


def recall_of(said: str, span: tuple[int, int]) -> float:
    """The share of the thresholds that the overlap of an answer "[a, b]" with the right span exceeds."""
    read = parse_interval(said)
    overlap = 0.0 if read is None else interval_iou(read, span)
    return sum(overlap > threshold for threshold in THRESHOLDS) / len(THRESHOLDS)


def points_of(item: Item, said: str) -> dict[str, float]:
    """What an answer scores, by the name of each measure that the question counts for."""
    question = item.question
    same = float(tidy(said) == tidy(question.answer))
    name = f"{item.world}: {question.kind}" + (" in the box" if question.boxed else "")
    if question.kind == "when":
        assert question.span is not None
        recall = recall_of(said, question.span)
        return {WHEN: recall, f"{name}, mean recall": recall, f"{name}, exact": same}
    found = {f"{name}, exact": same}
    if question.kind in FINE_GRAINED:
        found[FINE] = same
    if item.world == "picture" and question.kind == "caption":
        named = float(names_all(said, item.things))
        found |= {"picture: caption, all named": named}
        if len(item.things) <= MOST_NAMED:
            found[CAPTIONS] = named
    return found


def pattern_of(item: Item) -> str:
    """The question without what it names: what the usual answer goes by."""
    question = item.question
    words = {word for thing in item.things for word in (thing.colour, thing.shape, thing.texture)}
    kept = [word for word in question.question.rstrip("?").split() if word.strip(",") not in words]
    return f"{item.world} {question.kind} {' '.join(word for word in kept if not word.strip('[],').isdigit())}"


def usual_answers(protocol: Protocol) -> Callable[[Item], str]:
    """What to say without looking: for each form of a question the answer that scores best in training worlds.

    Of times that is the best interval, of everything else the commonest answer; a choice that the question offers is
    its first.
    """
    frames = protocol.settings["frames"]
    known: dict[str, list[Item]] = {}
    for item in items_of(protocol, 0, USUAL_WORLDS):
        known.setdefault(pattern_of(item), []).append(item)
    every = [(a, b) for a in range(frames) for b in range(a + 1, frames)]
    best: dict[str, str] = {}
    for pattern, items in known.items():
        spans = [item.question.span for item in items if item.question.kind == "when" and item.question.span]
        if spans:
            scored = {one: sum(recall_of(f"[{one[0]}, {one[1]}]", span) for span in spans) for one in every}
            best[pattern] = "[{}, {}]".format(*max(every, key=lambda one: scored[one]))
        else:
            best[pattern] = Counter(item.question.answer for item in items).most_common(1)[0][0]

    def say(item: Item) -> str:
        options = item.question.options
        if options and all(option in item.question.question for option in options):
            return options[0]
        return best.get(pattern_of(item), "")

    return say


class _Points:
    """Points by measure with the world that each is of."""

    def __init__(self) -> None:
        self.points: dict[str, list[float]] = {}
        self.worlds: dict[str, list[str]] = {}

    def add(self, item: Item, said: str) -> None:
        for name, value in points_of(item, said).items():
            self.points.setdefault(name, []).append(value)
            self.worlds.setdefault(name, []).append(f"{item.world} {item.seed}")

    def mean(self, name: str) -> float:
        return float(np.mean(self.points[name]))

    def measures(self) -> tuple[Measure, ...]:
        """The headlines first; intervals redraw whole worlds."""
        names = [*(name for name in HEADLINES if name in self.points), *sorted(set(self.points) - set(HEADLINES))]
        return tuple(
            Measure(
                name,
                self.mean(name),
                *bootstrap_interval(self.points[name], self.worlds[name]),
                len(self.points[name]),
                headline=name in HEADLINES,
            )
            for name in names
        )


def evaluate_scenes_answers(
    model: AnswerOne | AnswersMany,
    protocol: Protocol | None = None,
    batch_size: int = 64,
    watch: Callable[[int], None] | None = None,
    keep: int = 24,
) -> Evaluation:
    """Exact answers, whole captions and times, over generated pictures and clips.

    Args:
        model: (frames (T, H, W, 3) uint8, prompt) → an answer; or one with `many`. A picture is one frame.
        batch_size: questions at once.
        watch: told of every batch, of each pass.
        keep: how many answers are kept in the tables of the result, for a report.
    """
    protocol = protocol or scenes_answers_protocol()
    settings = protocol.settings
    seen, blind, usual = _Points(), _Points(), _Points()
    samples: list[dict[str, Any]] = []
    guess = usual_answers(protocol)
    for item, said in _said(model, protocol, False, batch_size, watch):
        seen.add(item, said)
        usual.add(item, guess(item))
        if len(samples) < keep:
            samples.append(_kept(item, said))
    for item, said in _said(model, protocol, True, batch_size, watch) if settings["blind"] else ():
        blind.add(item, said)
    notes = (
        (blind, BLIND, "the same model, asked about grey pictures of the same number"),
        (usual, USUAL, "the best answer to a question of that form in training worlds; nothing is seen"),
    )
    baselines = [
        Baseline(name, measure, points.mean(measure), note)
        for measure in seen.points
        for points, name, note in notes
        if measure in points.points
    ]
    return Evaluation(
        protocol,
        seen.measures(),
        tuple(baselines),
        details={"generator": VERSION, "fingerprint": fingerprint(), "questions": question_fingerprint()},
        tables={"samples": samples},
    )


def _said(
    model: AnswerOne | AnswersMany,
    protocol: Protocol,
    hide: bool,
    batch_size: int,
    watch: Callable[[int], None] | None,
) -> Iterator[tuple[Item, str]]:
    """Every item with the model's answer; the items of one batch are in memory."""
    waiting: list[Item] = []

    def asked() -> Iterator[Asked]:
        shown, hidden = None, None
        for item in items_of(protocol):
            if hide and item.frames is not shown:
                shown, hidden = item.frames, blank(item.frames)
            waiting.append(item)
            limit = MAX_NEW_TOKENS.get(item.question.kind, SHORT)
            yield Asked(hidden if hide else item.frames, item.question.question, limit, as_video=item.world == "clip")

    for said in in_batches(model, asked(), batch_size, watch):
        yield waiting.pop(0), said


def _kept(item: Item, said: str) -> dict[str, Any]:
    question = item.question
    return {
        "world": item.world,
        "seed": item.seed,
        "kind": question.kind,
        "question": question.question,
        "answer": question.answer,
        "said": said,
    }
